/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Messages and replies on a vfio-user socket. */
#include "base/clock.h"
#include "base/util.h"
#include "client/vfio_inside.h"

#include <errno.h>

static int send_message(struct vfio_client *vc, const struct vfio_call *c, uint16_t id,
                        uint32_t flags)
{
    struct vfio_user_header h = {
        .id = id,
        .command = c->command,
        .size = (uint32_t)sizeof(h) + c->head_len + c->data_len,
        .flags = flags,
    };
    struct iovec iov[3] = {
        {&h, sizeof(h)},
        {(void *)(uintptr_t)c->head, c->head_len},
        {(void *)(uintptr_t)c->data, c->data_len},
    };

    return stream_send(&vc->stream, iov, ARRAY_SIZE(iov), c->fds, c->nfds);
}

static int recv_reply(struct vfio_client *vc, struct vfio_call *c, uint16_t id)
{
    uint64_t deadline = clock_ms() + vc->stream.timeout_ms;
    struct vfio_user_header h;
    int rc = stream_recv(&vc->stream, &h, sizeof(h), &c->fds_in, deadline);

    if (rc)
        return rc;
    if (h.id != id || h.command != c->command || h.size < sizeof(h) ||
        (h.flags & VFIO_USER_F_TYPE_MASK) != VFIO_USER_F_REPLY)
        return stream_broken(&vc->stream, -EBADMSG);
    c->reply_len = h.size - (uint32_t)sizeof(h);
    if (h.flags & VFIO_USER_F_ERROR) {
        if (c->reply_len)
            return stream_broken(&vc->stream, -EBADMSG); /* an error reply is a header only */
        return h.error ? -(int)MIN(h.error, 4095U) : -EIO;
    }
    if (c->reply_len > c->reply_max)
        return stream_broken(&vc->stream, -EBADMSG);
    return stream_recv(&vc->stream, c->reply, c->reply_len, &c->fds_in, deadline);
}

int vfio_call(struct vfio_client *vc, struct vfio_call *c)
{
    uint16_t id = vc->next_id++;
    int rc;

    c->fds_in.n = 0;
    rc = send_message(vc, c, id, VFIO_USER_F_COMMAND);
    if (!rc)
        rc = recv_reply(vc, c, id);
    if (rc)
        stream_close_fds(&c->fds_in);
    return rc;
}

int vfio_call_fixed(struct vfio_client *vc, struct vfio_call *c, uint32_t expect)
{
    int rc = vfio_call(vc, c);

    if (rc)
        return rc;
    stream_close_fds(&c->fds_in);
    return c->reply_len < expect ? stream_broken(&vc->stream, -EBADMSG) : 0;
}

int vfio_post(struct vfio_client *vc, struct vfio_call *c)
{
    return send_message(vc, c, vc->next_id++, VFIO_USER_F_COMMAND | VFIO_USER_F_NO_REPLY);
}
