/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_tcp/digest.h"
#include "nvme_tcp/stream_inside.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { IOV_MAX_RECEIVE = 128, CALLS_PER_TURN = 32 };

void nvme_tcp_stream_begin(struct nvme_tcp_stream *s, int fd, bool host)
{
    s->fd = fd;
    s->rules = (struct nvme_tcp_rules){.host = host, .max_data_bytes = INT32_MAX};
    s->pda = 0;
    s->in_ticks = s->out_ticks = 0;
    s->state = IN_HEADER;
    s->head = s->tail = 0;
    list_init(&s->out);
}

static void touch(volatile char *at, bool write)
{
    if (write)
        (void)__atomic_fetch_or(at, 0, __ATOMIC_RELAXED);
    else
        (void)*at;
}

void nvme_tcp_touch(const struct iovec *v, unsigned n, bool write)
{
    enum { PAGE = 4096 };

    for (unsigned i = 0; i < n; i++) {
        volatile char *base = v[i].iov_base;
        size_t len = v[i].iov_len;

        for (size_t at = 0; at < len; at += PAGE)
            touch(base + at, write);
        if (len > 0)
            touch(base + len - 1, write);
    }
}

/* The result of a callback. False: the connection is over. */
static bool go_on(struct nvme_tcp_stream *s, int rc, const struct nvme_tcp_fault *fault,
                  const void *header, size_t len)
{
    if (rc == -EPROTO)
        s->ops->broken(s, fault, header, len);
    return rc == 0 && s->fd >= 0;
}

/* A header is complete, or not yet (false), or the connection is gone (false). */
static bool parse_header(struct nvme_tcp_stream *s)
{
    unsigned have = s->tail - s->head;
    _Alignas(8) char header[NVME_TCP_HEADER_MAX]; /* it lies anywhere in buf */
    struct nvme_tcp_fault fault;
    struct nvme_tcp_ch ch;
    int rc;

    if (have < sizeof(ch))
        return false;
    have = MIN(have, (unsigned)sizeof(header));
    memcpy(header, s->buf + s->head, have);
    memcpy(&ch, header, sizeof(ch));
    rc = nvme_tcp_check(&s->rules, &ch, &s->layout, &fault);
    if (rc)
        return go_on(s, rc, &fault, header, MIN(have, ch.hlen));
    if (have < s->layout.header_bytes)
        return false;
    s->head += s->layout.header_bytes;
    s->in_drop = false;
    rc = nvme_tcp_check_hdgst(&s->layout, header, &fault);
    if (rc == 0)
        rc = s->ops->header(s, header, &fault);
    if (!go_on(s, rc, &fault, header, ch.hlen))
        return false;
    if (s->layout.data_bytes == 0)
        return true;
    s->state = IN_PAD;
    s->left = s->layout.pad_bytes;
    s->crc = NVME_TCP_CRC_INIT;
    return true;
}

static bool data_over(struct nvme_tcp_stream *s, bool intact)
{
    struct nvme_tcp_fault fault;

    s->state = IN_HEADER;
    return go_on(s, s->ops->data(s, intact, &fault), &fault, NULL, 0);
}

static bool parse_digest(struct nvme_tcp_stream *s)
{
    le32 digest;

    if (s->tail - s->head < sizeof(digest))
        return false;
    memcpy(&digest, s->buf + s->head, sizeof(digest));
    s->head += sizeof(digest);
    return data_over(s, le32_get(digest) == nvme_tcp_crc_final(s->crc));
}

/* Where the next data go: to the owner's place, or nowhere. */
static unsigned data_place(struct nvme_tcp_stream *s, struct iovec *v, unsigned max,
                           size_t *covered)
{
    if (!s->in_drop)
        return cursor_gather(&s->in_cursor, s->left, v, max, covered);
    *covered = MIN((size_t)s->left, (size_t)s->scratch_bytes);
    v[0] = (struct iovec){s->scratch, *covered};
    return 1;
}

