/* SPDX-License-Identifier: BSD-3-Clause */
#include "runtime/reactor.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "runtime/inside.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    EVENTS_PER_TURN = 64,
    /* How often a polling thread asks whether it is being preempted, and how many times in that
       span are too many. */
    CROWD_CHECK_US = 100000,
    CROWD_SWITCHES = 8,
    /* While pollers find work, descriptors are looked at every so many turns only: a system call a
       turn is too much. */
    BUSY_TURNS_PER_EPOLL = 16,
};

static __thread struct reactor *current;

/* Begins a turn, or what follows a sleep. What is over counts as busy or idle. */
static void read_clock(struct reactor *r, bool busy)
{
    uint64_t now = clock_ns();

    *(busy ? &r->busy_ns : &r->idle_ns) += now - r->now_ns;
    r->now_ns = now;
}

static void begin_turn(struct reactor *r, bool busy)
{
    read_clock(r, busy);
    r->now_us = r->now_ns / 1000;
}

struct reactor *reactor_current(void)
{
    return current;
}

uint64_t reactor_now_us(struct reactor *r)
{
    return r->now_us;
}

static void wake_ready(struct watch *w, uint32_t events)
{
    uint64_t count;

    (void)events;
    (void)!read(w->fd, &count, sizeof(count));
}

struct reactor *reactor_create(const char *name, struct err *err)
{
    struct reactor *r = calloc(1, sizeof(*r));

    if (!r) {
        err_set(err, -ENOMEM, "no memory for reactor '%s'", name);
        return NULL;
    }
    snprintf(r->name, sizeof(r->name), "%s", name);
    list_init(&r->timers);
    list_init(&r->pollers);
    r->sleep_flag = &r->own_sleep_flag;
    r->made = tick_moment();
    r->now_ns = clock_ns();
    r->now_us = r->now_ns / 1000;
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->epoll_fd < 0 || r->wake_fd < 0 ||
        watch_add(r, &r->wake, r->wake_fd, EPOLLIN, wake_ready) < 0) {
        err_set(err, -errno, "reactor '%s': %s", name, strerror(errno));
        reactor_destroy(r);
        return NULL;
    }
    return r;
}

void reactor_destroy(struct reactor *r)
{
    if (!r)
        return;
    if (r->epoll_fd > 0)
        fd_close(&r->epoll_fd);
    if (r->wake_fd > 0)
        fd_close(&r->wake_fd);
    free(r);
}

/* ---- mail ---- */

void reactor_post(struct reactor *r, struct mail *m)
{
    struct mail *head = atomic_load_explicit(&r->inbox, memory_order_relaxed);

    do
        m->next = head;
    while (!atomic_compare_exchange_weak(&r->inbox, &head, m));
    if (atomic_load(&r->asleep)) {
        uint64_t one = 1;

        (void)!write(r->wake_fd, &one, sizeof(one));
    }
}

static unsigned run_mail(struct reactor *r)
{
    struct mail *newest, *oldest = NULL;
    unsigned n = 0;

    if (!atomic_load_explicit(&r->inbox, memory_order_relaxed))
        return 0;
    newest = atomic_exchange(&r->inbox, NULL);
    while (newest) {
        struct mail *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct mail *m = oldest;

        oldest = m->next;
        m->fn(m);
        n++;
    }
    return n;
}

/* ---- descriptors ---- */

int watch_add(struct reactor *r, struct watch *w, int fd, uint32_t events,
              void (*ready)(struct watch *w, uint32_t events))
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    *w = (struct watch){.fd = fd, .events = events, .ready = ready, .active = true};
    if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        w->active = false;
        return -errno;
    }
    return 0;
}

