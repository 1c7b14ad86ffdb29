/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/clock.h"
#include "runtime/inside.h"

void timer_arm_us(struct reactor *r, struct timer *t, uint64_t delay_us,
                  void (*fire)(struct timer *t))
{
    struct list *at;

    timer_cancel(t);
    t->due_us = clock_us() + delay_us;
    t->fire = fire;
    t->armed = true;
    /* Most timers are the latest: look from the end. */
    for (at = r->timers.prev; at != &r->timers; at = at->prev)
        if (list_entry(at, struct timer, node)->due_us <= t->due_us)
            break;
    list_prepend(at, &t->node);
}

void timer_arm(struct reactor *r, struct timer *t, uint64_t delay_ms, void (*fire)(struct timer *t))
{
    timer_arm_us(r, t, delay_ms * 1000, fire);
}

void timer_cancel(struct timer *t)
{
    if (!t->armed)
        return;
    t->armed = false;
    list_remove(&t->node);
}

unsigned timers_run(struct reactor *r)
{
    unsigned n = 0;

    while (!list_empty(&r->timers)) {
        struct timer *t = list_entry(r->timers.next, struct timer, node);

        if (t->due_us > r->now_us)
            break;
        timer_cancel(t);
        t->fire(t);
        n++;
    }
    return n;
}

int64_t timers_next_us(struct reactor *r)
{
    const struct timer *t;

    if (list_empty(&r->timers))
        return -1;
    t = list_entry(r->timers.next, const struct timer, node);
    return t->due_us > r->now_us ? (int64_t)(t->due_us - r->now_us) : 0;
}
