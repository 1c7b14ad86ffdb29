/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/run.h"

#include "base/clock.h"
#include "base/util.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define TICK_NS 20000000ULL

struct run {
    struct run_load *loads;
    unsigned n;
    struct run_opts o;
    struct pollfd *fds;
    unsigned max_fds;
    uint64_t last_work_ns, last_tick_ns;
};

static void stop_all(struct run *r)
{
    for (unsigned i = 0; i < r->n; i++)
        load_stop(r->loads[i].load);
}

/* Number of loads that go on; *ret_work: something was completed. */
static unsigned step_all(struct run *r, bool *ret_work)
{
    unsigned going = 0, waiting = 0;

    *ret_work = false;
    for (unsigned i = 0; i < r->n; i++) {
        struct run_load *l = &r->loads[i];
        int rc;

        if (load_over(l->load))
            continue;
        rc = load_step(l->load, &l->err);
        if (rc < 0) {
            l->rc = rc;
            if (r->o.stop_together)
                stop_all(r);
            continue;
        }
        if (rc > 0)
            *ret_work = true;
        if (load_over(l->load))
            continue;
        going++;
        waiting += load_get_phase(l->load) == LOAD_READY;
    }
    if (going && waiting == going) { /* all are prefilled */
        for (unsigned i = 0; i < r->n; i++)
            load_go(r->loads[i].load);
        *ret_work = true;
    }
    return going;
}

static void sleep_on_all(struct run *r, uint64_t now)
{
    uint64_t until = r->last_tick_ns + TICK_NS;
    struct timespec ts = {0};
    unsigned n = 0;

    for (unsigned i = 0; i < r->n; i++) {
        struct load *l = r->loads[i].load;
        struct disk *d = load_disk(l);

        if (load_over(l))
            continue;
        if (!d->ops->arm(d))
            return;
        n += d->ops->fds(d, r->fds + n, r->max_fds - n);
        until = MIN(until, load_next_ns(l));
    }
    if (until > now) {
        ts.tv_sec = (time_t)((until - now) / 1000000000ULL);
        ts.tv_nsec = (long)((until - now) % 1000000000ULL);
    }
    if (ppoll(r->fds, n, &ts, NULL) <= 0)
        return;
    for (unsigned i = 0; i < r->n; i++)
        if (!load_over(r->loads[i].load))
            load_disk(r->loads[i].load)->ops->woken(load_disk(r->loads[i].load));
}

static void tick(struct run *r, uint64_t now)
{
    if (now - r->last_tick_ns < TICK_NS)
        return;
    r->last_tick_ns = now;
    if (r->o.tick && !r->o.tick(r->o.arg))
        stop_all(r);
}

int run_loads(struct run_load *loads, unsigned n, const struct run_opts *opts)
{
    struct run r = {.loads = loads, .n = n, .o = *opts, .max_fds = n * DISK_MAX_FDS};
    bool work;

    r.fds = calloc(r.max_fds, sizeof(r.fds[0]));
    if (!r.fds)
        return loads[0].rc = err_set(&loads[0].err, -ENOMEM, "no memory for %u disks", n);
    while (step_all(&r, &work)) {
        uint64_t now = clock_ns();

        tick(&r, now);
        if (work)
            r.last_work_ns = now;
        else if (now - r.last_work_ns > (uint64_t)opts->spin_us * 1000)
            sleep_on_all(&r, now);
        else if (opts->yield)
            sched_yield();
    }
    free(r.fds);
    for (unsigned i = 0; i < n; i++)
        if (loads[i].rc)
            return loads[i].rc;
    return 0;
}
