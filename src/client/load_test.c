/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The load machine on a disk of memory that misbehaves in one way: each must be named, and a disk
 * that is good, only slow and out of order, must not. */
#include "client/run.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four above */
#include <cmocka.h>

enum { BLOCK = 512, NBLOCKS = 64, QUEUES = 2, DEPTH = 8, IO_BLOCKS = 4, HELD = QUEUES * DEPTH };

enum fault {
    GOOD,
    LOSES_WRITE, /* completed, but nothing was stored */
    TEARS_WRITE, /* half of it */
    MISPLACES_WRITE,
    LATE_WRITE,   /* stored again after a later one */
    FORGETS_FILL, /* of a read */
    DROPS_COMPLETION,
    REPEATS_COMPLETION,
    FAILS_COMMAND,
    WRONG_USED_LEN,
    WRITES_LATE, /* into a buffer whose read has completed */
    GOES_AWAY,
};

struct fake {
    struct disk disk;
    enum fault fault;
    unsigned countdown; /* commands of the right kind until it happens; 0: not again */
    unsigned every;     /* then so often */
    bool gone;
    char medium[NBLOCKS][BLOCK], old[IO_BLOCKS][BLOCK];
    uint64_t old_lba;
    unsigned old_blocks;
    struct {
        struct disk_io io;
        unsigned queue;
        bool twice, drop, fail, flaw;
    } held[2 * HELD];
    unsigned nheld;
    char *memory;
    uint64_t used;
    struct verify_error last;
    unsigned resets, sleeps;
};

static struct fake *of(const struct disk *d)
{
    return container_of(d, struct fake, disk);
}

static struct disk_info fake_info(const struct disk *d)
{
    return (struct disk_info){.kind = "fake",
                              .block_bytes = BLOCK,
                              .max_transfer_bytes = IO_BLOCKS * BLOCK,
                              .queues = QUEUES,
                              .depth = DEPTH,
                              .nblocks = NBLOCKS,
                              .max_zeroes_blocks = IO_BLOCKS,
                              .can_flush = true};
}

static struct disk_stats fake_stats(struct disk *d)
{
    return (struct disk_stats){.kicks = of(d)->sleeps};
}

static void *fake_alloc(struct disk *d, uint64_t bytes, uint64_t *ret_iova)
{
    struct fake *f = of(d);

    *ret_iova = f->used;
    f->used += bytes;
    return f->memory + *ret_iova;
}

/* True when the fault is due at a command that it can happen to. */
static bool strikes(struct fake *f, enum fault fault, bool fits)
{
    if (f->fault != fault || !fits || !f->countdown || --f->countdown)
        return false;
    f->countdown = f->every;
    return true;
}

static void store(struct fake *f, uint64_t lba, const void *from, uint32_t blocks)
{
    memcpy(f->medium[lba], from, (size_t)blocks * BLOCK);
}

static void do_write(struct fake *f, const struct disk_io *io)
{
    if (strikes(f, LOSES_WRITE, true))
        return;
    if (strikes(f, TEARS_WRITE, true)) { /* all but one half of one block */
        memcpy(f->medium[io->lba], io->buf, BLOCK / 2);
        return;
    }
    if (strikes(f, MISPLACES_WRITE, io->lba >= IO_BLOCKS)) {
        store(f, io->lba - IO_BLOCKS, io->buf, io->nblocks);
        return;
    }
    if (f->old_blocks && io->lba <= f->old_lba && f->old_lba < io->lba + io->nblocks) {
        /* A newer write to the first block of the remembered one: that one strikes back. */
        store(f, io->lba, io->buf, io->nblocks);
        store(f, f->old_lba, f->old, 1);
        f->old_blocks = 0;
        return;
    }
    if (strikes(f, LATE_WRITE, true)) {
        memcpy(f->old, io->buf, (size_t)io->nblocks * BLOCK);
        f->old_lba = io->lba;
        f->old_blocks = io->nblocks;
    }
    store(f, io->lba, io->buf, io->nblocks);
}

