/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_tcp/cursor.h - a place in an iov, moved forward as bytes come and go. */
#ifndef NVME_TCP_CURSOR_H
#define NVME_TCP_CURSOR_H

#include "base/util.h"

#include <stddef.h>
#include <sys/uio.h>

struct cursor {
    const struct iovec *iov, *end;
    size_t off; /* in *iov */
};

static inline void cursor_advance(struct cursor *c, size_t bytes)
{
    while (bytes > 0 && c->iov < c->end) {
        size_t left = c->iov->iov_len - c->off;

        if (bytes < left) {
            c->off += bytes;
            return;
        }
        bytes -= left;
        c->iov++;
        c->off = 0;
    }
}

static inline struct cursor cursor_at(const struct iovec *iov, int iovcnt, size_t skip)
{
    struct cursor c = {iov, iov + iovcnt, 0};

    cursor_advance(&c, skip);
    return c;
}

/* Describes the next bytes (at most) in v[0..max); returns the entries used, *covered gets the
 * bytes described. */
static inline unsigned cursor_gather(const struct cursor *from, size_t bytes, struct iovec *v,
                                     unsigned max, size_t *covered)
{
    struct cursor c = *from;
    size_t sum = 0;
    unsigned n = 0;

    while (sum < bytes && n < max && c.iov < c.end) {
        size_t len = MIN(c.iov->iov_len - c.off, bytes - sum);

        if (len > 0)
            v[n++] = (struct iovec){(char *)c.iov->iov_base + c.off, len};
        sum += len;
        c.iov++;
        c.off = 0;
    }
    *covered = sum;
    return n;
}

#endif
