/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The rings a client sets up. A ring runs when it is started (SET_VRING_KICK .. GET_VRING_BASE)
 * and enabled. What is refused leaves it stopped. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "spec/virtio.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Where a packed ring begins: both positions 0, both wrap counters 1 (Virtio 1.3, 2.8.1). */
#define PACKED_BEGIN 0x80008000U

static bool packed(const struct vhost_user *vh)
{
    return vh->features & VIRTIO_F_RING_PACKED;
}

/* NULL with err filled. */
static struct vring *find(struct vhost_user *vh, uint64_t index, struct err *err)
{
    struct vhost_user_limits l = limits_now(vh);

    if (index < l.queues)
        return &vh->ring[index];
    err_set(err, -EINVAL, "ring %llu: there are %u", (unsigned long long)index, l.queues);
    return NULL;
}

static struct vring *find_stopped(struct vhost_user *vh, uint32_t index, struct err *err)
{
    struct vring *ring = find(vh, index, err);

    if (!ring || !ring->started)
        return ring;
    err_set(err, -EBUSY, "ring %u is started", index);
    return NULL;
}

static struct vhost_user_vring_state state_of(const struct message *m)
{
    struct vhost_user_vring_state s;

    memcpy(&s, m->payload, sizeof(s));
    return s;
}

static unsigned index_of(const struct vhost_user *vh, const struct vring *ring)
{
    return (unsigned)(ring - vh->ring);
}

/* ---- telling the owner ---- */

bool vhost_user_queue_get(const struct vhost_user *vh, unsigned index, struct vhost_user_queue *q)
{
    const struct vring *ring = &vh->ring[index < VHOST_USER_MAX_QUEUES ? index : 0];

    if (index >= VHOST_USER_MAX_QUEUES || !ring->started)
        return false;
    *q = (struct vhost_user_queue){
        .index = index,
        .size = ring->size,
        .base = ring->base,
        .start = ring->start,
        .features = vh->features & ~VHOST_USER_F_PROTOCOL_FEATURES,
        .desc_gpa = ring->desc_gpa,
        .driver_gpa = ring->driver_gpa,
        .device_gpa = ring->device_gpa,
        .run =
            !ring->stopping && (ring->enabled || !(vh->features & VHOST_USER_F_PROTOCOL_FEATURES)),
        .stopping = ring->stopping,
        .pausing = ring->pausing,
        .kick_fd = ring->kick_fd,
    };
    return true;
}

static void changed(struct vhost_user *vh, unsigned index)
{
    struct vhost_user_queue q;

    if (vhost_user_queue_get(vh, index, &q))
        vh->o.ops->queue_changed(vh->o.dev, &q);
}

/* ---- size, addresses, base ---- */

static int check_size(const struct vhost_user *vh, unsigned index, uint32_t size, struct err *err)
{
    struct vhost_user_limits l = limits_now(vh);

    if (size == 0 || size > l.queue_size)
        return err_set(err, -EINVAL, "ring %u: size %u, the limits are 1 and %u", index, size,
                       l.queue_size);
    if (!packed(vh) && (size & (size - 1)))
        return err_set(err, -EINVAL, "ring %u: size %u of a split ring is not a power of two",
                       index, size);
    return 0;
}

/* A packed ring has two positions: next available (low half) and next used; bit 15: wrap counter.
 * A size of 0 is not known yet. */
static int check_base(const struct vhost_user *vh, unsigned index, uint32_t size, uint32_t base,
                      struct err *err)
{
    bool ok = base <= UINT16_MAX;

    if (packed(vh))
        ok = size == 0 || ((base & 0x7fff) < size && (base >> 16 & 0x7fff) < size);
    return ok ? 0
              : err_set(err, -EINVAL, "ring %u: base 0x%x is out of range for size %u", index, base,
                        size);
}