static bool fake_submit(struct disk *d, unsigned queue, const struct disk_io *io)
{
    struct fake *f = of(d);
    unsigned i = f->nheld++;

    assert_in_range(i, 0, 2 * HELD - 1);
    assert_in_range(io->lba + io->nblocks, 0, NBLOCKS);
    f->held[i].io = *io;
    f->held[i].queue = queue;
    f->held[i].twice = strikes(f, REPEATS_COMPLETION, true);
    f->held[i].drop = strikes(f, DROPS_COMPLETION, true);
    f->held[i].fail = strikes(f, FAILS_COMMAND, true);
    f->held[i].flaw = strikes(f, WRONG_USED_LEN, true);
    if (io->op == DISK_WRITE)
        do_write(f, io);
    else if (io->op == DISK_ZEROES)
        memset(f->medium[io->lba], 0, (size_t)io->nblocks * BLOCK);
    else if (io->op == DISK_READ && !strikes(f, FORGETS_FILL, true))
        memcpy(io->buf, f->medium[io->lba], (size_t)io->nblocks * BLOCK);
    if (strikes(f, GOES_AWAY, true))
        f->gone = true;
    return true;
}

static void fake_ring(struct disk *d, unsigned queue)
{
}

/* Newest first, and only while more than a few are in flight or nothing new comes. */
static unsigned fake_poll(struct disk *d, unsigned queue, disk_completed_fn fn, void *arg)
{
    struct fake *f = of(d);
    unsigned n = 0;

    for (unsigned i = f->nheld; i-- > 0 && n < 3;) {
        struct disk_completion c = {.tag = f->held[i].io.tag, .queue = queue};
        bool twice = f->held[i].twice;
        struct disk_io io = f->held[i].io;

        if (f->held[i].queue != queue)
            continue;
        c.ok = !f->held[i].fail;
        c.flaws = f->held[i].flaw ? DISK_BAD_USED_LEN : 0;
        if (!f->held[i].drop)
            fn(arg, &c);
        f->held[i] = f->held[--f->nheld];
        n++;
        if (twice) {
            c.tag = NULL;
            fn(arg, &c);
        }
        if (strikes(f, WRITES_LATE, io.op == DISK_READ))
            memset(io.buf, 0x5a, BLOCK);
    }
    return n;
}

static bool fake_arm(struct disk *d)
{
    of(d)->sleeps++;
    return of(d)->nheld == 0;
}

static unsigned fake_fds(struct disk *d, struct pollfd *fds, unsigned max)
{
    return 0;
}

static void fake_woken(struct disk *d)
{
}

static int fake_check(struct disk *d, struct err *err)
{
    return of(d)->gone ? err_set(err, -ECONNRESET, "the fake is gone") : 0;
}

static int fake_reset(struct disk *d, struct err *err)
{
    of(d)->nheld = 0;
    of(d)->resets++;
    return 0;
}

static void fake_explain(const struct disk_completion *c, char *text, size_t size)
{
    snprintf(text, size, "fake queue %u", c->queue);
}

static void fake_close(struct disk *d)
{
    free(of(d)->memory);
    free(of(d));
}

static const struct disk_ops ops = {
    .info = fake_info,
    .stats = fake_stats,
    .alloc = fake_alloc,
    .submit = fake_submit,
    .ring = fake_ring,
    .poll = fake_poll,
    .arm = fake_arm,
    .fds = fake_fds,
    .woken = fake_woken,
    .check = fake_check,
    .reset = fake_reset,
    .explain = fake_explain,
    .close = fake_close,
};

static void report(void *arg, const struct verify_error *e)
{
    ((struct fake *)arg)->last = *e;
}

static struct load *open_load(enum fault fault, unsigned when, struct load_opts o)
{
    struct fake *f = calloc(1, sizeof(*f));
    struct err err = {0};
    struct load *l;

    assert_non_null(f);
    f->disk.ops = &ops;
    f->fault = fault;
    f->countdown = when;
    f->memory = calloc(QUEUES * DEPTH, IO_BLOCKS * BLOCK);
    assert_non_null(f->memory);
    o.disk = &f->disk;
    o.io_blocks = o.io_blocks ? o.io_blocks : IO_BLOCKS;
    o.align_blocks = 1;
    o.verify = o.prefill = true;
    o.seed = 77;
    o.missing_ms = o.missing_ms ? o.missing_ms : 10000;
    o.report = report;
    o.arg = f;
    l = load_create(&o, &err);
    assert_non_null(l);
    return l;
}

static void close_load(struct load *l)
{
    struct disk *d = load_disk(l);

    load_destroy(l);
    disk_close(d);
}

