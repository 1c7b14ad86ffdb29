#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""gcc -fanalyzer and cppcheck over all sources but unit tests. A finding is an error unless analyze_exceptions.txt explains it;
an explanation that no finding needs is one too, so that the table stays true.

Takes the commands of $BUILD_DIR/compile_commands.json (a release build). Prints "PASS name", "FAIL name" or "SKIP name: reason"."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("BUILD_DIR", ROOT / "build")).resolve()
EXCEPTIONS = HERE / "analyze_exceptions.txt"
GCC = "12"  # another version finds other things: this very one decides
CPPCHECK = "2.10"
GCC_FINDING = re.compile(r"^(\S+?):(\d+):\d+: warning: (.*) \[-W(analyzer-[\w-]+)\]$")
CPPCHECK_FINDING = re.compile(r"^(\S+?):(\d+): (.*) \[(\w+)\]$")


class Skip(Exception):
    pass


def commands():
    """One command per source: which program it is compiled for makes no difference here."""
    found = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        source = (Path(entry["directory"]) / entry["file"]).resolve()
        if not source.name.endswith("_test.c"):
            found.setdefault(source, entry)
    return found


def name(path, directory=BUILD):
    return (directory / path).resolve().relative_to(ROOT).as_posix()


def gcc_findings():
    """(file, line, kind, text) of gcc -fanalyzer."""
    if not shutil.which(f"gcc-{GCC}"):
        raise Skip(f"no gcc-{GCC}")

    def one(entry):
        words, argv = shlex.split(entry["command"]), [f"gcc-{GCC}"]
        drop = {"-Werror", "-MD", "-c"}
        for word, before in zip(words[1:], words):
            if word not in drop | {"-o", "-MQ", "-MF"} and before not in ("-o", "-MQ", "-MF"):
                argv.append(word)
        return subprocess.run([*argv, "-S", "-o", os.devnull, "-fanalyzer", "-fdiagnostics-plain-output"], capture_output=True,
                              text=True, check=False, cwd=entry["directory"])

    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        for got in pool.map(one, commands().values()):
            if got.returncode:
                yield "", 0, "error", got.stderr.strip()[-300:]
            for m in filter(None, map(GCC_FINDING.match, got.stderr.splitlines())):
                yield name(m[1]), int(m[2]), m[4], re.sub(r" \[CWE-\d+\]$", "", m[3])


def cppcheck_findings():
    """(file, line, kind, text) of cppcheck."""
    if not shutil.which("cppcheck"):
        raise Skip("no cppcheck")
    shown = subprocess.run(["cppcheck", "--version"], capture_output=True, text=True, check=False).stdout.split()[-1]
    if shown != CPPCHECK:
        raise Skip(f"cppcheck is {shown}, not {CPPCHECK}")
    with tempfile.TemporaryDirectory() as tmp:
        project = Path(tmp) / "compile_commands.json"
        project.write_text(json.dumps(list(commands().values())))
        got = subprocess.run(["cppcheck", f"--project={project}", "--enable=warning,performance,portability", "--quiet",
                              "-j", str(os.cpu_count() or 2), "--template={file}:{line}: {message} [{id}]"],
                             capture_output=True, text=True, check=False)
    if got.returncode:
        yield "", 0, "error", (got.stdout + got.stderr).strip()[-300:]
    for m in filter(None, map(CPPCHECK_FINDING.match, got.stderr.splitlines())):
        yield name(m[1]), int(m[2]), m[4], m[3]


def exceptions():
    """[(tool, file, kind, text)] of the table; what is indented below is the reason."""
    found, without = [], 0
    for line in EXCEPTIONS.read_text().splitlines():
        if line.startswith(" "):
            without = 0
        elif line and not line.startswith("#"):
            found.append(tuple(part.strip() for part in line.split("|")))
            without += 1
    bad = [e for e in found if len(e) != 4]
    if bad:
        sys.exit(f"{EXCEPTIONS.name}: not tool | file | kind | text: {bad[0]}")
    if without:
        sys.exit(f"{EXCEPTIONS.name}: no reason for {found[-1]}")
    return found


TOOLS = [("gcc", gcc_findings), ("cppcheck", cppcheck_findings)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    failed = False
    for tool, findings in TOOLS:
        known = {e for e in exceptions() if e[0] == tool}
        used, bad = set(), []
        try:
            for file, line, kind, text in sorted(set(findings())):
                hits = {e for e in known if e[1] == file and e[2] == kind and e[3] in text}
                used |= hits
                if not hits:
                    bad.append(f"{file}:{line}: {kind}: {text}")
        except Skip as reason:
            print(f"SKIP {tool}: {reason}", flush=True)
            continue
        bad += [f"{EXCEPTIONS.name}: nothing is found any more for: {' | '.join(e)}" for e in sorted(known - used)]
        for line in bad:
            print(f"  {line}")
        print(("FAIL " if bad else "PASS ") + tool, flush=True)
        failed |= bool(bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
