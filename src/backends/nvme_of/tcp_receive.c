/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/tcp_inside.h"

#include <errno.h>
#include <string.h>

static struct tcp_conn *conn_of(struct nvme_tcp_stream *s)
{
    return container_of(s, struct tcp_conn, stream);
}

/* ---- PDUs ---- */

static int ic_resp(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_ic_resp *pdu = header;
    int rc = nvme_tcp_check_ic_resp(pdu, c->opts.hdgst, c->opts.ddgst, f);

    if (rc)
        return rc;
    c->stream.rules.ic_done = true;
    c->stream.rules.hdgst = pdu->dgst & NVME_TCP_DGST_HDR;
    c->stream.rules.ddgst = pdu->dgst & NVME_TCP_DGST_DATA;
    c->stream.pda = pdu->cpda;
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
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, fei, "a response while data are being sent");
    if (ok && cmd->bytes > 0 && cmd->to_host && cmd->rx_done != cmd->bytes)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, fei, "success before all data have come");
    if (ok && cmd->bytes > 0 && !cmd->to_host && !cmd->in_capsule && cmd->r2t_next != cmd->bytes)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, fei,
                             "success before all data were asked for");
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
        return nvme_tcp_fail(f, NVME_TCP_FES_HEADER_FIELD, fei,
                             "a response to no command in flight");
    return finish(c, cmd, &pdu->cqe, fei, f);
}

static int c2h_data(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_data *pdu = header;
    struct tcp_cmd *cmd = tcp_find(c, le16_get(pdu->cccid));
    uint32_t off = le32_get(pdu->datao), len = le32_get(pdu->datal);
    int rc = nvme_tcp_check_data(&c->stream.layout, pdu, f);

    if (rc)
        return rc;
    if (!cmd)
        return nvme_tcp_fail(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_data, cccid),
                             "data for no command in flight");
    if (!cmd->to_host || cmd->tx != TX_NOTHING || cmd->rx_last)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_data, cccid),
                             "data for a command that expects none");
    /* In order and without gaps: nothing is ever written twice, or outside. */
    if (off != cmd->rx_done || len > cmd->bytes - cmd->rx_done)
        return nvme_tcp_fail(f, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_data, datao),
                             "data outside the command's range");
    if ((pdu->ch.flags & NVME_TCP_FLAG_SUCCESS) && off + len != cmd->bytes)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_ch, flags),
                             "SUCCESS before the last data");
    c->rx_cmd = cmd;
    c->rx_flags = pdu->ch.flags;
    c->stream.in_drop = cmd->drop;
    if (!cmd->drop)
        c->stream.in_cursor = cursor_at(cmd->iov, cmd->iovcnt, cmd->skip + cmd->rx_done);
    return 0;
}

static int r2t(struct tcp_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_r2t *pdu = header;
    struct tcp_cmd *cmd = tcp_find(c, le16_get(pdu->cccid));
    uint32_t off = le32_get(pdu->r2to), len = le32_get(pdu->r2tl);

    if (!cmd)
        return nvme_tcp_fail(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_r2t, cccid),
                             "R2T for no command in flight");
    if (cmd->to_host || cmd->bytes == 0 || cmd->in_capsule || cmd->tx == TX_CAPSULE)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_r2t, cccid),
                             "R2T for a command that has no data to send");
    if (cmd->tx != TX_NOTHING || cmd->r2t_bytes > 0)
        return nvme_tcp_fail(f, NVME_TCP_FES_LIMIT, offsetof(struct nvme_tcp_r2t, cccid),
                             "R2T while another one is being served");
    if (len == 0 || off != cmd->r2t_next || len > cmd->bytes - off)
        return nvme_tcp_fail(f, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2to),
                             "R2T outside the command's range");
    cmd->ttag = le16_get(pdu->ttag);
    cmd->r2t_off = off;
    cmd->r2t_bytes = len;
    cmd->r2t_next = off + len;
    tcp_send_r2t_data(c, cmd);
    return 0;
}

static int on_header(struct nvme_tcp_stream *s, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_term_req *term = header;
    struct tcp_conn *c = conn_of(s);

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
        return -ECONNRESET;
    }
}

static int on_data(struct nvme_tcp_stream *s, bool intact, struct nvme_tcp_fault *f)
{
    struct tcp_conn *c = conn_of(s);
    struct tcp_cmd *cmd = c->rx_cmd;
    struct nvme_cqe cqe;

    c->rx_cmd = NULL;
    if (!intact) {
        tcp_fail(c, -EPROTO, "data digest error (CID %u)", le16_get(cmd->sqe.cid));
        return -EBADMSG;
    }
    cmd->rx_done += s->layout.data_bytes;
    cmd->rx_last = c->rx_flags & NVME_TCP_FLAG_LAST;
    if (!(c->rx_flags & NVME_TCP_FLAG_SUCCESS))
        return 0;
    cqe = (struct nvme_cqe){.cid = cmd->sqe.cid};
    return finish(c, cmd, &cqe, 0, f);
}

static void on_sent(struct nvme_tcp_stream *s, struct nvme_tcp_out *out)
{
    struct tcp_cmd *cmd = container_of(out, struct tcp_cmd, out);

    cmd->tx = TX_NOTHING;
    if (cmd->r2t_bytes > 0)
        tcp_send_r2t_data(conn_of(s), cmd); /* behind the others */
}

static void on_broken(struct nvme_tcp_stream *s, const struct nvme_tcp_fault *f, const void *header,
                      size_t len)
{
    tcp_fault(conn_of(s), f, header, len);
}

static void on_end(struct nvme_tcp_stream *s, int rc)
{
    tcp_fail(conn_of(s), rc < 0 ? rc : -ECONNRESET, "%s",
             rc < 0 ? strerror(-rc) : "the target closed the connection");
}

const struct nvme_tcp_stream_ops tcp_stream_ops = {
    .header = on_header,
    .data = on_data,
    .sent = on_sent,
    .broken = on_broken,
    .ended = on_end,
};
