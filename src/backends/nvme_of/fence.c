/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/fence.h"

#include "base/clock.h"
#include "base/util.h"

#include <string.h>

enum {
    KAS_UNIT_MS = 100,
    NO_KEEP_ALIVE_MS = 60000, /* nothing bounds it: longer than any command that is not stuck */
};

/* NVMe Base 2.1, section 9.6 (Communication Loss Handling): a controller with Command Based Keep
 * Alive notices a loss within KATO of the host's last command, one with Traffic Based Keep Alive
 * within 2 x KATO, because its timer begins anew at each expiry with traffic before it. The host
 * waits 2 x or 3 x KATO after it knows of the loss, and CQT for the controller to end what it has
 * begun. A controller that does not report CQT has the one KATO above the time of noticing for
 * that: with the default of 5 s as long as storage takes for a command that will ever end. The
 * controller rounds KATO up to its granularity (KAS). */
struct fence_rule fence_rule_for(const struct nof_ctrl *ctrl, uint32_t kato_ms)
{
    uint32_t unit = ctrl ? ctrl->kas * (uint32_t)KAS_UNIT_MS : 0, kato, notice;

    if (ctrl && ctrl->fence_mark)
        return (struct fence_rule){FENCE_CONFIRMED, 0};
    if (kato_ms == 0 || (ctrl && ctrl->kas == 0))
        return (struct fence_rule){FENCE_NONE, NO_KEEP_ALIVE_MS};
    kato = unit ? (kato_ms + unit - 1) / unit * unit : kato_ms;
    notice = ctrl && ctrl->traffic_keep_alive ? 3 * kato : 2 * kato;
    if (ctrl && ctrl->cqt_ms)
        return (struct fence_rule){FENCE_CQT, notice + ctrl->cqt_ms};
    return (struct fence_rule){FENCE_TIME, notice};
}

uint32_t fence_bound_ms(const struct nof_ctrl *ctrl, uint32_t kato_ms)
{
    struct nof_ctrl unmarked = *ctrl;

    unmarked.fence_mark = false;
    return fence_rule_for(&unmarked, kato_ms).delay_ms;
}

const char *fence_kind_name(enum fence_kind kind)
{
    static const char *const names[] = {
        [FENCE_CONFIRMED] = "confirmed",
        [FENCE_CQT] = "cqt",
        [FENCE_TIME] = "time",
        [FENCE_NONE] = "none",
    };

    return names[kind];
}

/* ---- the table ---- */

static bool overlaps(const struct fence_range *r, uint64_t first, uint64_t end)
{
    return r->first < end && first < r->end;
}

/* The range that has the guard, or NULL when that has ended. */
static struct fence_range *find_guard(struct fence_table *t, uint64_t guard, uint64_t first,
                                      uint64_t end)
{
    for (unsigned i = 0; guard && i < t->n; i++) {
        struct fence_range *r = &t->r[i];

        if (r->low <= guard && guard <= r->high && r->first <= first && end <= r->end)
            return r;
    }
    return NULL;
}

/* When there is no room a pair of neighbours becomes the one range that covers both. */
static void merge_closest(struct fence_table *t)
{
    uint64_t best = UINT64_MAX;
    struct fence_range *a = t->r, *b;

    for (unsigned i = 0; i + 1 < t->n; i++) {
        uint64_t next = t->r[i + 1].first, gap = next > t->r[i].end ? next - t->r[i].end : 0;

        if (gap < best) {
            best = gap;
            a = &t->r[i];
        }
    }
    b = a + 1;
    a->end = MAX(a->end, b->end);
    /* A part whose end the next association decides makes the whole wait for it. */
    if ((a->until_us == FENCE_UNKNOWN && !a->assoc) || (b->until_us == FENCE_UNKNOWN && !b->assoc))
        a->assoc = 0;
    else
        a->assoc = MAX(a->assoc, b->assoc);
    a->until_us = MAX(a->until_us, b->until_us);
    a->lost_us = MAX(a->lost_us, b->lost_us);
    if (a->path != b->path)
        a->path = FENCE_NO_PATH;
    a->marked &= b->marked;
    a->low = MIN(a->low, b->low);
    a->high = MAX(a->high, b->high);
    t->n--;
    memmove(b, b + 1, (size_t)(t->r + t->n - b) * sizeof(*b));
}

