/* SPDX-License-Identifier: BSD-3-Clause */
#include "link/function.h"

#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "link/crash.h"
#include "link/inside.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { POLLS_PER_POISON_CHECK = 1024 };

/* ---- kicks ---- */

static void kicked(struct watch *w, uint32_t events)
{
    struct function_kick *k = container_of(w, struct function_kick, watch);
    uint64_t n;

    (void)events;
    if (read(k->fd, &n, sizeof(n)) == sizeof(n))
        k->f->kicks_seen += n; /* those of one wake-up are one read */
    function_kick(k->f);
}

static void kick_drop(struct function_kick *k)
{
    if (k->silent)
        k->f->nsilent--;
    k->silent = false;
    if (k->fd >= 0)
        watch_remove(k->f->parts.reactor, &k->watch);
    fd_close(&k->fd);
}

void function_ignore_kicks(struct function *f)
{
    for (unsigned i = 0; f->kicks && i < FUNCTION_MAX_QUEUES; i++)
        kick_drop(&f->kicks[i]);
}

static void kicks_destroy(struct function *f)
{
    function_ignore_kicks(f);
    free(f->kicks);
}

static bool kicks_create(struct function *f)
{
    if (f->kicks)
        return true;
    f->kicks = calloc(FUNCTION_MAX_QUEUES, sizeof(*f->kicks));
    for (unsigned i = 0; f->kicks && i < FUNCTION_MAX_QUEUES; i++)
        f->kicks[i] = (struct function_kick){.f = f, .fd = -1};
    return f->kicks;
}

/* Takes fd. */
static void kick_set(struct function_kick *k, int fd, bool run)
{
    kick_drop(k);
    if (fd >= 0) {
        fd_nonblock(fd);
        if (watch_add(k->f->parts.reactor, &k->watch, fd, EPOLLIN, kicked) < 0)
            fd_close(&fd);
    }
    k->fd = fd;
    k->silent = run && fd < 0;
    k->f->nsilent += k->silent;
}

/* ---- making one ---- */

struct function *function_create(const struct function_parts *parts)
{
    struct function *f = calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    f->parts = *parts;
    f->nvectors = MIN(parts->info.num_msix, (uint32_t)FUNCTION_MAX_VECTORS);
    f->map = guest_map_create();
    f->irq_fds = malloc((f->nvectors + 1) * sizeof(int));
    f->irq_pending = calloc(f->nvectors + 1, sizeof(bool));
    list_init(&f->hot_node);
    if (!f->map || !f->irq_fds || !f->irq_pending) {
        f->parts.owned = false;
        f->nvectors = 0;
        function_destroy(f);
        return NULL;
    }
    for (unsigned i = 0; i < f->nvectors; i++)
        f->irq_fds[i] = -1;
    return f;
}

void function_destroy(struct function *f)
{
    if (!f)
        return;
    for (unsigned i = 0; i < f->nvectors; i++)
        fd_close(&f->irq_fds[i]);
    kicks_destroy(f);
    guest_region_close(f->inflight_region);
    guest_map_destroy(f->map);
    if (f->parts.owned) {
        crash_mark_remove(f->parts.state);
        munmap(f->parts.state, f->parts.state_bytes);
        munmap((void *)f->parts.doorbells, 4096);
    }
    free(f->irq_fds);
    free(f->irq_pending);
    free(f);
}

/* ---- what a device model sees ---- */

struct guest_map *function_memory(struct function *f)
{
    return f->map;
}

struct state_memory *function_state(struct function *f)
{
    return f->parts.state;
}

uint64_t function_device_bytes(const struct function *f)
{
    return f->parts.state_bytes - STATE_DEVICE_OFFSET;
}

const _Atomic uint32_t *function_doorbells(struct function *f)
{
    return f->parts.doorbells;
}

struct reactor *function_reactor(struct function *f)
{
    return f->parts.reactor;
}

uint32_t function_flags(struct function *f)
{
    return atomic_load_explicit(&f->parts.state->emu.flags, memory_order_acquire);
}

uint32_t function_epoch(struct function *f)
{
    return atomic_load_explicit(&f->parts.state->emu.epoch, memory_order_acquire);
}

