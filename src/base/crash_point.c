/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crash_point.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void crash_point_passed(const char *name)
{
    static _Atomic long passes;
    const char *want = getenv("SNAP_CRASH_POINT");
    size_t len = strlen(name);

    if (!want || strncmp(want, name, len) != 0 || want[len] != ':')
        return;
    if (atomic_fetch_add(&passes, 1) + 1 == atol(want + len + 1))
        raise(SIGKILL);
}

void poison_passed(uint64_t lba)
{
    const char *want = getenv("SNAP_POISON_LBA");

    if (want && strtoull(want, NULL, 10) == lba)
        raise(SIGSEGV);
}