void fence_table_add(struct fence_table *t, const struct fence_range *range)
{
    unsigned at = t->n;

    while (at > 0 && t->r[at - 1].first > range->first) {
        t->r[at] = t->r[at - 1];
        at--;
    }
    t->r[at] = *range;
    if (++t->n > FENCE_RANGES)
        merge_closest(t);
}

bool fence_table_prune(struct fence_table *t, uint64_t now_us)
{
    unsigned kept = 0, n = t->n;

    for (unsigned i = 0; i < n; i++)
        if (t->r[i].until_us > now_us)
            t->r[kept++] = t->r[i];
    t->n = kept;
    return kept < n;
}

/* ---- shared between threads ---- */

static void copy_out(struct fence *f, struct fence_table *t)
{
    uint32_t n = atomic_load_explicit(&f->active, memory_order_relaxed);

    t->n = MIN(n, (uint32_t)FENCE_RANGES);
    for (unsigned i = 0; i < t->n; i++) {
        uint64_t words[ARRAY_SIZE(f->slots[i].word)];

        for (unsigned w = 0; w < ARRAY_SIZE(words); w++)
            words[w] = atomic_load_explicit(&f->slots[i].word[w], memory_order_relaxed);
        memcpy(&t->r[i], words, sizeof(words));
    }
}

/* Under f->lock. */
static void publish(struct fence *f, const struct fence_table *t)
{
    uint32_t version = atomic_load_explicit(&f->version, memory_order_relaxed);

    atomic_store_explicit(&f->version, version + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (unsigned i = 0; i < t->n; i++) {
        uint64_t words[ARRAY_SIZE(f->slots[i].word)];

        memcpy(words, &t->r[i], sizeof(words));
        for (unsigned w = 0; w < ARRAY_SIZE(words); w++)
            atomic_store_explicit(&f->slots[i].word[w], words[w], memory_order_relaxed);
    }
    atomic_store_explicit(&f->active, t->n, memory_order_relaxed);
    atomic_store_explicit(&f->version, version + 2, memory_order_release);
}

/* A consistent copy: without a lock, unless a writer comes between. */
static void snapshot(struct fence *f, struct fence_table *t)
{
    uint32_t version = atomic_load_explicit(&f->version, memory_order_acquire);

    if (!(version & 1)) {
        copy_out(f, t);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&f->version, memory_order_relaxed) == version)
            return;
    }
    pthread_mutex_lock(&f->lock);
    copy_out(f, t);
    pthread_mutex_unlock(&f->lock);
}

static void prune(struct fence *f)
{
    struct fence_table t;

    pthread_mutex_lock(&f->lock);
    copy_out(f, &t);
    if (fence_table_prune(&t, clock_us()))
        publish(f, &t);
    pthread_mutex_unlock(&f->lock);
}

void fence_init(struct fence *f)
{
    memset(f, 0, sizeof(*f));
    pthread_mutex_init(&f->lock, NULL);
}

void fence_fini(struct fence *f)
{
    pthread_mutex_destroy(&f->lock);
}

/* Under f->lock. Is an association set up that came after the lost one on its path? *delay_us: from
 * the loss to its end. */
static bool next_is_ready(const struct fence *f, const struct fence_loss *loss, uint64_t *delay_us)
{
    bool ready = false;

    *delay_us = 0;
    for (unsigned i = 0; i < FENCE_PATHS; i++) {
        if (!f->ready[i].assoc || (loss->assoc && i != loss->path))
            continue;
        ready |= f->ready[i].assoc > loss->assoc;
        *delay_us = MAX(*delay_us, f->ready[i].delay_us);
    }
    return ready;
}

