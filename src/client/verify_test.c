/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The verify engine against disks that misbehave in one way each: every one must be named, a good
 * one never. */
#include "client/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four above */
#include <cmocka.h>

enum { BLOCK = 4096, NBLOCKS = 16, FIRST = 100 };

struct disk {
    struct verify *v;
    char block[NBLOCKS][BLOCK];
    char buf[4][2 * BLOCK];
    uint64_t floor[4][2];
    struct verify_error last;
};

static void report(void *arg, const struct verify_error *e)
{
    struct disk *d = arg;

    d->last = *e;
}

static int setup(void **state)
{
    struct disk *d = calloc(1, sizeof(*d));
    struct verify_opts o = {.seed = 7,
                            .first_lba = FIRST,
                            .nblocks = NBLOCKS,
                            .block_bytes = BLOCK,
                            .report = report,
                            .arg = d};

    d->v = verify_create(&o, NULL);
    *state = d;
    return d->v ? 0 : -1;
}

static int teardown(void **state)
{
    struct disk *d = *state;

    verify_destroy(d->v);
    free(d);
    return 0;
}

/* Commands in four slots; begin, the disk's action and end are separate steps. */
static struct verify_io begin(struct disk *d, int slot, enum verify_op op, uint64_t lba, uint32_t n)
{
    struct verify_io io = {.op = op, .lba = lba, .nblocks = n, .floor = d->floor[slot]};

    if (op == VERIFY_READ || op == VERIFY_WRITE)
        io.buf = d->buf[slot];
    verify_begin(d->v, &io);
    return io;
}

static void act(struct disk *d, const struct verify_io *io)
{
    for (uint32_t i = 0; i < io->nblocks; i++) {
        char *medium = d->block[io->lba - FIRST + i], *buf = (char *)io->buf + i * BLOCK;

        if (io->op == VERIFY_READ)
            memcpy(buf, medium, BLOCK);
        else if (io->op == VERIFY_WRITE)
            memcpy(medium, buf, BLOCK);
        else
            memset(medium, 0, BLOCK);
    }
}

static void run(struct disk *d, enum verify_op op, uint64_t lba, uint32_t n)
{
    struct verify_io io = begin(d, 0, op, lba, n);

    act(d, &io);
    verify_end(d->v, &io, true);
}

static void expect_error(struct disk *d, enum verify_kind kind)
{
    assert_int_equal(verify_errors(d->v), 1);
    assert_string_equal(verify_kind_name(d->last.kind), verify_kind_name(kind));
}

static void good_disk_is_never_blamed(void **state)
{
    struct disk *d = *state;
    struct verify_io w, r;

    run(d, VERIFY_READ, FIRST, 2); /* never written: anything goes */
    run(d, VERIFY_WRITE, FIRST, 2);
    run(d, VERIFY_READ, FIRST, 2);
    w = begin(d, 1, VERIFY_WRITE, FIRST, 1);
    assert_false(verify_can_write(d->v, FIRST, 2));
    assert_true(verify_can_write(d->v, FIRST + 1, 2));
    r = begin(d, 2, VERIFY_READ, FIRST, 1); /* the old one, while the new one is in flight */
    act(d, &r);
    act(d, &w);
    verify_end(d->v, &r, true);
    run(d, VERIFY_READ, FIRST, 1); /* the new one, before its completion */
    r = begin(d, 2, VERIFY_READ, FIRST, 1);
    act(d, &r);
    verify_end(d->v, &w, true);
    verify_end(d->v, &r, true);
    run(d, VERIFY_ZEROES, FIRST + 1, 1);
    run(d, VERIFY_READ, FIRST, 2);
    run(d, VERIFY_WRITE, FIRST + 1, 1);
    run(d, VERIFY_READ, FIRST, 2);
    w = begin(d, 1, VERIFY_DEALLOCATE, FIRST, 1); /* may leave the old contents */
    verify_end(d->v, &w, true);
    run(d, VERIFY_READ, FIRST, 1);
    memset(d->block[0], 0, BLOCK); /* ... or not */
    run(d, VERIFY_READ, FIRST, 1);
    verify_untouched(d->v, &r);
    assert_int_equal(verify_errors(d->v), 0);
    assert_true(verify_blocks_checked(d->v) > 10);
}

static void lost_write_is_named(void **state)
{
    struct disk *d = *state;
    struct verify_io w;

    run(d, VERIFY_WRITE, FIRST, 1);
    w = begin(d, 1, VERIFY_WRITE, FIRST, 1);
    verify_end(d->v, &w, true); /* completed, never done */
    run(d, VERIFY_READ, FIRST, 1);
    expect_error(d, VERIFY_LOST);
}

