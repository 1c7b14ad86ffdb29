/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/stream.h - inside: messages with descriptors on a Unix socket, every wait bounded. Errors:
 * negative errno; -ECONNRESET: the other side closed, -ETIMEDOUT: it did not answer. The first
 * error is kept: every later call answers it. Thread: one. */
#ifndef CLIENT_STREAM_H
#define CLIENT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { STREAM_MAX_FDS = 16 };

struct stream {
    int sock;   /* non-blocking, the caller's */
    int broken; /* 0 or the first error */
    uint32_t timeout_ms;
    uint64_t messages; /* sent */
};

/* Descriptors that came with what was received: the caller's to close. */
struct stream_fds {
    int fd[STREAM_MAX_FDS];
    unsigned n;
};

/* Sends all of iov, which is used up; the descriptors go with its first byte. */
int stream_send(struct stream *s, struct iovec *iov, int iovcnt, const int *fds, unsigned nfds);
/* Receives exactly len bytes before deadline (clock_ms()); descriptors are added to fds. */
int stream_recv(struct stream *s, void *buf, size_t len, struct stream_fds *fds, uint64_t deadline);
/* False once the other side has closed; only peeks. */
bool stream_alive(struct stream *s);
/* Every call answers rc from now on. Returns rc. */
int stream_broken(struct stream *s, int rc);
void stream_close_fds(struct stream_fds *fds);

#endif
