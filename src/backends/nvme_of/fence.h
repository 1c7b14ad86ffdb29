/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/fence.h - inside of the room: the fence against late writes of one namespace.
 *
 * A write that a target has accepted over a connection that died may still be executed: after it
 * was sent again and completed, and after a newer write to the same blocks. So its blocks are
 * guarded from the loss until the old association is known to have ended. What was in flight is
 * sent again at once, by another path when there is one; whatever else would change guarded blocks
 * waits, on all paths. Reads and flushes never wait (a flush covers completed writes only).
 *
 * When it ends: an association that was begun after the loss, by whatever path, confirms the end
 * when both targets mark that they wait for it (FENCE_CONFIRMED; the mark speaks for the whole
 * subsystem). Else, and when no path is made anew, a bounded time after the loss. For writes of a
 * former process that time counts from the first association.
 *
 * Who may go: a request of a loss gets the number of its guard when nothing guarded overlapped it;
 * it needs not wait while that guard lasts, because everything that overlaps it waits. When another
 * guard was there first it gets none and waits like any other: then one of two overlapping writes
 * is executed for certain after the last late copy of both. So does one that was lost after the
 * next association had begun, or beside one on another path that overlaps it: others may have sent
 * already what it must not be mixed with.
 *
 * Thread: any. The data path looks at "active" alone, one relaxed load: 0 for all but a few seconds
 * after a loss. That is enough, although another reactor may be adding a guard at this moment: a
 * request is added before its queue reports the loss, hence before the host begins the next
 * association, hence before it is sent again and can complete. A write that is newer is submitted
 * by a host that has seen that completion, so its load comes later and sees the guard. A write
 * beside it that does not is not newer, and the copy sent again is executed after it. While a fence
 * is active readers copy the table under a sequence count, without a lock; writers (a loss, a new
 * association, a recovered request, the end) take one. */
#ifndef BACKENDS_NVME_OF_FENCE_H
#define BACKENDS_NVME_OF_FENCE_H

#include "backends/nvme_of/identify.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { FENCE_RANGES = 128 };

/* How the end of an old association is known, best first. */
enum fence_kind {
    FENCE_CONFIRMED, /* the target ends it before it answers the Connect of the new one */
    FENCE_CQT,       /* the target says how long it takes */
    FENCE_TIME,      /* by the keep-alive timeout */
    FENCE_NONE,      /* the target has no keep-alive timer: it may never notice that we are gone */
};

struct fence_rule {
    enum fence_kind kind;
    uint32_t delay_ms; /* from the loss; 0: none */
};

/* For a target, by its Identify Controller and the keep-alive timeout of our Connect; ctrl NULL: it
 * has not been reached yet. */
struct fence_rule fence_rule_for(const struct nof_ctrl *ctrl, uint32_t kato_ms);
/* The time after a loss for when nothing confirms the end: also of FENCE_CONFIRMED. */
uint32_t fence_bound_ms(const struct nof_ctrl *ctrl, uint32_t kato_ms);
const char *fence_kind_name(enum fence_kind kind);

/* When something ends: CLOCK_MONOTONIC, as reactor_now_us(). */
#define FENCE_OVER 0ULL
#define FENCE_UNKNOWN UINT64_MAX

/* How a request was lost. */
struct fence_loss {
    uint64_t assoc;    /* with this association; 0: with a process before this one */
    uint64_t bound_us; /* the old association ends so long after now, when nothing else is heard;
                          FENCE_UNKNOWN: fence_ready() will decide */
    unsigned path;
    bool marked;  /* its target was of FENCE_CONFIRMED */
    bool crossed; /* what overlaps it is under way on another path */
};

enum {
    FENCE_PATHS = 64,
    FENCE_NO_PATH = FENCE_PATHS,
    /* By then every queue of a lost association is closed here, so that no command of it passes for
     * a sign of life after the Connect of one of another path. */
    FENCE_CLOSED_US = 1000000,
};

struct fence_range {
    uint64_t first, end; /* blocks [first, end) */
    uint64_t until_us;   /* or FENCE_UNKNOWN: before the next association */
    uint64_t lost_us;    /* newest loss */
    uint64_t assoc;      /* newest association lost; 0: of a process before this one */
    uint64_t path;       /* of assoc; FENCE_NO_PATH: of several */
    uint64_t marked;     /* see fence_loss */
    uint64_t low, high;  /* numbers of the guards in it */
};
struct fence_table { /* sorted by first */
    unsigned n;
    struct fence_range r[FENCE_RANGES + 1]; /* one more than is kept */
};

struct fence_slot {
    _Atomic uint64_t word[sizeof(struct fence_range) / sizeof(uint64_t)];
};

struct fence {
    _Atomic uint32_t active;  /* ranges */
    _Atomic uint32_t waiting; /* requests, all queues */
    _Atomic uint32_t version; /* odd: being written */
    struct fence_slot slots[FENCE_RANGES];
    pthread_mutex_t lock; /* of writers, and of: */
    uint64_t next_guard;
    struct {
        uint64_t assoc;    /* the newest one that was set up; 0: none yet */
        uint64_t delay_us; /* from a loss to the end of all before it */
    } ready[FENCE_PATHS];
};

void fence_init(struct fence *f);
void fence_fini(struct fence *f);

/* [first, end) may be written late: it was lost now or before. *guard: the request's guard number
 * or 0, before and after. */
void fence_add(struct fence *f, const struct fence_loss *loss, uint64_t first, uint64_t end,
               uint64_t *guard);
/* Association assoc of a path, begun at begun_us, is set up; those before it on this path end
 * delay_us after their loss. 0: those of all paths that were lost FENCE_CLOSED_US before it began
 * have ended. May be told again. */
void fence_ready(struct fence *f, unsigned path, uint64_t assoc, uint64_t begun_us,
                 uint64_t delay_us);
/* The path is no more; its number may be given to another one. What it lost stays guarded. */
void fence_path_gone(struct fence *f, unsigned path);
/* Until when a request for [first, end) with this guard number must wait: FENCE_OVER, a time, or
 * FENCE_UNKNOWN: fence_ready() will decide. */
uint64_t fence_blocks(struct fence *f, uint64_t now_us, uint64_t first, uint64_t end,
                      uint64_t guard);
/* Ranges still guarded; forgets the others. */
unsigned fence_ranges(struct fence *f);

/* ---- the table alone, for tests ---- */
void fence_table_add(struct fence_table *t, const struct fence_range *range);
bool fence_table_prune(struct fence_table *t, uint64_t now_us);

#endif
