/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/test_io.h"

#include "base/fd.h"

enum { BLOCKS = 1024, ALL = (1 << BDEV_OPS) - 1 };

struct fixture {
    struct test_io *t;
    struct bdev *base, *error;
    int fd;
};

static struct fixture *fixture_now;

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct malloc_opts base = {.name = "M0", .block_bytes = 512, .nblocks = BLOCKS};
    struct err err = {0};

    f->t = test_io_create();
    f->fd = base.memory_fd = fd_memfd("t", BLOCKS * 512);
    if (malloc_bdev_create(f->t->set, &base, &f->base, &err) ||
        error_bdev_create(f->t->set, f->base, NULL, &f->error, &err))
        fail_msg("%s", err.msg);
    test_io_open(f->t, f->error);
    fixture_now = *state = f;
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

static void inject(struct fixture *f, unsigned ops, struct error_injection e)
{
    struct err err = {0};

    if (error_bdev_inject(f->error, ops, &e, &err))
        fail_msg("%s", err.msg);
}

static void so_many_requests_of_a_kind_fail_and_have_no_effect(void **state)
{
    struct fixture *f = *state;
    char out[512], in[512];

    assert_string_equal(bdev_name(f->error), "EE_M0");
    memset(out, 4, sizeof(out));
    inject(f, 1U << BDEV_WRITE, (struct error_injection){.type = ERROR_FAILURE, .num = 2});
    assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, in), 0);
    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 1, out), -EIO);
    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 1, out), -EIO);
    assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, in), 0);
    assert_int_equal(in[0], 0);
    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 1, out), 0);
    assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, in), 0);
    assert_memory_equal(in, out, sizeof(in));

    inject(f, ALL, (struct error_injection){.type = ERROR_NOMEM, .num = 1});
    for (unsigned op = 0; op < BDEV_OPS; op++) {
        char *data = op == BDEV_READ || op == BDEV_WRITE ? in : NULL;
        uint32_t nblocks = op == BDEV_FLUSH ? 0 : 1;

        assert_int_equal(test_io(f->t, (enum bdev_op)op, 0, nblocks, data), -ENOMEM);
        assert_int_equal(test_io(f->t, (enum bdev_op)op, 0, nblocks, data), 0);
    }
    inject(f, ALL, (struct error_injection){.type = ERROR_FAILURE, .num = 100});
    assert_int_equal(error_bdev_clear(f->error, NULL), 0);
    assert_int_equal(test_io(f->t, BDEV_FLUSH, 0, 0, NULL), 0);
}

static void one_byte_is_corrupted_and_never_the_callers(void **state)
{
    struct fixture *f = *state;
    struct error_injection e = {
        .type = ERROR_CORRUPT_DATA, .num = 1, .corrupt_offset = 700, .corrupt_value = 0x80};
    char out[1024], in[1024];
    struct iovec iov[2] = {{in, 512}, {in + 512, 512}};
    struct bdev_req read = {.op = BDEV_READ, .nblocks = 2, .iov = iov, .iovcnt = 2};

    memset(out, 1, sizeof(out));
    inject(f, 1U << BDEV_WRITE, e);
    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 2, out), 0);
    assert_int_equal(out[700], 1);
    assert_int_equal(test_io_many(f->t, &read, 1), 0);
    assert_int_equal((unsigned char)in[700], 0x81);
    in[700] = 1;
    assert_memory_equal(in, out, sizeof(in));

    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 2, out), 0);
    inject(f, 1U << BDEV_READ, e);
    assert_int_equal(test_io_many(f->t, &read, 1), 0);
    assert_int_equal((unsigned char)in[700], 0x81);
    assert_int_equal(test_io_many(f->t, &read, 1), 0);
    assert_memory_equal(in, out, sizeof(in));

    e.corrupt_offset = 4096; /* beyond it */
    inject(f, ALL, e);
    assert_int_equal(test_io(f->t, BDEV_WRITE, 0, 2, out), 0);
    assert_int_equal(test_io_many(f->t, &read, 1), 0);
    assert_memory_equal(in, out, sizeof(in));
    e.corrupt_value = 0;
    assert_int_equal(error_bdev_inject(f->error, ALL, &e, NULL), -EINVAL);
    assert_int_equal(error_bdev_inject(f->base, ALL, &e, NULL), -EINVAL);
}

static void clear_all(struct test_io *t)
{
    assert_int_equal(error_bdev_clear(fixture_now->error, NULL), 0);
    assert_int_equal(error_bdev_clear(fixture_now->error, NULL), 0);
}

static void cancel_all(struct test_io *t)
{
    bdev_cancel(t->ch, &t->reqs[0]);
    assert_int_equal(t->left, 2);
}

static void detach_and_cancel(struct test_io *t)
{
    assert_int_equal(bdev_detach(t->ch, &t->reqs[0]), 0);
    memset(t->reqs[0].iov[0].iov_base, 9, 512);
    bdev_cancel(t->ch, &t->reqs[0]);
    assert_int_equal(t->left, 2);
}

static void pending_requests_end_by_clear_or_cancel_without_effect(void **state)
{
    static const struct {
        void (*end)(struct test_io *t);
        int rc;
    } ways[] = {{clear_all, -EIO}, {cancel_all, -ECANCELED}, {detach_and_cancel, -ECANCELED}};
    struct fixture *f = *state;
    char block[512];

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        for (unsigned op = BDEV_READ; op <= BDEV_WRITE; op++) {
            memset(block, 8, sizeof(block));
            inject(f, 1U << op, (struct error_injection){.type = ERROR_PENDING, .num = 1});
            f->t->submitted = ways[i].end;
            assert_int_equal(test_io(f->t, (enum bdev_op)op, 0, 1, block), ways[i].rc);
        }
        f->t->submitted = NULL;
        assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, block), 0);
        assert_int_equal(block[0], 0);
    }
}

/* A memory disk answers at once: nothing else is ever at the base. */
static void an_error_waits_for_its_queue_depth(void **state)
{
    struct fixture *f = *state;
    char block[512];

    inject(f, ALL, (struct error_injection){.type = ERROR_FAILURE, .num = 1, .queue_depth = 1});
    assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, block), 0);
    inject(f, ALL, (struct error_injection){.type = ERROR_FAILURE, .num = 1});
    assert_int_equal(test_io(f->t, BDEV_READ, 0, 1, block), -EIO);
}

static void a_channel_may_close_while_it_is_told_to_clear(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(error_bdev_clear(f->error, NULL), 0);
        test_io_close(f->t);
        test_io_open(f->t, f->error);
    }
}

static void the_base_is_claimed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(bdev_unregister(f->base, NULL, NULL, NULL), -EBUSY);
    assert_int_equal(error_bdev_create(f->t->set, f->base, NULL, NULL, NULL), -EEXIST);
    test_io_close(f->t);
    assert_int_equal(bdev_unregister(f->error, NULL, NULL, NULL), 0);
    assert_int_equal(bdev_unregister(f->base, NULL, NULL, NULL), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(so_many_requests_of_a_kind_fail_and_have_no_effect),
        TEST(one_byte_is_corrupted_and_never_the_callers),
        TEST(pending_requests_end_by_clear_or_cancel_without_effect),
        TEST(an_error_waits_for_its_queue_depth),
        TEST(a_channel_may_close_while_it_is_told_to_clear),
        TEST(the_base_is_claimed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
