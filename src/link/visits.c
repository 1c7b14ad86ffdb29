/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A reactor serves many functions, most of them idle. Only hot ones are looked at each turn; the
 * others are armed: their host rings, snap_emu sets their bit in the wake page, and that makes them
 * hot again. A function whose doorbell page is mapped by its host cannot ring and stays hot: its
 * reactor naps instead of sleeping. */
#include "link/inside.h"

#include <stdlib.h>

enum {
    /* With so many commands at the backend and something done so lately, the host is not asked to
     * ring: naps cost less than its messages, and the completions need the reactor anyway. */
    STREAM_DEPTH = 4,
    STREAM_US = 20000,
    IDLE_US = 200,        /* a hot function without work for so long is armed and left */
    NAP_SHORT_US = 50,    /* mapped doorbells: within NAP_RECENT_US of the last I/O */
    NAP_MIDDLE_US = 1000, /* ... within NAP_LONG_AGO_US */
    NAP_LONG_US = 5000,   /* ... and later */
    NAP_RECENT_US = 100000,
    NAP_LONG_AGO_US = 10000000,
};

struct visits {
    struct poller poller;
    struct reactor *reactor;
    struct wake_reactor *wake;
    struct list hot;
    struct function *slots[WAKE_SLOTS];
    unsigned words; /* of wake->active that are in use */
};

void visits_heat(struct function *f)
{
    if (!f->visits)
        return;
    f->last_work_us = reactor_now_us(f->visits->reactor);
    if (f->hot)
        return;
    f->hot = true;
    list_append(&f->visits->hot, &f->hot_node);
}

/* It cannot ring, or need not: the reactor naps instead of sleeping. */
static bool naps(struct function *f, uint64_t now)
{
    return (function_flags(f) & STATE_DOORBELLS_MAPPED) || f->nsilent > 0 ||
           (now - f->last_work_us < STREAM_US && function_inflight(f) >= STREAM_DEPTH);
}

static void cool(struct function *f)
{
    f->hot = false;
    list_remove(&f->hot_node);
}

/* Functions whose bit snap_emu has set become hot. */
static unsigned collect_bits(struct visits *v)
{
    unsigned n = 0;

    for (unsigned w = 0; w < v->words; w++) {
        uint64_t bits;

        if (likely(!atomic_load_explicit(&v->wake->active[w], memory_order_relaxed)))
            continue;
        bits = atomic_exchange(&v->wake->active[w], 0);
        for (; bits; bits &= bits - 1) {
            struct function *f = v->slots[w * 64 + (unsigned)__builtin_ctzll(bits)];

            if (f) {
                visits_heat(f);
                n++;
            }
        }
    }
    return n;
}

static unsigned visits_poll(struct poller *p)
{
    struct visits *v = container_of(p, struct visits, poller);
    uint64_t now = reactor_now_us(v->reactor);
    unsigned total = collect_bits(v);

    list_for_each_safe(it, &v->hot)
    {
        struct function *f = list_entry(it, struct function, hot_node);
        unsigned n = function_poll(f);

        if (n > 0) {
            f->last_work_us = now;
            total += n;
        } else if (now - f->last_work_us > IDLE_US && !naps(f, now) && function_arm(f)) {
            cool(f);
        }
    }
    return total;
}

static void visits_flush(struct poller *p)
{
    struct visits *v = container_of(p, struct visits, poller);

    list_for_each_safe(it, &v->hot) function_flush(list_entry(it, struct function, hot_node));
}

static bool visits_arm(struct poller *p)
{
    struct visits *v = container_of(p, struct visits, poller);
    uint64_t now = reactor_now_us(v->reactor);

    list_for_each_safe(it, &v->hot)
    {
        struct function *f = list_entry(it, struct function, hot_node);

        if (naps(f, now))
            continue;
        if (!function_arm(f))
            return false;
        cool(f);
    }
    for (unsigned w = 0; w < v->words; w++)
        if (atomic_load(&v->wake->active[w]))
            return false;
    return true;
}

static uint32_t visits_nap_us(struct poller *p)
{
    const struct visits *v = container_of(p, struct visits, poller);
    uint64_t now = reactor_now_us(v->reactor), youngest = UINT64_MAX;

    list_for_each(it, &v->hot)
    {
        const struct function *f = list_entry(it, struct function, hot_node);

        youngest = MIN(youngest, now - f->last_work_us);
    }
    if (youngest == UINT64_MAX)
        return UINT32_MAX;
    if (youngest < NAP_RECENT_US)
        return NAP_SHORT_US;
    return youngest < NAP_LONG_AGO_US ? NAP_MIDDLE_US : NAP_LONG_US;
}

struct visits *visits_create(struct reactor *r, struct wake_reactor *wake)
{
    struct visits *v = calloc(1, sizeof(*v));

    if (!v)
        return NULL;
    list_init(&v->hot);
    v->reactor = r;
    v->wake = wake;
    v->poller = (struct poller){
        .poll = visits_poll, .flush = visits_flush, .arm = visits_arm, .nap_us = visits_nap_us};
    poller_add(r, &v->poller);
    return v;
}

void visits_destroy(struct visits *v)
{
    if (!v)
        return;
    poller_remove(v->reactor, &v->poller);
    free(v);
}

void visits_add(struct visits *v, struct function *f, unsigned slot)
{
    f->visits = v;
    f->slot = slot;
    v->slots[slot] = f;
    v->words = MAX(v->words, slot / 64 + 1);
    visits_heat(f);
}

void visits_remove(struct function *f)
{
    if (!f->visits)
        return;
    cool(f);
    f->visits->slots[f->slot] = NULL;
    f->visits = NULL;
}
