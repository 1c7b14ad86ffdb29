/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bdev/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A backend that answers what the test says. */
struct fake {
    int answer;
    unsigned submits, opens, closes, destroys;
    struct bdev_req *last;
};

static void *fake_open(void *dev, struct reactor *r, struct err *err)
{
    struct fake *f = dev;

    f->opens++;
    if (f->answer == -ENXIO) {
        err_set(err, -ENXIO, "no");
        return NULL;
    }
    return f;
}

static void fake_close(void *ctx)
{
    ((struct fake *)ctx)->closes++;
}

static int fake_submit(void *ctx, struct bdev_req *req)
{
    struct fake *f = ctx;

    f->submits++;
    f->last = req;
    return f->answer;
}

static void fake_flush_batch(void *ctx)
{
}

static int fake_detach(void *ctx, struct bdev_req *req)
{
    return BDEV_PENDING;
}

static void fake_cancel(void *ctx, struct bdev_req *req)
{
    bdev_complete(req, -ECANCELED);
}

static void fake_describe(void *dev, struct json_t *out)
{
}

static void fake_destroy(void *dev)
{
    ((struct fake *)dev)->destroys++;
}

static const struct bdev_ops fake_ops = {
    .kind = "fake",
    .product = "Fake disk",
    .open_channel = fake_open,
    .close_channel = fake_close,
    .submit = fake_submit,
    .flush_batch = fake_flush_batch,
    .detach = fake_detach,
    .cancel = fake_cancel,
    .describe = fake_describe,
    .destroy = fake_destroy,
};

struct bench {
    struct fake fake;
    struct bdev_set *set;
    struct bdev *bd;
    struct reactor *reactor;
    struct bdev_channel *ch;
    char page[65536];
    struct iovec iov;
    unsigned dones;
    int rc;
    struct bdev_req req;
};

static struct bench *bench;

static void done(struct bdev_req *req, int rc)
{
    bench->dones++;
    bench->rc = rc;
}

static const struct bdev_info info = {
    .block_bytes = 512, .nblocks = 1000, .can_unmap = true, .can_write_zeroes = true};

static int setup_with(void **state, const struct bdev_info *of)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct err err = {0};

    bench = b;
    b->set = bdev_set_create();
    b->reactor = reactor_create("test", &err);
    assert_int_equal(bdev_register(b->set, "Fake0", &fake_ops, &b->fake, of, &b->bd, &err), 0);
    b->ch = bdev_channel_get(b->bd, b->reactor, &err);
    assert_non_null(b->ch);
    *state = b;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, &info);
}

static int setup_read_only(void **state)
{
    struct bdev_info of = info;

    of.read_only = true;
    of.can_unmap = of.can_write_zeroes = false;
    return setup_with(state, &of);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    if (b->ch)
        bdev_channel_put(b->ch);
    bdev_set_destroy(b->set);
    reactor_destroy(b->reactor);
    free(b);
    return 0;
}

static int io(struct bench *b, enum bdev_op op, uint64_t lba, uint32_t nblocks)
{
    b->iov = (struct iovec){b->page, (size_t)nblocks * 512};
    b->req = (struct bdev_req){
        .op = op, .lba = lba, .nblocks = nblocks, .iov = &b->iov, .iovcnt = 1, .done = done};
    return bdev_submit(b->ch, &b->req);
}

static void ranges_are_checked_without_overflow(void **state)
{
    struct bench *b = *state;

    assert_int_equal(io(b, BDEV_READ, 0, 1), 0);
    assert_int_equal(io(b, BDEV_READ, 999, 1), 0);
    assert_int_equal(io(b, BDEV_READ, 999, 2), -ERANGE);
    assert_int_equal(io(b, BDEV_READ, 1000, 1), -ERANGE);
    assert_int_equal(io(b, BDEV_WRITE, UINT64_MAX, 1), -ERANGE);
    assert_int_equal(io(b, BDEV_UNMAP, UINT64_MAX - 1, 2), -ERANGE);
    assert_int_equal(io(b, BDEV_WRITE_ZEROES, 1, UINT32_MAX), -ERANGE);
    assert_int_equal(io(b, BDEV_UNMAP, 0, 1000), 0);
    assert_int_equal(io(b, BDEV_READ, 0, 0), -EINVAL);
    assert_int_equal(io(b, BDEV_FLUSH, 0, 0), 0);
    assert_int_equal(io(b, BDEV_OPS, 0, 1), -EINVAL);
    assert_int_equal(io(b, (enum bdev_op)77, 0, 1), -EINVAL);
    assert_int_equal(b->fake.submits, 4);
}

