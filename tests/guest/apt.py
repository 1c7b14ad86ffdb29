# SPDX-License-Identifier: BSD-3-Clause
"""A private apt: other Debian suites than this machine's, without touching the machine.

Packages are only downloaded (signatures checked) and unpacked with dpkg, never
configured: that needs no root, no mounts and no maintainer scripts.
"""

import os
import re
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class AptError(Exception):
    """Something could not be fetched or unpacked; says what and why."""


def run(argv: list, **kwargs) -> str:
    """Runs a tool, returns its standard output, raises with its last words."""
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run([str(a) for a in argv], env=env, text=True, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, **kwargs)
    except FileNotFoundError as missing:
        raise AptError(f"{argv[0]} is not installed (scripts/deps.sh guest)") from missing
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise AptError(f"{argv[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout


def mirror() -> str:
    """The Debian mirror that this machine's own apt uses."""
    targets = run(["apt-get", "indextargets", "--format", "$(LABEL)\t$(SITE)",
                   "Created-By: Packages"])
    sites = [line.split("\t")[1] for line in targets.splitlines() if line.startswith("Debian\t")]
    if not sites:
        raise AptError("apt here knows no Debian mirror: run apt-get update, or "
                       "set OPENSNAP_MIRROR")
    return sites[0]


class Apt:
    """apt with its own lists and download folder for the given suites."""

    def __init__(self, home: Path, suites: list):
        self.home = home
        self.suites = suites
        self.archives = home / "cache/archives"
        self.updated = False
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        site = os.environ.get("OPENSNAP_MIRROR") or mirror()
        (home / "sources.list").write_text("".join(
            f"deb [signed-by={KEYRING}] {site} {suite} main\n" for suite in suites))

    def _options(self, release: str) -> list:
        home = self.home
        settings = {
            "Dir::State": home / "state", "Dir::State::status": home / "status",
            "Dir::Cache": home / "cache", "Dir::Etc::sourcelist": home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null", "APT::Sandbox::User": "root",
            "APT::Architectures": "amd64", "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false", "Acquire::Languages": "none",
            "Acquire::Retries": "3", "Debug::NoLocking": "true",
            "APT::Default-Release": release,
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def _apt(self, tool: str, words: list, release: str) -> str:
        if not self.updated:
            self.updated = True
            self._apt("apt-get", ["-q", "update"], self.suites[0])
        return run([tool, *self._options(release), *words], cwd=self.archives)

    def fetch(self, packages: list, release: str) -> list:
        """Downloads packages with all they depend on; returns the .deb files."""
        words = ["-q", "-y", "install", *packages]
        plan = self._apt("apt-get", [*words, "--simulate"], release)
        self._apt("apt-get", [*words, "--download-only"], release)
        chosen = re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", plan, re.M)
        return [self._archive(*one) for one in chosen]

    def _archive(self, package: str, version: str, arch: str) -> Path:
        return self.archives / f"{package}_{version.replace(':', '%3a')}_{arch}.deb"

    def fetch_only(self, package: str, release: str) -> Path:
        """Downloads one package without its dependencies."""
        self._apt("apt-get", ["-q", "download", package], release)
        name = re.escape(package)
        found = [p for p in self.archives.glob("*.deb") if re.match(name + "_", p.name)]
        if not found:
            raise AptError(f"apt-get download {package} left no file")
        return found[0]

    def depends(self, package: str, release: str) -> list:
        """Names in a package's Depends field, versions and alternatives dropped."""
        shown = self._apt("apt-cache", ["--no-all-versions", "show", package], release)
        field = re.search(r"^Depends: (.*)$", shown, re.M)
        return re.findall(r"(?:^|, )([^ ,|]+)", field.group(1)) if field else []

    def clean(self) -> None:
        """Drops downloaded packages; lists stay."""
        for deb in self.archives.glob("*.deb"):
            deb.unlink()


def unpack(deb: Path, root: Path) -> None:
    """Unpacks a package's files below root."""
    run(["dpkg-deb", "-x", deb, root])
