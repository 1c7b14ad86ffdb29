/* SPDX-License-Identifier: BSD-3-Clause
 *
 * PDUs from the host, and the commands they carry, until there is an answer. */
#include "nvmf/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct nvmf_conn *conn_of(struct nvme_tcp_stream *s)
{
    return container_of(s, struct nvmf_conn, stream);
}

/* ---- data from the host ---- */

bool cmd_buffer(struct nvmf_cmd *cmd)
{
    struct nvmf_conn *c = cmd->conn;

    cmd->data = list_empty(&c->waiting) ? share_take(c->share) : NULL;
    if (cmd->data) {
        cmd->pooled = true;
        return true;
    }
    cmd->state = CMD_WAIT;
    counter_add(&c->shard->waited, 1);
    list_append(&c->waiting, &cmd->node);
    share_wait(c);
    return false;
}

static void ask_data(struct nvmf_cmd *cmd)
{
    struct nvme_tcp_r2t *pdu = (void *)cmd->data_out.header;
    struct nvmf_conn *c = cmd->conn;

    *pdu = (struct nvme_tcp_r2t){.ch.type = NVME_TCP_R2T,
                                 .cccid = cmd->sqe.cid,
                                 .ttag = le16_of(cmd->index),
                                 .r2tl = le32_of(cmd->bytes)};
    cmd->state = CMD_DATA;
    cmd->r2t = true;
    cmd->age_ticks = 0;
    nvme_tcp_line_up(&c->stream, &cmd->data_out, sizeof(*pdu), 0, (struct cursor){0}, 0);
    conn_dirty(c);
}

/* It has a buffer, or needs none. */
static void with_buffer(struct nvmf_cmd *cmd)
{
    if (cmd->bytes > 0 && !cmd->to_host && !cmd->in_capsule)
        ask_data(cmd);
    else
        io_start(cmd);
}

void cmd_go_on(struct nvmf_cmd *cmd)
{
    cmd->data = share_take(cmd->conn->share);
    cmd->pooled = true;
    with_buffer(cmd);
}

static int h2c_data(struct nvmf_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_data *pdu = header;
    uint32_t off = le32_get(pdu->datao), len = le32_get(pdu->datal), ttag = le16_get(pdu->ttag);
    struct nvmf_cmd *cmd = ttag < c->depth ? &c->cmds[ttag] : NULL;
    int rc = nvme_tcp_check_data(&c->stream.layout, pdu, f);

    if (rc)
        return rc;
    if (!cmd || cmd->state != CMD_DATA || !cmd->r2t)
        return nvme_tcp_fail(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_data, ttag),
                             "data for no transfer that was asked for");
    if (le16_get(cmd->sqe.cid) != le16_get(pdu->cccid))
        return nvme_tcp_fail(f, NVME_TCP_FES_HEADER_FIELD, offsetof(struct nvme_tcp_data, cccid),
                             "data for another command");
    if (off != cmd->rx_done || len > cmd->bytes - cmd->rx_done)
        return nvme_tcp_fail(f, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_data, datao),
                             "data outside the range that was asked for");
    if ((pdu->ch.flags & NVME_TCP_FLAG_LAST) && off + len != cmd->bytes)
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_ch, flags),
                             "LAST before the last data");
    cmd->iov[0] = (struct iovec){cmd->data, cmd->bytes};
    c->stream.in_cursor = cursor_at(cmd->iov, 1, off);
    c->rx_cmd = cmd;
    return 0;
}

/* ---- commands ---- */

static void control_run(struct mail *m)
{
    struct nvmf_cmd *cmd = container_of(m, struct nvmf_cmd, mail);

    cmd->at_control(cmd);
}

static void to_control(struct nvmf_cmd *cmd, void (*fn)(struct nvmf_cmd *cmd))
{
    cmd->state = CMD_CONTROL;
    cmd->at_control = fn;
    cmd->conn->away++;
    cmd->mail.fn = control_run;
    reactor_post(cmd->conn->target->o.control, &cmd->mail);
}

static bool is_fabrics(const struct nvmf_cmd *cmd)
{
    return cmd->sqe.opc == NVME_OPC_FABRICS;
}

/* Direction of the data, by the command. */
static unsigned direction(const struct nvmf_cmd *cmd)
{
    return NVME_OPC_XFER(is_fabrics(cmd) ? (uint8_t)le32_get(cmd->sqe.nsid) : cmd->sqe.opc);
}

