/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/tcp_inside.h"

#include "nvme_tcp/digest.h"

#include <errno.h>
#include <string.h>

enum { IOV_MAX_RECEIVE = 128, CALLS_PER_TURN = 32 };

static int fault(struct nvme_tcp_fault *f, enum nvme_tcp_fes fes, size_t fei, const char *text)
{
    *f = (struct nvme_tcp_fault){fes, (uint32_t)fei, text};
    return -EPROTO;
}

/* ---- PDUs ---- */

static int ic_resp(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_ic_resp *pdu = header;
    int rc = nvme_tcp_check_ic_resp(pdu, c->opts.hdgst, c->opts.ddgst, f);

    if (rc)
        return rc;
    c->rules.ic_done = true;
    c->rules.hdgst = pdu->dgst & NVME_TCP_DGST_HDR;
    c->rules.ddgst = pdu->dgst & NVME_TCP_DGST_DATA;
    c->cpda = pdu->cpda;
    c->maxh2c_bytes = le32_get(pdu->maxh2cdata);
    c->state = TCP_UP;
    c->ops->up(c);
    return 0;
}

/* A command is over. Nothing of it may be under way any more in either direction. */
static int finish(struct tcp_conn *c, struct tcp_cmd *cmd, const struct nvme_cqe *cqe, size_t fei,
                  struct nvme_tcp_fault *f)
{
    bool ok = le16_get(cqe->sf) >> 1 == 0;

    if (cmd->tx != TX_NOTHING)
        return fault(f, NVME_TCP_FES_SEQUENCE, fei, "a response while data are being sent");
    if (ok && cmd->bytes > 0 && cmd->to_host && cmd->rx_done != cmd->bytes)
        return fault(f, NVME_TCP_FES_SEQUENCE, fei, "success before all data have come");
    if (ok && cmd->bytes > 0 && !cmd->to_host && !cmd->in_capsule && cmd->r2t_next != cmd->bytes)
        return fault(f, NVME_TCP_FES_SEQUENCE, fei, "success before all data were asked for");
    cmd->cqe = *cqe;
    c->ops->done(c, cmd);
    return 0;
}

static int capsule_resp(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_capsule_resp *pdu = header;
    struct tcp_cmd *cmd = tcp_find(c, le16_get(pdu->cqe.cid));
    size_t fei = offsetof(struct nvme_tcp_capsule_resp, cqe.cid);

    if (!cmd)
        return fault(f, NVME_TCP_FES_HEADER_FIELD, fei, "a response to no command in flight");
    return finish(c, cmd, &pdu->cqe, fei, f);
}

static int c2h_data(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_data *pdu = header;
    struct tcp_cmd *cmd = tcp_find(c, le16_get(pdu->cccid));
    uint32_t off = le32_get(pdu->datao), len = le32_get(pdu->datal);
    int rc = nvme_tcp_check_data(&c->rx_layout, pdu, f);

    if (rc)
        return rc;
    if (!cmd)
        return fault(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_data, cccid),
                     "data for no command in flight");
    if (!cmd->to_host || cmd->tx != TX_NOTHING || cmd->rx_last)
        return fault(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_data, cccid),
                     "data for a command that expects none");
    /* In order and without gaps: nothing is ever written twice, or outside. */
    if (off != cmd->rx_done || len > cmd->bytes - cmd->rx_done)
        return fault(f, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_data, datao),
                     "data outside the command's range");
    if ((pdu->ch.flags & NVME_TCP_FLAG_SUCCESS) && off + len != cmd->bytes)
        return fault(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_ch, flags),
                     "SUCCESS before the last data");
    c->rx_cmd = cmd;
    c->rx_flags = pdu->ch.flags;
    c->rx_crc = NVME_TCP_CRC_INIT;
    return 0;
}

static int r2t(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_r2t *pdu = header;
    struct tcp_cmd *cmd = tcp_find(c, le16_get(pdu->cccid));
    uint32_t off = le32_get(pdu->r2to), len = le32_get(pdu->r2tl);

    if (!cmd)
        return fault(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_r2t, cccid),
                     "R2T for no command in flight");
    if (cmd->to_host || cmd->bytes == 0 || cmd->in_capsule || cmd->tx == TX_CAPSULE)
        return fault(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_r2t, cccid),
                     "R2T for a command that has no data to send");
    if (cmd->tx != TX_NOTHING || cmd->r2t_bytes > 0)
        return fault(f, NVME_TCP_FES_LIMIT, offsetof(struct nvme_tcp_r2t, cccid),
                     "R2T while another one is being served");
    if (len == 0 || off != cmd->r2t_next || len > cmd->bytes - off)
        return fault(f, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2to),
                     "R2T outside the command's range");
    cmd->ttag = le16_get(pdu->ttag);
    cmd->r2t_off = off;
    cmd->r2t_bytes = len;
    cmd->r2t_next = off + len;
    tcp_send_r2t_data(c, cmd);
    return 0;
}

