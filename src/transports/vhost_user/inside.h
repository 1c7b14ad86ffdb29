/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vhost_user/inside.h - shared by the files of this room. */
#ifndef VHOST_USER_INSIDE_H
#define VHOST_USER_INSIDE_H

#include "spec/vhost_user.h"
#include "transports/stream/stream.h"
#include "transports/vhost_user/vhost_user.h"

#include <sys/types.h>

enum {
    PAYLOAD_BYTES = 4096, /* a longer one ends the connection: nothing that exists is */
    REPLY_BYTES = 512,
    MEM_SLOTS = 128, /* constant: a limit that shrinks breaks clients that reconnect */
};

/* ---- mem_table.c ---- */

struct mem_region {
    struct vhost_user_mem mem;
    dev_t dev;
    ino_t ino;
    bool removing;
    bool gone; /* nobody uses it: it goes with the next sweep */
};

struct mem_table {
    struct mem_region region[MEM_SLOTS];
    unsigned count;
    uint32_t next_id;
};

typedef enum vhost_user_answer (*mem_removed_fn)(void *arg, const struct vhost_user_mem *mem);

void mem_init(struct mem_table *t);
void mem_clear(struct mem_table *t);
/* Whether the service could map it: 0 or -errno with err filled. */
int mem_check(const struct vhost_user_mem_region *r, int fd, struct err *err);
/* fd is taken over on success. The region, or NULL with err filled. */
const struct vhost_user_mem *mem_add(struct mem_table *t, const struct vhost_user_mem_region *r,
                                     int *fd, struct err *err);
/* Begins the removal of one region, identified by its addresses and size. -ENOENT, or how many are
 * still in use. Those for which removed() says DONE are gone when this returns. */
int mem_remove(struct mem_table *t, const struct vhost_user_mem_region *r, mem_removed_fn removed,
               void *arg);
/* Begins the removal of all that is not in the list (n 0: of all). The same return values. */
int mem_keep_only(struct mem_table *t, const struct vhost_user_mem_region *r, const int *fds,
                  unsigned n, mem_removed_fn removed, void *arg);
/* The table has this very region, of the same file. */
bool mem_has(const struct mem_table *t, const struct vhost_user_mem_region *r, int fd);
/* Ends the removal of one region (id 0: of all). Returns how many are still being removed. */
unsigned mem_detached(struct mem_table *t, uint32_t id);
unsigned mem_removing(const struct mem_table *t);
/* The guest address of [user, user + len) when it lies in one region (len 0: its first byte). */
bool mem_translate(const struct mem_table *t, uint64_t user, uint64_t len, uint64_t *gpa);

/* ---- vring.c ---- */

struct vring {
    uint32_t size, base;
    bool based; /* base was set since the last reset */
    uint64_t desc_user, driver_user, device_user;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    int kick_fd, call_fd, err_fd;
    bool addressed, enabled, started, stopping, pausing;
    uint32_t start;
};

/* ---- session.c ---- */

struct message {
    struct vhost_user_header h;
    uint8_t payload[PAYLOAD_BYTES];
};

struct reply {
    struct vhost_user_header h;
    uint8_t payload[REPLY_BYTES];
    uint32_t len;
    int fd; /* goes with it and is closed then; -1: none */
};

enum session_wait {
    WAIT_NOTHING,
    WAIT_MEM,
    WAIT_BASE,
    WAIT_PAUSE,
    WAIT_STOP, /* rings stop, one by one, before a reset */
    WAIT_RESET,
};

/* The channel on which we talk to the client unasked. */
struct backend_channel {
    int fd; /* -1: none */
    struct watch watch;
    bool pending;  /* a change the client has not been told of */
    uint32_t sent; /* bytes of a message that is half out */
};

struct vhost_user {
    struct vhost_user_opts o;
    struct stream stream; /* agreed: its first message is there; wait: enum session_wait */
    struct message msg;
    struct reply reply;
    bool resetting; /* the owner has not finished a reset: no ring may start */
    uint32_t starts;
    struct mem_table mem;
    /* what the client has set */
    uint64_t features, protocol_features;
    bool features_refused; /* the client believes in features the device does not have */
    uint8_t status;
    struct vring ring[VHOST_USER_MAX_QUEUES];
    struct vhost_user_inflight_area inflight; /* fd -1: none */
    bool undrained; /* since it was set, a ring was stopped that nobody could drain */
    struct backend_channel channel;
};

struct vhost_user_limits limits_now(const struct vhost_user *vh);

extern const struct stream_protocol vh_session_protocol;
/* What the waiting message waited for is there (0), or not (-errno): finishes it, or it waits for
 * the next thing; the deadline is one for all. */
void vh_session_finish(struct vhost_user *vh, int rc);

/* ---- message.c ---- */

typedef int (*message_fn)(struct vhost_user *vh, struct message *m, struct reply *r,
                          struct err *err);

/* Handles vh->msg, fills vh->reply. 0, STREAM_LATER, or -errno. */
int vh_message_handle(struct vhost_user *vh);
/* Goes on with the message that has waited. The same return values. */
int vh_message_resume(struct vhost_user *vh, enum session_wait waited, int rc);
/* Turns the result of a handler into what is sent. False: nothing is. */
bool vh_message_reply(struct vhost_user *vh, int rc);
/* Forgets what the client has set, but for its memory. */
void vh_message_forget(struct vhost_user *vh);

/* ---- vring.c: handlers of the messages about rings ---- */
int vring_set_num(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_addr(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_base(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_get_base(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_kick(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_call(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_err(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int vring_set_enable(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
bool vring_any_started(const struct vhost_user *vh);
/* Stops all rings. False: one of them is being drained, vhost_user_queue_stopped() ends the wait.
 */
bool vring_stop_all(struct vhost_user *vh);
void vring_init_all(struct vhost_user *vh);
/* Stops and empties all rings without asking anybody. all: also their call and error eventfds and
 * their bases, which outlive a reset. */
void vring_clear_all(struct vhost_user *vh, bool all);
void vring_signal_errors(struct vhost_user *vh);

/* ---- inflight.c ---- */
int inflight_get(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
int inflight_set(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
void inflight_clear(struct vhost_user *vh);
void inflight_void(struct vhost_user *vh, uint32_t index); /* of one ring; not mapped here */
void inflight_forget(struct vhost_user *vh);

/* ---- channel.c ---- */
int channel_set(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err);
void channel_config_changed(struct vhost_user *vh);
void channel_close(struct vhost_user *vh);

#endif
