/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crash_point.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct point {
    const char *name, *kind, *between, *situation;
};

#define POINT(name, kind, between, situation) {#name, kind, between, situation},
static const struct point points[CRASH_POINT_COUNT] = {CRASH_POINTS(POINT)};

/* The point of the environment; CRASH_POINT_COUNT: it names none. */
static unsigned wanted(long *ret_count)
{
    const char *want = getenv("SNAP_CRASH_POINT");
    unsigned i = 0;

    for (; want && i < CRASH_POINT_COUNT; i++) {
        size_t len = strlen(points[i].name);

        if (strncmp(want, points[i].name, len) != 0 || want[len] != ':')
            continue;
        *ret_count = atol(want + len + 1);
        return i;
    }
    return CRASH_POINT_COUNT;
}

void crash_point_passed(enum crash_point point)
{
    static _Atomic long passes;
    static _Atomic int known = -1;
    static _Atomic long count;
    long n = 0;

    if (atomic_load(&known) < 0) {
        int found = (int)wanted(&n);

        atomic_store(&count, n);
        atomic_store(&known, found);
    }
    if ((int)point == atomic_load(&known) &&
        atomic_fetch_add(&passes, 1) + 1 == atomic_load(&count))
        raise(SIGKILL);
}

bool crash_point_program_ends(int argc, char **argv, int *ret_code)
{
    long count;

    *ret_code = 0;
    if (argc == 2 && strcmp(argv[1], "--list-crash-points") == 0) {
        for (unsigned i = 0; i < CRASH_POINT_COUNT; i++)
            printf("%s\t%s\t%s\t%s\n", points[i].name, points[i].kind, points[i].between,
                   points[i].situation);
        return true;
    }
    if (!getenv("SNAP_CRASH_POINT") || wanted(&count) != CRASH_POINT_COUNT)
        return false;
    fprintf(stderr, "SNAP_CRASH_POINT is '%s', not NAME:COUNT with a name of --list-crash-points\n",
            getenv("SNAP_CRASH_POINT"));
    *ret_code = 2;
    return true;
}

void poison_passed(uint64_t lba)
{
    const char *want = getenv("SNAP_POISON_LBA");

    if (want && strtoull(want, NULL, 10) == lba)
        raise(SIGSEGV);
}
