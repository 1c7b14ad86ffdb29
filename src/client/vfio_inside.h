/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/vfio_inside.h - the vfio-user client from inside: vfio_call.c (messages on the stream) and
 * vfio_client.c (what they say). */
#ifndef CLIENT_VFIO_INSIDE_H
#define CLIENT_VFIO_INSIDE_H

#include "client/vfio_client.h"
#include "spec/vfio_user.h"

enum { MAX_FDS = VFIO_USER_MAX_MSG_FDS, MAX_REPLY = 65536 };

struct vfio_client {
    int sock;
    int broken; /* 0, or the error every call answers from now on */
    uint16_t next_id;
    uint32_t timeout_ms;
    uint64_t messages;
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
    int fds_in[MAX_FDS];
    unsigned nfds_in;
};

/* Sends c and waits for its reply. */
int vfio_call(struct vfio_client *vc, struct vfio_call *c);
/* The same for an answer of at least expect bytes; descriptors that come along are closed. */
int vfio_call_fixed(struct vfio_client *vc, struct vfio_call *c, uint32_t expect);
/* Sends c without asking for a reply. */
int vfio_post(struct vfio_client *vc, struct vfio_call *c);
/* Every call answers rc from now on. Returns rc. */
int vfio_broken(struct vfio_client *vc, int rc);
void vfio_close_all(int *fds, unsigned n);

#endif