void watch_modify(struct reactor *r, struct watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    if (!w->active || w->events == events)
        return;
    w->events = events;
    epoll_ctl(r->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void watch_remove(struct reactor *r, struct watch *w)
{
    if (!w->active)
        return;
    w->active = false;
    epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    for (int i = 0; i < r->nevents; i++) /* it may stand further down in this turn's list */
        if (r->events[i].data.ptr == w)
            r->events[i].data.ptr = NULL;
}

/* Waits for at most timeout (NULL: as long as it takes). A kernel before 5.11, or a filter that
 * knows no newer system calls, lacks epoll_pwait2: then the epoll itself is what is polled. */
static int wait_events(struct reactor *r, struct epoll_event *events,
                       const struct timespec *timeout)
{
    struct pollfd epoll = {.fd = r->epoll_fd, .events = POLLIN};

    if (!r->no_pwait2) {
        int n = epoll_pwait2(r->epoll_fd, events, EVENTS_PER_TURN, timeout, NULL);

        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        r->no_pwait2 = true;
    }
    if (ppoll(&epoll, 1, timeout, NULL) <= 0)
        return 0;
    return epoll_wait(r->epoll_fd, events, EVENTS_PER_TURN, 0);
}

static unsigned run_watches(struct reactor *r, int64_t timeout_us)
{
    struct timespec ts = {timeout_us / 1000000, (timeout_us % 1000000) * 1000};
    struct epoll_event events[EVENTS_PER_TURN];
    unsigned done = 0;
    int n;

    n = wait_events(r, events, timeout_us < 0 ? NULL : &ts);
    if (timeout_us != 0)
        read_clock(r, false);
    if (n <= 0)
        return 0;
    r->events = events;
    r->nevents = n;
    for (int i = 0; i < n; i++) {
        struct watch *w = events[i].data.ptr;

        if (w) {
            w->ready(w, events[i].events);
            done++;
        }
    }
    r->nevents = 0;
    r->events = NULL;
    return done;
}

/* ---- pollers ---- */

void poller_add(struct reactor *r, struct poller *p)
{
    list_append(&r->pollers, &p->node);
}

void poller_remove(struct reactor *r, struct poller *p)
{
    if (r->next_poller == &p->node)
        r->next_poller = p->node.next;
    list_remove(&p->node);
}

/* Visits all pollers; survives the removal of any of them by a callback. */
#define for_each_poller(r, p)                                                                      \
    for (struct list *it_ = (r)->pollers.next;                                                     \
         it_ != &(r)->pollers &&                                                                   \
         ((r)->next_poller = it_->next, (p) = list_entry(it_, struct poller, node), true);         \
         it_ = (r)->next_poller)

static unsigned run_pollers(struct reactor *r)
{
    struct poller *p;
    unsigned n = 0;

    for_each_poller(r, p) n += p->poll(p);
    return n;
}

static void flush_pollers(struct reactor *r)
{
    struct poller *p;

    for_each_poller(r, p)
    {
        if (p->flush)
            p->flush(p);
    }
}

static bool arm_pollers(struct reactor *r)
{
    struct poller *p;
    bool quiet = true;

    for_each_poller(r, p)
    {
        if (p->arm && !p->arm(p))
            quiet = false;
    }
    return quiet;
}

static void disarm_pollers(struct reactor *r)
{
    struct poller *p;

    for_each_poller(r, p)
    {
        if (p->disarm)
            p->disarm(p);
    }
}

/* -1: as long as it takes. */
static int64_t sleep_us(struct reactor *r)
{
    int64_t us = timers_next_us(r);
    struct poller *p;

    for_each_poller(r, p)
    {
        uint32_t nap = p->nap_us ? p->nap_us(p) : UINT32_MAX;

        if (nap != UINT32_MAX && (us < 0 || (int64_t)nap < us))
            us = nap;
    }
    return us;
}

/* ---- the loop ---- */

static unsigned sleep_turn(struct reactor *r)
{
    unsigned work = 0;

    atomic_store(r->sleep_flag, 1);
    atomic_store(&r->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst);
    if (arm_pollers(r) && !atomic_load(&r->inbox) && !atomic_load(&r->stop))
        work = run_watches(r, sleep_us(r));
    atomic_store(&r->asleep, 0);
    atomic_store(r->sleep_flag, 0);
    disarm_pollers(r);
    return work;
}

/* Processes that poll on too few cores starve each other: a thread that is preempted again and
 * again polls for less before it sleeps, and for longer again when it is left alone. */
static void mind_the_crowd(struct reactor *r)
{
    struct rusage usage;
    uint64_t preempted;

    if (r->configured_window_us == 0 || r->now_us - r->crowd_checked_us < CROWD_CHECK_US)
        return;
    r->crowd_checked_us = r->now_us;
    if (getrusage(RUSAGE_THREAD, &usage) < 0)
        return;
    preempted = (uint64_t)usage.ru_nivcsw - r->preempted;
    r->preempted = (uint64_t)usage.ru_nivcsw;
    if (preempted >= CROWD_SWITCHES)
        r->window_us /= 2;
    else
        r->window_us = MIN(r->configured_window_us, r->window_us * 2 + 1);
}

void reactor_run(struct reactor *r)
{
    unsigned busy_turns = 0;
    bool worked = false;

    current = r;
    r->now_ns = clock_ns();
    r->last_work_us = r->now_us = r->now_ns / 1000;
    while (!atomic_load_explicit(&r->stop, memory_order_relaxed)) {
        unsigned polled, work;

        begin_turn(r, worked);
        work = run_mail(r) + timers_run(r);
        polled = run_pollers(r);
        if (polled == 0 || ++busy_turns >= BUSY_TURNS_PER_EPOLL) {
            busy_turns = 0;
            if (r->configured_window_us > 0 || work + polled > 0)
                work += run_watches(r, 0);
        }
        work += polled;
        if (work == 0) {
            if (worked) /* the window begins where work has ended, which may have taken long */
                r->last_work_us = r->now_us;
            worked = false;
            if (r->now_us - r->last_work_us >= r->window_us) {
                mind_the_crowd(r);
                work = sleep_turn(r);
            }
        }
        if (work > 0) {
            worked = true;
            flush_pollers(r);
        }
    }
    current = NULL;
}

static void *thread_main(void *arg)
{
    reactor_run(arg);
    return NULL;
}

int reactor_spawn(struct reactor *r, int cpu, struct err *err)
{
    int rc = pthread_create(&r->thread, NULL, thread_main, r);

    if (rc)
        return err_set(err, -rc, "cannot start thread '%s': %s", r->name, strerror(rc));
    r->spawned = true;
    pthread_setname_np(r->thread, r->name);
    if (cpu >= 0) {
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        rc = pthread_setaffinity_np(r->thread, sizeof(set), &set);
        if (rc)
            log_line(LOG_WARNING, "runtime", "reactor %s: cannot pin to CPU %d: %s", r->name, cpu,
                     strerror(rc));
    }
    return 0;
}

void reactor_stop(struct reactor *r)
{
    uint64_t one = 1;

    atomic_store(&r->stop, true);
    (void)!write(r->wake_fd, &one, sizeof(one));
}

void reactor_join(struct reactor *r)
{
    if (r->spawned)
        pthread_join(r->thread, NULL);
    r->spawned = false;
}

void reactor_set_poll_window(struct reactor *r, uint32_t us)
{
    r->configured_window_us = r->window_us = us;
}

int reactor_wake_fd(struct reactor *r)
{
    return r->wake_fd;
}

void reactor_set_sleep_flag(struct reactor *r, _Atomic uint32_t *flag)
{
    r->sleep_flag = flag ? flag : &r->own_sleep_flag;
}

const char *reactor_name(const struct reactor *r)
{
    return r->name;
}