const struct link_function_info *function_info(const struct function *f)
{
    return &f->parts.info;
}

uint32_t function_reg_host(struct function *f, uint32_t offset)
{
    return atomic_load_explicit(&f->parts.state->emu.reg_host[offset / 4], memory_order_acquire);
}

uint64_t function_reg_host64(struct function *f, uint32_t offset)
{
    return function_reg_host(f, offset) | (uint64_t)function_reg_host(f, offset + 4) << 32;
}

void function_reg_set(struct function *f, uint32_t offset, uint32_t value)
{
    atomic_store_explicit(&f->parts.state->svc.reg_dev[offset / 4], value, memory_order_release);
}

void function_reg_set64(struct function *f, uint32_t offset, uint64_t value)
{
    function_reg_set(f, offset, (uint32_t)value);
    function_reg_set(f, offset + 4, (uint32_t)(value >> 32));
}

void function_irq(struct function *f, unsigned vector)
{
    uint64_t one = 1;

    if (vector >= f->nvectors)
        return;
    if (f->irq_fds[vector] < 0) {
        f->irq_pending[vector] = true; /* its eventfd is signalled when it comes */
        return;
    }
    (void)!write(f->irq_fds[vector], &one, sizeof(one));
    f->irqs_sent++;
}

uint64_t function_kicks_seen(const struct function *f)
{
    return f->kicks_seen;
}

uint64_t function_irqs_sent(const struct function *f)
{
    return f->irqs_sent;
}

void function_signal_all(struct function *f)
{
    for (unsigned i = 0; i < f->nvectors; i++)
        if (f->irq_fds[i] >= 0)
            function_irq(f, i);
}

void function_offer(struct function *f, uint64_t features, uint32_t queues, uint32_t queue_size)
{
    struct state_svc *svc = &f->parts.state->svc;

    atomic_store_explicit(&svc->features, features, memory_order_release);
    atomic_store_explicit(&svc->queues, queues, memory_order_release);
    atomic_store_explicit(&svc->queue_size, queue_size, memory_order_release);
}

void function_config_changed(struct function *f, uint32_t status)
{
    atomic_store_explicit(&f->parts.state->svc.status, status, memory_order_release);
    if (f->config_cb)
        f->config_cb(f->config_arg);
}

struct function_inflight function_inflight_area(const struct function *f)
{
    const struct guest_region *region = f->inflight_region;

    if (!region)
        return (struct function_inflight){0};
    return (struct function_inflight){region->host, region->size_bytes, f->inflight_queues,
                                      f->inflight_queue_size};
}

void function_no_queues(void *dev, const struct function_queue *q,
                        void (*stopped)(void *arg, uint32_t base), void *arg)
{
    (void)dev;
    (void)q;
    if (stopped)
        stopped(arg, 0);
}

void function_kick(struct function *f)
{
    visits_heat(f);
}

void function_fail(struct function *f, const char *fmt, ...)
{
    va_list ap;

    if (f->failed)
        return;
    f->failed = true;
    va_start(ap, fmt);
    vsnprintf(f->failure, sizeof(f->failure), fmt, ap);
    va_end(ap);
    log_line(LOG_ERROR, "link", "function %s: stopped: %s", f->parts.info.vuid, f->failure);
    if (f->failed_cb)
        f->failed_cb(f->failed_arg);
}

static void fail_poisoned(struct function *f)
{
    function_fail(f, "host memory file was truncated");
    f->poisoned = true;
}

/* That failure ends with the memory that caused it: the host takes it away when it disconnects. */
static void check_poison_gone(struct function *f)
{
    if (!f->poisoned || guest_map_poisoned(f->map))
        return;
    f->poisoned = f->failed = false;
}

bool function_failed(const struct function *f)
{
    return f->failed;
}

/* ---- what link/client.c forwards ---- */

int function_adopt(struct function *f, struct err *err)
{
    int rc = f->parts.ops->adopt(f->parts.dev, f, err);

    if (f->parts.owned)
        crash_mark_add(f->parts.state); /* not earlier: adoption asks what the last holder left */
    f->adopted = rc == 0;
    if (!f->adopted)
        return rc;
    for (unsigned i = 0; f->kicks && i < FUNCTION_MAX_QUEUES; i++)
        if (f->kicks[i].early.start)
            f->parts.ops->queue_changed(f->parts.dev, &f->kicks[i].early, NULL, NULL);
    function_kick(f);
    return 0;
}