static int place(const struct vhost_user *vh, unsigned index, const char *part, uint64_t user,
                 uint64_t bytes, unsigned align, uint64_t *gpa, struct err *err)
{
    if (!mem_translate(&vh->mem, user, bytes, gpa))
        return err_set(err, -EFAULT,
                       "ring %u: %llu bytes of the %s at 0x%llx are not in one region", index,
                       (unsigned long long)bytes, part, (unsigned long long)user);
    if (*gpa % align || user % align)
        return err_set(err, -EINVAL, "ring %u: the %s at 0x%llx is not aligned to %u", index, part,
                       (unsigned long long)user, align);
    return 0;
}

/* Addresses are of the client's process; the device knows those of the guest. With a size of 0,
 * which is not known yet, only the first bytes count. */
static int translate(const struct vhost_user *vh, unsigned index, struct vring *ring,
                     struct err *err)
{
    bool p = packed(vh);
    uint32_t size = ring->size;
    uint64_t driver = p ? sizeof(struct virtq_packed_event) : virtq_avail_bytes(size);
    uint64_t device = p ? sizeof(struct virtq_packed_event) : virtq_used_bytes(size);
    int rc = place(vh, index, "descriptor ring", ring->desc_user, virtq_desc_bytes(size), 16,
                   &ring->desc_gpa, err);

    if (rc == 0)
        rc = place(vh, index, "driver area", ring->driver_user, driver, p ? 4 : 2,
                   &ring->driver_gpa, err);
    if (rc == 0)
        rc = place(vh, index, "device area", ring->device_user, device, 4, &ring->device_gpa, err);
    return rc;
}

int vring_set_num(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_vring_state s = state_of(m);
    struct vring *ring = find_stopped(vh, s.index, err);
    int rc = ring ? check_size(vh, s.index, s.num, err) : err->code;

    (void)r;
    if (rc == 0)
        ring->size = s.num;
    return rc;
}

int vring_set_base(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_vring_state s = state_of(m);
    struct vring *ring = find_stopped(vh, s.index, err);
    int rc = ring ? check_base(vh, s.index, ring->size, s.num, err) : err->code;

    (void)r;
    if (rc < 0)
        return rc;
    ring->base = s.num;
    ring->based = true;
    return 0;
}

int vring_set_addr(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_vring_addr a;
    struct vring *ring;
    int rc;

    (void)r;
    memcpy(&a, m->payload, sizeof(a));
    ring = find(vh, a.index, err);
    if (!ring)
        return err->code;
    if (ring->started) /* clients repeat themselves when memory is plugged */
        return a.desc == ring->desc_user && a.avail == ring->driver_user &&
                       a.used == ring->device_user
                   ? 0
                   : err_set(err, -EBUSY, "ring %u is started", a.index);
    ring->desc_user = a.desc;
    ring->driver_user = a.avail;
    ring->device_user = a.used;
    rc = translate(vh, a.index, ring, err);
    ring->addressed = rc == 0;
    return rc;
}

/* ---- start and stop ---- */

/* All of it once more: size, features and memory may have come in any order. */
static int start(struct vhost_user *vh, struct vring *ring, struct err *err)
{
    unsigned index = index_of(vh, ring);
    int rc;

    if (!ring->addressed)
        return err_set(err, -EINVAL, "ring %u has no usable addresses", index);
    if (vh->resetting || vh->features_refused)
        return err_set(err, -EBUSY, "ring %u: %s", index,
                       vh->resetting ? "the device is still being reset"
                                     : "the features that were set are not offered");
    if (packed(vh) && !ring->based)
        ring->base = PACKED_BEGIN;
    rc = check_size(vh, index, ring->size, err);
    if (rc == 0)
        rc = check_base(vh, index, ring->size, ring->base, err);
    if (rc == 0)
        rc = translate(vh, index, ring, err);
    if (rc < 0)
        return rc;
    ring->start = ++vh->starts ? vh->starts : ++vh->starts;
    ring->started = true;
    ring->stopping = false;
    return 0;
}

