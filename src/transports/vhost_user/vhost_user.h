/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vhost_user/vhost_user.h - the virtqueues of a device on a vhost-user socket: one
 * listener, at most one client (front end), the client's memory table, rings and in-flight area. It
 * maps no guest memory and knows no device: what configuration, resets and rings mean is behind
 * vhost_user_ops. Messages of a client are handled strictly in order. An operation that must wait
 * (VHOST_USER_LATER) stops this socket only. Thread: the reactor's. Ops never call back into this
 * room, except for the getters. */
#ifndef TRANSPORTS_VHOST_USER_H
#define TRANSPORTS_VHOST_USER_H

#include "base/err.h"
#include "runtime/reactor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vhost_user;

enum { VHOST_USER_MAX_QUEUES = 64 };

enum vhost_user_answer { VHOST_USER_DONE, VHOST_USER_LATER };

/* What the device offers now; may change between messages, counts for the next one. */
struct vhost_user_limits {
    uint64_t features; /* those of the transport are added and taken away here */
    uint32_t queues;   /* up to VHOST_USER_MAX_QUEUES */
    uint32_t queue_size;
    uint8_t status; /* the device's share: VIRTIO_STATUS_NEEDS_RESET or 0 */
};

/* One region of the host's memory. The descriptor is the server's. */
struct vhost_user_mem {
    uint32_t id; /* never 0, never used twice on one socket */
    uint64_t gpa, size_bytes, user_addr, fd_offset;
    int fd;
};

/* A started ring. The descriptor is the server's. */
struct vhost_user_queue {
    uint32_t index, size, base;
    uint32_t start;    /* its incarnation: never 0, another one with every start */
    uint64_t features; /* negotiated */
    uint64_t desc_gpa, driver_gpa, device_gpa;
    bool run;      /* enabled, and not being stopped */
    bool stopping; /* queue_stopping() has been called, its answer is due */
    bool pausing;  /* the same, of queue_pausing() */
    int kick_fd;   /* -1: it cannot be kicked */
};

/* Memory the client keeps for the device. The descriptor is the server's. */
struct vhost_user_inflight_area {
    uint64_t size_bytes, fd_offset;
    uint32_t queues, queue_size;
    int fd;
};

struct vhost_user_ops {
    struct vhost_user_limits (*limits)(void *dev);
    /* A client has sent its first message. */
    void (*connected)(void *dev);
    /* The client is gone: rings are stopped, their eventfds closed, the in-flight area is
     * forgotten. Reset the device: DONE, or LATER and vhost_user_reset_done(). mem_removed() for
     * all regions comes next. A new client is accepted when all that is over. */
    enum vhost_user_answer (*disconnected)(void *dev);
    void (*mem_added)(void *dev, const struct vhost_user_mem *mem);
    /* DONE: nobody uses it; LATER: vhost_user_mem_detached() will be called. */
    enum vhost_user_answer (*mem_removed)(void *dev, const struct vhost_user_mem *mem);
    /* A removal was answered with an error because nobody detached the memory in time. */
    void (*unmap_expired)(void *dev);
    /* A ring was started, or what is not tied to its incarnation has changed: run, kick_fd. */
    void (*queue_changed)(void *dev, const struct vhost_user_queue *q);
    /* GET_VRING_BASE, or status 0 before it. LATER: it is being drained, vhost_user_queue_stopped()
     * will be called. DONE: nobody works on it; what was fetched and not completed is in the
     * in-flight area, which knows better than its base where the ring goes on. */
    enum vhost_user_answer (*queue_stopping)(void *dev, const struct vhost_user_queue *q);
    /* SET_VRING_ENABLE 0: DONE when nothing more is fetched from it, what is in flight goes on;
     * LATER: vhost_user_queue_paused() will be called. Within 3 s, or the client gets an error. */
    enum vhost_user_answer (*queue_pausing)(void *dev, const struct vhost_user_queue *q);
    void (*calls_changed)(void *dev, unsigned start, unsigned count);
    /* vhost_user_inflight() has another answer. Not called when a reset ends the area. */
    void (*inflight_set)(void *dev);
    /* RESET_DEVICE or status 0; the rings are stopped already. keep: not all of them were drained,
     * the in-flight area is to stay as it is. LATER: vhost_user_reset_done(). */
    enum vhost_user_answer (*reset)(void *dev, bool keep);
    /* The device's configuration; offset + len <= 256. Reads beyond its end give zeroes, only what
     * the host may write is written. */
    void (*config_read)(void *dev, uint32_t offset, void *buf, size_t len);
    void (*config_write)(void *dev, uint32_t offset, const void *buf, size_t len);
};

struct vhost_user_opts {
    struct reactor *reactor;
    const char *name; /* for logs; copied */
    const char *path; /* of the socket; copied */
    const struct vhost_user_ops *ops;
    void *dev;
};

/* Binds the socket but does not listen: clients get ECONNREFUSED. NULL with err filled. */
struct vhost_user *vhost_user_create(const struct vhost_user_opts *opts, struct err *err);
void vhost_user_destroy(struct vhost_user *vh); /* accepts NULL; removes the socket */
/* From now on clients are accepted. Calling it again is harmless. 0 or -errno. */
int vhost_user_listen(struct vhost_user *vh, struct err *err);

/* The end of what was answered with LATER. Stale calls are harmless. */
void vhost_user_reset_done(struct vhost_user *vh);
/* id 0: of all regions, nobody uses memory any more. */
void vhost_user_mem_detached(struct vhost_user *vh, uint32_t id);
void vhost_user_queue_stopped(struct vhost_user *vh, uint32_t index, uint32_t base);
void vhost_user_queue_paused(struct vhost_user *vh, uint32_t index);
void vhost_user_queue_left(struct vhost_user *vh, uint32_t index); /* as DONE of queue_stopping() */

/* The device's configuration is another one: the client is told when it has a channel for that and
 * reads it. broken: it needs a reset, so the rings' error eventfds are signalled as well. */
void vhost_user_config_changed(struct vhost_user *vh, bool broken);

/* All regions that are not being removed, in no order. */
void vhost_user_mem_for_each(struct vhost_user *vh,
                             void (*fn)(void *arg, const struct vhost_user_mem *mem), void *arg);
/* A started ring, or false. */
bool vhost_user_queue_get(const struct vhost_user *vh, unsigned index, struct vhost_user_queue *q);
/* The call eventfd of a ring, or -1. Any index. */
int vhost_user_call_fd(const struct vhost_user *vh, unsigned index);
/* NULL: there is none. */
const struct vhost_user_inflight_area *vhost_user_inflight(const struct vhost_user *vh);
bool vhost_user_has_client(const struct vhost_user *vh);

#endif
