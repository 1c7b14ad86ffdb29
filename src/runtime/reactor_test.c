/* SPDX-License-Identifier: BSD-3-Clause */
#include "runtime/meter.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct counter {
    struct mail mail;
    struct reactor *r;
    int *count, limit;
};

static void count_mail(struct mail *m)
{
    struct counter *c = container_of(m, struct counter, mail);

    if (++*c->count == c->limit)
        reactor_stop(c->r);
}

static void mail_arrives_in_order_and_wakes_a_sleeper(void **state)
{
    enum { N = 1000 };
    static struct counter mails[N];
    struct reactor *r = reactor_create("test", NULL);
    int count = 0;

    assert_int_equal(reactor_spawn(r, -1, NULL), 0);
    for (int i = 0; i < N; i++) {
        mails[i] = (struct counter){.mail.fn = count_mail, .r = r, .count = &count, .limit = N};
        reactor_post(r, &mails[i].mail);
        if (i % 100 == 0)
            usleep(1000); /* let it fall asleep */
    }
    reactor_join(r);
    assert_int_equal(count, N);
    reactor_destroy(r);
}

struct order {
    struct timer t;
    struct reactor *r;
    char name, *log;
    int *n;
};

static void log_timer(struct timer *t)
{
    struct order *o = container_of(t, struct order, t);

    o->log[(*o->n)++] = o->name;
    if (o->name == 'c')
        reactor_stop(o->r);
}

static void timers_fire_in_order_of_time(void **state)
{
    struct reactor *r = reactor_create("test", NULL);
    char log[8] = {0};
    int n = 0;
    struct order a = {.r = r, .name = 'a', .log = log, .n = &n}, b = a, c = a, gone = a;

    b.name = 'b';
    c.name = 'c';
    gone.name = 'x';
    timer_arm(r, &c.t, 30, log_timer);
    timer_arm(r, &a.t, 5, log_timer);
    timer_arm(r, &gone.t, 1, log_timer);
    timer_arm(r, &b.t, 10, log_timer);
    timer_cancel(&gone.t);
    timer_arm(r, &a.t, 6, log_timer); /* again: once only */
    reactor_run(r);
    assert_string_equal(log, "abc");
    reactor_destroy(r);
}

struct pair {
    struct watch a, b;
    struct reactor *r;
    int fired;
};

static void never_called(struct watch *w, uint32_t events)
{
    (void)w;
    (void)events;
    fail();
}

static struct pair *the_pair;

static void first_one_wins(struct watch *w, uint32_t events)
{
    (void)events;
    the_pair->fired++;
    watch_remove(the_pair->r, w == &the_pair->a ? &the_pair->b : &the_pair->a);
    watch_remove(the_pair->r, w);
    reactor_stop(the_pair->r);
}

static void a_watch_removed_by_its_neighbour_does_not_fire(void **state)
{
    struct reactor *r = reactor_create("test", NULL);
    struct pair p = {.r = r};
    int fa = eventfd(1, EFD_CLOEXEC), fb = eventfd(1, EFD_CLOEXEC);

    the_pair = &p;
    assert_int_equal(watch_add(r, &p.a, fa, EPOLLIN, first_one_wins), 0);
    assert_int_equal(watch_add(r, &p.b, fb, EPOLLIN, first_one_wins), 0);
    reactor_run(r);
    assert_int_equal(p.fired, 1);
    assert_int_equal(watch_add(r, &p.a, fa, EPOLLIN, never_called), 0);
    watch_remove(r, &p.a);
    close(fa);
    close(fb);
    reactor_destroy(r);
}

struct polling {
    struct poller poller;
    struct reactor *r;
    int polls, flushes, arms;
};

static unsigned poll_thrice(struct poller *p)
{
    struct polling *pl = container_of(p, struct polling, poller);

    return pl->polls++ < 3;
}

static void count_flush(struct poller *p)
{
    container_of(p, struct polling, poller)->flushes++;
}

static bool refuse_twice(struct poller *p)
{
    struct polling *pl = container_of(p, struct polling, poller);

    if (++pl->arms < 3)
        return false;
    reactor_stop(pl->r);
    return true;
}

static void pollers_are_flushed_after_work_and_armed_before_sleep(void **state)
{
    struct reactor *r = reactor_create("test", NULL);
    struct polling p = {.r = r};

    p.poller = (struct poller){.poll = poll_thrice, .flush = count_flush, .arm = refuse_twice};
    poller_add(r, &p.poller);
    reactor_run(r);
    assert_int_equal(p.flushes, 3);
    assert_int_equal(p.arms, 3);
    poller_remove(r, &p.poller);
    reactor_destroy(r);
}

struct worker {
    struct poller p;
    struct timer t;
    struct reactor *r;
    bool at_work;
};

static void spend_ms(long ms)
{
    struct timespec begin, now;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < ms);
}

static void stop_now(struct timer *t)
{
    reactor_stop(container_of(t, struct worker, t)->r);
}

/* One turn of work that takes 30 ms, then turns of 5 ms each that find nothing. */
static unsigned work_once(struct poller *p)
{
    struct worker *w = container_of(p, struct worker, p);

    if (w->at_work) {
        spend_ms(30);
        w->at_work = false;
        return 1;
    }
    if (!w->t.armed)
        timer_arm(w->r, &w->t, 50, stop_now);
    spend_ms(5);
    return 0;
}

static struct reactor_times times_of(uint32_t window_us)
{
    struct worker w = {.p.poll = work_once, .at_work = true};
    struct reactor_times times;

    w.r = reactor_create("test", NULL);
    times = reactor_get_times(w.r);
    assert_true(times.busy_ns == 0 && times.idle_ns == 0);
    reactor_set_poll_window(w.r, window_us);
    poller_add(w.r, &w.p);
    reactor_run(w.r);
    times = reactor_get_times(w.r);
    assert_true(reactor_tick_rate(w.r) > 1000000);
    assert_true(reactor_tick_rate(w.r) == reactor_tick_rate(w.r));
    poller_remove(w.r, &w.p);
    reactor_destroy(w.r);
    return times;
}

/* However slow the machine is: all turns between the work and the timer are idle. */
static void work_is_busy_and_polling_in_vain_or_sleep_is_idle(void **state)
{
    const uint32_t windows[] = {0, 1000000};

    for (unsigned i = 0; i < ARRAY_SIZE(windows); i++) {
        struct reactor_times t = times_of(windows[i]);

        assert_true(t.busy_ns >= 30000000);
        assert_true(t.idle_ns >= 50000000);
        assert_int_equal(t.sleeps, i == 0);
        assert_true(t.cpumask != 0 && t.tid > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mail_arrives_in_order_and_wakes_a_sleeper),
        cmocka_unit_test(timers_fire_in_order_of_time),
        cmocka_unit_test(a_watch_removed_by_its_neighbour_does_not_fire),
        cmocka_unit_test(pollers_are_flushed_after_work_and_armed_before_sleep),
        cmocka_unit_test(work_is_busy_and_polling_in_vain_or_sleep_is_idle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