/* The payload of SET_VRING_KICK, _CALL, _ERR: a ring's index, and whether an eventfd comes along.
 * NULL with err filled. */
static struct vring *find_for_eventfd(struct vhost_user *vh, struct message *m, struct err *err)
{
    const struct stream *s = &vh->stream;
    struct vring *ring;
    uint64_t v;

    memcpy(&v, m->payload, sizeof(v));
    ring = find(vh, v & VHOST_USER_VRING_IDX_MASK, err);
    if (!ring)
        return NULL;
    if (s->nfds != !(v & VHOST_USER_VRING_NOFD))
        err_set(err, -EINVAL, "ring %u: %u descriptors, the message says otherwise",
                index_of(vh, ring), s->nfds);
    else if (s->nfds && fd_check_eventfd(s->fds[0]) < 0)
        err_set(err, -EINVAL, "ring %u: the descriptor is not an eventfd", index_of(vh, ring));
    else
        return ring;
    return NULL;
}

static void keep(struct stream *s, int *slot)
{
    fd_close(slot);
    if (s->nfds == 0)
        return;
    *slot = s->fds[0];
    s->fds[0] = -1;
}

int vring_set_kick(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vring *ring = find_for_eventfd(vh, m, err);
    int rc;

    (void)r;
    if (!ring)
        return err->code;
    rc = ring->started ? 0 : start(vh, ring, err);
    if (rc < 0)
        return rc;
    keep(&vh->stream, &ring->kick_fd);
    changed(vh, index_of(vh, ring));
    return 0;
}

int vring_set_call(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vring *ring = find_for_eventfd(vh, m, err);

    (void)r;
    if (!ring)
        return err->code;
    keep(&vh->stream, &ring->call_fd);
    vh->o.ops->calls_changed(vh->o.dev, index_of(vh, ring), 1);
    return 0;
}

int vring_set_err(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vring *ring = find_for_eventfd(vh, m, err);

    (void)r;
    if (!ring)
        return err->code;
    keep(&vh->stream, &ring->err_fd);
    return 0;
}

/* False: later. */
static bool pause_ring(struct vhost_user *vh, struct vring *ring)
{
    struct vhost_user_queue q;

    ring->pausing = true;
    vhost_user_queue_get(vh, index_of(vh, ring), &q);
    if (vh->o.ops->queue_pausing(vh->o.dev, &q) == VHOST_USER_LATER)
        return false;
    ring->pausing = false;
    return true;
}

int vring_set_enable(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_vring_state s = state_of(m);
    struct vring *ring = find(vh, s.index, err);

    (void)r;
    if (!ring)
        return err->code;
    if (ring->enabled == s.num && !ring->started)
        return 0; /* also after a reset, which has disabled it */
    if (!(vh->features & VHOST_USER_F_PROTOCOL_FEATURES) || s.num > 1)
        return err_set(err, -EINVAL, "ring %u: enable %u %s", s.index, s.num,
                       s.num > 1 ? "is neither 0 nor 1" : "without protocol features");
    if (ring->enabled == s.num)
        return 0;
    ring->enabled = s.num;
    ring->pausing = false;
    if (ring->enabled)
        changed(vh, s.index);
    else if (ring->started && !pause_ring(vh, ring)) {
        vh->stream.wait = WAIT_PAUSE;
        return STREAM_LATER;
    }
    return 0;
}

void vhost_user_queue_paused(struct vhost_user *vh, uint32_t index)
{
    struct vring *ring = &vh->ring[index < VHOST_USER_MAX_QUEUES ? index : 0];

    if (index >= VHOST_USER_MAX_QUEUES || !ring->pausing || vh->stream.wait != WAIT_PAUSE)
        return;
    ring->pausing = false;
    vh_session_finish(vh, 0);
}

