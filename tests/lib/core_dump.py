# SPDX-License-Identifier: BSD-3-Clause
"""What a core dump of a running program holds."""
import os
import re
import resource
import signal
from pathlib import Path

CHUNK = 1 << 20
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$")


def _mappings(pid):
    """(start, end, what) of those with something in them that the kernel would dump: readable, not marked "dd"."""
    found, here, resident = [], None, 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if m := MAPPING.match(line):
            here = (int(m[1], 16), int(m[2], 16), f"{m[3]} {m[4] or 'anonymous'}")
        elif line.startswith("Rss:"):
            resident = int(line.split()[1])
        elif line.startswith("VmFlags:"):
            flags = line.split()[1:]
            if resident and "rd" in flags and not {"dd", "io"} & set(flags):
                found.append(here)
    return found


def where_dumped(pid, needle):
    """The mappings that hold needle and would be dumped."""
    hits = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, what in _mappings(pid):
            tail = b""
            for at in range(start, end, CHUNK):
                try:
                    memory.seek(at)
                    part = memory.read(min(CHUNK, end - at))
                except OSError:  # no memory behind a file's end
                    break
                if needle in tail + part:
                    hits.append(f"{start:x}-{end:x} {what}")
                    break
                tail = part[-len(needle):]
    return hits


def aborted(process):
    """Ends a program by SIGABRT. Returns the kernel's dump, or None where this machine sends dumps elsewhere."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    here = Path(os.readlink(f"/proc/{process.pid}/cwd"))
    before = set(here.glob("core*"))
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    process.send_signal(signal.SIGABRT)
    assert process.wait(60) == -signal.SIGABRT
    if not re.fullmatch(r"core[.%\w]*", pattern):
        return None
    cores = set(here.glob("core*")) - before
    assert len(cores) == 1, f"core_pattern is {pattern}, and {here} has {cores}"
    return cores.pop()


def holds(path, needle):
    """Whether a file has needle in it."""
    with open(path, "rb") as file:
        tail = b""
        while part := file.read(CHUNK):
            if needle in tail + part:
                return True
            tail = part[-len(needle):]
    return False
