/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The I/O reactors: one per CPU of the mask, each with a ring. */
#include "base/log.h"
#include "program/program.h"
#include "runtime/ring.h"

#include <errno.h>
#include <stdio.h>

enum { RING_ENTRIES = 256 };

static int add_ring(struct program *p, struct reactor *r, const int *held, unsigned nheld,
                    struct err *err)
{
    if (ring_create(r, RING_ENTRIES, held, nheld, err))
        return 0;
    if (err->code != -EPERM && err->code != -ENOSYS)
        return err->code;
    /* Files cannot be served; the rest can. */
    log_line(LOG_WARNING, p->room, "%s; file bdevs are not available", err->msg);
    return 0;
}

int program_make_reactors(struct program *p, const int *held, unsigned nheld, struct err *err)
{
    uint64_t mask = p->opts->core_mask;

    for (unsigned cpu = 0; cpu < 64; cpu++) {
        char name[16];
        struct reactor *r;
        int rc;

        if (mask ? !(mask >> cpu & 1) : cpu > 0)
            continue;
        snprintf(name, sizeof(name), "reactor_%u", p->nreactors);
        r = reactor_create(name, err);
        if (!r)
            return -ENOMEM;
        reactor_set_poll_window(r, p->opts->poll_window_us);
        rc = add_ring(p, r, held, nheld, err);
        if (rc < 0)
            return rc;
        p->reactors[p->nreactors++] = r;
    }
    p->ctx.nreactors = p->nreactors;
    return 0;
}

int program_spawn_reactors(struct program *p, struct err *err)
{
    uint64_t mask = p->opts->core_mask;
    unsigned cpu = 0;

    for (unsigned i = 0; i < p->nreactors; i++, cpu++) {
        int rc;

        while (mask && !(mask >> cpu & 1))
            cpu++;
        rc = reactor_spawn(p->reactors[i], mask ? (int)cpu : -1, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