static int dispatch(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_term_req *term = header;

    switch (((const struct nvme_tcp_ch *)header)->type) {
    case NVME_TCP_IC_RESP:
        return ic_resp(c, header, f);
    case NVME_TCP_CAPSULE_RESP:
        return capsule_resp(c, header, f);
    case NVME_TCP_C2H_DATA:
        return c2h_data(c, header, f);
    case NVME_TCP_R2T:
        return r2t(c, header, f);
    default: /* nvme_tcp_check() has let through C2HTermReq only */
        tcp_fail(c, -EPROTO, "the target ended the connection: %s (FES %u, FEI %u)",
                 nvme_tcp_fes_text(le16_get(term->fes)), le16_get(term->fes),
                 le16_get(term->fei_low) | (uint32_t)le16_get(term->fei_high) << 16);
        return 0;
    }
}

/* ---- the byte stream ---- */

/* A header is complete, or not yet (false), or the connection is gone (false). */
static bool parse_header(struct tcp_conn *c)
{
    unsigned have = c->rx_tail - c->rx_head;
    _Alignas(8) char header[NVME_TCP_HEADER_MAX]; /* it lies anywhere in rx */
    struct nvme_tcp_fault f;
    struct nvme_tcp_ch ch;

    if (have < sizeof(ch))
        return false;
    have = MIN(have, (unsigned)sizeof(header));
    memcpy(header, c->rx + c->rx_head, have);
    memcpy(&ch, header, sizeof(ch));
    if (nvme_tcp_check(&c->rules, &ch, &c->rx_layout, &f)) {
        tcp_fault(c, &f, header, MIN(have, ch.hlen));
        return false;
    }
    if (have < c->rx_layout.header_bytes)
        return false;
    c->rx_cmd = NULL;
    c->rx_head += c->rx_layout.header_bytes;
    c->rx_left = c->rx_layout.pad_bytes;
    if (nvme_tcp_check_hdgst(&c->rx_layout, header, &f) || dispatch(c, header, &f)) {
        tcp_fault(c, &f, header, ch.hlen);
        return false;
    }
    if (c->rx_cmd)
        c->rx_state = RX_PAD;
    return c->fd >= 0;
}

static bool data_over(struct tcp_conn *c)
{
    struct tcp_cmd *cmd = c->rx_cmd;
    struct nvme_tcp_fault f;

    c->rx_state = RX_HEADER;
    c->rx_cmd = NULL;
    cmd->rx_last = c->rx_flags & NVME_TCP_FLAG_LAST;
    if (c->rx_flags & NVME_TCP_FLAG_SUCCESS) {
        struct nvme_cqe cqe = {.cid = cmd->sqe.cid};

        if (finish(c, cmd, &cqe, 0, &f)) {
            tcp_fault(c, &f, NULL, 0);
            return false;
        }
    }
    return c->fd >= 0;
}

static bool parse_digest(struct tcp_conn *c)
{
    le32 digest;

    if (c->rx_tail - c->rx_head < sizeof(digest))
        return false;
    memcpy(&digest, c->rx + c->rx_head, sizeof(digest));
    c->rx_head += sizeof(digest);
    if (le32_get(digest) != nvme_tcp_crc_final(c->rx_crc)) {
        tcp_fail(c, -EPROTO, "data digest error (CID %u)", le16_get(c->rx_cmd->sqe.cid));
        return false;
    }
    return data_over(c);
}

/* Where the next data go: into the command's iov, or nowhere. */
static unsigned data_place(struct tcp_conn *c, struct iovec *v, unsigned max, size_t *covered)
{
    if (!c->rx_cmd->drop)
        return cursor_gather(&c->rx_cmd->rx_cursor, c->rx_left, v, max, covered);
    *covered = MIN((size_t)c->rx_left, sizeof(c->scratch));
    v[0] = (struct iovec){c->scratch, *covered};
    return 1;
}