static int run_one(struct load *l, struct err *err)
{
    struct run_load r = {.load = l};
    struct run_opts o = {.spin_us = 5};
    int rc = run_loads(&r, 1, &o);

    if (err)
        *err = r.err;
    return rc;
}

static const struct load_opts mixed = {
    .rw = LOAD_RANDRW, .read_percent = 50, .zeroes_percent = 5, .flush_percent = 3, .ios = 20000};

static void a_good_disk_has_no_errors(void **state)
{
    struct load *l = open_load(GOOD, 0, mixed);
    const struct load_result *r;

    assert_int_equal(run_one(l, NULL), 0);
    r = load_get_result(l);
    assert_int_equal(verify_errors(load_verify(l)), 0);
    assert_int_equal(r->phase, LOAD_DONE);
    assert_int_equal(r->reads + r->writes + r->zeroes + r->flushes, 20000);
    assert_true(r->reads > 8000 && r->writes > 8000 && r->zeroes > 200 && r->flushes > 200);
    assert_int_equal(r->read_latency.count, r->reads);
    assert_int_equal(r->bytes_written, r->writes * IO_BLOCKS * BLOCK);
    assert_int_equal(r->outstanding, 0);
    /* prefill and sweep: every block once */
    assert_int_equal(r->completed, 20000 + 2 * NBLOCKS / IO_BLOCKS);
    close_load(l);
}

static void faults_are_named(void **state)
{
    static const struct {
        enum fault fault;
        enum verify_kind kinds[3]; /* one of them */
    } cases[] = {
        {LOSES_WRITE, {VERIFY_LOST, VERIFY_LOST, VERIFY_LOST}},
        {TEARS_WRITE, {VERIFY_TORN, VERIFY_CORRUPT, VERIFY_LOST}},
        {MISPLACES_WRITE, {VERIFY_MISPLACED, VERIFY_LOST, VERIFY_LOST}},
        {LATE_WRITE, {VERIFY_LOST, VERIFY_STALE, VERIFY_STALE}},
        {FORGETS_FILL, {VERIFY_UNFILLED, VERIFY_UNFILLED, VERIFY_UNFILLED}},
        {REPEATS_COMPLETION, {VERIFY_DUPLICATE, VERIFY_DUPLICATE, VERIFY_DUPLICATE}},
        {FAILS_COMMAND, {VERIFY_STATUS, VERIFY_STATUS, VERIFY_STATUS}},
        {WRONG_USED_LEN, {VERIFY_USED_LEN, VERIFY_USED_LEN, VERIFY_USED_LEN}},
        {WRITES_LATE, {VERIFY_LATE_DMA, VERIFY_LATE_DMA, VERIFY_LATE_DMA}},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct load_opts o = mixed;
        struct load *l;
        struct verify *v;
        uint64_t named = 0;

        o.ios = 2000;
        l = open_load(cases[i].fault, 30, o);
        ((struct fake *)(void *)load_disk(l))->every = 30; /* a later write may hide one of them */
        v = load_verify(l);
        assert_int_equal(run_one(l, NULL), 0);
        for (unsigned k = 0; k < 3; k++)
            named += verify_errors_of(v, cases[i].kinds[k]);
        if (!named || !verify_errors(v))
            fail_msg("fault %u was not named: %s", cases[i].fault,
                     ((struct fake *)(void *)load_disk(l))->last.text);
        close_load(l);
    }
}

static void a_dropped_completion_is_missing(void **state)
{
    struct load_opts o = mixed;
    struct err err = {0};
    struct load *l;

    o.ios = 2000;
    o.missing_ms = 400; /* all others are over by then, on a slow machine too */
    l = open_load(DROPS_COMPLETION, 100, o);
    assert_int_equal(run_one(l, &err), -ETIMEDOUT);
    assert_int_equal(verify_errors_of(load_verify(l), VERIFY_MISSING), 1);
    assert_int_equal(load_get_result(l)->unfinished, 1);
    close_load(l);
}

static void stop_on_error_ends_the_run(void **state)
{
    struct load_opts o = mixed;
    struct load *l;

    o.ios = 0;
    o.runtime_ms = 30000;
    o.stop_on_error = true;
    l = open_load(FAILS_COMMAND, 100, o);
    assert_int_equal(run_one(l, NULL), -EIO);
    close_load(l);
}

