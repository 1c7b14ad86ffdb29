/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load.h"

#include "base/clock.h"
#include "base/util.h"
#include "client/load_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_NS 20000000ULL

uint64_t load_data_bytes(unsigned queues, unsigned depth, uint32_t io_bytes)
{
    return (uint64_t)queues * depth * ((io_bytes + 4095U) & ~4095U);
}

/* ---- create ---- */

static int check_kinds(const struct load_opts *o, const struct disk_info *info, struct err *err)
{
    bool writes = o->rw != LOAD_RANDREAD && o->rw != LOAD_READ;

    if ((writes || o->verify) && info->read_only)
        return err_set(err, -EROFS, "%s is read-only", info->name);
    if (o->flush_percent && !info->can_flush)
        return err_set(err, -ENOTSUP, "%s has no flush", info->name);
    if (o->zeroes_percent && o->io_blocks > info->max_zeroes_blocks)
        return err_set(err, -ENOTSUP, "%s takes Write Zeroes of at most %u blocks", info->name,
                       info->max_zeroes_blocks);
    if (o->deallocate_percent && o->io_blocks > info->max_deallocate_blocks)
        return err_set(err, -ENOTSUP, "%s takes deallocates of at most %u blocks", info->name,
                       info->max_deallocate_blocks);
    return 0;
}

static int check(struct load_opts *o, const struct disk_info *info, struct err *err)
{
    if (!o->io_blocks || (uint64_t)o->io_blocks * info->block_bytes > info->max_transfer_bytes)
        return err_set(err, -EINVAL, "block size must be 1 to %u blocks of %u bytes",
                       info->max_transfer_bytes / info->block_bytes, info->block_bytes);
    if (o->first_lba >= info->nblocks)
        return err_set(err, -EINVAL, "the disk has only %llu blocks",
                       (unsigned long long)info->nblocks);
    if (!o->nblocks || o->nblocks > info->nblocks - o->first_lba)
        o->nblocks = info->nblocks - o->first_lba;
    if (o->nblocks < o->io_blocks)
        return err_set(err, -EINVAL, "a range of %llu blocks is less than one command of %u",
                       (unsigned long long)o->nblocks, o->io_blocks);
    if (!o->align_blocks)
        o->align_blocks = o->io_blocks;
    return check_kinds(o, info, err);
}

static int make_slots(struct load *l, struct err *err)
{
    uint32_t io_bytes = l->o.io_blocks * l->info.block_bytes;

    l->nslots = l->info.queues * l->info.depth;
    l->slot = calloc(l->nslots, sizeof(l->slot[0]));
    l->floors = calloc(l->nslots, l->o.io_blocks * sizeof(uint64_t));
    if (!l->slot || !l->floors)
        return err_set(err, -ENOMEM, "no memory for %u commands", l->nslots);
    for (unsigned i = 0; i < l->nslots; i++) {
        struct slot *s = &l->slot[i];

        s->queue = i % l->info.queues;
        s->disk.tag = s;
        s->disk.buf = l->ops->alloc(l->o.disk, io_bytes, &s->disk.iova);
        if (!s->disk.buf)
            return err_set(err, -ENOMEM, "no memory for %u buffers of %u bytes", l->nslots,
                           io_bytes);
        for (uint32_t b = 0; b < io_bytes; b += 8) {
            uint64_t x = load_random(l);

            memcpy((char *)s->disk.buf + b, &x, sizeof(x));
        }
        s->io.floor = l->floors + (size_t)i * l->o.io_blocks;
        s->next_free = l->free[s->queue];
        l->free[s->queue] = s;
    }
    return 0;
}

static void enter(struct load *l, enum load_phase phase)
{
    l->result.phase = phase;
    l->cursor = l->phase_ios = 0;
}

struct load *load_create(const struct load_opts *opts, struct err *err)
{
    struct load *l = calloc(1, sizeof(*l));
    struct verify_opts vo = {
        .seed = opts->seed,
        .nblocks = 1,
        .allow_torn = opts->allow_torn,
        .report = opts->report,
        .arg = opts->arg,
    };

