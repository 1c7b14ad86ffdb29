/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/client.h - the service's end of the link: one connection to snap_emu, the table of
 * functions, leases, keepsakes. Thread: control. Callbacks run on control. */
#ifndef LINK_CLIENT_H
#define LINK_CLIENT_H

#include "link/function.h"

struct link_client;
struct lease;

struct link_client_opts {
    const char *socket_path;
    const char *name; /* RPC socket of this service, for snap_emu's logs */
    struct reactor *control;
    struct reactor **reactors; /* I/O reactors; wake-ups are installed into them */
    unsigned nreactors;
    int fence_read_fd;       /* handed over: closed by the client */
    void (*lost)(void *arg); /* the link broke: the service must stop and drain */
    void *arg;
};

/* Connects, says hello and waits (bounded, 5 s) until the function table is complete. Before the
 * reactors run. */
struct link_client *link_client_connect(const struct link_client_opts *opts, struct err *err);
void link_client_destroy(struct link_client *lc);

/* The function table; pointers are valid until the control thread returns to its loop. */
unsigned link_function_count(const struct link_client *lc);
const struct link_function_info *link_function_get(const struct link_client *lc, unsigned index);
/* -1 when there is none. */
int link_function_find_vuid(const struct link_client *lc, const char *vuid);

/* Leases function index for a controller. opened runs once: rc 0 after ops->adopt has succeeded on
 * the reactor, or the error (-EBUSY: another holder; -ECANCELED). Waits as long as an old holder is
 * not fenced: lease_waiting() tells. ops/dev must live until lease_close()'s closed. */
struct lease *lease_open(struct link_client *lc, unsigned index, const char *ctrl_id,
                         struct reactor *r, const struct function_ops *ops, void *dev,
                         void (*opened)(void *arg, int rc, const struct err *err), void *arg);
bool lease_waiting(const struct lease *l);
/* Gives it back; the device model has nothing in flight. closed runs once, then the lease and its
 * function are gone. */
void lease_close(struct lease *l, void (*closed)(void *arg), void *arg);
struct function *lease_function(struct lease *l); /* NULL before it is granted */

/* A keepsake: memory by name that outlives the service; made with this size, or the one there is.
 * Waits for the answer (bounded, 5 s). The fd, the caller's to close, or -errno. Only before the
 * control loop runs or from RPC handlers. */
int link_keep_sync(struct link_client *lc, const char *name, uint64_t size_bytes, struct err *err);
int link_drop_sync(struct link_client *lc, const char *name, struct err *err);

#endif
