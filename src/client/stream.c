/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/stream.h"

#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

int stream_broken(struct stream *s, int rc)
{
    s->broken = rc;
    return rc;
}

static int wait_for(struct stream *s, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = s->sock, .events = events};

    for (;;) {
        uint64_t now = clock_ms();
        int n;

        if (now >= deadline)
            return stream_broken(s, -ETIMEDOUT);
        n = poll(&p, 1, (int)(deadline - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return stream_broken(s, -errno);
    }
}

static void advance(struct msghdr *msg, size_t n)
{
    while (msg->msg_iovlen && n >= msg->msg_iov->iov_len) {
        n -= msg->msg_iov->iov_len;
        msg->msg_iov++;
        msg->msg_iovlen--;
    }
    if (msg->msg_iovlen) {
        msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + n;
        msg->msg_iov->iov_len -= n;
    }
}

int stream_send(struct stream *s, struct iovec *iov, int iovcnt, const int *fds, unsigned nfds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * STREAM_MAX_FDS)];
    } control;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)iovcnt};
    uint64_t deadline = clock_ms() + s->timeout_ms;

    if (s->broken)
        return s->broken;
    if (nfds > STREAM_MAX_FDS)
        return -EMSGSIZE;
    if (nfds) {
        struct cmsghdr *cm;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        cm = CMSG_FIRSTHDR(&msg);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(cm), fds, sizeof(int) * nfds);
    }
    advance(&msg, 0);
    while (msg.msg_iovlen) {
        ssize_t n = sendmsg(s->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_for(s, POLLOUT, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n < 0)
            return stream_broken(s, errno == EPIPE ? -ECONNRESET : -errno);
        msg.msg_control = NULL; /* descriptors went with the first byte */
        msg.msg_controllen = 0;
        advance(&msg, (size_t)n);
    }
    s->messages++;
    return 0;
}

int stream_recv(struct stream *s, void *buf, size_t len, struct stream_fds *fds, uint64_t deadline)
{
    if (s->broken)
        return s->broken;
    while (len) {
        unsigned got = 0;
        ssize_t n = fd_recv(s->sock, buf, len, fds->fd + fds->n, STREAM_MAX_FDS - fds->n, &got);

        if (n == -EAGAIN) {
            int rc = wait_for(s, POLLIN, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n <= 0)
            return stream_broken(s, n ? (int)n : -ECONNRESET);
        fds->n += got;
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}

bool stream_alive(struct stream *s)
{
    char byte;

    if (!s->broken && recv(s->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        stream_broken(s, -ECONNRESET);
    return !s->broken;
}

void stream_close_fds(struct stream_fds *fds)
{
    for (unsigned i = 0; i < fds->n; i++)
        fd_close(&fds->fd[i]);
    fds->n = 0;
}