    if (!l) {
        err_set(err, -ENOMEM, "no memory");
        return NULL;
    }
    l->o = *opts;
    l->rng = opts->seed;
    l->ops = opts->disk->ops;
    l->info = l->ops->info(opts->disk);
    vo.block_bytes = l->info.block_bytes;
    if (check(&l->o, &l->info, err))
        goto fail;
    if (l->o.verify) {
        vo.first_lba = l->o.first_lba;
        vo.nblocks = l->o.nblocks;
    }
    l->verify = verify_create(&vo, err);
    if (!l->verify || make_slots(l, err))
        goto fail;
    enter(l, l->o.verify && l->o.prefill ? LOAD_PREFILL : LOAD_READY);
    return l;
fail:
    load_destroy(l);
    return NULL;
}

void load_destroy(struct load *l)
{
    if (!l)
        return;
    verify_destroy(l->verify);
    free(l->slot);
    free(l->floors);
    free(l);
}

struct verify *load_verify(struct load *l)
{
    return l->verify;
}

struct disk *load_disk(const struct load *l)
{
    return l->o.disk;
}

const struct load_result *load_get_result(struct load *l)
{
    struct disk_stats now = l->ops->stats(l->o.disk);

    l->result.outstanding = l->busy;
    l->result.stats.reconnects = now.reconnects;
    l->result.stats.config_changes = now.config_changes;
    if (l->result.phase == LOAD_MAIN && l->start_ns) {
        l->result.seconds = (double)(clock_ns() - l->start_ns) / 1e9;
        l->result.stats.kicks = now.kicks - l->stats_before.kicks;
        l->result.stats.interrupts = now.interrupts - l->stats_before.interrupts;
        l->result.stats.messages = now.messages - l->stats_before.messages;
    }
    return &l->result;
}

/* ---- submit ---- */

static void submit(struct load *l, struct slot *s, uint64_t now)
{
    static const enum verify_op verify_ops[] = {
        [DISK_READ] = VERIFY_READ,     [DISK_WRITE] = VERIFY_WRITE,
        [DISK_ZEROES] = VERIFY_ZEROES, [DISK_DEALLOCATE] = VERIFY_DEALLOCATE,
        [DISK_FLUSH] = VERIFY_READ,
    };
    const struct disk_io *io = &s->disk;

    s->io.op = verify_ops[io->op];
    s->io.lba = io->lba;
    s->io.nblocks = io->nblocks;
    s->io.buf = io->op == DISK_READ || io->op == DISK_WRITE ? io->buf : NULL;
    if (l->o.verify && io->op != DISK_FLUSH)
        verify_begin(l->verify, &s->io);
    s->submitted_ns = now;
    s->busy = true;
    s->reported = false;
    if (!l->busy++)
        l->last_completion_ns = now; /* a gap begins only when somebody waits */
    l->ops->submit(l->o.disk, s->queue, io);
}

static bool main_over(const struct load *l)
{
    return l->stop || (l->o.ios && l->phase_ios >= l->o.ios);
}

static bool may_submit(const struct load *l, uint64_t now)
{
    switch (l->result.phase) {
    case LOAD_PREFILL:
    case LOAD_SWEEP:
        return l->cursor < l->o.nblocks;
    case LOAD_MAIN:
        return !main_over(l) && (!l->o.rate || now >= l->next_io_ns);
    case LOAD_READY:
    case LOAD_DRAIN:
    case LOAD_DONE:
        break;
    }
    return false;
}

static void fill(struct load *l, unsigned queue, uint64_t now)
{
    while (l->free[queue] && may_submit(l, now)) {
        struct slot *s = l->free[queue];

        if (l->o.verify)
            verify_untouched(l->verify, &s->io);
        if (!load_pick(l, s))
            break;
        l->free[queue] = s->next_free;
        submit(l, s, now);
        l->phase_ios++;
        if (l->o.rate)
            l->next_io_ns =
                MAX(l->next_io_ns + 1000000000ULL / l->o.rate, now > 1000000 ? now - 1000000 : 0);
    }
    l->ops->ring(l->o.disk, queue);
}