void function_set_irq(struct function *f, unsigned vector, int fd)
{
    if (vector >= f->nvectors) {
        fd_close(&fd);
        return;
    }
    fd_close(&f->irq_fds[vector]);
    f->irq_fds[vector] = fd;
    if (fd < 0)
        return;
    fd_nonblock(fd); /* a host that lets the counter run full must not stop a reactor */
    /* Whoever starts using an eventfd signals it once: an event may have come while there was none.
     * A spurious interrupt is harmless, but before the device is enabled nobody asked for one. */
    if (f->irq_pending[vector] || f->adopted) {
        f->irq_pending[vector] = false;
        function_irq(f, vector);
    }
}

void function_add_region(struct function *f, struct guest_region *region)
{
    struct err err;

    if (guest_map_add(f->map, region, &err) < 0) {
        log_line(LOG_ERROR, "link", "function %s: %s", f->parts.info.vuid, err.msg);
        guest_region_close(region);
        return;
    }
    if (f->adopted && !f->failed)
        f->parts.ops->memory_added(f->parts.dev);
    function_kick(f);
}

struct detach {
    struct function *f;
    struct guest_region *region;
    void (*detached)(void *arg, struct guest_region *region);
    void *arg;
};

static void region_detached(void *arg)
{
    struct detach d = *(struct detach *)arg;

    free(arg);
    d.detached(d.arg, d.region);
}

void function_detach_region(struct function *f, uint32_t id,
                            void (*detached)(void *arg, struct guest_region *region), void *arg)
{
    struct guest_region *region = guest_map_take(f->map, id);
    struct detach *d;

    check_poison_gone(f);
    if (!region || !f->adopted) {
        detached(arg, region);
        return;
    }
    d = malloc(sizeof(*d));
    if (!d) { /* without the pages' release the host would hang: leave the region mapped and say so
               */
        function_fail(f, "out of memory");
        detached(arg, NULL);
        return;
    }
    *d = (struct detach){f, region, detached, arg};
    f->parts.ops->memory_detach(f->parts.dev, region, region_detached, d);
    function_kick(f);
}

void function_set_queue(struct function *f, const struct function_queue *q, int kick_fd,
                        void (*stopped)(void *arg, uint32_t base), void *arg)
{
    if (q->index >= FUNCTION_MAX_QUEUES || !kicks_create(f)) {
        fd_close(&kick_fd);
        function_fail(f, q->index >= FUNCTION_MAX_QUEUES ? "virtqueue index" : "out of memory");
        if (stopped)
            stopped(arg, 0);
        return;
    }
    kick_set(&f->kicks[q->index], kick_fd, q->run);
    if (!f->adopted) { /* the device model hears of it when it has looked at the state memory */
        f->kicks[q->index].early = *q;
        if (stopped) /* adoption has failed: snap_emu asks the next holder */
            stopped(arg, FUNCTION_NOT_STOPPED);
        return;
    }
    f->parts.ops->queue_changed(f->parts.dev, q, stopped, arg);
    function_kick(f);
}

void function_set_inflight(struct function *f, struct guest_region *region, uint32_t queues,
                           uint32_t queue_size)
{
    guest_region_close(f->inflight_region);
    f->inflight_region = region;
    f->inflight_queues = queues;
    f->inflight_queue_size = queue_size;
}

struct reset {
    struct function *f;
    void (*done)(void *arg);
    void *arg;
};

/* Nothing of the device model uses the queues any more. */
static void reset_done(void *arg)
{
    struct reset r = *(struct reset *)arg;

    free(arg);
    function_ignore_kicks(r.f);
    function_set_inflight(r.f, NULL, 0, 0);
    r.done(r.arg);
}