/* Under f->lock. */
static void add(struct fence *f, const struct fence_loss *loss, uint64_t first, uint64_t end,
                uint64_t *guard)
{
    uint64_t now = clock_us(), number = ++f->next_guard, delay_us;
    bool late = next_is_ready(f, loss, &delay_us);
    bool alone = (loss->assoc == 0 || !late) && !loss->crossed;
    struct fence_range *own, range = {
                                 .first = first,
                                 .end = end,
                                 .until_us = FENCE_UNKNOWN,
                                 .lost_us = now,
                                 .assoc = loss->assoc,
                                 .path = loss->path,
                                 .marked = loss->marked,
                                 .low = number,
                                 .high = number,
                             };
    struct fence_table t;

    if (late && delay_us == 0) { /* confirmed: it has ended already */
        *guard = 0;
        return;
    }
    if (late)
        range.until_us = now + delay_us;
    else if (loss->bound_us != FENCE_UNKNOWN)
        range.until_us = now + loss->bound_us;
    copy_out(f, &t);
    fence_table_prune(&t, now);
    own = find_guard(&t, *guard, first, end);
    if (own && alone) {
        own->until_us = MAX(own->until_us, range.until_us);
        own->lost_us = now;
        own->assoc = MAX(own->assoc, loss->assoc);
        if (own->path != loss->path)
            own->path = FENCE_NO_PATH;
        own->marked &= loss->marked;
        own->high = number;
        *guard = number;
        publish(f, &t);
        return;
    }
    for (unsigned i = 0; i < t.n; i++)
        if (overlaps(&t.r[i], first, end))
            alone = false;
    fence_table_add(&t, &range);
    *guard = alone ? number : 0;
    publish(f, &t);
}

void fence_add(struct fence *f, const struct fence_loss *loss, uint64_t first, uint64_t end,
               uint64_t *guard)
{
#ifdef SNAP_LEAVE_OUT_REMOTE_FENCE
    *guard = 0;
    return;
#endif
    pthread_mutex_lock(&f->lock);
    add(f, loss, first, end, guard);
    pthread_mutex_unlock(&f->lock);
}

void fence_ready(struct fence *f, unsigned path, uint64_t assoc, uint64_t begun_us,
                 uint64_t delay_us)
{
    uint64_t now = clock_us(), lost = 0;
    struct fence_table t;

    pthread_mutex_lock(&f->lock);
    f->ready[path].assoc = assoc;
    f->ready[path].delay_us = delay_us;
    copy_out(f, &t);
    /* One end for all that were lost together: whoever waits for the first must not be overtaken by
     * its own late copy. A former process has died when we do not know; not after now. */
    for (unsigned i = 0; i < t.n; i++)
        if (t.r[i].until_us == FENCE_UNKNOWN && t.r[i].assoc < assoc)
            lost = t.r[i].assoc ? MAX(lost, t.r[i].lost_us) : now;
    for (unsigned i = 0; i < t.n; i++) {
        struct fence_range *r = &t.r[i];
        bool before = r->assoc < assoc && (r->path == path || r->assoc == 0);

        if (delay_us == 0 && r->marked && (before || r->lost_us + FENCE_CLOSED_US <= begun_us))
            r->until_us = FENCE_OVER;
        else if (r->until_us == FENCE_UNKNOWN && r->assoc < assoc)
            r->until_us = lost + delay_us;
        else if (before && r->assoc)
            r->until_us = MAX(r->until_us, r->lost_us + delay_us);
    }
    fence_table_prune(&t, now);
    publish(f, &t);
    pthread_mutex_unlock(&f->lock);
}

void fence_path_gone(struct fence *f, unsigned path)
{
    pthread_mutex_lock(&f->lock);
    f->ready[path].assoc = f->ready[path].delay_us = 0;
    pthread_mutex_unlock(&f->lock);
}

uint64_t fence_blocks(struct fence *f, uint64_t now_us, uint64_t first, uint64_t end,
                      uint64_t guard)
{
    uint64_t until = FENCE_OVER;
    struct fence_table t;

    if (atomic_load_explicit(&f->active, memory_order_relaxed) == 0)
        return FENCE_OVER;
    snapshot(f, &t);
    if (fence_table_prune(&t, now_us))
        prune(f);
    if (find_guard(&t, guard, first, end))
        return FENCE_OVER;
    for (unsigned i = 0; i < t.n; i++)
        if (overlaps(&t.r[i], first, end))
            until = MAX(until, t.r[i].until_us);
    return until;
}

unsigned fence_ranges(struct fence *f)
{
    prune(f);
    return atomic_load_explicit(&f->active, memory_order_relaxed);
}
