/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_tcp/digest.h"
#include "nvme_tcp/stream_inside.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    IOV_MAX_SEND = 256,
    BYTES_PER_CALL = 1 << 20, /* enough to be worth a system call; bounds the time of one */
    CALLS_PER_TURN = 8,
};

/* CRC over the next bytes at a cursor. */
static le32 digest_of(struct cursor at, size_t bytes)
{
    uint32_t crc = NVME_TCP_CRC_INIT;

    while (bytes > 0) {
        struct iovec v;
        size_t n;

        if (cursor_gather(&at, bytes, &v, 1, &n) == 0)
            break;
        crc = nvme_tcp_crc_update(crc, v.iov_base, n);
        cursor_advance(&at, n);
        bytes -= n;
    }
    return le32_of(nvme_tcp_crc_final(crc));
}

void nvme_tcp_line_up(struct nvme_tcp_stream *s, struct nvme_tcp_out *out, uint8_t hlen,
                      uint8_t flags, struct cursor at, uint32_t data_bytes)
{
    bool ddgst = s->rules.ddgst && data_bytes > 0;

    out->data_bytes = data_bytes;
    out->header_bytes = (uint32_t)nvme_tcp_seal(out->header, hlen, flags, data_bytes, s->pda,
                                                s->rules.hdgst, ddgst);
    out->started = false;
    out->header_done = out->data_done = out->digest_done = 0;
    out->digest_bytes = ddgst ? sizeof(le32) : 0;
    out->cursor = at;
    if (ddgst)
        out->digest = digest_of(at, data_bytes);
    if (list_empty(&s->out))
        s->out_ticks = 0;
    list_append(&s->out, &out->node);
}

void nvme_tcp_out_move(struct nvme_tcp_out *out, struct cursor at)
{
    out->cursor = at;
    if (out->digest_bytes && out->data_done == 0)
        out->digest = digest_of(at, out->data_bytes);
    cursor_advance(&out->cursor, out->data_done);
}

/* Describes what is left of a PDU. False when v had no room for all of it. */
static bool gather(struct nvme_tcp_out *out, struct iovec *v, unsigned *n, size_t *bytes)
{
    size_t covered;

    if (*n + 3 > IOV_MAX_SEND)
        return false;
    if (out->header_done < out->header_bytes) {
        v[*n] =
            (struct iovec){out->header + out->header_done, out->header_bytes - out->header_done};
        *bytes += v[(*n)++].iov_len;
    }
    if (out->data_done < out->data_bytes) {
        *n += cursor_gather(&out->cursor, out->data_bytes - out->data_done, v + *n,
                            IOV_MAX_SEND - 1 - *n, &covered);
        *bytes += covered;
        if (covered < out->data_bytes - out->data_done)
            return false;
    }
    if (out->digest_done < out->digest_bytes) {
        v[*n] = (struct iovec){(char *)&out->digest + out->digest_done,
                               out->digest_bytes - out->digest_done};
        *bytes += v[(*n)++].iov_len;
    }
    return true;
}

static size_t take(size_t *sent, uint32_t *done, uint32_t total)
{
    size_t n = MIN(*sent, (size_t)(total - *done));

    *done += (uint32_t)n;
    *sent -= n;
    return n;
}

/* The first PDUs in line have left by so many bytes. */
static void account(struct nvme_tcp_stream *s, size_t sent)
{
    while (sent > 0) {
        struct nvme_tcp_out *out = list_entry(s->out.next, struct nvme_tcp_out, node);

        out->started = true;
        take(&sent, &out->header_done, out->header_bytes);
        cursor_advance(&out->cursor, take(&sent, &out->data_done, out->data_bytes));
        take(&sent, &out->digest_done, out->digest_bytes);
        if (out->header_done < out->header_bytes || out->data_done < out->data_bytes ||
            out->digest_done < out->digest_bytes)
            return;
        list_remove(&out->node);
        s->ops->sent(s, out);
    }
}

int nvme_tcp_send(struct nvme_tcp_stream *s)
{
    bool touched = false;

    for (unsigned calls = 0; !list_empty(&s->out); calls++) {
        struct iovec v[IOV_MAX_SEND];
        struct msghdr msg = {.msg_iov = v};
        size_t bytes = 0;
        unsigned n = 0;
        ssize_t sent;

        if (calls == CALLS_PER_TURN)
            return -EAGAIN;
        list_for_each(it, &s->out)
        {
            if (!gather(list_entry(it, struct nvme_tcp_out, node), v, &n, &bytes) ||
                bytes >= BYTES_PER_CALL)
                break;
        }
        msg.msg_iovlen = n;
        sent = sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return -EAGAIN;
        if (sent < 0 && errno == EFAULT && !touched) {
            touched = true;
            nvme_tcp_touch(v, n, false);
            continue;
        }
        if (sent < 0) {
            int rc = -errno;

            s->ops->ended(s, rc);
            return rc;
        }
        s->out_ticks = 0;
        account(s, (size_t)sent);
    }
    return 0;
}
