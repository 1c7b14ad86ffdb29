/* SPDX-License-Identifier: BSD-3-Clause
 *
 * runtime/reactor.h - one thread, one event loop: descriptors, timers, pollers, mail from other
 * threads. The same type serves the polling I/O threads, the event-driven control thread and
 * snap_emu.
 *
 * Thread: everything is called on the reactor's own thread unless a comment says otherwise.
 * Owner: watches, timers and pollers are the caller's memory; they must be removed before they go
 * away. It is safe to remove any of them (also oneself) from inside a callback. */
#ifndef RUNTIME_REACTOR_H
#define RUNTIME_REACTOR_H

#include "base/err.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct reactor;

/* Creates a reactor without a thread; run it with reactor_run() on the calling thread, or
 * reactor_spawn(). NULL and err filled: no memory or descriptors. */
struct reactor *reactor_create(const char *name, struct err *err);
/* It does not run any more; accepts NULL. Watches, timers and mail that are left are forgotten. */
void reactor_destroy(struct reactor *r);

/* Runs until reactor_stop(). */
void reactor_run(struct reactor *r);
/* Runs on a new thread pinned to cpu (-1: not pinned). 0 or -errno. */
int reactor_spawn(struct reactor *r, int cpu, struct err *err);
/* Any thread: asks the loop to end; reactor_join() waits for a spawned one. */
void reactor_stop(struct reactor *r);
void reactor_join(struct reactor *r);

/* The reactor whose thread this is, or NULL. */
struct reactor *reactor_current(void);
const char *reactor_name(const struct reactor *r);
/* Time as clock_us() has it, read once per turn. */
uint64_t reactor_now_us(struct reactor *r);

/* ---- mail: any thread; fn runs once on r's thread, in order of posting from one thread ---- */
struct mail {
    struct mail *next; /* the mailbox's */
    void (*fn)(struct mail *m);
};
/* Owner: m is the mailbox's until fn runs, then the receiver's. Never fails, never blocks. */
void reactor_post(struct reactor *r, struct mail *m);

/* ---- descriptors (level triggered) ---- */
struct watch {
    int fd;
    uint32_t events; /* EPOLLIN | EPOLLOUT */
    void (*ready)(struct watch *w, uint32_t events);
    bool active; /* the reactor's */
};
/* ready() runs on the reactor, with the events that are there. fd and w stay the caller's, and stay
 * until watch_remove(). 0 or -errno of epoll_ctl(). On the reactor, or before it runs; the same for
 * the next two, which are harmless for a watch that is not active. */
int watch_add(struct reactor *r, struct watch *w, int fd, uint32_t events,
              void (*ready)(struct watch *w, uint32_t events));
void watch_modify(struct reactor *r, struct watch *w, uint32_t events);
void watch_remove(struct reactor *r, struct watch *w);

/* ---- timers ---- */
struct timer {
    struct list node; /* the reactor's */
    uint64_t due_us;
    void (*fire)(struct timer *t);
    bool armed;
};
/* Arms (or re-arms) t to fire once, on the reactor, after the delay. t must have been zeroed before
 * its first use. On the reactor. */
void timer_arm(struct reactor *r, struct timer *t, uint64_t delay_ms,
               void (*fire)(struct timer *t));
void timer_arm_us(struct reactor *r, struct timer *t, uint64_t delay_us,
                  void (*fire)(struct timer *t));
/* Harmless when it is not armed; its fire() does not run any more. */
void timer_cancel(struct timer *t);

/* ---- pollers: called every turn while the reactor is awake ---- */
struct poller {
    struct list node; /* the reactor's */
    /* Does a bounded amount of work; returns how much (0: nothing was there). */
    unsigned (*poll)(struct poller *p);
    /* End of a turn in which anybody did work: ring the doorbell, send the bytes. May be NULL. */
    void (*flush)(struct poller *p);
    /* Before the reactor sleeps: ask for a wake-up (by a watched descriptor or reactor_wake()),
     * then look once more. false: there is work, do not sleep. NULL: the poller's descriptors are
     * watched anyway. */
    bool (*arm)(struct poller *p);
    /* After a sleep: no wake-ups needed any more. May be NULL. */
    void (*disarm)(struct poller *p);
    /* Longest sleep this poller can afford in microseconds (it cannot be notified); UINT32_MAX:
     * any. May be NULL. */
    uint32_t (*nap_us)(struct poller *p);
};
/* On the reactor, or before it runs; p stays until it is removed, which any callback may do. */
void poller_add(struct reactor *r, struct poller *p);
void poller_remove(struct reactor *r, struct poller *p);

/* How long the reactor polls after the last work before it sleeps. 0 (default): sleeps at once. */
void reactor_set_poll_window(struct reactor *r, uint32_t us);

/* An eventfd that wakes the reactor when written by another process; owned by the reactor. */
int reactor_wake_fd(struct reactor *r);
/* Set to 1 (seq_cst) while the reactor sleeps or is about to; lives in caller-given shared memory
 * when set, so that another process knows whether to write reactor_wake_fd(). */
void reactor_set_sleep_flag(struct reactor *r, _Atomic uint32_t *flag);

#endif
