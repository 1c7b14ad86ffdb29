/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/test_io.h"

#include "base/fd.h"

#include <jansson.h>
#include <time.h>

enum { BLOCKS = 1024, SOON_US = 30000, NEVER_US = 3600000000U };

struct fixture {
    struct test_io *t;
    struct bdev *base, *delay;
    int fd;
};

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void set_latency(struct fixture *f, uint64_t read_us, uint64_t write_us)
{
    assert_int_equal(delay_bdev_update(f->delay, DELAY_AVG_READ, read_us, NULL), 0);
    assert_int_equal(delay_bdev_update(f->delay, DELAY_P99_READ, read_us, NULL), 0);
    assert_int_equal(delay_bdev_update(f->delay, DELAY_AVG_WRITE, write_us, NULL), 0);
    assert_int_equal(delay_bdev_update(f->delay, DELAY_P99_WRITE, write_us, NULL), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct malloc_opts base = {.name = "M0", .block_bytes = 512, .nblocks = BLOCKS};
    struct delay_opts opts = {.name = "D0"};
    struct err err = {0};

    f->t = test_io_create();
    f->fd = base.memory_fd = fd_memfd("t", BLOCKS * 512);
    if (malloc_bdev_create(f->t->set, &base, &f->base, &err))
        fail_msg("%s", err.msg);
    opts.base = f->base;
    if (delay_bdev_create(f->t->set, &opts, &f->delay, &err))
        fail_msg("%s", err.msg);
    test_io_open(f->t, f->delay);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    test_io_destroy(f->t);
    close(f->fd);
    free(f);
    return 0;
}

/* The base's first byte of a block, past all caches of ours. */
static char on_base(struct fixture *f, uint64_t lba)
{
    char c = 0;

    assert_int_equal(pread(f->fd, &c, 1, (off_t)lba * 512), 1);
    return c;
}

static uint64_t held(struct fixture *f)
{
    json_t *o = json_object();
    uint64_t n;

    bdev_ops_of(f->delay)->describe(bdev_dev(f->delay), o);
    n = (uint64_t)json_integer_value(json_object_get(json_object_get(o, "delay"), "held"));
    json_decref(o);
    return n;
}

static struct fixture *fixture_now;
static char seen_on_base;

static void look_at_base(struct test_io *t)
{
    seen_on_base = on_base(fixture_now, 3);
    assert_int_equal(held(fixture_now), 1);
}

static void a_write_is_accepted_waits_and_is_done_then(void **state)
{
    struct fixture *f = *state;
    uint64_t start = now_us();
    char block[512];

    set_latency(f, 0, SOON_US);
    memset(block, 7, sizeof(block));
    fixture_now = f;
    f->t->submitted = look_at_base;
    assert_int_equal(test_io(f->t, BDEV_WRITE, 3, 1, block), 0);
    assert_true(now_us() - start >= SOON_US - 1000);
    assert_int_equal(seen_on_base, 0);
    assert_int_equal(on_base(f, 3), 7);
    assert_int_equal(held(f), 0);
}

static void discards_and_zeroes_wait_like_writes_and_flushes_do_not(void **state)
{
    static const enum bdev_op ops[] = {BDEV_UNMAP, BDEV_WRITE_ZEROES};
    struct fixture *f = *state;
    char block[512];

    memset(block, 7, sizeof(block));
    fixture_now = f;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        set_latency(f, 0, 0);
        assert_int_equal(test_io(f->t, BDEV_WRITE, 3, 1, block), 0);
        set_latency(f, 0, SOON_US);
        f->t->submitted = look_at_base;
        assert_int_equal(test_io(f->t, ops[i], 3, 1, NULL), 0);
        f->t->submitted = NULL;
        assert_int_equal(seen_on_base, 7);
        assert_int_equal(on_base(f, 3), 0);
    }
    set_latency(f, NEVER_US, NEVER_US);
    assert_int_equal(test_io(f->t, BDEV_FLUSH, 0, 0, NULL), 0);
}

/* Reads see what was written while they waited; without latency requests overtake. */
static void lower_to_nothing(struct test_io *t)
{
    set_latency(fixture_now, 0, 0);
}

