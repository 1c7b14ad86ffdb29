#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Builds the tree into a directory: build.sh DIR [meson setup option...]
# The options are applied to an existing directory too. Programs get a link at the top of DIR.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "usage: build.sh DIR [meson option...]" >&2; exit 2; }
dir=$1
shift
case $dir in /*) ;; *) dir=$root/$dir ;; esac

tools_there() {
    for tool in cc meson ninja pkg-config; do
        command -v $tool >/dev/null 2>&1 || return 1
    done
    pkg-config --exists jansson liburing libisal cmocka
}
tools_there || "$root/scripts/deps.sh" build

if [ ! -f "$dir/build.ninja" ]; then
    meson setup "$dir" "$root" "$@"
elif [ $# -gt 0 ]; then
    meson configure "$dir" "$@" >/dev/null
fi
ninja -C "$dir" ${JOBS:+-j "$JOBS"}

# snap_* programs, wherever their room put them, also at the top of DIR: hard links, so that a program finds its siblings
# beside itself. *_test stay where they are.
find "$dir" -mindepth 2 -type f -name 'snap_*' -perm -u+x ! -path '*.p/*' ! -name '*_test' |
while read -r program; do
    ln -f "$program" "$dir/$(basename "$program")"
done
for name in snap_rpc.py spdk_rpc.py; do
    ln -sf snap_rpc "$dir/$name"
done