static void stopped(struct vhost_user *vh, struct vring *ring)
{
    ring->started = ring->stopping = ring->pausing = false;
    fd_close(&ring->kick_fd);
    if (ring->call_fd < 0)
        return;
    fd_close(&ring->call_fd);
    vh->o.ops->calls_changed(vh->o.dev, index_of(vh, ring), 1);
}

/* False: later. */
static bool stop(struct vhost_user *vh, struct vring *ring)
{
    struct vhost_user_queue q;

    ring->stopping = true;
    vhost_user_queue_get(vh, index_of(vh, ring), &q);
    if (vh->o.ops->queue_stopping(vh->o.dev, &q) == VHOST_USER_LATER)
        return false;
    vh->undrained = true;
    stopped(vh, ring);
    return true;
}

static void reply_base(const struct vhost_user *vh, const struct vring *ring, struct reply *r)
{
    struct vhost_user_vring_state s = {index_of(vh, ring), ring->base};

    memcpy(r->payload, &s, sizeof(s));
    r->len = sizeof(s);
}

int vring_get_base(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vring *ring = find(vh, state_of(m).index, err);

    if (!ring)
        return err->code;
    if (ring->started && !stop(vh, ring)) {
        vh->stream.wait = WAIT_BASE;
        return STREAM_LATER;
    }
    stopped(vh, ring);
    reply_base(vh, ring, r);
    return 0;
}

bool vring_stop_all(struct vhost_user *vh)
{
    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++)
        if (vh->ring[i].started && !stop(vh, &vh->ring[i]))
            return false;
    return true;
}

/* NULL: the client is gone, or it has been told already. */
static struct vring *find_stopping(struct vhost_user *vh, uint32_t index)
{
    return index < VHOST_USER_MAX_QUEUES && vh->ring[index].stopping ? &vh->ring[index] : NULL;
}

static void stop_is_over(struct vhost_user *vh, struct vring *ring)
{
    stopped(vh, ring);
    if (vh->stream.wait == WAIT_BASE)
        reply_base(vh, ring, &vh->reply);
    vh_session_finish(vh, 0);
}

void vhost_user_queue_stopped(struct vhost_user *vh, uint32_t index, uint32_t base)
{
    struct vring *ring = find_stopping(vh, index);

    if (!ring)
        return;
    ring->base = base;
    ring->based = true;
    crash_point(emu_base_known);
    inflight_void(vh, index); /* nothing is: the base counts */
    crash_point(emu_area_void);
    stop_is_over(vh, ring);
}

void vhost_user_queue_left(struct vhost_user *vh, uint32_t index)
{
    struct vring *ring = find_stopping(vh, index);

    if (!ring)
        return;
    vh->undrained = true;
    stop_is_over(vh, ring);
}

/* ---- all of them ---- */

bool vring_any_started(const struct vhost_user *vh)
{
    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++)
        if (vh->ring[i].started)
            return true;
    return false;
}

void vring_init_all(struct vhost_user *vh)
{
    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++)
        vh->ring[i] = (struct vring){.kick_fd = -1, .call_fd = -1, .err_fd = -1};
}

void vring_clear_all(struct vhost_user *vh, bool all)
{
    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++) {
        struct vring *ring = &vh->ring[i];

        fd_close(&ring->kick_fd);
        if (all) {
            fd_close(&ring->call_fd);
            fd_close(&ring->err_fd);
        }
        *ring = (struct vring){.base = all ? 0 : ring->base,
                               .kick_fd = -1,
                               .call_fd = ring->call_fd,
                               .err_fd = ring->err_fd};
    }
}

void vring_signal_errors(struct vhost_user *vh)
{
    uint64_t one = 1;

    for (unsigned i = 0; i < VHOST_USER_MAX_QUEUES; i++)
        if (vh->ring[i].err_fd >= 0)
            (void)!write(vh->ring[i].err_fd, &one, sizeof(one));
}

int vhost_user_call_fd(const struct vhost_user *vh, unsigned index)
{
    return index < VHOST_USER_MAX_QUEUES ? vh->ring[index].call_fd : -1;
}
