# SPDX-License-Identifier: BSD-3-Clause
"""What went over a guest's network, as QEMU's filter-dump recorded it: who spoke last on each TCP connection.

    vm = VM(..., network=True, args=packets.record(folder / "net.pcap"))
    print(packets.last_words(folder / "net.pcap"))
"""

import struct
from pathlib import Path

HEADERS = 160  # recorded of each packet: its headers and the begin of its data


def record(path):
    """QEMU arguments."""
    return ["-object", f"filter-dump,id=packets,netdev=net,file={path},maxlen={HEADERS}"]


def _packets(path):
    """(seconds, source port, destination port, sequence number, bytes of data, flags) of each TCP packet over IPv4."""
    data = Path(path).read_bytes()
    at = 24
    while at + 16 <= len(data):
        seconds, micros, kept, _ = struct.unpack_from("<IIII", data, at)
        frame = data[at + 16:at + 16 + kept]
        at += 16 + kept
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
            continue
        ip = 14 + (frame[14] & 15) * 4
        source, target, seq = struct.unpack_from(">HHI", frame, ip)
        length = struct.unpack_from(">H", frame, 16)[0] - (ip - 14) - (frame[ip + 12] >> 4) * 4
        yield seconds + micros / 1e6, source, target, seq, length, frame[ip + 13]


def _connections(path, server_ports):
    """(guest's port, server's port) -> [(seconds, from the guest?, bytes, sequence number, flags)], and the time of the last packet."""
    found, end = {}, 0.0
    for seconds, source, target, seq, length, flags in _packets(path):
        end = seconds
        from_guest = target in server_ports
        if from_guest or source in server_ports:
            found.setdefault((source, target) if from_guest else (target, source), []).append((seconds, from_guest, length, seq, flags))
    return found, end


def last_words(path, server_ports, count=6):
    """The last packets with data or an end, of each connection to one of these ports; times before the end of the record."""
    connections, end = _connections(path, server_ports)
    lines = []
    for (guest, server), seen in connections.items():
        words = [f"{seconds - end:.3f} s {'guest' if from_guest else 'server'} {length} bytes at {seq:#x}" +
                 (" FIN" if flags & 1 else "") + (" RST" if flags & 4 else "")
                 for seconds, from_guest, length, seq, flags in seen if length or flags & 5]
        lines.append(f"{guest} -> {server}: " + "; ".join(words[-count:]))
    return "\n".join(lines)


def unanswered(path, server_ports, patience):
    """Connections on which the guest sent data and heard nothing for so many seconds: neither data nor an end."""
    connections, end = _connections(path, server_ports)
    late = []
    for (guest, server), seen in connections.items():
        since = None
        for seconds, from_guest, length, _, flags in [*seen, (end, False, 1, 0, 0)]:
            if from_guest and length and since is None:
                since = seconds
            elif not from_guest and (length or flags & 5):
                if since is not None and seconds - since > patience:
                    late.append(f"{guest} -> {server}: {seconds - since:.0f} s without an answer, from {since - end:.3f} s on")
                since = None
    return late
