/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load.h"

#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TICK_MS = 20, TRIES = 8 };

struct slot {
    struct load *load;
    struct slot *next_free;
    struct verify_io io;
    void *buf;
    uint64_t iova, submitted_ns;
    unsigned queue;
    uint8_t opc;
    bool busy, reported;
};

struct load {
    struct load_opts o;
    struct nvme_host_info info;
    struct verify *verify; /* without o.verify it only counts */
    struct load_result result;
    struct nvme_host_stats stats_before;
    struct slot *slot;
    unsigned nslots;
    struct slot *free[64]; /* per queue */
    uint64_t *floors;
    uint64_t rng, cursor, phase_ios, next_io_ns;
    uint64_t start_ns, last_completion_ns, last_tick_ns;
    unsigned busy;
    bool stop;
};

uint64_t load_data_bytes(unsigned queues, unsigned depth, uint32_t io_bytes)
{
    return (uint64_t)queues * depth * ((io_bytes + 4095U) & ~4095U);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static uint64_t rnd(struct load *l) /* xorshift64* */
{
    uint64_t x = l->rng;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    l->rng = x;
    return x * 0x2545f4914f6cdd1dULL;
}

static bool percent(struct load *l, unsigned share)
{
    return share && rnd(l) % 100 < share;
}

/* ---- create ---- */

static int check(struct load_opts *o, const struct nvme_host_info *info, struct err *err)
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
    if ((o->zeroes_percent && !info->can_write_zeroes) ||
        (o->deallocate_percent && !info->can_deallocate))
        return err_set(err, -ENOTSUP, "the controller has no %s",
                       o->zeroes_percent && !info->can_write_zeroes ? "Write Zeroes"
                                                                    : "deallocate");
    if (!o->align_blocks)
        o->align_blocks = o->io_blocks;
    return 0;
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

        s->load = l;
        s->queue = i % l->info.queues;
        s->buf = nvme_host_alloc(l->o.host, io_bytes, &s->iova);
        if (!s->buf)
            return err_set(err, -ENOMEM, "no memory for %u buffers of %u bytes", l->nslots,
                           io_bytes);
        for (uint32_t b = 0; b < io_bytes; b += 8) {
            uint64_t x = rnd(l);

            memcpy((char *)s->buf + b, &x, sizeof(x));
        }
        s->io.floor = l->floors + (size_t)i * l->o.io_blocks;
        s->next_free = l->free[s->queue];
        l->free[s->queue] = s;
    }
    return 0;
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
    l->info = nvme_host_get_info(opts->host);
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

const struct load_result *load_get_result(struct load *l)
{
    struct nvme_host_stats now = nvme_host_get_stats(l->o.host);

    l->result.outstanding = l->busy;
    if (l->result.phase == LOAD_MAIN && l->start_ns) {
        l->result.seconds = (double)(now_ns() - l->start_ns) / 1e9;
        l->result.stats.kicks = now.kicks - l->stats_before.kicks;
        l->result.stats.interrupts = now.interrupts - l->stats_before.interrupts;
        l->result.stats.messages = now.messages - l->stats_before.messages;
    }
    return &l->result;
}

/* ---- what to do next ---- */

static bool writes_now(struct load *l)
{
    switch (l->o.rw) {
    case LOAD_RANDREAD:
    case LOAD_READ:
        return false;
    case LOAD_RANDWRITE:
    case LOAD_WRITE:
        return true;
    case LOAD_RANDRW:
        return !percent(l, l->o.read_percent);
    }
    return false;
}

static void pick_place(struct load *l, struct slot *s)
{
    bool whole = l->result.phase != LOAD_MAIN;

    if (whole || l->o.rw == LOAD_READ || l->o.rw == LOAD_WRITE) {
        s->io.lba = l->o.first_lba + l->cursor;
        s->io.nblocks = (uint32_t)MIN((uint64_t)l->o.io_blocks, l->o.nblocks - l->cursor);
        return;
    }
    s->io.nblocks = l->o.io_blocks;
    s->io.lba = l->o.first_lba + rnd(l) %
                                     ((l->o.nblocks - l->o.io_blocks) / l->o.align_blocks + 1) *
                                     l->o.align_blocks;
}

