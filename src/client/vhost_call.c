/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Messages and answers on a vhost-user socket. */
#include "base/clock.h"
#include "base/util.h"
#include "client/vhost_inside.h"

#include <errno.h>
#include <string.h>

const char *vhost_message_name(uint32_t request)
{
    static const char *const names[VHOST_USER_REQUESTS] = {
        [VHOST_USER_GET_FEATURES] = "GET_FEATURES",
        [VHOST_USER_SET_FEATURES] = "SET_FEATURES",
        [VHOST_USER_SET_OWNER] = "SET_OWNER",
        [VHOST_USER_SET_MEM_TABLE] = "SET_MEM_TABLE",
        [VHOST_USER_SET_VRING_NUM] = "SET_VRING_NUM",
        [VHOST_USER_SET_VRING_ADDR] = "SET_VRING_ADDR",
        [VHOST_USER_SET_VRING_BASE] = "SET_VRING_BASE",
        [VHOST_USER_GET_VRING_BASE] = "GET_VRING_BASE",
        [VHOST_USER_SET_VRING_KICK] = "SET_VRING_KICK",
        [VHOST_USER_SET_VRING_CALL] = "SET_VRING_CALL",
        [VHOST_USER_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
        [VHOST_USER_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
        [VHOST_USER_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
        [VHOST_USER_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
        [VHOST_USER_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
        [VHOST_USER_GET_CONFIG] = "GET_CONFIG",
        [VHOST_USER_GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
        [VHOST_USER_SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
        [VHOST_USER_GET_MAX_MEM_SLOTS] = "GET_MAX_MEM_SLOTS",
        [VHOST_USER_ADD_MEM_REG] = "ADD_MEM_REG",
        [VHOST_USER_SET_STATUS] = "SET_STATUS",
    };

    return request < VHOST_USER_REQUESTS && names[request] ? names[request] : "message";
}

static int receive(struct vhost_client *vc, struct vhost_call *c, void *buf, uint32_t min,
                   uint32_t max)
{
    uint64_t deadline = clock_ms() + vc->stream.timeout_ms;
    struct vhost_user_header h;
    int rc = stream_recv(&vc->stream, &h, sizeof(h), &c->fds_in, deadline);

    if (rc)
        return rc;
    if (h.request != c->request || (h.flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
        !(h.flags & VHOST_USER_F_REPLY) || h.size > max)
        return stream_broken(&vc->stream, -EBADMSG);
    rc = stream_recv(&vc->stream, buf, h.size, &c->fds_in, deadline);
    if (rc)
        return rc;
    c->reply_len = h.size;
    /* An empty answer is how a back end refuses what it should have answered. */
    if (h.size < min)
        return h.size ? stream_broken(&vc->stream, -EBADMSG) : -EINVAL;
    return 0;
}

static int call(struct vhost_client *vc, struct vhost_call *c)
{
    bool acked = !c->reply && vhost_client_has(vc, VHOST_USER_PROTOCOL_F_REPLY_ACK);
    struct vhost_user_header h = {
        .request = c->request,
        .flags = VHOST_USER_VERSION | (acked ? VHOST_USER_F_NEED_REPLY : 0),
        .size = c->len,
    };
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)c->payload, c->len}};
    uint64_t ack = 0;
    int rc = stream_send(&vc->stream, iov, ARRAY_SIZE(iov), c->fds, c->nfds);

    if (rc)
        return rc;
    if (c->reply)
        return receive(vc, c, c->reply, c->reply_min, c->reply_max);
    if (!acked)
        return 0;
    rc = receive(vc, c, &ack, sizeof(ack), sizeof(ack));
    return rc ? rc : ack ? -EREMOTEIO : 0;
}

int vhost_call(struct vhost_client *vc, struct vhost_call *c, struct err *err)
{
    const char *name = vhost_message_name(c->request);
    int rc;

    c->fds_in.n = 0;
    rc = call(vc, c);
    if (rc || !c->want_fds)
        stream_close_fds(&c->fds_in);
    switch (rc) {
    case 0:
        return 0;
    case -EREMOTEIO:
        return err_set(err, rc, "%s: the back end refused %s", vc->path, name);
    case -EINVAL:
        return err_set(err, rc, "%s: the back end's answer to %s is empty: refused", vc->path,
                       name);
    case -EBADMSG:
        return err_set(err, rc, "%s: the back end's answer to %s makes no sense", vc->path, name);
    case -ECONNRESET:
        return err_set(err, rc, "%s: the back end closed the socket at %s", vc->path, name);
    case -ETIMEDOUT:
        return err_set(err, rc, "%s: no answer to %s in %u ms", vc->path, name,
                       vc->stream.timeout_ms);
    default:
        return err_set(err, rc, "%s: %s: %s", vc->path, name, strerror(-rc));
    }
}
