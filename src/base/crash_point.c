/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crash_point.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FILE_BYTES = 128 };

struct point {
    const char *name, *kind, *between, *situation;
};

#define POINT(name, kind, between, situation) {#name, kind, between, situation},
static const struct point points[CRASH_POINT_COUNT] = {CRASH_POINTS(POINT)};

/* NAME:COUNT; CRASH_POINT_COUNT: it names none. */
static unsigned find(const char *want, long *ret_count)
{
    for (unsigned i = 0; i < CRASH_POINT_COUNT; i++) {
        size_t len = strlen(points[i].name);

        if (strncmp(want, points[i].name, len) != 0 || want[len] != ':')
            continue;
        *ret_count = atol(want + len + 1);
        return i;
    }
    return CRASH_POINT_COUNT;
}

/* What the environment says: NAME:COUNT itself, or @FILE, which holds it, or zeroes as long as
 * nothing is wanted. NULL: nothing at all, or no such file. */
static const char *wanted(void)
{
    static const char *_Atomic known;
    const char *want = atomic_load(&known);
    void *at;
    int fd;

    if (want)
        return want;
    want = getenv("SNAP_CRASH_POINT");
    if (want && want[0] == '@') {
        fd = open(want + 1, O_RDONLY | O_CLOEXEC);
        at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
        want = at == MAP_FAILED ? NULL : at;
    }
    atomic_store(&known, want);
    return want;
}

void crash_point_passed(enum crash_point point)
{
    static _Atomic long passes;
    const char *want = wanted();
    long count = 0;

    if (!want || want[0] != points[point].name[0] || find(want, &count) != point)
        return;
    if (atomic_fetch_add(&passes, 1) + 1 == count)
        raise(SIGKILL);
}

bool crash_point_program_ends(int argc, char **argv, int *ret_code)
{
    const char *want = wanted();
    long count;

    *ret_code = 0;
    if (argc == 2 && strcmp(argv[1], "--list-crash-points") == 0) {
        for (unsigned i = 0; i < CRASH_POINT_COUNT; i++)
            printf("%s\t%s\t%s\t%s\n", points[i].name, points[i].kind, points[i].between,
                   points[i].situation);
        return true;
    }
    if (!getenv("SNAP_CRASH_POINT") ||
        (want && (!want[0] || find(want, &count) != CRASH_POINT_COUNT)))
        return false;
    fprintf(stderr,
            "SNAP_CRASH_POINT is '%s': neither NAME:COUNT with a name of --list-crash-points, nor "
            "@FILE with such a text\n",
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