/* False: nothing can be written at this moment (all tries met a write in flight). */
static bool pick(struct load *l, struct slot *s)
{
    bool write = l->result.phase == LOAD_PREFILL || (l->result.phase == LOAD_MAIN && writes_now(l));
    bool sequential = l->result.phase != LOAD_MAIN || l->o.rw == LOAD_READ || l->o.rw == LOAD_WRITE;
    unsigned tries = 0;

    s->io.op = VERIFY_READ;
    s->opc = NVME_CMD_READ;
    if (l->result.phase == LOAD_MAIN && percent(l, l->o.flush_percent)) {
        s->opc = NVME_CMD_FLUSH;
        s->io.nblocks = 0;
        return true;
    }
    if (write && l->result.phase == LOAD_MAIN && percent(l, l->o.deallocate_percent)) {
        s->opc = NVME_CMD_DSM;
        s->io.op = VERIFY_DEALLOCATE;
    } else if (write && l->result.phase == LOAD_MAIN && percent(l, l->o.zeroes_percent)) {
        s->opc = NVME_CMD_WRITE_ZEROES;
        s->io.op = VERIFY_ZEROES;
    } else if (write) {
        s->opc = NVME_CMD_WRITE;
        s->io.op = VERIFY_WRITE;
    }
    do {
        pick_place(l, s);
        if (!write || !l->o.verify || verify_can_write(l->verify, s->io.lba, s->io.nblocks))
            break;
        if (sequential || ++tries == TRIES)
            return false;
    } while (true);
    if (sequential) {
        l->cursor += s->io.nblocks;
        if (l->cursor >= l->o.nblocks && l->result.phase == LOAD_MAIN)
            l->cursor = 0;
    }
    return true;
}

/* ---- submit ---- */

static void submit(struct load *l, struct slot *s, uint64_t now)
{
    struct nvme_sqe sqe = nvme_host_rw(l->o.host, s->opc, s->io.lba, MAX(s->io.nblocks, 1U));
    uint32_t bytes = s->io.nblocks * l->info.block_bytes;
    bool data = s->opc == NVME_CMD_READ || s->opc == NVME_CMD_WRITE;

    s->io.buf = data ? s->buf : NULL;
    if (s->opc == NVME_CMD_DSM) {
        struct nvme_dsm_range range = {.nlb = le32_of(s->io.nblocks), .slba = le64_of(s->io.lba)};

        memcpy(s->buf, &range, sizeof(range));
        sqe.cdw10 = le32_of(0); /* one range */
        sqe.cdw11 = le32_of(NVME_DSM_AD);
        sqe.cdw12 = le32_of(0);
        bytes = sizeof(range);
    } else if (s->opc == NVME_CMD_FLUSH) {
        sqe.cdw10 = sqe.cdw11 = sqe.cdw12 = le32_of(0);
    }
    if (l->o.verify && s->opc != NVME_CMD_FLUSH)
        verify_begin(l->verify, &s->io);
    s->submitted_ns = now;
    s->busy = true;
    if (!l->busy++)
        l->last_completion_ns = now; /* a gap begins only when somebody waits */
    nvme_host_submit(l->o.host, s->queue, &sqe, s->iova, data || s->opc == NVME_CMD_DSM ? bytes : 0,
                     s);
}

static bool may_submit(struct load *l, uint64_t now)
{
    switch (l->result.phase) {
    case LOAD_PREFILL:
    case LOAD_SWEEP:
        return l->cursor < l->o.nblocks;
    case LOAD_MAIN:
        if (l->stop || (l->o.ios && l->phase_ios >= l->o.ios))
            return false;
        return !l->o.rate || now >= l->next_io_ns;
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
        if (!pick(l, s))
            break;
        l->free[queue] = s->next_free;
        submit(l, s, now);
        l->phase_ios++;
        if (l->o.rate)
            l->next_io_ns =
                MAX(l->next_io_ns + 1000000000ULL / l->o.rate, now > 1000000 ? now - 1000000 : 0);
    }
    nvme_host_ring(l->o.host, queue); /* also returns CQ room */
}

/* ---- complete ---- */

static void count(struct load *l, const struct slot *s, uint64_t ns)
{
    struct load_result *r = &l->result;
    uint64_t bytes = (uint64_t)s->io.nblocks * l->info.block_bytes;

    switch (s->opc) {
    case NVME_CMD_READ:
        r->reads++;
        r->bytes_read += bytes;
        latency_add(&r->read_latency, ns);
        break;
    case NVME_CMD_WRITE:
        r->writes++;
        r->bytes_written += bytes;
        latency_add(&r->write_latency, ns);
        break;
    case NVME_CMD_WRITE_ZEROES:
        r->zeroes++;
        break;
    case NVME_CMD_DSM:
        r->deallocates++;
        break;
    default:
        r->flushes++;
        break;
    }
}

