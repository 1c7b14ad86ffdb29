/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_perf - a host in user space: loads emulated disks over their sockets, measures and verifies.
 * Exit: 0 good, 1 errors found or a run could not finish, 2 wrong usage or no connection. */
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "client/nvme_disk.h"
#include "client/run.h"
#include "perf_options.h"
#include "perf_report.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ERRORS_SHOWN = 20 };

struct perf;
struct perf_load {
    struct perf *perf;
    const struct perf_disk *options;
    struct disk *disk;
};

struct perf {
    struct perf_options o;
    struct perf_load *disk; /* o.ndisks of each */
    struct run_load *run;
    uint64_t shown, next_status_ms, start_ms, last_ms, last_completed;
    bool tty;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ---- while it runs ---- */

static void clear_progress(const struct perf *p)
{
    if (p->tty)
        fputs("\r\033[K", stderr);
}

static void report(void *arg, const struct verify_error *e)
{
    struct perf_load *d = arg;
    struct perf *p = d->perf;
    bool several = p->o.ndisks > 1;

    if (p->shown++ >= ERRORS_SHOWN)
        return;
    clear_progress(p);
    fprintf(stderr, "snap_perf: ERROR %s: %s%sLBA %llu: %s\n", verify_kind_name(e->kind),
            several ? d->options->path : "", several ? ": " : "", (unsigned long long)e->lba,
            e->text);
    if (p->shown == ERRORS_SHOWN)
        fputs("snap_perf: more errors are counted but not shown\n", stderr);
}

/* Of all disks together; the phase is that of the one furthest behind. */
struct status {
    const char *phase;
    uint64_t completed, outstanding, errors, longest_gap_ns;
};

static struct status get_status(const struct perf *p)
{
    static const char *const names[] = {
        [LOAD_PREFILL] = "prefill", [LOAD_READY] = "prefill", [LOAD_MAIN] = "main",
        [LOAD_DRAIN] = "drain",     [LOAD_SWEEP] = "sweep",   [LOAD_DONE] = "done",
    };
    enum load_phase phase = LOAD_DONE;
    struct status s = {0};

    for (unsigned i = 0; i < p->o.ndisks; i++) {
        struct load *l = p->run[i].load;
        const struct load_result *r = load_get_result(l);

        s.completed += r->completed;
        s.outstanding += r->outstanding;
        s.errors += verify_errors(load_verify(l));
        s.longest_gap_ns = MAX(s.longest_gap_ns, r->longest_gap_ns);
        if (!load_over(l) && r->phase < phase)
            phase = r->phase;
    }
    s.phase = names[phase];
    return s;
}

static bool tick(void *arg)
{
    struct perf *p = arg;
    uint64_t now = clock_ms(), every = p->o.status_s > 0 ? (uint64_t)(p->o.status_s * 1000) : 500;
    struct status s;
    double iops;

    if (interrupted)
        return false;
    if (now < p->next_status_ms || !(p->tty || p->o.status_s > 0))
        return true;
    p->next_status_ms = now + MAX(every, 1);
    s = get_status(p);
    iops = now > p->last_ms
               ? (double)(s.completed - p->last_completed) * 1000.0 / (double)(now - p->last_ms)
               : 0;
    p->last_ms = now;
    p->last_completed = s.completed;
    if (p->o.status_s > 0)
        fprintf(
            stderr,
            "{\"status\": \"%s\", \"completed\": %llu, \"outstanding\": %llu, \"errors\": %llu, "
            "\"longest_gap_ms\": %.3f, \"disks\": %u}\n",
            s.phase, (unsigned long long)s.completed, (unsigned long long)s.outstanding,
            (unsigned long long)s.errors, (double)s.longest_gap_ns / 1e6, p->o.ndisks);
    else
        fprintf(
            stderr,
            "\r\033[K%-7s %6.1f s  %9.0f IOPS  %llu in flight  longest gap %.1f ms  errors %llu",
            s.phase, (double)(now - p->start_ms) / 1000, iops, (unsigned long long)s.outstanding,
            (double)s.longest_gap_ns / 1e6, (unsigned long long)s.errors);
    fflush(stderr);
    return true;
}

/* ---- disks ---- */

static struct disk *open_disk(const struct perf_disk *d, struct err *err)
{
    uint64_t data_bytes = load_data_bytes(d->queues, d->depth, (uint32_t)d->bs_bytes);