/* n bytes have arrived at v. */
static bool data_arrived(struct tcp_conn *c, const struct iovec *v, size_t n)
{
    struct tcp_cmd *cmd = c->rx_cmd;

    if (c->rx_layout.ddgst) {
        for (size_t left = n; left > 0; v++) {
            /* n is never more than data_place() covered. NOLINTNEXTLINE(clang-analyzer-core.*) */
            size_t len = MIN(left, v->iov_len);

            c->rx_crc = nvme_tcp_crc_update(c->rx_crc, v->iov_base, len);
            left -= len;
        }
    }
    if (!cmd->drop)
        cursor_advance(&cmd->rx_cursor, n);
    cmd->rx_done += (uint32_t)n;
    c->rx_left -= (uint32_t)n;
    if (c->rx_left > 0)
        return true;
    if (c->rx_layout.ddgst) {
        c->rx_state = RX_DIGEST;
        return true;
    }
    return data_over(c);
}

/* Payload that came along with headers. */
static bool parse_data(struct tcp_conn *c)
{
    while (c->rx_state == RX_DATA && c->rx_head < c->rx_tail) {
        struct iovec v;
        size_t n;

        if (data_place(c, &v, 1, &n) == 0) {
            tcp_fail(c, -EPROTO, "no place for data");
            return false;
        }
        n = MIN(n, (size_t)(c->rx_tail - c->rx_head));
        memcpy(v.iov_base, c->rx + c->rx_head, n);
        c->rx_head += (unsigned)n;
        if (!data_arrived(c, &v, n))
            return false;
    }
    return c->rx_state != RX_DATA;
}

static bool parse_pad(struct tcp_conn *c)
{
    uint32_t n = MIN(c->rx_left, c->rx_tail - c->rx_head);

    c->rx_head += n;
    c->rx_left -= n;
    if (c->rx_left > 0)
        return false;
    c->rx_state = RX_DATA;
    c->rx_left = c->rx_layout.data_bytes;
    return true;
}

static void parse(struct tcp_conn *c)
{
    bool more = true;

    while (more) {
        switch (c->rx_state) {
        case RX_HEADER:
            more = parse_header(c);
            break;
        case RX_PAD:
            more = parse_pad(c);
            break;
        case RX_DATA:
            more = parse_data(c);
            break;
        case RX_DIGEST:
            more = parse_digest(c);
            break;
        }
    }
}

void tcp_receive(struct tcp_conn *c)
{
    bool touched = false;

    for (unsigned calls = 0; calls < CALLS_PER_TURN && c->fd >= 0; calls++) {
        struct iovec v[IOV_MAX_RECEIVE + 1];
        struct msghdr msg = {.msg_iov = v};
        size_t data = 0, room;
        unsigned n = 0;
        ssize_t got;

        /* What is unparsed is the beginning of a header (or digest): short. */
        memmove(c->rx, c->rx + c->rx_head, c->rx_tail - c->rx_head);
        c->rx_tail -= c->rx_head;
        c->rx_head = 0;
        if (c->rx_state == RX_DATA)
            n = data_place(c, v, IOV_MAX_RECEIVE, &data);
        room = data;
        /* Payload first, then the next headers in the same call, when all payload has a place in v.
         */
        if (c->rx_state != RX_DATA || data == c->rx_left) {
            v[n++] = (struct iovec){c->rx + c->rx_tail, sizeof(c->rx) - c->rx_tail};
            room += sizeof(c->rx) - c->rx_tail;
        }
        msg.msg_iovlen = n;
        got = recvmsg(c->fd, &msg, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0 && errno == EFAULT && !touched) {
            touched = true;
            tcp_touch(v, n, true);
            continue;
        }
        if (got <= 0) {
            tcp_fail(c, got < 0 ? -errno : -ECONNRESET, "%s",
                     got < 0 ? strerror(errno) : "the target closed the connection");
            return;
        }
        c->rx_ticks = 0;
        if (data > 0) {
            size_t n_data = MIN((size_t)got, data);

            c->rx_tail += (unsigned)((size_t)got - n_data);
            if (!data_arrived(c, v, n_data))
                return;
        } else {
            c->rx_tail += (unsigned)got;
        }
        parse(c);
        if ((size_t)got < room)
            return; /* the socket is empty */
    }
}