static void what_comes_after_a_change_overtakes(void **state)
{
    struct fixture *f = *state;
    char older[512], newer[512];
    struct iovec iov[2] = {{older, 512}, {newer, 512}};
    struct bdev_req reqs[2] = {
        {.op = BDEV_WRITE, .lba = 3, .nblocks = 1, .iov = &iov[0], .iovcnt = 1},
        {.op = BDEV_WRITE, .lba = 3, .nblocks = 1, .iov = &iov[1], .iovcnt = 1},
    };

    memset(older, 1, sizeof(older));
    memset(newer, 2, sizeof(newer));
    set_latency(f, 0, SOON_US);
    fixture_now = f;
    f->t->submitted = lower_to_nothing;
    assert_int_equal(test_io_many(f->t, &reqs[0], 1), 0);
    assert_int_equal(on_base(f, 3), 1);
    f->t->submitted = NULL;
    assert_int_equal(test_io_many(f->t, &reqs[1], 1), 0);
    assert_int_equal(on_base(f, 3), 2);
}

static void a_write_that_is_sent_again_after_a_crash_does_not_wait(void **state)
{
    struct fixture *f = *state;
    char block[512];

    set_latency(f, SOON_US, NEVER_US);
    memset(block, 7, sizeof(block));
    assert_int_equal(test_io_flags(f->t, BDEV_WRITE, 3, 1, block, BDEV_RESENT), 0);
    assert_int_equal(on_base(f, 3), 7);
    assert_int_equal(test_io_flags(f->t, BDEV_WRITE_ZEROES, 3, 1, NULL, BDEV_RESENT), 0);
    assert_int_equal(on_base(f, 3), 0);
}

static int detach_rc;

static void detach_all(struct test_io *t)
{
    detach_rc = 0;
    for (unsigned i = 0; i < t->n; i++) {
        if (bdev_detach(t->ch, &t->reqs[i]))
            detach_rc = BDEV_PENDING;
        memset(t->reqs[i].iov[0].iov_base, 9, 512); /* nobody reads it any more */
    }
    assert_int_equal(t->left, t->n + 1); /* done() runs later */
}

static void a_detached_write_goes_on_from_a_copy_and_a_read_ends(void **state)
{
    struct fixture *f = *state;
    char out[512], in[512];
    struct iovec iov[2] = {{out, 512}, {in, 512}};
    struct bdev_req reqs[2] = {
        {.op = BDEV_WRITE, .lba = 3, .nblocks = 1, .iov = &iov[0], .iovcnt = 1},
        {.op = BDEV_READ, .lba = 3, .nblocks = 1, .iov = &iov[1], .iovcnt = 1},
    };

    memset(out, 5, sizeof(out));
    set_latency(f, NEVER_US, SOON_US);
    f->t->submitted = detach_all;
    assert_int_equal(test_io_many(f->t, reqs, 2), 0);
    assert_int_equal(detach_rc, 0);
    assert_int_equal(f->t->rcs[1], -ECANCELED);
    assert_int_equal(in[0], 9);
    assert_int_equal(on_base(f, 3), 5);
    assert_int_equal(held(f), 0);
}

static void cancel_all(struct test_io *t)
{
    for (unsigned i = 0; i < t->n; i++)
        bdev_cancel(t->ch, &t->reqs[i]);
    assert_int_equal(t->left, t->n + 1);
}

static void a_cancelled_read_ends_and_a_write_is_done(void **state)
{
    struct fixture *f = *state;
    char out[512], in[512];
    struct iovec iov[2] = {{out, 512}, {in, 512}};
    struct bdev_req reqs[2] = {
        {.op = BDEV_READ, .lba = 3, .nblocks = 1, .iov = &iov[1], .iovcnt = 1},
        {.op = BDEV_WRITE, .lba = 3, .nblocks = 1, .iov = &iov[0], .iovcnt = 1},
    };

    memset(out, 5, sizeof(out));
    set_latency(f, NEVER_US, SOON_US);
    f->t->submitted = cancel_all;
    assert_int_equal(test_io_many(f->t, reqs, 2), -ECANCELED);
    assert_int_equal(f->t->rcs[1], 0);
    assert_int_equal(on_base(f, 3), 5);
    assert_int_equal(held(f), 0);
}