static void an_iov_of_another_size_is_refused(void **state)
{
    struct bench *b = *state;
    struct iovec iov[2] = {{b->page, 512}, {b->page, 511}};
    struct bdev_req req = {.op = BDEV_WRITE, .nblocks = 2, .iov = iov, .iovcnt = 2, .done = done};

    assert_int_equal(bdev_submit(b->ch, &req), -EINVAL);
    iov[1].iov_len = SIZE_MAX;
    assert_int_equal(bdev_submit(b->ch, &req), -EINVAL);
    iov[1].iov_len = 512;
    assert_int_equal(bdev_submit(b->ch, &req), 0);
}

static void a_read_only_device_refuses_every_change(void **state)
{
    struct bench *b = *state;

    assert_int_equal(io(b, BDEV_WRITE, 0, 1), -EROFS);
    assert_int_equal(io(b, BDEV_UNMAP, 0, 1), -EROFS);
    assert_int_equal(io(b, BDEV_WRITE_ZEROES, 0, 1), -EROFS);
    assert_int_equal(io(b, BDEV_READ, 0, 1), 0);
    assert_int_equal(io(b, BDEV_FLUSH, 0, 0), 0);
}

static void answers_now_and_later_are_counted_once(void **state)
{
    struct bench *b = *state;
    struct bdev_stats st;

    io(b, BDEV_READ, 0, 8);
    b->fake.answer = -EIO;
    assert_int_equal(io(b, BDEV_WRITE, 0, 8), -EIO);
    b->fake.answer = BDEV_PENDING;
    assert_int_equal(io(b, BDEV_WRITE, 0, 2), BDEV_PENDING);
    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.ops[BDEV_WRITE], 0);
    bdev_count_bounce(&b->req, 4096);
    bdev_complete(&b->req, 0);
    assert_int_equal(b->dones, 1);
    io(b, BDEV_READ, 0, 1);
    bdev_complete(&b->req, -EIO);
    io(b, BDEV_READ, 0, 1);
    bdev_cancel(b->ch, &b->req);
    assert_int_equal(b->rc, -ECANCELED);

    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.ops[BDEV_READ], 1);
    assert_int_equal(st.bytes[BDEV_READ], 4096);
    assert_int_equal(st.errors[BDEV_READ], 1);
    assert_int_equal(st.ops[BDEV_WRITE], 1);
    assert_int_equal(st.bytes[BDEV_WRITE], 1024);
    assert_int_equal(st.errors[BDEV_WRITE], 1);
    assert_int_equal(st.bounce_bytes, 4096);

    bdev_channel_put(b->ch); /* what a closed channel counted is not lost */
    b->ch = NULL;
    assert_int_equal(b->fake.closes, 1);
    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.bytes[BDEV_READ], 4096);
    assert_int_equal(st.bounce_bytes, 4096);
}

static void a_reactor_has_one_channel_per_device(void **state)
{
    struct bench *b = *state;
    struct reactor *other = reactor_create("other", NULL);
    struct bdev_channel *again = bdev_channel_get(b->bd, b->reactor, NULL);
    struct bdev_channel *elsewhere = bdev_channel_get(b->bd, other, NULL);

    assert_ptr_equal(again, b->ch);
    assert_ptr_not_equal(elsewhere, b->ch);
    assert_int_equal(b->fake.opens, 2);
    bdev_channel_put(again);
    assert_int_equal(b->fake.closes, 0);
    bdev_channel_put(elsewhere);
    assert_int_equal(b->fake.closes, 1);
    reactor_destroy(other);
}

static void a_channel_that_cannot_open_says_why(void **state)
{
    struct bench *b = *state;
    struct reactor *other = reactor_create("other", NULL);
    struct err err = {0};

    b->fake.answer = -ENXIO;
    assert_null(bdev_channel_get(b->bd, other, &err));
    assert_int_equal(err.code, -ENXIO);
    reactor_destroy(other);
}

static void gone(void *arg)
{
    ++*(unsigned *)arg;
}

