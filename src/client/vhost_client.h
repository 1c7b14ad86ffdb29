/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/vhost_client.h - the front end of a vhost-user socket: what a VMM does, for tools and
 * tests. Knows virtqueues and memory, no device. Calls wait for their answer, at most timeout_ms;
 * where the back end acknowledges (REPLY_ACK) every message waits for it. Errors: negative errno
 * and a sentence that names socket, message and cause; -ECONNRESET (the back end closed),
 * -ETIMEDOUT and -EBADMSG (it answered nonsense) end the connection. Thread: one per connection. */
#ifndef CLIENT_VHOST_CLIENT_H
#define CLIENT_VHOST_CLIENT_H

#include "base/err.h"
#include "spec/vhost_user.h"

#include <stdbool.h>

struct vhost_client;

struct vhost_client_opts {
    const char *path;    /* stays valid while the client exists */
    uint32_t timeout_ms; /* 0: 10 s */
};

/* What both sides have agreed on before any device is touched. */
struct vhost_client_info {
    uint64_t features;          /* offered */
    uint64_t protocol_features; /* in use */
    uint32_t max_queues;        /* 0: the back end does not say */
    uint32_t max_mem_slots;
};

/* Connects, agrees on the protocol and becomes the owner. */
struct vhost_client *vhost_client_connect(const struct vhost_client_opts *opts, struct err *err);
void vhost_client_close(struct vhost_client *vc); /* accepts NULL */
struct vhost_client_info vhost_client_get_info(const struct vhost_client *vc);
bool vhost_client_has(const struct vhost_client *vc, enum vhost_user_protocol_feature f);

int vhost_client_set_features(struct vhost_client *vc, uint64_t features, struct err *err);

/* ADD_MEM_REG for each, or one SET_MEM_TABLE. */
struct vhost_client_memory {
    struct vhost_user_mem_region region;
    int fd;
};
int vhost_client_set_memory(struct vhost_client *vc, const struct vhost_client_memory *m,
                            unsigned n, struct err *err);

/* The device's configuration, from its beginning. *ret_got: bytes that came, at most len. */
int vhost_client_get_config(struct vhost_client *vc, void *buf, uint32_t len, uint32_t *ret_got,
                            struct err *err);

/* in: num_queues and queue_size; out: the rest too. *ret_fd is the caller's to close. */
int vhost_client_get_inflight(struct vhost_client *vc, struct vhost_user_inflight *io, int *ret_fd,
                              struct err *err);
int vhost_client_set_inflight(struct vhost_client *vc, const struct vhost_user_inflight *area,
                              int fd, struct err *err);

/* One queue as it is to be started. Addresses are of this process. */
struct vhost_client_vring {
    uint32_t index, size, base;
    const void *desc, *driver, *device;
    int kick_fd, call_fd;
};
int vhost_client_start_vring(struct vhost_client *vc, const struct vhost_client_vring *v,
                             struct err *err);
int vhost_client_enable_vring(struct vhost_client *vc, uint32_t index, bool enable,
                              struct err *err);
/* GET_VRING_BASE: stops it; the back end has drained it when this returns. */
int vhost_client_stop_vring(struct vhost_client *vc, uint32_t index, uint32_t *ret_base,
                            struct err *err);
/* Without effect when the back end does not know STATUS. */
int vhost_client_set_status(struct vhost_client *vc, uint8_t status, struct err *err);

/* ---- while it runs ---- */
int vhost_client_fd(const struct vhost_client *vc);         /* readable: the back end is gone */
int vhost_client_backend_fd(const struct vhost_client *vc); /* of its own messages; -1: none */
/* Takes the messages the back end has sent on its own; *ret_changed: CONFIG_CHANGE was among them.
 * They are acknowledged, if that is asked for, by vhost_client_ack_backend(), after the new
 * configuration was read, as QEMU does. */
int vhost_client_serve_backend(struct vhost_client *vc, bool *ret_changed, struct err *err);
int vhost_client_ack_backend(struct vhost_client *vc, struct err *err);
bool vhost_client_alive(struct vhost_client *vc);
/* The calls' limit from now on, where it is lower. */
void vhost_client_limit(struct vhost_client *vc, uint32_t timeout_ms);
uint64_t vhost_client_messages(const struct vhost_client *vc); /* sent so far */

#endif