/* Where its data are, by its SGL. */
static nvme_status read_sgl(struct nvmf_cmd *cmd, uint32_t capsule_bytes)
{
    const struct nvme_sgl_desc *sgl = &cmd->sqe.sgl1;
    unsigned xfer = direction(cmd);

    cmd->to_host = xfer == NVME_XFER_TO_HOST;
    cmd->in_capsule = capsule_bytes > 0;
    cmd->bytes = xfer == NVME_XFER_NONE ? 0 : le32_get(sgl->length);
    if (NVME_SQE_PSDT(cmd->sqe.flags) != NVME_PSDT_SGL)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    if (xfer == NVME_XFER_BOTH)
        return NVME_DNR(NVME_SC_INVALID_OPCODE);
    if (xfer == NVME_XFER_NONE || cmd->bytes == 0)
        return capsule_bytes ? NVME_DNR(NVME_SC_SGL_DATA_LENGTH) : NVME_SC_SUCCESS;
    if (sgl->type == NVME_SGL_ID(NVME_SGL_DATA_BLOCK, NVME_SGL_SUB_OFFSET)) {
        if (le64_get(sgl->addr) != 0)
            return NVME_DNR(NVME_SC_SGL_OFFSET);
        return cmd->to_host || cmd->bytes != capsule_bytes ? NVME_DNR(NVME_SC_SGL_DATA_LENGTH)
                                                           : NVME_SC_SUCCESS;
    }
    if (sgl->type != NVME_SGL_ID(NVME_SGL_TRANSPORT_DATA_BLOCK, NVME_SGL_SUB_TRANSPORT))
        return NVME_DNR(NVME_SC_SGL_TYPE);
    if (capsule_bytes || cmd->bytes > cmd->conn->max_io_bytes)
        return NVME_DNR(NVME_SC_SGL_DATA_LENGTH);
    return NVME_SC_SUCCESS;
}

/* ---- news of namespaces ----
 * A host may know of a namespace, or of its size, before the connection does: control told both at
 * the same time, by different ways. Mail is delivered in order: what has been to control and back
 * arrives behind all that control had told when the host learnt of it. */

static void look_again(struct mail *m)
{
    struct nvmf_cmd *cmd = container_of(m, struct nvmf_cmd, mail);
    struct nvmf_conn *c = cmd->conn;

    c->away--;
    if (c->state == CONN_CLOSED)
        cmd_free(cmd);
    else
        cmd->again(cmd);
    conn_settle(c);
}

static void turn_back(struct nvmf_cmd *cmd)
{
    cmd->mail.fn = look_again;
    reactor_post(cmd->conn->shard->reactor, &cmd->mail);
}

void cmd_look_again(struct nvmf_cmd *cmd, void (*again)(struct nvmf_cmd *cmd))
{
    cmd->looked_again = true;
    cmd->again = again;
    to_control(cmd, turn_back);
}

static bool may_be_news(const struct nvmf_cmd *cmd, nvme_status st)
{
    return !cmd->looked_again &&
           (st == NVME_DNR(NVME_SC_INVALID_NAMESPACE) || st == NVME_DNR(NVME_SC_LBA_RANGE));
}

/* All that belongs to the capsule is here. */
static void run(struct nvmf_cmd *cmd)
{
    struct nvmf_conn *c = cmd->conn;
    nvme_status st = cmd->status;

    if (st != NVME_SC_SUCCESS) {
        cmd_finish(cmd, st);
        return;
    }
    if (cmd == &c->first || is_fabrics(cmd) || !c->is_io) {
        /* No command of these has data from the host that come otherwise than in the capsule. */
        if (!cmd->to_host && cmd->bytes > 0 && !cmd->in_capsule)
            cmd_finish(cmd, NVME_DNR(NVME_SC_SGL_TYPE));
        else
            to_control(cmd, cmd == &c->first ? ctrl_connect : admin_run);
        return;
    }
    st = io_check(cmd);
    if (may_be_news(cmd, st)) {
        cmd_look_again(cmd, run);
        return;
    }
    if (st != NVME_SC_SUCCESS) {
        cmd_finish(cmd, st);
        return;
    }
    if (cmd->bytes > c->inline_bytes && !cmd_buffer(cmd))
        return;
    with_buffer(cmd);
}

