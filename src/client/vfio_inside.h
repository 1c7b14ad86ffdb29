/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/vfio_inside.h - the vfio-user client from inside: vfio_call.c (messages on the stream) and
 * vfio_client.c (what they say). */
#ifndef CLIENT_VFIO_INSIDE_H
#define CLIENT_VFIO_INSIDE_H

#include "client/stream.h"
#include "client/vfio_client.h"
#include "spec/vfio_user.h"

enum { MAX_FDS = VFIO_USER_MAX_MSG_FDS };
_Static_assert((int)MAX_FDS <= (int)STREAM_MAX_FDS, "descriptors of one message");

struct vfio_client {
    struct stream stream;
    uint16_t next_id;
};

/* One message and its reply. Descriptors received go to fds_in. */
struct vfio_call {
    uint16_t command;
    const void *head; /* fixed part of the payload */
    uint32_t head_len;
    const void *data; /* what follows it */
    uint32_t data_len;
    const int *fds;
    unsigned nfds;
    void *reply; /* payload of the answer */
    uint32_t reply_max, reply_len;
    struct stream_fds fds_in;
};

/* Sends c and waits for its reply. */
int vfio_call(struct vfio_client *vc, struct vfio_call *c);
/* The same for an answer of at least expect bytes; descriptors that come along are closed. */
int vfio_call_fixed(struct vfio_client *vc, struct vfio_call *c, uint32_t expect);
/* Sends c without asking for a reply. */
int vfio_post(struct vfio_client *vc, struct vfio_call *c);

#endif