static void a_reset_forgets_and_nothing_is_lost(void **state)
{
    struct load_opts o = mixed;
    struct load *l;

    o.ios = 0;
    o.runtime_ms = 200;
    o.reset_every_ms = 30;
    l = open_load(GOOD, 0, o);
    assert_int_equal(run_one(l, NULL), 0);
    assert_int_equal(verify_errors(load_verify(l)), 0);
    assert_true(load_get_result(l)->resets >= 2);
    assert_true(load_get_result(l)->forgotten > 0);
    close_load(l);
}

static void one_disk_that_is_gone_does_not_end_the_others(void **state)
{
    struct run_opts o = {.spin_us = 5};
    struct run_load r[3] = {
        {.load = open_load(GOOD, 0, mixed)},
        {.load = open_load(GOES_AWAY, 100, (struct load_opts){.runtime_ms = 30000})},
        {.load = open_load(GOOD, 0, mixed)}};

    assert_int_equal(run_loads(r, 3, &o), -ECONNRESET);
    assert_int_equal(r[0].rc, 0);
    assert_int_equal(r[1].rc, -ECONNRESET);
    assert_string_equal(r[1].err.msg, "the fake is gone");
    assert_int_equal(r[2].rc, 0);
    assert_int_equal(load_get_result(r[0].load)->phase, LOAD_DONE);
    assert_int_equal(load_get_result(r[2].load)->phase, LOAD_DONE);
    for (unsigned i = 0; i < 3; i++)
        close_load(r[i].load);
}

static void stopping_together_ends_the_others(void **state)
{
    struct run_opts o = {.spin_us = 5, .stop_together = true};
    struct run_load r[2] = {
        {.load = open_load(GOOD, 0, (struct load_opts){.runtime_ms = 600000})},
        {.load = open_load(GOES_AWAY, 100, (struct load_opts){.runtime_ms = 600000})}};

    assert_int_equal(run_loads(r, 2, &o), -ECONNRESET);
    assert_int_equal(load_get_result(r[0].load)->phase, LOAD_DONE);
    for (unsigned i = 0; i < 2; i++)
        close_load(r[i].load);
}

static bool count_ticks(void *arg)
{
    return ++*(unsigned *)arg < 5;
}

static void a_tick_ends_the_run_and_a_rate_sleeps(void **state)
{
    unsigned ticks = 0;
    struct run_opts o = {.spin_us = 5, .tick = count_ticks, .arg = &ticks};
    struct run_load r = {
        .load = open_load(GOOD, 0, (struct load_opts){.runtime_ms = 600000, .rate = 1000})};
    struct fake *f = (struct fake *)(void *)load_disk(r.load);

    assert_int_equal(run_loads(&r, 1, &o), 0);
    assert_int_equal(load_get_result(r.load)->phase, LOAD_DONE);
    assert_true(f->sleeps > 10);
    assert_in_range(load_get_result(r.load)->reads, 20, 400);
    close_load(r.load);
}

static void what_the_disk_cannot_do_is_refused(void **state)
{
    struct load_opts o = {.io_blocks = IO_BLOCKS, .seed = 1, .deallocate_percent = 10};
    struct fake f = {.disk.ops = &ops};
    struct err err = {0};

    o.disk = &f.disk;
    assert_null(load_create(&o, &err));
    assert_int_equal(err.code, -ENOTSUP);
    o.deallocate_percent = 0;
    o.io_blocks = IO_BLOCKS + 1;
    assert_null(load_create(&o, &err));
    assert_int_equal(err.code, -EINVAL);
    o.io_blocks = 1;
    o.first_lba = NBLOCKS;
    assert_null(load_create(&o, &err));
    assert_int_equal(err.code, -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_disk_has_no_errors),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(a_dropped_completion_is_missing),
        cmocka_unit_test(stop_on_error_ends_the_run),
        cmocka_unit_test(a_reset_forgets_and_nothing_is_lost),
        cmocka_unit_test(one_disk_that_is_gone_does_not_end_the_others),
        cmocka_unit_test(stopping_together_ends_the_others),
        cmocka_unit_test(a_tick_ends_the_run_and_a_rate_sleeps),
        cmocka_unit_test(what_the_disk_cannot_do_is_refused),
    };

    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