void function_reset(struct function *f, enum function_reset why, uint32_t epoch,
                    void (*done)(void *arg), void *arg)
{
    struct reset *r;

    if (!f->adopted) {
        function_ignore_kicks(f);
        function_set_inflight(f, NULL, 0, 0);
        done(arg);
        return;
    }
    r = malloc(sizeof(*r));
    if (!r)
        abort(); /* our own memory, not the guest's doing; state memory survives this */
    *r = (struct reset){f, done, arg};
    for (unsigned i = 0; i < f->nvectors; i++)
        f->irq_pending[i] = false;
    f->failed = false; /* what made it fail belongs to the epoch that ends; poisoned memory is found
                          again */
    f->parts.ops->reset(f->parts.dev, why, epoch, reset_done, r);
    function_kick(f);
}

/* Asked at every visit, not only when the message comes: the host that has switched bus mastering
 * off counts on it from the answer to its write on. */
static void look_at_flags(struct function *f)
{
    uint32_t flags = function_flags(f);

    if (likely(flags == f->flags_seen))
        return;
    f->flags_seen = flags;
    f->parts.ops->flags_changed(f->parts.dev, flags);
}

void function_flags_changed(struct function *f)
{
    if (f->adopted && !f->failed)
        look_at_flags(f);
    function_kick(f);
}

/* The log is written by snap_emu: offsets and sizes are checked as any foreign input. */
static bool reg_write_sane(const struct state_reg_write *w)
{
    return (w->size == 1 || w->size == 2 || w->size == 4 || w->size == 8) &&
           w->offset % w->size == 0 && w->offset <= STATE_REG_BYTES - w->size;
}

static unsigned apply_register_log(struct function *f)
{
    struct state_memory *st = f->parts.state;
    uint64_t tail = atomic_load_explicit(&st->emu.log_tail, memory_order_acquire);
    uint64_t head = atomic_load_explicit(&st->svc.log_head, memory_order_relaxed);
    uint64_t lost;
    unsigned n = 0;

    if (unlikely(tail - head > STATE_LOG_ENTRIES)) {
        head = tail;
        atomic_store_explicit(&st->svc.log_head, head, memory_order_release);
        f->parts.ops->registers_lost(f->parts.dev);
        return 1;
    }
    for (; head != tail && !f->failed; n++) {
        struct state_reg_write w = st->log[head % STATE_LOG_ENTRIES];

        if (w.epoch == function_epoch(f) && reg_write_sane(&w))
            f->parts.ops->reg_written(f->parts.dev, &w);
        crash_point(link_register_applied);
        atomic_store_explicit(&st->svc.log_head, ++head, memory_order_release);
    }
    lost = atomic_load_explicit(&st->emu.log_lost, memory_order_acquire);
    if (unlikely(lost != atomic_load_explicit(&st->svc.log_lost_seen, memory_order_relaxed))) {
        atomic_store_explicit(&st->svc.log_lost_seen, lost, memory_order_release);
        f->parts.ops->registers_lost(f->parts.dev);
        n++;
    }
    return n;
}

unsigned function_poll(struct function *f)
{
    unsigned n;

    if (!f->adopted || f->failed)
        return 0;
    if (unlikely(++f->polls % POLLS_PER_POISON_CHECK == 0) && guest_map_poisoned(f->map)) {
        fail_poisoned(f);
        return 0;
    }
    crash_suspect(f->parts.state);
    look_at_flags(f);
    n = apply_register_log(f);
    n += f->parts.ops->poll(f->parts.dev);
    crash_suspect(NULL);
    return n;
}

void function_flush(struct function *f)
{
    if (!f->adopted || f->failed)
        return;
    crash_suspect(f->parts.state);
    look_at_flags(f);
    f->parts.ops->flush(f->parts.dev);
    crash_suspect(NULL);
}

unsigned function_inflight(struct function *f)
{
    return f->adopted && !f->failed ? f->parts.ops->inflight(f->parts.dev) : 0;
}

bool function_arm(struct function *f)
{
    const struct state_memory *st = f->parts.state;

    if (!f->adopted || f->failed)
        return true;
    if (guest_map_poisoned(f->map)) {
        fail_poisoned(f);
        return true;
    }
    return f->parts.ops->arm(f->parts.dev) &&
           atomic_load(&st->emu.log_tail) == atomic_load(&st->svc.log_head);
}