static void many_wait_at_once(void **state)
{
    struct fixture *f = *state;
    struct bdev_req reqs[TEST_MANY];
    struct iovec iov[TEST_MANY];
    char data[TEST_MANY][512];

    set_latency(f, 0, SOON_US);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < TEST_MANY; i++) {
            memset(data[i], (int)(i + round), 512);
            iov[i] = (struct iovec){data[i], 512};
            reqs[i] = (struct bdev_req){
                .op = BDEV_WRITE, .lba = i, .nblocks = 1, .iov = &iov[i], .iovcnt = 1};
        }
        test_io_many(f->t, reqs, TEST_MANY);
        for (unsigned i = 0; i < TEST_MANY; i++) {
            assert_int_equal(f->t->rcs[i], 0);
            assert_int_equal(on_base(f, i), (char)(i + round));
        }
    }
}

static unsigned late_reads;

static void count_held(struct test_io *t)
{
    late_reads += (unsigned)held(fixture_now);
}

static void one_in_a_hundred_has_the_p99_latency(void **state)
{
    struct fixture *f = *state;
    struct bdev_req reqs[TEST_MANY];
    struct iovec iov[TEST_MANY];
    char data[TEST_MANY][512];

    assert_int_equal(delay_bdev_update(f->delay, DELAY_P99_READ, 5000, NULL), 0);
    fixture_now = f;
    late_reads = 0;
    f->t->submitted = count_held;
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < TEST_MANY; i++) {
            iov[i] = (struct iovec){data[i], 512};
            reqs[i] = (struct bdev_req){
                .op = BDEV_READ, .lba = i, .nblocks = 1, .iov = &iov[i], .iovcnt = 1};
        }
        assert_int_equal(test_io_many(f->t, reqs, TEST_MANY), 0);
    }
    assert_in_range(late_reads, 5, 60); /* 20 of 2000 */
}

static void the_base_is_claimed_and_its_size_followed(void **state)
{
    struct fixture *f = *state;
    struct bdev_info info = bdev_get_info(f->delay), base = bdev_get_info(f->base);
    struct delay_opts again = {.name = "D0", .base = f->base};
    struct err err = {0};
    char block[512];

    assert_memory_not_equal(&info.uuid, &base.uuid, sizeof(info.uuid));
    assert_int_equal(bdev_unregister(f->base, NULL, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.msg, "bdev 'D0'"));
    bdev_resized(f->base, 2);
    assert_int_equal(bdev_get_info(f->delay).nblocks, 2);
    assert_int_equal(test_io(f->t, BDEV_READ, 2, 1, block), -ERANGE);
    bdev_resized(f->base, BLOCKS);

    assert_int_equal(delay_bdev_create(f->t->set, &again, NULL, &err), -EEXIST);
    again.name = "D1";
    again.latency_us[DELAY_AVG_READ] = 1; /* p99 is less */
    assert_int_equal(delay_bdev_create(f->t->set, &again, NULL, &err), -EINVAL);
    assert_int_equal(bdev_claims(f->base), 1);
    test_io_close(f->t);
    assert_int_equal(bdev_unregister(f->delay, NULL, NULL, &err), 0);
    assert_int_equal(bdev_claims(f->base), 0);
    assert_int_equal(bdev_unregister(f->base, NULL, NULL, &err), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(a_write_is_accepted_waits_and_is_done_then),
        TEST(discards_and_zeroes_wait_like_writes_and_flushes_do_not),
        TEST(what_comes_after_a_change_overtakes),
        TEST(a_write_that_is_sent_again_after_a_crash_does_not_wait),
        TEST(a_detached_write_goes_on_from_a_copy_and_a_read_ends),
        TEST(a_cancelled_read_ends_and_a_write_is_done),
        TEST(many_wait_at_once),
        TEST(one_in_a_hundred_has_the_p99_latency),
        TEST(the_base_is_claimed_and_its_size_followed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
