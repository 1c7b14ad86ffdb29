/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Virtqueues, as the holder of a function is told of them. While its socket is full only the fact
 * that something has changed is kept: a host could pile up descriptors in front of a stopped
 * service. */
#include "emu/emu.h"

static bool congested(const struct emu_function *fn)
{
    return lease_conn(fn) && link_congested(lease_conn(fn));
}

static void send_queue(struct emu_function *fn, const struct vhost_user_queue *q, uint32_t flags,
                       uint64_t cookie)
{
    struct link_msg msg = {.type = LINK_QUEUE, .cookie = cookie};

    fn->queues_stale &= ~(1ULL << q->index);
    msg.queue.index = q->index;
    msg.queue.flags = flags;
    msg.queue.size = q->size;
    msg.queue.base = q->base;
    msg.queue.start = q->start;
    msg.queue.features = q->features;
    msg.queue.desc_gpa = q->desc_gpa;
    msg.queue.driver_gpa = q->driver_gpa;
    msg.queue.device_gpa = q->device_gpa;
    lease_tell(fn, &msg, &q->kick_fd, q->kick_fd >= 0 ? 1 : 0);
}

static void send_state(struct emu_function *fn, const struct vhost_user_queue *q)
{
    send_queue(fn, q, q->run ? LINK_QUEUE_RUN : 0, 0);
}

static void send_stop(struct emu_function *fn, const struct vhost_user_queue *q)
{
    send_queue(fn, q, LINK_QUEUE_STOP, fn->stop_cookie);
}

static void send_pause(struct emu_function *fn, const struct vhost_user_queue *q)
{
    send_queue(fn, q, LINK_QUEUE_PAUSE, fn->stop_cookie);
}

static void send_inflight(struct emu_function *fn)
{
    const struct vhost_user_inflight_area *area = vhost_user_inflight(fn->vh);
    struct link_msg msg = {.type = LINK_INFLIGHT};

    fn->inflight_stale = false;
    if (!area)
        return;
    msg.inflight.size_bytes = area->size_bytes;
    msg.inflight.fd_offset = area->fd_offset;
    msg.inflight.queues = area->queues;
    msg.inflight.queue_size = area->queue_size;
    lease_tell(fn, &msg, &area->fd, 1);
}

/* ---- what the host does ---- */

void queues_tell(struct emu_function *fn, const struct vhost_user_queue *q)
{
    if (congested(fn))
        fn->queues_stale |= 1ULL << q->index;
    else
        send_state(fn, q);
}

void queues_tell_inflight(struct emu_function *fn)
{
    if (congested(fn))
        fn->inflight_stale = true;
    else
        send_inflight(fn);
}

/* Nobody works on its queues. */
static bool is_free(const struct emu_function *fn)
{
    return !fn->holder && !holders_wait(fn->emu->holders, NULL);
}

/* A VM whose disk is without service shall not freeze because it reboots, pauses or ends: with an
 * in-flight area nothing is lost when its rings stop as they are. */
static bool left_alone(const struct emu_function *fn)
{
    return is_free(fn) && vhost_user_inflight(fn->vh);
}

/* Not held back: the host asks for no other before this one is answered. The holder hears of a
 * queue before it hears of its end. */
bool queues_stop(struct emu_function *fn, const struct vhost_user_queue *q)
{
    fn->stop_cookie++;
    if (left_alone(fn))
        return true;
    if (fn->inflight_stale)
        send_inflight(fn);
    if (fn->queues_stale & 1ULL << q->index)
        send_state(fn, q);
    send_stop(fn, q);
    return false;
}

bool queues_pause(struct emu_function *fn, const struct vhost_user_queue *q)
{
    fn->stop_cookie++;
    if (is_free(fn))
        return true;
    if (fn->inflight_stale)
        send_inflight(fn);
    send_pause(fn, q);
    return false;
}

void queues_left(struct emu_function *fn)
{
    struct vhost_user_queue q;

    for (unsigned i = 0; fn->vh && is_free(fn) && i < VHOST_USER_MAX_QUEUES; i++) {
        if (!vhost_user_queue_get(fn->vh, i, &q))
            continue;
        if (q.stopping && left_alone(fn))
            vhost_user_queue_left(fn->vh, i);
        else if (q.pausing)
            vhost_user_queue_paused(fn->vh, i);
    }
}

void queues_forget(struct emu_function *fn)
{
    fn->queues_stale = 0;
    fn->inflight_stale = false;
}

/* ---- what the holder does ---- */

void queues_stopped(struct emu_function *fn, const struct link_msg *msg)
{
    if (fn->vh && msg->cookie == fn->stop_cookie) /* else of a client that is gone */
        vhost_user_queue_stopped(fn->vh, msg->queue.index, msg->queue.base);
}

void queues_paused(struct emu_function *fn, const struct link_msg *msg)
{
    if (fn->vh && msg->cookie == fn->stop_cookie)
        vhost_user_queue_paused(fn->vh, msg->queue.index);
}

void queues_granted(struct emu_function *fn)
{
    struct vhost_user_queue q;

    queues_forget(fn);
    if (!fn->vh)
        return;
    send_inflight(fn);
    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++)
        if (vhost_user_queue_get(fn->vh, i, &q))
            send_state(fn, &q);
}

/* The last holder has not answered for these. */
void queues_synced(struct emu_function *fn)
{
    struct vhost_user_queue q;

    for (unsigned i = 0; fn->vh && i < VHOST_USER_MAX_QUEUES; i++) {
        if (!vhost_user_queue_get(fn->vh, i, &q))
            continue;
        if (q.stopping)
            send_stop(fn, &q);
        else if (q.pausing)
            send_pause(fn, &q);
    }
}

void queues_catch_up(struct emu_function *fn)
{
    struct vhost_user_queue q;

    if (fn->inflight_stale)
        send_inflight(fn);
    for (unsigned i = 0; fn->queues_stale && i < VHOST_USER_MAX_QUEUES; i++) {
        if (!(fn->queues_stale & 1ULL << i))
            continue;
        fn->queues_stale &= ~(1ULL << i);
        if (vhost_user_queue_get(fn->vh, i, &q) && !q.stopping)
            send_state(fn, &q);
    }
}