static void a_claimed_device_stays_and_names_its_user(void **state)
{
    struct bench *b = *state;
    struct err err = {0};
    unsigned gones = 0;

    assert_int_equal(bdev_claim(b->bd, "namespace 1 of nqn.x", &err), 0);
    assert_int_equal(bdev_unregister(b->bd, gone, &gones, &err), -EBUSY);
    assert_non_null(strstr(err.msg, "namespace 1 of nqn.x"));
    bdev_release(b->bd);
    assert_int_equal(bdev_unregister(b->bd, gone, &gones, &err), 0);
    assert_int_equal(gones, 0); /* its channel is open */
    assert_null(bdev_find(b->set, "Fake0"));
    assert_int_equal(bdev_register(b->set, "Fake0", &fake_ops, &b->fake, &info, NULL, &err),
                     -EEXIST);
    assert_int_equal(io(b, BDEV_READ, 0, 1), -ENODEV);
    assert_null(bdev_channel_get(b->bd, reactor_current(), &err));
    bdev_channel_put(b->ch);
    b->ch = NULL;
    assert_int_equal(gones, 1);
    assert_int_equal(b->fake.destroys, 1);
    assert_int_equal(bdev_register(b->set, "Fake0", &fake_ops, &b->fake, &info, NULL, &err), 0);
}

static void bad_registrations_are_refused(void **state)
{
    struct bench *b = *state;
    struct bdev_ops hole = fake_ops;
    struct bdev_info bad = info;
    struct err err = {0};

    assert_int_equal(bdev_register(b->set, "Fake0", &fake_ops, &b->fake, &info, NULL, &err),
                     -EEXIST);
    hole.detach = NULL;
    assert_int_equal(bdev_register(b->set, "Fake1", &hole, &b->fake, &info, NULL, &err), -EINVAL);
    bad.block_bytes = 520;
    assert_int_equal(bdev_register(b->set, "Fake1", &fake_ops, &b->fake, &bad, NULL, &err),
                     -EINVAL);
    bad.block_bytes = 4096;
    bad.nblocks = 1ULL << 52;
    assert_int_equal(bdev_register(b->set, "Fake1", &fake_ops, &b->fake, &bad, NULL, &err),
                     -EINVAL);
    assert_int_equal(bdev_register(b->set, "", &fake_ops, &b->fake, &info, NULL, &err), -EINVAL);
}

static uint64_t heard;

static void resized(struct bdev_listener *l, struct bdev *bd)
{
    heard = bdev_get_info(bd).nblocks;
}

static void a_new_capacity_is_announced_and_holds(void **state)
{
    struct bench *b = *state;
    struct bdev_listener l = {.resized = resized};

    bdev_listen(b->bd, &l);
    bdev_resized(b->bd, 2000);
    assert_int_equal(heard, 2000);
    assert_int_equal(io(b, BDEV_READ, 1999, 1), 0);
    bdev_unlisten(&l);
    bdev_resized(b->bd, 10);
    assert_int_equal(heard, 2000);
    assert_int_equal(io(b, BDEV_READ, 10, 1), -ERANGE);
}

/* A put inside done(), with the backend below on the stack, closes in a later turn. */
static void put_in_done(struct bdev_req *req, int rc)
{
    bdev_channel_put(bench->ch);
    assert_int_equal(bench->fake.closes, 0);
}

static void stop_later(struct timer *t)
{
    reactor_stop(bench->reactor);
}

static void in_turn(struct mail *m)
{
    static struct timer t;

    bench->fake.answer = BDEV_PENDING;
    io(bench, BDEV_READ, 0, 1);
    bench->req.done = put_in_done;
    bdev_complete(&bench->req, 0);
    bench->ch = NULL;
    assert_int_equal(bench->fake.closes, 0);
    timer_arm(bench->reactor, &t, 1, stop_later);
}

static void the_last_put_closes_in_a_later_turn(void **state)
{
    struct bench *b = *state;
    struct mail m = {.fn = in_turn};

    reactor_post(b->reactor, &m);
    reactor_run(b->reactor);
    assert_int_equal(b->fake.closes, 1);
}

int main(void)
{
#define with_bench(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    static const struct CMUnitTest tests[] = {
        with_bench(ranges_are_checked_without_overflow),
        with_bench(an_iov_of_another_size_is_refused),
        cmocka_unit_test_setup_teardown(a_read_only_device_refuses_every_change, setup_read_only,
                                        teardown),
        with_bench(answers_now_and_later_are_counted_once),
        with_bench(a_reactor_has_one_channel_per_device),
        with_bench(a_channel_that_cannot_open_says_why),
        with_bench(a_claimed_device_stays_and_names_its_user),
        with_bench(bad_registrations_are_refused),
        with_bench(a_new_capacity_is_announced_and_holds),
        with_bench(the_last_put_closes_in_a_later_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
