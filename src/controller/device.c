/* SPDX-License-Identifier: BSD-3-Clause */
#include "controller/device.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { QUIT_DRAIN_MS = 1000 };

static void settle_mailed(struct mail *m)
{
    struct device *d = container_of(m, struct device, settle_mail);

    d->settle_mailed = false;
    device_settle(d);
}

void device_init(struct device *d, const struct device_ops *ops, const char *name,
                 struct reactor *reactor)
{
    d->ops = ops;
    d->reactor = reactor;
    snprintf(d->name, sizeof(d->name), "%s", name);
    d->hold = DEVICE_HOLD_SUSPENDED;
    d->settle_mail.fn = settle_mailed;
    list_init(&d->detaching);
}

unsigned device_inflight(void *d)
{
    return ((const struct device *)d)->inflight;
}

void device_kick(struct device *d)
{
    if (!d->f)
        return;
    if (unlikely(function_failed(d->f) || d->quit.cb) && !d->settle_mailed) {
        /* A stopped function is not polled any more, but its motions must come to an end. */
        d->settle_mailed = true;
        reactor_post(d->reactor, &d->settle_mail);
    }
    if (d->kicked)
        return;
    d->kicked = true;
    function_kick(d->f);
}

void device_fail(struct device *d, const char *why)
{
    d->hold |= DEVICE_HOLD_FAILED;
    d->ops->broken(d);
    atomic_store(&d->failed, true);
    function_fail(d->f, "%s", why);
}

/* ---- motions ---- */

void motion_begin(struct device *d, struct motion *m, controller_cb cb, void *arg,
                  uint64_t timeout_ms, void (*expired)(struct timer *t))
{
    m->cb = cb;
    m->arg = arg;
    if (timeout_ms)
        timer_arm(d->reactor, &m->timer, timeout_ms, expired);
    d->settle = true;
    device_settle(d);
}

void motion_end(struct motion *m, int rc, const struct err *err)
{
    controller_cb cb = m->cb;

    timer_cancel(&m->timer);
    m->cb = NULL;
    cb(m->arg, rc, err);
}

void motion_cancel(const struct device *d, struct motion *m)
{
    struct err err;

    if (!m->cb)
        return;
    err_set(&err, -ECANCELED, "controller %s is being destroyed", d->name);
    motion_end(m, -ECANCELED, &err);
}

/* ---- suspend and resume ---- */

static void settle_suspend(struct device *d)
{
    if (!d->suspend.cb)
        return;
    if (d->suspending == CONTROLLER_EVENTS ? d->ops->events_inflight(d) : d->inflight)
        return;
    d->ops->post(d);
    motion_end(&d->suspend, 0, NULL);
}

static uint32_t hold_of(enum controller_part part)
{
    return part == CONTROLLER_EVENTS ? DEVICE_HOLD_EVENTS : DEVICE_HOLD_SUSPENDED;
}

static void go_on(struct device *d, uint32_t no_more)
{
    d->hold &= ~no_more;
    d->ops->go_on(d);
    device_kick(d);
}

static void suspend_expired(struct timer *t)
{
    struct device *d = container_of(t, struct device, suspend.timer);
    controller_cb cb = d->suspend.cb;
    struct err err;

    err_set(&err, -ETIMEDOUT, "controller %s: %u %s are still in flight; it runs on", d->name,
            d->inflight, d->ops->words);
    d->suspend.cb = NULL;
    go_on(d, hold_of(d->suspending));
    cb(d->suspend.arg, -ETIMEDOUT, &err);
}

void device_suspend(struct device *d, enum controller_part part, uint64_t timeout_ms,
                    controller_cb cb, void *arg)
{
    struct err err;

    if (part == CONTROLLER_EVENTS && !d->ops->events_inflight) {
        cb(arg, 0, NULL);
        return;
    }
    if (d->suspend.cb || d->quit.cb) {
        err_set(&err, -EBUSY, "controller %s is being suspended or destroyed already", d->name);
        cb(arg, -EBUSY, &err);
        return;
    }
    d->hold |= hold_of(part);
    d->suspending = part;
    motion_begin(d, &d->suspend, cb, arg, timeout_ms, suspend_expired);
}

int device_resume(struct device *d, struct err *err)
{
    int rc;

    if (!d->f)
        return err_set(err, -EAGAIN, "controller %s waits for its function", d->name);
    if (function_failed(d->f))
        return err_set(err, -EIO, "controller %s has failed", d->name);
    if (d->suspend.cb || d->quit.cb)
        return err_set(err, -EBUSY, "controller %s is being suspended or destroyed", d->name);
    rc = d->ops->resume(d, err);
    if (rc < 0) {
        device_fail(d, err->msg);
        return rc;
    }
    d->settle = true; /* the kind's own motions may have waited */
    go_on(d, DEVICE_HOLD_SUSPENDED | DEVICE_HOLD_EVENTS);
    return 0;
}

/* ---- quit ---- */

static void settle_quit(struct device *d)
{
    if (!d->quit.cb || d->inflight || !list_empty(&d->detaching))
        return;
    if (d->f)
        d->ops->post(d);
    d->ops->close(d);
    motion_end(&d->quit, 0, NULL);
}

static void quit_expired(struct timer *t)
{
    struct device *d = container_of(t, struct device, quit.timer);

    /* What is cancelled now stays recorded: the next service executes it again, behind the fence.
     */
    log_line(LOG_WARNING, d->ops->room, "ctrl %s: %u %s in flight are left to the next service",
             d->name, d->inflight, d->ops->words);
    d->keeping = true;
    d->ops->cancel(d);
}

void device_quit(struct device *d, controller_cb cb, void *arg)
{
    d->hold |= DEVICE_HOLD_QUIT;
    motion_cancel(d, &d->suspend);
    motion_begin(d, &d->quit, cb, arg, d->inflight ? QUIT_DRAIN_MS : 0, quit_expired);
}

/* ---- memory taken away ---- */

static void settle_memory(struct device *d)
{
    list_for_each_safe(it, &d->detaching)
    {
        struct device_detach *w = list_entry(it, struct device_detach, node);
        void (*cb)(void *arg) = w->detached;
        void *arg = w->arg;

        if (!d->ops->detach(d, w))
            continue;
        list_remove(&w->node);
        free(w);
        cb(arg);
    }
}

void device_memory_detach(struct device *d, const struct guest_region *region,
                          void (*detached)(void *arg), void *arg)
{
    struct device_detach *w = malloc(sizeof(*w));

    if (!w) {
        device_fail(d, "out of memory"); /* and the region stays mapped */
        return;
    }
    *w = (struct device_detach){
        .host = region->host, .size_bytes = region->size_bytes, .detached = detached, .arg = arg};
    list_append(&d->detaching, &w->node);
    d->settle = true;
    device_settle(d);
}

/* ---- all ---- */

void device_settle(struct device *d)
{
    if (d->settling)
        return;
    d->settling = true;
    while (d->settle) {
        d->settle = false;
        settle_memory(d);
        d->ops->settle(d);
        settle_suspend(d);
    }
    d->settling = false;
    settle_quit(d); /* last: who waits for it may free d */
}