/* n bytes have arrived at v. */
static bool data_arrived(struct nvme_tcp_stream *s, const struct iovec *v, size_t n)
{
    if (s->layout.ddgst) {
        for (size_t left = n; left > 0; v++) {
            /* n is never more than data_place() covered. NOLINTNEXTLINE(clang-analyzer-core.*) */
            size_t len = MIN(left, v->iov_len);

            s->crc = nvme_tcp_crc_update(s->crc, v->iov_base, len);
            left -= len;
        }
    }
    if (!s->in_drop)
        cursor_advance(&s->in_cursor, n);
    s->left -= (uint32_t)n;
    if (s->left > 0)
        return true;
    if (s->layout.ddgst) {
        s->state = IN_DIGEST;
        return true;
    }
    return data_over(s, true);
}

/* Data that came along with headers. */
static bool parse_data(struct nvme_tcp_stream *s)
{
    while (s->state == IN_DATA && s->head < s->tail) {
        struct iovec v;
        size_t n;

        if (data_place(s, &v, 1, &n) == 0) { /* the owner has promised room: its own fault */
            s->ops->ended(s, -ENOBUFS);
            return false;
        }
        n = MIN(n, (size_t)(s->tail - s->head));
        memcpy(v.iov_base, s->buf + s->head, n);
        s->head += (unsigned)n;
        if (!data_arrived(s, &v, n))
            return false;
    }
    return s->state != IN_DATA;
}

static bool parse_pad(struct nvme_tcp_stream *s)
{
    uint32_t n = MIN(s->left, s->tail - s->head);

    s->head += n;
    s->left -= n;
    if (s->left > 0)
        return false;
    s->state = IN_DATA;
    s->left = s->layout.data_bytes;
    return true;
}

static void parse(struct nvme_tcp_stream *s)
{
    bool more = true;

    while (more) {
        switch (s->state) {
        case IN_HEADER:
            more = parse_header(s);
            break;
        case IN_PAD:
            more = parse_pad(s);
            break;
        case IN_DATA:
            more = parse_data(s);
            break;
        case IN_DIGEST:
            more = parse_digest(s);
            break;
        }
    }
}

bool nvme_tcp_receive(struct nvme_tcp_stream *s)
{
    bool touched = false;

    for (unsigned calls = 0; calls < CALLS_PER_TURN && s->fd >= 0; calls++) {
        struct iovec v[IOV_MAX_RECEIVE + 1];
        struct msghdr msg = {.msg_iov = v};
        size_t data = 0, room;
        unsigned n = 0;
        ssize_t got;

        /* What is unparsed is the beginning of a header (or digest): short. */
        memmove(s->buf, s->buf + s->head, s->tail - s->head);
        s->tail -= s->head;
        s->head = 0;
        if (s->state == IN_DATA)
            n = data_place(s, v, IOV_MAX_RECEIVE, &data);
        room = data;
        /* Data first, then the next headers in the same call, when all data have a place in v. */
        if (s->state != IN_DATA || data == s->left) {
            v[n++] = (struct iovec){s->buf + s->tail, s->buf_bytes - s->tail};
            room += s->buf_bytes - s->tail;
        }
        msg.msg_iovlen = n;
        got = recvmsg(s->fd, &msg, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return false;
        if (got < 0 && errno == EFAULT && !touched) {
            touched = true;
            nvme_tcp_touch(v, n, true);
            continue;
        }
        if (got <= 0) {
            s->ops->ended(s, got < 0 ? -errno : 0);
            return false;
        }
        s->in_ticks = 0;
        if (data > 0) {
            size_t n_data = MIN((size_t)got, data);

            s->tail += (unsigned)((size_t)got - n_data);
            if (!data_arrived(s, v, n_data))
                return false;
        } else {
            s->tail += (unsigned)got;
        }
        parse(s);
        if ((size_t)got < room)
            return false; /* the socket is empty */
    }
    return s->fd >= 0;
}