/* ---- complete ---- */

static const char *const op_names[] = {
    [DISK_READ] = "read",           [DISK_WRITE] = "write",
    [DISK_ZEROES] = "write zeroes", [DISK_DEALLOCATE] = "deallocate",
    [DISK_FLUSH] = "flush",
};

static void count(struct load *l, const struct slot *s, uint64_t ns)
{
    struct load_result *r = &l->result;
    uint64_t bytes = (uint64_t)s->disk.nblocks * l->info.block_bytes;

    switch (s->disk.op) {
    case DISK_READ:
        r->reads++;
        r->bytes_read += bytes;
        latency_add(&r->read_latency, ns);
        break;
    case DISK_WRITE:
        r->writes++;
        r->bytes_written += bytes;
        latency_add(&r->write_latency, ns);
        break;
    case DISK_ZEROES:
        r->zeroes++;
        break;
    case DISK_DEALLOCATE:
        r->deallocates++;
        break;
    case DISK_FLUSH:
        r->flushes++;
        break;
    }
}

static void release(struct load *l, struct slot *s)
{
    s->busy = false;
    s->next_free = l->free[s->queue];
    l->free[s->queue] = s;
    l->busy--;
}

/* The completion itself is wrong, whatever became of the command. */
static void name_flaws(struct load *l, const struct disk_completion *c)
{
    uint64_t lba = c->tag ? ((struct slot *)c->tag)->disk.lba : 0;
    char what[120];

    l->ops->explain(c, what, sizeof(what));
    if (c->flaws & DISK_BAD_SQHD)
        verify_report(l->verify, VERIFY_SQHD, lba, "completion of %s", what);
    if (c->flaws & DISK_BAD_USED_LEN)
        verify_report(l->verify, VERIFY_USED_LEN, lba, "completion of %s", what);
    if (!c->tag)
        verify_report(l->verify, VERIFY_DUPLICATE, 0,
                      "completion for a command that was not outstanding: %s", what);
    else if (!c->ok)
        verify_report(l->verify, VERIFY_STATUS, lba, "%s of %u blocks: %s",
                      op_names[((struct slot *)c->tag)->disk.op],
                      ((struct slot *)c->tag)->disk.nblocks, what);
}

static void completed(void *arg, const struct disk_completion *c)
{
    struct load *l = arg;
    struct slot *s = c->tag;
    uint64_t now;

    if (unlikely(!s || !c->ok || c->flaws))
        name_flaws(l, c);
    if (unlikely(!s))
        return;
    if (!l->poll_ns)
        l->poll_ns = clock_ns(); /* once for all that this poll finds */
    now = l->poll_ns;
    if (l->o.verify && s->disk.op != DISK_FLUSH)
        verify_end(l->verify, &s->io, c->ok);
    if (now - l->last_completion_ns > l->result.longest_gap_ns && l->result.phase != LOAD_PREFILL)
        l->result.longest_gap_ns = now - l->last_completion_ns;
    l->last_completion_ns = now;
    l->result.completed++;
    if (l->result.phase == LOAD_MAIN || l->result.phase == LOAD_DRAIN)
        count(l, s, now - s->submitted_ns);
    release(l, s);
}

/* ---- now and then ---- */

/* True: commands are missing. */
static bool missing(struct load *l, uint64_t now)
{
    bool found = false;

    for (unsigned i = 0; i < l->nslots; i++) {
        struct slot *s = &l->slot[i];

        if (!s->busy || now - s->submitted_ns < (uint64_t)l->o.missing_ms * 1000000)
            continue;
        found = true;
        if (!s->reported)
            verify_report(l->verify, VERIFY_MISSING, s->disk.lba,
                          "%s of %u blocks on queue %u: no completion in %u ms",
                          op_names[s->disk.op], s->disk.nblocks, s->queue, l->o.missing_ms);
        s->reported = true;
    }
    return found;
}