static int capsule(struct nvmf_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_capsule_cmd *pdu = header;
    uint32_t capsule_bytes = c->stream.layout.data_bytes;
    struct nvmf_cmd *cmd;

    if (c->state == CONN_NEW && c->first.state == CMD_FREE) {
        cmd = &c->first;
        c->state = CONN_ASKING;
    } else if (c->state == CONN_UP && !list_empty(&c->free)) {
        cmd = list_entry(list_pop(&c->free), struct nvmf_cmd, node);
        c->busy++;
    } else {
        return nvme_tcp_fail(f, NVME_TCP_FES_SEQUENCE, offsetof(struct nvme_tcp_capsule_cmd, sqe),
                             c->state == CONN_UP ? "more commands than the queue has entries"
                                                 : "a command before the response to Connect");
    }
    cmd->sqe = pdu->sqe;
    cmd->cqe = (struct nvme_cqe){0};
    cmd->damaged = cmd->r2t = cmd->looked_again = false;
    cmd->rx_done = 0;
    cmd->age_ticks = 0;
    cmd->step = cmd->steps = 0;
    cmd->ns = NULL;
    cmd->state = CMD_DATA;
    cmd->data =
        cmd == &c->first ? c->first_data : c->inline_at + (size_t)cmd->index * c->inline_bytes;
    if (c->sq_flow && cmd != &c->first)
        c->sq_head = (uint16_t)(c->sq_head + 1 == c->sq_size ? 0 : c->sq_head + 1);
    cmd->status = read_sgl(cmd, capsule_bytes);
    if (capsule_bytes == 0) {
        run(cmd);
        return 0;
    }
    cmd->iov[0] = (struct iovec){cmd->data, capsule_bytes};
    c->stream.in_cursor = cursor_at(cmd->iov, 1, 0);
    c->rx_cmd = cmd;
    return 0;
}

/* ---- the stream's callbacks ---- */

static int ic_req(struct nvmf_conn *c, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_ic_req *req = header;
    struct nvme_tcp_ic_resp *resp = (void *)c->ic_resp;
    int rc = nvme_tcp_check_ic_req(req, f);

    if (rc)
        return rc;
    *resp = (struct nvme_tcp_ic_resp){
        .ch = {.type = NVME_TCP_IC_RESP,
               .hlen = NVME_TCP_IC_BYTES,
               .plen = le32_of(NVME_TCP_IC_BYTES)},
        .dgst = req->dgst & (NVME_TCP_DGST_HDR | NVME_TCP_DGST_DATA),
        .maxh2cdata = le32_of(c->max_io_bytes),
    };
    c->stream.rules.ic_done = true;
    c->stream.rules.hdgst = req->dgst & NVME_TCP_DGST_HDR;
    c->stream.rules.ddgst = req->dgst & NVME_TCP_DGST_DATA;
    c->stream.rules.max_data_bytes = c->max_io_bytes;
    c->stream.pda = req->hpda;
    c->ic_left = sizeof(c->ic_resp);
    c->state = CONN_NEW;
    conn_dirty(c);
    return 0;
}

static int on_header(struct nvme_tcp_stream *s, const void *header, struct nvme_tcp_fault *f)
{
    const struct nvme_tcp_term_req *term = header;
    struct nvmf_conn *c = conn_of(s);

    switch (((const struct nvme_tcp_ch *)header)->type) {
    case NVME_TCP_IC_REQ:
        return ic_req(c, header, f);
    case NVME_TCP_CAPSULE_CMD:
        return capsule(c, header, f);
    case NVME_TCP_H2C_DATA:
        return h2c_data(c, header, f);
    default: /* nvme_tcp_check() has let through H2CTermReq only */
        conn_fail(c, "it ended the connection: %s (FES %u)", nvme_tcp_fes_text(le16_get(term->fes)),
                  le16_get(term->fes));
        return -ECONNRESET;
    }
}

static int on_data(struct nvme_tcp_stream *s, bool intact, struct nvme_tcp_fault *f)
{
    struct nvmf_conn *c = conn_of(s);
    struct nvmf_cmd *cmd = c->rx_cmd;

    (void)f;
    c->rx_cmd = NULL;
    cmd->damaged |= !intact;
    cmd->age_ticks = 0;
    if (!cmd->r2t) {
        if (cmd->damaged)
            cmd->status = NVME_SC_TRANSIENT_TRANSPORT;
        run(cmd);
    } else {
        c->withheld_ticks = 0;
        cmd->rx_done += s->layout.data_bytes;
        if (cmd->rx_done < cmd->bytes)
            return 0;
        if (cmd->damaged)
            cmd_finish(cmd, NVME_SC_TRANSIENT_TRANSPORT);
        else
            io_start(cmd);
    }
    return s->fd < 0 ? -ECONNRESET : 0;
}

static void on_broken(struct nvme_tcp_stream *s, const struct nvme_tcp_fault *f, const void *header,
                      size_t len)
{
    conn_fault(conn_of(s), f, header, len);
}

static void on_end(struct nvme_tcp_stream *s, int rc)
{
    conn_fail(conn_of(s), "%s", rc < 0 ? strerror(-rc) : "it closed the connection");
}

const struct nvme_tcp_stream_ops conn_stream_ops = {
    .header = on_header,
    .data = on_data,
    .sent = cmd_sent,
    .broken = on_broken,
    .ended = on_end,
};
