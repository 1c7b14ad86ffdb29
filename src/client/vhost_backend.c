/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The channel on which the back end sends messages of its own. */
#include "base/clock.h"
#include "base/fd.h"
#include "client/vhost_inside.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

int vhost_backend_open(struct vhost_client *vc, struct err *err)
{
    struct vhost_call c = {.request = VHOST_USER_SET_BACKEND_REQ_FD, .nfds = 1};
    int pair[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
        return err_set(err, -errno, "%s: no socket pair: %s", vc->path, strerror(errno));
    vc->backend = (struct stream){.sock = pair[0], .timeout_ms = vc->stream.timeout_ms};
    c.fds = &pair[1];
    rc = vhost_call(vc, &c, err);
    fd_close(&pair[1]);
    return rc;
}

int vhost_client_backend_fd(const struct vhost_client *vc)
{
    return vc->backend.broken ? -1 : vc->backend.sock;
}

/* One message. Its payload is read and dropped: CONFIG_CHANGE has none. */
static int receive(struct vhost_client *vc, struct vhost_user_header *h, struct err *err)
{
    uint64_t deadline = clock_ms() + vc->backend.timeout_ms;
    struct stream_fds fds = {.n = 0};
    char payload[512];
    int rc = stream_recv(&vc->backend, h, sizeof(*h), &fds, deadline);

    if (!rc && h->size > sizeof(payload))
        rc = stream_broken(&vc->backend, -EBADMSG);
    if (!rc)
        rc = stream_recv(&vc->backend, payload, h->size, &fds, deadline);
    stream_close_fds(&fds);
    return rc ? err_set(err, rc, "%s: the back end's own channel: %s", vc->path, strerror(-rc)) : 0;
}

int vhost_client_serve_backend(struct vhost_client *vc, bool *ret_changed, struct err *err)
{
    struct vhost_user_header h;
    char byte;
    int rc;

    *ret_changed = false;
    if (vhost_client_backend_fd(vc) < 0 || !stream_alive(&vc->backend) ||
        recv(vc->backend.sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
        return 0; /* a channel that is closed says nothing; the main one tells who is gone */
    rc = receive(vc, &h, err);
    if (rc)
        return rc;
    if (h.flags & VHOST_USER_F_NEED_REPLY)
        vc->owed = h;
    *ret_changed = h.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
    return *ret_changed ? 0 : vhost_client_ack_backend(vc, err);
}

int vhost_client_ack_backend(struct vhost_client *vc, struct err *err)
{
    bool known = vc->owed.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
    uint64_t ack = known ? 0 : 1;
    struct iovec iov[2] = {{&vc->owed, sizeof(vc->owed)}, {&ack, sizeof(ack)}};
    int rc;

    if (!vc->owed.request)
        return 0;
    vc->owed.flags = VHOST_USER_VERSION | VHOST_USER_F_REPLY;
    vc->owed.size = sizeof(ack);
    rc = stream_send(&vc->backend, iov, 2, NULL, 0);
    vc->owed.request = 0;
    return rc ? err_set(err, rc, "%s: the back end's own channel: %s", vc->path, strerror(-rc)) : 0;
}
