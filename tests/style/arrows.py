#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Prints every include that runs up: a room includes itself and the rooms below it in ARCHITECTURE.md's table."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Some arrows that point down are wrong all the same: room -> rooms it must not know.
NEVER = {
    "src/emu": ("src/control", "src/devices", "src/backends", "src/bdev", "src/nvme_tcp"),
    "src/service": ("src/emu", "src/transports", "src/pci", "src/client"),
    "src/target": ("src/emu", "src/transports", "src/pci", "src/client", "src/devices"),
    "src/program": ("src/transports", "src/pci", "src/client", "src/devices"),
    "src/control": ("src/transports", "src/pci", "src/client"),
    "src/devices": ("src/transports", "src/pci", "src/client", "src/backends", "src/nvme_tcp"),
    "src/transports": ("src/client", "src/backends", "src/bdev", "src/nvme_tcp"),
    "src/link": ("src/client", "src/backends", "src/bdev"),
    "src/client": ("src/backends", "src/bdev"),
}


def rooms():
    """Names of the map's table, top first."""
    found = re.findall(r"^\| `(src/[\w/]+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    return [room.rstrip("/") for room in found]


def below(path, room):
    return path == room or path.startswith(room + "/")


def room_of(path, order):
    """The longest name that fits: src/devices/nvme/x.c -> src/devices/nvme."""
    fits = [room for room in order if below(path, room)]
    return max(fits, key=len) if fits else None


def check_file(path, order):
    name = path.relative_to(ROOT).as_posix()
    here = room_of(name, order)
    if here is None:
        yield f"{name}: its room is not in ARCHITECTURE.md"
        return
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not m:
            continue
        there = room_of("src/" + m[1], order)
        if there is None:
            if "/" in m[1] or not (path.parent / m[1]).exists():
                yield f"{name}:{number}: {m[1]} is in no room"
        elif order.index(there) < order.index(here):
            yield f"{name}:{number}: {here} includes {m[1]}, which is above it"
        elif not name.endswith("_test.c"):
            for room, unknown in NEVER.items():
                if below(name, room) and any(below(there, u) for u in unknown):
                    yield f"{name}:{number}: {here} must not know {there}"


def main():
    order = rooms()
    if not order:
        print("no table of rooms in ARCHITECTURE.md")
        return 1
    bad = [line for path in sorted((ROOT / "src").rglob("*.[ch]")) for line in check_file(path, order)]
    print("\n".join(bad), end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
