/* SPDX-License-Identifier: BSD-3-Clause */
#include "controller/device.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* A kind without a function: what it was asked for is noted by a letter. */
struct toy {
    struct device d;
    char log[16];
    size_t n;
    bool uses_region;
    unsigned events;
};

struct answer {
    struct toy *toy;
    bool came;
    int rc;
    struct err err;
};

static void note(struct device *d, char what)
{
    struct toy *toy = container_of(d, struct toy, d);

    if (toy->n + 1 < sizeof(toy->log))
        toy->log[toy->n++] = what;
}

static void toy_go_on(struct device *d)
{
    note(d, 'g');
}

static void toy_settle(struct device *d)
{
}

static bool toy_detach(struct device *d, const struct device_detach *w)
{
    return !container_of(d, struct toy, d)->uses_region;
}

static void toy_cancel(struct device *d)
{
    note(d, 'c');
    d->inflight = 0;
    d->settle = true;
    reactor_stop(d->reactor);
}

static void toy_post(struct device *d)
{
    note(d, 'p');
}

static void toy_close(struct device *d)
{
    note(d, 'x');
}

static unsigned toy_events(struct device *d)
{
    return container_of(d, struct toy, d)->events;
}

static int toy_resume(struct device *d, struct err *err)
{
    return 0;
}

#define TOY_OPS                                                                                    \
    .room = "toy", .words = "wishes", .resume = toy_resume, .go_on = toy_go_on,                    \
    .settle = toy_settle, .detach = toy_detach, .cancel = toy_cancel, .post = toy_post,            \
    .close = toy_close, .broken = toy_go_on
static const struct device_ops ops = {TOY_OPS};
static const struct device_ops ops_with_events = {TOY_OPS, .events_inflight = toy_events};

static void make(struct toy *toy, const struct device_ops *o)
{
    memset(toy, 0, sizeof(*toy));
    device_init(&toy->d, o, "Toy1", reactor_create("test", NULL));
    toy->d.hold = 0; /* as after a resume */
}

static void answered(void *arg, int rc, const struct err *err)
{
    struct answer *a = arg;

    assert_false(a->came);
    a->came = true;
    a->rc = rc;
    if (err)
        a->err = *err;
    if (rc == -ETIMEDOUT)
        reactor_stop(a->toy->d.reactor);
}

/* As at the end of a request. */
static void end_one(struct toy *toy)
{
    toy->d.inflight--;
    toy->d.settle |= device_drains(&toy->d);
    device_settle(&toy->d);
}

static void suspend_waits_for_what_is_in_flight(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy};

    make(&toy, &ops);
    toy.d.inflight = 2;
    device_suspend(&toy.d, CONTROLLER_ALL, 0, answered, &a);
    assert_int_equal(toy.d.hold, DEVICE_HOLD_SUSPENDED);
    end_one(&toy);
    assert_false(a.came);
    end_one(&toy);
    assert_true(a.came);
    assert_int_equal(a.rc, 0);
    assert_string_equal(toy.log, "p");
    reactor_destroy(toy.d.reactor);
}

static void a_suspend_that_times_out_tells_and_lets_it_run_on(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy};

    make(&toy, &ops);
    toy.d.inflight = 2;
    toy.d.hold = DEVICE_HOLD_KIND;
    device_suspend(&toy.d, CONTROLLER_ALL, 10, answered, &a);
    reactor_run(toy.d.reactor);
    assert_int_equal(a.rc, -ETIMEDOUT);
    assert_string_equal(a.err.msg, "controller Toy1: 2 wishes are still in flight; it runs on");
    assert_int_equal(toy.d.hold, DEVICE_HOLD_KIND);
    assert_string_equal(toy.log, "g");
    reactor_destroy(toy.d.reactor);
}