static void lost_write_of_a_block_zeroed_before_is_named(void **state)
{
    struct disk *d = *state;
    struct verify_io w;

    run(d, VERIFY_ZEROES, FIRST, 1);
    w = begin(d, 1, VERIFY_WRITE, FIRST, 1);
    verify_end(d->v, &w, true);
    run(d, VERIFY_READ, FIRST, 1);
    expect_error(d, VERIFY_LOST);
}

static void late_old_write_is_stale(void **state)
{
    struct disk *d = *state;
    char old[BLOCK];

    run(d, VERIFY_WRITE, FIRST, 1);
    memcpy(old, d->block[0], BLOCK);
    run(d, VERIFY_WRITE, FIRST, 1);
    run(d, VERIFY_READ, FIRST, 1);
    memcpy(d->block[0], old, BLOCK); /* a dead predecessor's write lands */
    run(d, VERIFY_READ, FIRST, 1);
    expect_error(d, VERIFY_STALE);
}

static void torn_block_is_named(void **state)
{
    struct disk *d = *state;
    char old[BLOCK];

    run(d, VERIFY_WRITE, FIRST, 1);
    memcpy(old, d->block[0], BLOCK);
    run(d, VERIFY_WRITE, FIRST, 1);
    memcpy(d->block[0] + BLOCK / 2, old + BLOCK / 2, BLOCK / 2);
    run(d, VERIFY_READ, FIRST, 1);
    expect_error(d, VERIFY_TORN);
}

static void misplaced_corrupt_foreign_and_unfilled_are_named(void **state)
{
    struct disk *d = *state;
    struct verify_io r;

    run(d, VERIFY_WRITE, FIRST, 2);
    memcpy(d->block[0], d->block[1], BLOCK);
    run(d, VERIFY_READ, FIRST, 1);
    assert_int_equal(verify_errors_of(d->v, VERIFY_MISPLACED), 1);

    d->block[1][700] ^= 1;
    run(d, VERIFY_READ, FIRST + 1, 1);
    assert_int_equal(verify_errors_of(d->v, VERIFY_CORRUPT), 1);

    memset(d->block[1], 'x', BLOCK);
    run(d, VERIFY_READ, FIRST + 1, 1);
    assert_int_equal(verify_errors_of(d->v, VERIFY_FOREIGN), 1);

    r = begin(d, 1, VERIFY_READ, FIRST, 1);
    verify_end(d->v, &r, true);
    assert_int_equal(verify_errors_of(d->v, VERIFY_UNFILLED), 1);
    assert_int_equal(verify_errors(d->v), 4);
}

static void block_from_the_future_is_corrupt(void **state)
{
    struct disk *d = *state, *other;
    void *p;

    run(d, VERIFY_WRITE, FIRST, 1);
    setup(&p);
    other = p;
    run(other, VERIFY_WRITE, FIRST, 1);
    run(other, VERIFY_WRITE, FIRST, 1); /* same seed: generation 2 */
    memcpy(d->block[0], other->block[0], BLOCK);
    teardown(&p);
    run(d, VERIFY_READ, FIRST, 1);
    expect_error(d, VERIFY_CORRUPT);
}

static void late_write_into_the_buffer_is_named(void **state)
{
    struct disk *d = *state;
    struct verify_io r;

    run(d, VERIFY_WRITE, FIRST, 1);
    r = begin(d, 1, VERIFY_READ, FIRST, 1);
    act(d, &r);
    verify_end(d->v, &r, true);
    d->buf[1][5] ^= 1;
    verify_untouched(d->v, &r);
    expect_error(d, VERIFY_LATE_DMA);
}

static void failed_write_leaves_both_acceptable(void **state)
{
    struct disk *d = *state;
    struct verify_io w;

    run(d, VERIFY_WRITE, FIRST, 1);
    w = begin(d, 1, VERIFY_WRITE, FIRST, 1);
    verify_end(d->v, &w, false);
    run(d, VERIFY_READ, FIRST, 1);
    act(d, &w);
    run(d, VERIFY_READ, FIRST, 1);
    assert_int_equal(verify_errors(d->v), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(good_disk_is_never_blamed, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_write_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_write_of_a_block_zeroed_before_is_named, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(late_old_write_is_stale, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_block_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(misplaced_corrupt_foreign_and_unfilled_are_named, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(block_from_the_future_is_corrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(late_write_into_the_buffer_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(failed_write_leaves_both_acceptable, setup, teardown),
    };

    return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
