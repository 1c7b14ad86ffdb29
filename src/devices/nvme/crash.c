/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/crash.h"

#ifdef SNAP_CRASH_POINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void crash_point(const char *name)
{
    static _Atomic long passes;
    const char *want = getenv("SNAP_CRASH_POINT");
    size_t len = strlen(name);

    if (!want || strncmp(want, name, len) != 0 || want[len] != ':')
        return;
    if (atomic_fetch_add(&passes, 1) + 1 == atol(want + len + 1))
        raise(SIGKILL);
}
#else
/* ISO C wants a declaration in every translation unit. */
typedef int crash_points_are_left_out;
#endif