    if (d->kind == PERF_KIND_NVME) {
        struct nvme_host_opts o = d->nvme;

        o.path = d->path;
        o.queues = d->queues;
        o.depth = d->depth;
        o.data_bytes = data_bytes;
        return nvme_disk_open(&o, err);
    } else {
        struct virtio_blk_opts o = d->blk;

        o.path = d->path;
        o.queues = d->queues;
        o.depth = d->depth;
        o.io_bytes = (uint32_t)d->bs_bytes;
        o.data_bytes = data_bytes;
        return virtio_blk_open(&o, err);
    }
}

/* 0 or the exit code. */
static int prepare(struct perf *p, unsigned i)
{
    struct perf_load *d = &p->disk[i];
    struct load_opts lo = p->o.disk[i].load;
    const struct perf_disk *po = &p->o.disk[i];
    struct disk_info info;
    struct err err = {0};

    d->perf = p;
    d->options = po;
    d->disk = open_disk(po, &err);
    if (!d->disk) {
        fprintf(stderr, "snap_perf: %s\n", err.msg);
        return 2;
    }
    info = d->disk->ops->info(d->disk);
    if (po->bs_bytes % info.block_bytes || po->align_bytes % info.block_bytes)
        return perf_wrong("%s: --bs and --align must be multiples of the disk's block size, %u",
                          po->path, info.block_bytes);
    lo.disk = d->disk;
    lo.io_blocks = (uint32_t)(po->bs_bytes / info.block_bytes);
    lo.align_blocks = (uint32_t)(po->align_bytes / info.block_bytes);
    lo.report = report;
    lo.arg = d;
    p->run[i].load = load_create(&lo, &err);
    return p->run[i].load ? 0 : perf_wrong("%s: %s", po->path, err.msg);
}

static void take_outcome(const struct perf *p, unsigned i, struct perf_outcome *ret)
{
    struct run_load *r = &p->run[i];
    struct verify *v = load_verify(r->load);

    ret->disk = &p->o.disk[i];
    ret->info = p->disk[i].disk->ops->info(p->disk[i].disk);
    ret->result = *load_get_result(r->load);
    ret->nerrors = verify_errors(v);
    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        ret->errors[k] = verify_errors_of(v, k);
    ret->blocks_verified = verify_blocks_checked(v);
    ret->ok = !r->rc && !ret->nerrors;
    if (r->rc) {
        snprintf(ret->message, sizeof(ret->message), "%s", r->err.msg);
        fprintf(stderr, "snap_perf: %s%s%s\n", p->o.ndisks > 1 ? ret->disk->path : "",
                p->o.ndisks > 1 ? ": " : "", r->err.msg);
    }
}

static int run(struct perf *p)
{
    struct run_opts ro = {.spin_us = p->o.spin_us, .yield = p->o.yield, .tick = tick, .arg = p};
    struct perf_outcome *disks = calloc(p->o.ndisks, sizeof(*disks)),
                        *sum = calloc(1, sizeof(*sum));
    int rc = disks && sum ? 0 : perf_wrong("no memory");

    for (unsigned i = 0; !rc && i < p->o.ndisks; i++) {
        ro.stop_together |= p->o.disk[i].load.stop_on_error;
        rc = prepare(p, i);
    }
    if (!rc) {
        p->start_ms = p->last_ms = clock_ms();
        run_loads(p->run, p->o.ndisks, &ro);
        clear_progress(p);
        sum->ok = true;
        for (unsigned i = 0; i < p->o.ndisks; i++) {
            take_outcome(p, i, &disks[i]);
            perf_outcome_add(sum, &disks[i]);
        }
        if (p->o.json)
            perf_print_json(&p->o, disks, sum);
        else
            perf_print_text(&p->o, disks, sum);
        rc = sum->ok ? 0 : 1;
    }
    free(disks);
    free(sum);
    return rc;
}

int main(int argc, char **argv)
{
    static struct perf p;
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    int rc = perf_parse(&p.o, argc, argv);

    if (rc)
        return rc - 1;
    log_set_program("snap_perf");
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    p.tty = !p.o.quiet && !(p.o.status_s > 0) && isatty(STDERR_FILENO);
    p.disk = calloc(p.o.ndisks, sizeof(p.disk[0]));
    p.run = calloc(p.o.ndisks, sizeof(p.run[0]));
    rc = p.disk && p.run ? run(&p) : perf_wrong("no memory for %u disks", p.o.ndisks);
    for (unsigned i = 0; p.disk && p.run && i < p.o.ndisks; i++) {
        load_destroy(p.run[i].load);
        disk_close(p.disk[i].disk);
    }
    free(p.disk);
    free(p.run);
    return rc;
}