static void a_suspend_of_events_waits_for_events_only(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy}, b = {.toy = &toy};

    make(&toy, &ops_with_events);
    toy.d.inflight = 2;
    toy.events = 1;
    device_suspend(&toy.d, CONTROLLER_EVENTS, 0, answered, &a);
    assert_int_equal(toy.d.hold, DEVICE_HOLD_EVENTS);
    assert_false(a.came);
    toy.events = 0;
    end_one(&toy);
    assert_int_equal(a.rc, 0);
    /* The other suspend, when it fails, leaves this one as it is. */
    device_suspend(&toy.d, CONTROLLER_ALL, 10, answered, &b);
    reactor_run(toy.d.reactor);
    assert_int_equal(b.rc, -ETIMEDOUT);
    assert_int_equal(toy.d.hold, DEVICE_HOLD_EVENTS);
    reactor_destroy(toy.d.reactor);
}

static void a_kind_without_events_answers_their_suspend_at_once(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy};

    make(&toy, &ops);
    toy.d.inflight = 1;
    device_suspend(&toy.d, CONTROLLER_EVENTS, 0, answered, &a);
    assert_true(a.came);
    assert_int_equal(a.rc, 0);
    assert_int_equal(toy.d.hold, 0);
    reactor_destroy(toy.d.reactor);
}

static void quit_ends_a_suspend_and_is_the_last(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy}, b = {.toy = &toy}, c = {.toy = &toy};

    make(&toy, &ops);
    toy.d.inflight = 1;
    device_suspend(&toy.d, CONTROLLER_ALL, 0, answered, &a);
    device_quit(&toy.d, answered, &b);
    assert_int_equal(a.rc, -ECANCELED);
    assert_string_equal(a.err.msg, "controller Toy1 is being destroyed");
    device_suspend(&toy.d, CONTROLLER_ALL, 0, answered, &c);
    assert_int_equal(c.rc, -EBUSY);
    assert_false(b.came);
    end_one(&toy);
    assert_true(b.came);
    assert_int_equal(b.rc, 0);
    assert_string_equal(toy.log, "x");
    reactor_destroy(toy.d.reactor);
}

static void quit_cancels_what_does_not_end_and_keeps_its_records(void **state)
{
    struct toy toy;
    struct answer a = {.toy = &toy};

    make(&toy, &ops);
    toy.d.inflight = 3;
    device_quit(&toy.d, answered, &a);
    assert_false(toy.d.keeping);
    reactor_run(toy.d.reactor); /* until cancel, after a second */
    assert_true(toy.d.keeping);
    device_settle(&toy.d);
    assert_true(a.came);
    assert_string_equal(toy.log, "cx");
    reactor_destroy(toy.d.reactor);
}

static bool let_go;
static void detached(void *arg)
{
    let_go = true;
}

static void memory_goes_when_nothing_uses_it_and_quit_waits_for_that(void **state)
{
    struct guest_region region = {.size_bytes = 4096};
    struct toy toy;
    struct answer a = {.toy = &toy};

    make(&toy, &ops);
    let_go = false;
    toy.uses_region = true;
    device_memory_detach(&toy.d, &region, detached, NULL);
    assert_true(device_drains(&toy.d));
    device_quit(&toy.d, answered, &a);
    assert_false(let_go || a.came);
    toy.uses_region = false;
    toy.d.settle = true;
    device_settle(&toy.d);
    assert_true(let_go && a.came);
    reactor_destroy(toy.d.reactor);
}

static void resume_needs_the_lease(void **state)
{
    struct toy toy;
    struct err err;

    make(&toy, &ops);
    assert_int_equal(device_resume(&toy.d, &err), -EAGAIN);
    assert_string_equal(err.msg, "controller Toy1 waits for its function");
    reactor_destroy(toy.d.reactor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suspend_waits_for_what_is_in_flight),
        cmocka_unit_test(a_suspend_that_times_out_tells_and_lets_it_run_on),
        cmocka_unit_test(a_suspend_of_events_waits_for_events_only),
        cmocka_unit_test(a_kind_without_events_answers_their_suspend_at_once),
        cmocka_unit_test(quit_ends_a_suspend_and_is_the_last),
        cmocka_unit_test(quit_cancels_what_does_not_end_and_keeps_its_records),
        cmocka_unit_test(memory_goes_when_nothing_uses_it_and_quit_waits_for_that),
        cmocka_unit_test(resume_needs_the_lease),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