static void completed(void *arg, const struct nvme_completion *c)
{
    struct load *l = arg;
    struct slot *s = c->tag;
    uint64_t now = now_ns();

    if (c->bad_sqhd)
        verify_report(l->verify, VERIFY_SQHD, 0,
                      "completion of CID %04x on queue %u: SQ head %u, SQ id %u",
                      le16_get(c->cqe.cid), s ? s->queue + 1 : 0, le16_get(c->cqe.sqhd),
                      le16_get(c->cqe.sqid));
    if (!s) {
        verify_report(l->verify, VERIFY_DUPLICATE, 0,
                      "completion for CID %04x on SQ %u, which was not outstanding (status %03x)",
                      le16_get(c->cqe.cid), le16_get(c->cqe.sqid), c->status & NVME_STATUS_MASK);
        return;
    }
    if (c->status)
        verify_report(l->verify, VERIFY_STATUS, s->io.lba, "opcode %02x, %u blocks: status %03x",
                      s->opc, s->io.nblocks, c->status & NVME_STATUS_MASK);
    if (l->o.verify && s->opc != NVME_CMD_FLUSH)
        verify_end(l->verify, &s->io, c->status == 0);
    if (now - l->last_completion_ns > l->result.longest_gap_ns && l->result.phase != LOAD_PREFILL)
        l->result.longest_gap_ns = now - l->last_completion_ns;
    l->last_completion_ns = now;
    l->result.completed++;
    if (l->result.phase == LOAD_MAIN || l->result.phase == LOAD_DRAIN)
        count(l, s, now - s->submitted_ns);
    s->busy = false;
    s->next_free = l->free[s->queue];
    l->free[s->queue] = s;
    l->busy--;
}

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
            verify_report(l->verify, VERIFY_MISSING, s->io.lba,
                          "opcode %02x on queue %u: no completion in %u ms", s->opc, s->queue + 1,
                          l->o.missing_ms);
        s->reported = true;
    }
    return found;
}

/* ---- the loop ---- */

static bool phase_over(struct load *l, uint64_t now)
{
    if (l->result.phase == LOAD_MAIN) {
        if (l->o.runtime_ms && now - l->start_ns >= l->o.runtime_ms * 1000000)
            l->stop = true;
        return l->stop || (l->o.ios && l->phase_ios >= l->o.ios);
    }
    return l->cursor >= l->o.nblocks || l->result.phase == LOAD_DRAIN;
}

static int tick(struct load *l, uint64_t now, struct err *err)
{
    if (now - l->last_tick_ns < TICK_MS * 1000000ULL)
        return 0;
    l->last_tick_ns = now;
    if (l->o.tick && !l->o.tick(l->o.arg))
        l->stop = true;
    if (missing(l, now)) {
        l->result.unfinished = l->busy;
        return err_set(err, -ETIMEDOUT,
                       "%u commands outstanding, some without completion for %u ms", l->busy,
                       l->o.missing_ms);
    }
    if (!nvme_host_alive(l->o.host))
        return err_set(err, -ECONNRESET, "the function's socket was closed by the other side");
    if (l->o.stop_on_error && verify_errors(l->verify))
        return err_set(err, -EIO, "stopped at the first error");
    return 0;
}

static int run_phase(struct load *l, enum load_phase phase, struct err *err)
{
    uint64_t now = now_ns(), last_work = now;

    l->result.phase = phase;
    l->cursor = l->phase_ios = 0;
    for (;;) {
        unsigned work = 0;
        int rc;

        for (unsigned q = 0; q < l->info.queues; q++) {
            fill(l, q, now);
            work += nvme_host_poll(l->o.host, q, completed, l);
        }
        now = now_ns();
        rc = tick(l, now, err);
        if (rc)
            return rc;
        if (phase_over(l, now) && (!l->busy || phase == LOAD_MAIN))
            break;
        if (work)
            last_work = now;
        else if (now - last_work > (uint64_t)l->o.spin_us * 1000)
            nvme_host_wait(l->o.host, 1000);
    }
    for (unsigned q = 0; q < l->info.queues; q++)
        nvme_host_ring(l->o.host, q);
    return 0;
}

int load_run(struct load *l, struct err *err)
{
    int rc = 0;

    if (l->o.verify && l->o.prefill)
        rc = run_phase(l, LOAD_PREFILL, err);
    if (rc)
        return rc;
    l->stats_before = nvme_host_get_stats(l->o.host);
    l->start_ns = now_ns();
    rc = run_phase(l, LOAD_MAIN, err);
    load_get_result(l);
    if (!rc)
        rc = run_phase(l, LOAD_DRAIN, err);
    if (!rc && l->o.verify)
        rc = run_phase(l, LOAD_SWEEP, err);
    for (unsigned i = 0; !rc && l->o.verify && i < l->nslots; i++)
        verify_untouched(l->verify, &l->slot[i].io);
    if (!rc)
        l->result.phase = LOAD_DONE;
    return rc;
}
