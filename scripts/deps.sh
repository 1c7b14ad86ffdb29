#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Installs the Debian packages that building and testing need.
# Does nothing, not even "apt-get update", when all of them are there.
set -eu

usage() {
    cat <<'USAGE'
usage: deps.sh [--check] GROUP...

Groups:
  build   compile the programs and run their unit tests
  test    static checks, sanitizers, wire and interoperability tests
  guest   boot Linux guests in QEMU (tests/guest)
  all     all of the above

Options:
  --check     install nothing: list what is missing, exit 1 if anything is
  --list      install nothing: print the names of the groups' packages
  -h, --help  this text

Packages come from the distribution this machine's apt is set up for. Root, or
sudo, is used for apt-get only. Debian 12 and 13 are supported.
USAGE
}

# One package a line, then why. A package whose reason starts with "optional:" is
# skipped, and said so, by distributions that do not have it.
packages_of() {
    case $1 in
    build) cat <<'LIST'
gcc compiler
libc6-dev C library headers
meson build description
ninja-build build runner
make the top-level Makefile
pkg-config finds the libraries below
python3 code generators and tools
libjansson-dev JSON
liburing-dev io_uring
libisal-dev CRC-32C and DIF arithmetic
libcmocka-dev unit tests
LIST
        ;;
    test) cat <<'LIST'
clang second compiler, fuzzing
clang-format-14 optional: formatting check (this very version decides)
clang-tidy-14 optional: static checks (this very version decides)
libclang-rt-14-dev optional: sanitizer runtime of clang 14
libclang-rt-dev optional: sanitizer runtime of the default clang
llvm symbolizer for sanitizer reports
python3-pytest runs tests/wire, tests/rpc and others
python3-pytest-xdist several of them at the same time
fio block load with verification
spin checks the models of docs/models
tgt iSCSI target to test against
libiscsi-bin iSCSI conformance tools
qemu-utils qemu-img and qemu-storage-daemon as vhost-user-blk peers
qemu-system-common qemu-storage-daemon's vhost-user-blk export
iproute2 network namespaces and veth pairs
gcc-aarch64-linux-gnu cross-build
qemu-user-static runs what that made
cppcheck static checks
valgrind counts instructions
debian-archive-keyring verifies what tests/guest/cache.py downloads
LIST
        ;;
    guest) cat <<'LIST'
qemu-system-x86 runs guests (the distribution's own version)
qemu-system-common qemu-storage-daemon and bridge helpers
qemu-utils disk images
seabios firmware of the guests
ipxe-qemu network card ROMs that QEMU looks for
kmod module dependency lists of guest kernels
zstd unpacks kernel images
python3 tests/guest itself
python3-pytest runs tests/guest
debian-archive-keyring verifies what tests/guest/cache.py downloads
ca-certificates for mirrors reached by https
LIST
        ;;
    *) return 1 ;;
    esac
}

installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

available() {
    apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [^(]'
}

release() {
    # shellcheck disable=SC1091
    (. /etc/os-release && printf '%s' "${PRETTY_NAME:-this system}")
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "deps.sh: neither root nor sudo: cannot run: $*" >&2
        exit 1
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# Prints "package why" for the packages of the groups that are not installed.
missing_of() {
    for group in "$@"; do
        packages_of "$group" | while read -r pkg why; do
            installed "$pkg" || echo "$pkg $why"
        done
    done | sort -u -k1,1
}

# Copies stdin but for the optional packages this distribution does not have.
drop_unavailable() {
    while read -r pkg why; do
        case $why in
        optional:*)
            if ! lists_empty && ! available "$pkg"; then
                echo "deps.sh: skipping $pkg (${why#optional: }): not in $(release)" >&2
                continue
            fi
            ;;
        esac
        echo "$pkg $why"
    done
}

# True on a system that never ran apt-get update.
lists_empty() {
    [ -z "$(apt-get indextargets 'Created-By: Packages' 2>/dev/null | head -1)" ]
}

listing() {
    printf '%s\n' "$1" | sed 's/ /: /; s/: optional: /: /; s/^/  /'
}

main() {
    check=0
    list=0
    groups=
    for arg in "$@"; do
        case $arg in
        -h | --help) usage; exit 0 ;;
        --check) check=1 ;;
        --list) list=1 ;;
        all) groups="$groups build test guest" ;;
        build | test | guest) groups="$groups $arg" ;;
        *)
            echo "deps.sh: no group or option '$arg'; see --help" >&2
            exit 2
            ;;
        esac
    done
    [ -n "$groups" ] || { usage >&2; exit 2; }
    if [ "$list" -eq 1 ]; then
        for group in $groups; do packages_of "$group"; done | cut -d' ' -f1 | sort -u
        exit 0
    fi
    if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
        echo "deps.sh: no apt here: install by hand what --help's groups stand for" >&2
        exit 1
    fi

    # shellcheck disable=SC2086
    missing=$(missing_of $groups | drop_unavailable)
    if [ -z "$missing" ]; then
        echo "deps.sh:$groups: all there"
        exit 0
    fi
    if [ "$check" -eq 1 ]; then
        echo "deps.sh: missing:"
        listing "$missing"
        exit 1
    fi

    apt_get update
    # shellcheck disable=SC2086
    missing=$(missing_of $groups | drop_unavailable 2>/dev/null)
    echo "deps.sh: installing:"
    listing "$missing"
    # shellcheck disable=SC2046
    apt_get install -y --no-install-recommends $(printf '%s\n' "$missing" | cut -d' ' -f1)
}

main "$@"
