/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Messages and replies on a vfio-user socket. */
#include "base/fd.h"
#include "base/util.h"
#include "client/vfio_inside.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int vfio_broken(struct vfio_client *vc, int rc)
{
    vc->broken = rc;
    return rc;
}

static int wait_for(struct vfio_client *vc, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = vc->sock, .events = events};

    for (;;) {
        uint64_t now = now_ms();
        int n;

        if (now >= deadline)
            return vfio_broken(vc, -ETIMEDOUT);
        n = poll(&p, 1, (int)(deadline - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return vfio_broken(vc, -errno);
    }
}

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
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    uint64_t deadline = now_ms() + vc->timeout_ms;
    size_t left = h.size;

    if (c->nfds) {
        struct cmsghdr *cm;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * c->nfds);
        cm = CMSG_FIRSTHDR(&msg);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof(int) * c->nfds);
        memcpy(CMSG_DATA(cm), c->fds, sizeof(int) * c->nfds);
    }
    while (left) {
        ssize_t n = sendmsg(vc->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_for(vc, POLLOUT, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n < 0)
            return vfio_broken(vc, errno == EPIPE ? -ECONNRESET : -errno);
        left -= (size_t)n;
        msg.msg_control = NULL; /* descriptors went with the first byte */
        msg.msg_controllen = 0;
        while (msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len) {
            n -= (ssize_t)msg.msg_iov->iov_len;
            msg.msg_iov++;
            msg.msg_iovlen--;
        }
        if (msg.msg_iovlen) {
            msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= (size_t)n;
        }
    }
    vc->messages++;
    return 0;
}

void vfio_close_all(int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
}

static int recv_bytes(struct vfio_client *vc, void *buf, size_t len, struct vfio_call *c,
                      uint64_t deadline)
{
    while (len) {
        unsigned got_fds = 0;
        ssize_t n =
            fd_recv(vc->sock, buf, len, c->fds_in + c->nfds_in, MAX_FDS - c->nfds_in, &got_fds);

        if (n == -EINTR)
            continue;
        if (n == -EAGAIN) {
            int rc = wait_for(vc, POLLIN, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n <= 0)
            return vfio_broken(vc, n ? (int)n : -ECONNRESET);
        c->nfds_in += got_fds;
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}

static int recv_reply(struct vfio_client *vc, struct vfio_call *c, uint16_t id)
{
    uint64_t deadline = now_ms() + vc->timeout_ms;
    struct vfio_user_header h;
    int rc = recv_bytes(vc, &h, sizeof(h), c, deadline);

    if (rc)
        return rc;
    if (h.id != id || h.command != c->command || h.size < sizeof(h) ||
        (h.flags & VFIO_USER_F_TYPE_MASK) != VFIO_USER_F_REPLY)
        return vfio_broken(vc, -EBADMSG);
    c->reply_len = h.size - (uint32_t)sizeof(h);
    if (h.flags & VFIO_USER_F_ERROR) {
        if (c->reply_len)
            return vfio_broken(vc, -EBADMSG); /* an error reply is a header only */
        return h.error ? -(int)MIN(h.error, 4095U) : -EIO;
    }
    if (c->reply_len > c->reply_max)
        return vfio_broken(vc, -EBADMSG);
    return recv_bytes(vc, c->reply, c->reply_len, c, deadline);
}

int vfio_call(struct vfio_client *vc, struct vfio_call *c)
{
    uint16_t id = vc->next_id++;
    int rc = vc->broken;

    c->nfds_in = 0;
    if (!rc)
        rc = send_message(vc, c, id, VFIO_USER_F_COMMAND);
    if (!rc)
        rc = recv_reply(vc, c, id);
    if (rc) {
        vfio_close_all(c->fds_in, c->nfds_in);
        c->nfds_in = 0;
    }
    return rc;
}

int vfio_call_fixed(struct vfio_client *vc, struct vfio_call *c, uint32_t expect)
{
    int rc = vfio_call(vc, c);

    if (rc)
        return rc;
    vfio_close_all(c->fds_in, c->nfds_in);
    return c->reply_len < expect ? vfio_broken(vc, -EBADMSG) : 0;
}

int vfio_post(struct vfio_client *vc, struct vfio_call *c)
{
    if (vc->broken)
        return vc->broken;
    return send_message(vc, c, vc->next_id++, VFIO_USER_F_COMMAND | VFIO_USER_F_NO_REPLY);
}
