/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/vhost_inside.h - the front end from inside: vhost_call.c (messages on the stream),
 * vhost_backend.c (the back end's own messages) and vhost_client.c (what they say). */
#ifndef CLIENT_VHOST_INSIDE_H
#define CLIENT_VHOST_INSIDE_H

#include "client/stream.h"
#include "client/vhost_client.h"

struct vhost_client {
    const char *path;
    struct stream stream;
    struct vhost_client_info info;
    struct stream backend; /* its sock -1: no such channel */
    struct vhost_user_header
        owed; /* of a back end's message that waits for its ack; or request 0 */
};

/* One message and, when reply is not NULL or the back end acknowledges, its answer. */
struct vhost_call {
    enum vhost_user_request request;
    const void *payload;
    uint32_t len;
    const int *fds;
    unsigned nfds;
    void *reply;
    uint32_t reply_min, reply_max, reply_len;
    struct stream_fds fds_in; /* closed, but for those of a reply that want_fds */
    bool want_fds;
};

const char *vhost_message_name(uint32_t request);
int vhost_call(struct vhost_client *vc, struct vhost_call *c, struct err *err);

/* Makes the channel and gives the back end its end. */
int vhost_backend_open(struct vhost_client *vc, struct err *err);

#endif