/* What was in flight is over without a result: old and new contents are both good. */
static int reset(struct load *l, uint64_t now, struct err *err)
{
    int rc;

    if (!l->o.reset_every_ms || l->result.phase != LOAD_MAIN || l->stop ||
        now - l->last_reset_ns < (uint64_t)l->o.reset_every_ms * 1000000)
        return 0;
    rc = l->ops->reset(l->o.disk, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < l->nslots; i++) {
        struct slot *s = &l->slot[i];

        if (!s->busy)
            continue;
        if (l->o.verify && s->disk.op != DISK_FLUSH)
            verify_end(l->verify, &s->io, false);
        release(l, s);
        l->result.forgotten++;
    }
    l->result.resets++;
    l->last_reset_ns = clock_ns();
    return 0;
}

static int look_after(struct load *l, uint64_t now, struct err *err)
{
    int rc;

    if (now - l->last_check_ns < CHECK_NS)
        return 0;
    l->last_check_ns = now;
    if (missing(l, now))
        return err_set(err, -ETIMEDOUT,
                       "%u commands outstanding, some without completion for %u ms", l->busy,
                       l->o.missing_ms);
    if ((rc = l->ops->check(l->o.disk, err)) || (rc = reset(l, now, err)))
        return rc;
    if (l->o.stop_on_error && verify_errors(l->verify))
        return err_set(err, -EIO, "stopped at the first error");
    return 0;
}

/* ---- phases ---- */

void load_go(struct load *l)
{
    if (l->result.phase != LOAD_READY)
        return;
    enter(l, LOAD_MAIN);
    l->stats_before = l->ops->stats(l->o.disk);
    l->start_ns = l->last_reset_ns = clock_ns();
}

void load_stop(struct load *l)
{
    l->stop = true;
}

bool load_over(const struct load *l)
{
    return l->failed || l->result.phase == LOAD_DONE;
}

enum load_phase load_get_phase(const struct load *l)
{
    return l->result.phase;
}

static void end_sweep(struct load *l)
{
    for (unsigned i = 0; l->o.verify && i < l->nslots; i++)
        verify_untouched(l->verify, &l->slot[i].io);
    enter(l, LOAD_DONE);
}

static void advance(struct load *l, uint64_t now)
{
    switch (l->result.phase) {
    case LOAD_PREFILL:
        if (l->cursor >= l->o.nblocks && !l->busy)
            enter(l, LOAD_READY);
        break;
    case LOAD_MAIN:
        if (l->o.runtime_ms && now - l->start_ns >= l->o.runtime_ms * 1000000)
            l->stop = true;
        if (!main_over(l))
            break;
        load_get_result(l); /* the last one that sees this phase */
        enter(l, LOAD_DRAIN);
        break;
    case LOAD_DRAIN:
        if (l->busy)
            break;
        if (l->o.verify)
            enter(l, LOAD_SWEEP);
        else
            end_sweep(l);
        break;
    case LOAD_SWEEP:
        if (l->cursor >= l->o.nblocks && !l->busy)
            end_sweep(l);
        break;
    case LOAD_READY:
    case LOAD_DONE:
        break;
    }
}

int load_step(struct load *l, struct err *err)
{
    uint64_t now = clock_ns();
    unsigned work = 0;
    int rc;

    for (unsigned q = 0; q < l->info.queues; q++) {
        fill(l, q, now);
        l->poll_ns = 0;
        work += l->ops->poll(l->o.disk, q, completed, l);
    }
    rc = look_after(l, now, err);
    if (rc) {
        load_get_result(l);
        l->result.unfinished = l->busy;
        l->failed = true;
        return rc;
    }
    advance(l, now);
    return (int)work;
}

uint64_t load_next_ns(const struct load *l)
{
    uint64_t next = l->last_check_ns + CHECK_NS;

    if (l->result.phase != LOAD_MAIN)
        return next;
    if (l->o.rate && l->busy < l->nslots)
        next = MIN(next, l->next_io_ns);
    if (l->o.runtime_ms)
        next = MIN(next, l->start_ns + l->o.runtime_ms * 1000000);
    return next;
}
