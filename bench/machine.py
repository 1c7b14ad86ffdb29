# SPDX-License-Identifier: BSD-3-Clause
"""What a figure depends on: machine, kernel, settings, versions."""
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def first_line(argv):
    try:
        out = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        return (out.stdout or out.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "not there"


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def facts():
    cpu = re.search(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", read("/proc/meminfo"))
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else 0,
        "kernel": platform.release(),
        "transparent_huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "compiler": first_line(["cc", "--version"]),
        "fio": first_line(["fio", "--version"]),
        "qemu_storage_daemon": first_line(["qemu-storage-daemon", "--version"]),
        "revision": first_line(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"]),
    }
