# SPDX-License-Identifier: BSD-3-Clause
"""Empty stand-ins for shared libraries a program links but never uses in a guest.

Debian's fio pulls in Ceph, Gluster and GnuTLS for engines no guest test runs: 40 MB of
initramfs, a second of every boot, half a second of every fio start under TCG.
"""

import shutil
from pathlib import Path

from apt import AptError, run

STUBBED = ("librbd.so.1", "librados.so.2", "libgfapi.so.0", "libnbd.so.0", "libnfs.so.14",
           "libpmem.so.1")


def possible() -> bool:
    """A compiler is there? Without one guests carry the real libraries."""
    return bool(shutil.which("cc") and shutil.which("readelf"))


def _symbols(path: Path, undefined: bool) -> dict:
    """Dynamic symbols a file wants or offers: name -> version, "" for none."""
    found = {}
    for line in run(["readelf", "-W", "--dyn-syms", path]).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0][:-1].isdigit() and (fields[6] == "UND") == undefined:
            name, _, version = fields[7].partition("@")
            found[name] = version.lstrip("@")
    return found


def make(program: Path, library: Path, target: Path) -> None:
    """Writes target: library's name, and of its functions what program needs, each a trap."""
    offered = _symbols(library, undefined=False)
    wanted = {name: version for name, version in _symbols(program, undefined=True).items()
              if name in offered}
    if not wanted:
        raise AptError(f"{program.name} uses nothing of {library.name}")
    source = target.with_suffix(".c")
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in wanted))
    versions = target.with_suffix(".map")
    versions.write_text(_version_script(wanted))
    run(["cc", "-shared", "-fPIC", "-fno-builtin", "-w", "-nostdlib", "-o", target, source,
         f"-Wl,-soname,{library.name}", f"-Wl,--version-script,{versions}"])


def _version_script(wanted: dict) -> str:
    names = {}
    for name, version in wanted.items():
        names.setdefault(version, []).append(name)
    if set(names) == {""}:
        return "{ global: *; };\n"
    return "".join(f"{version} {{ global: {'; '.join(members)}; }};\n"
                   for version, members in names.items() if version)
