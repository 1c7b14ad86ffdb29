#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Instructions per command, counted by callgrind on a fixed trace: no time, so the same on a busy machine. A count may grow by
a quarter before this fails. What must not be done for each command at all is looked for by name.

After a change that is worth its instructions: tests/cost/test_instructions.py --update (and say in the commit why)."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
from require import require  # noqa: E402  (needs the path above)
from snap import program  # noqa: E402

KEPT = HERE / "instructions.json"
TRACES = {"NVMe": ["trace_nvme"], "virtio-blk, split ring": ["trace_vblk", "split"],
          "virtio-blk, packed ring": ["trace_vblk", "packed"]}
GROWTH = 1.25
STRANGER = 1.6  # beside the dearest that is known, for a compiler that is not
# Allocation, locks, logs, clocks; and system calls, of which an interrupt for each batch is one.
PER_COMMAND_NEVER = re.compile(r"(malloc|calloc|realloc|free|(aligned|posix_mem)_?alloc|memalign|mmap|munmap|pthread_\w+_lock"
                               r"|log_\w+|v?f?s?n?printf|clock_gettime|\w*gettime\w*|read|write|readv|writev|send\w*|recv\w*"
                               r"|epoll_\w+|io_uring_\w+|syscall)$")


def counted(words):
    """Runs a trace. Returns instructions per command, and calls per command of each function by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        got = subprocess.run(["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=trace_turn",
                              "--compress-strings=no", f"--callgrind-out-file={out}", program(words[0]), *words[1:]],
                             capture_output=True, text=True, timeout=120)
        assert got.returncode == 0, got.stdout + got.stderr
        text = out.read_text()
    calls = {}
    for name, n in re.findall(r"^cfn=(?:\(\d+\) )?(\S+)\ncalls=(\d+)", text, re.M):
        name = re.sub(r"^(?:_+libc_|_+)|(?:@.*|'\d+)$", "", name)
        calls[name] = calls.get(name, 0) + int(n)
    commands = about()[1]
    total = int(re.search(r"^(?:summary|totals): (\d+)", text, re.M)[1])
    return total / commands, {name: n / commands for name, n in calls.items()}


def about():
    """Whose code it is ("gcc 12 x86_64"), and how many commands a trace has."""
    who, commands = subprocess.run([program("trace_nvme"), "about"], capture_output=True, text=True, check=True).stdout.splitlines()
    return who, int(commands)


def limit(kept, who, trace):
    known = kept.get(who)
    if known:
        return GROWTH * known[trace], f"{known[trace]} are kept for {who}"
    most = max(one[trace] for one in kept.values())
    return STRANGER * most, f"nothing is kept for {who}, {most} is the most of others"


@pytest.mark.parametrize("trace", TRACES)
def test_instructions_per_command(trace):
    require(shutil.which("valgrind"), "valgrind is not installed")
    require(not os.environ.get("EMULATED"), "valgrind does not run under an emulator")
    who = about()[0]
    if "sanitized" in who or "unoptimized" in who:
        pytest.skip(f"what {who} makes is not what users run")
    instructions, calls = counted(TRACES[trace])
    most, why = limit(json.loads(KEPT.read_text()), who, trace)
    print(f"{trace}: {instructions:.0f} instructions per command, at most {most:.0f}: {why}")
    # Each turn is one batch of 32: what is done for a turn may be a system call.
    often = {name: round(n, 2) for name, n in calls.items() if PER_COMMAND_NEVER.match(name) and n > 0.1}
    assert not often, f"for each command: {often}"
    assert "function_poll" in calls or instructions > 100, "the trace has not run"
    assert instructions <= most, (f"{trace}: {instructions:.0f} instructions per command, at most {most:.0f}; {why}. Look where they "
                                  f"are (callgrind_annotate), or keep the new number: {Path(__file__).name} --update")


def update():
    kept = json.loads(KEPT.read_text())
    kept[about()[0]] = {trace: round(counted(words)[0]) for trace, words in TRACES.items()}
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(KEPT.read_text(), end="")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    update()
