/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The command slots of a connection, and the answers to commands. */
#include "nvmf/inside.h"

#include "base/undumped.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- slots ---- */

void cmd_init(struct nvmf_cmd *cmd, struct nvmf_conn *c, unsigned index)
{
    cmd->conn = c;
    cmd->index = (uint16_t)index;
    list_init(&cmd->node);
    list_init(&cmd->held);
    list_init(&cmd->data_out.node);
    list_init(&cmd->response_out.node);
}

int conn_make_slots(struct nvmf_conn *c, unsigned depth, uint32_t inline_bytes)
{
    size_t bytes = (size_t)depth * inline_bytes;

    c->cmds = calloc(depth, sizeof(*c->cmds));
    if (!c->cmds)
        return -ENOMEM;
    c->inline_at = undumped_alloc(bytes);
    if (!c->inline_at) {
        free(c->cmds);
        c->cmds = NULL;
        return -ENOMEM;
    }
    c->inline_map_bytes = bytes;
    c->inline_bytes = inline_bytes;
    c->depth = depth;
    for (unsigned i = 0; i < depth; i++) {
        cmd_init(&c->cmds[i], c, i);
        list_append(&c->free, &c->cmds[i].node);
    }
    return 0;
}

void conn_free_slots(struct nvmf_conn *c)
{
    for (unsigned i = 0; i < c->depth; i++)
        if (c->cmds[i].state != CMD_FREE)
            cmd_free(&c->cmds[i]);
    if (c->first.state != CMD_FREE)
        cmd_free(&c->first);
    undumped_free(c->inline_at, c->inline_map_bytes);
    free(c->cmds);
    c->inline_at = NULL;
    c->cmds = NULL;
    c->depth = 0;
}

static void drop_data(struct nvmf_cmd *cmd)
{
    if (cmd->pooled)
        share_give(cmd->conn->share, cmd->data);
    if (cmd->heap)
        free(cmd->data);
    cmd->pooled = cmd->heap = false;
    cmd->data = NULL;
}

void cmd_free(struct nvmf_cmd *cmd)
{
    struct nvmf_conn *c = cmd->conn;

    list_remove(&cmd->node);
    list_remove(&cmd->data_out.node);
    list_remove(&cmd->response_out.node);
    drop_data(cmd);
    cmd->state = CMD_FREE;
    if (cmd == &c->first)
        return;
    c->busy--;
    list_prepend(&c->free, &cmd->node);
}

/* The connection is closed: what nobody works on ends here, the bdev's and control's when they
 * come back. */
void cmd_end_all(struct nvmf_conn *c)
{
    c->rx_cmd = NULL;
    for (unsigned i = 0; i < c->depth; i++) {
        struct nvmf_cmd *cmd = &c->cmds[i];

        if (cmd->state == CMD_DATA || cmd->state == CMD_WAIT || cmd->state == CMD_OUT)
            cmd_free(cmd);
    }
    io_cancel_all(c);
}

bool cmd_data_overdue(struct nvmf_conn *c, uint32_t ticks)
{
    for (unsigned i = 0; i < c->depth; i++)
        if (c->cmds[i].state == CMD_DATA && ++c->cmds[i].age_ticks > ticks)
            return true;
    return false;
}

bool cmd_awaits_data(const struct nvmf_conn *c)
{
    for (unsigned i = 0; i < c->depth; i++)
        if (c->cmds[i].state == CMD_DATA && c->cmds[i].pooled)
            return true;
    return false;
}

/* ---- answers ---- */

static void respond(struct nvmf_cmd *cmd)
{
    struct nvme_tcp_capsule_resp *pdu = (void *)cmd->response_out.header;
    struct nvmf_conn *c = cmd->conn;

    *pdu = (struct nvme_tcp_capsule_resp){.ch.type = NVME_TCP_CAPSULE_RESP, .cqe = cmd->cqe};
    cmd->out_pdus++;
    nvme_tcp_line_up(&c->stream, &cmd->response_out, sizeof(*pdu), 0, (struct cursor){0}, 0);
}

/* All of it in one PDU. */
static void send_data(struct nvmf_cmd *cmd, bool success)
{
    struct nvme_tcp_data *pdu = (void *)cmd->data_out.header;
    struct nvmf_conn *c = cmd->conn;

    *pdu = (struct nvme_tcp_data){
        .ch.type = NVME_TCP_C2H_DATA, .cccid = cmd->sqe.cid, .datal = le32_of(cmd->bytes)};
    cmd->iov[0] = (struct iovec){cmd->data, cmd->bytes};
    cmd->out_pdus++;
    nvme_tcp_line_up(&c->stream, &cmd->data_out, sizeof(*pdu),
                     NVME_TCP_FLAG_LAST | (success ? NVME_TCP_FLAG_SUCCESS : 0),
                     cursor_at(cmd->iov, 1, 0), cmd->bytes);
}

void cmd_finish(struct nvmf_cmd *cmd, nvme_status st)
{
    struct nvmf_conn *c = cmd->conn;
    bool data = st == NVME_SC_SUCCESS && cmd->to_host && cmd->bytes > 0;
    bool short_cut = data && c->c2h_success && le32_get(cmd->cqe.dw0) == 0;

    if (c->state == CONN_CLOSED) {
        cmd_free(cmd);
        return;
    }
    if (c->state == CONN_ASKING) /* Connect has failed: the host may try again */
        c->state = CONN_NEW;
    cmd->state = CMD_OUT;
    cmd->cqe.cid = cmd->sqe.cid;
    cmd->cqe.sf = le16_of((uint16_t)(st << 1));
    cmd->cqe.sqhd = le16_of(c->sq_flow ? c->sq_head : NVME_SQHD_NO_SQFLOW);
    if (c->is_io)
        counter_add(&c->shard->completed, 1);
    if (data)
        send_data(cmd, short_cut);
    if (!short_cut)
        respond(cmd);
    conn_dirty(c);
}

void cmd_sent(struct nvme_tcp_stream *s, struct nvme_tcp_out *out)
{
    const struct nvme_tcp_ch *ch = (const void *)out->header;
    struct nvmf_cmd *cmd = ch->type == NVME_TCP_CAPSULE_RESP
                               ? container_of(out, struct nvmf_cmd, response_out)
                               : container_of(out, struct nvmf_cmd, data_out);

    (void)s;
    if (ch->type != NVME_TCP_R2T && --cmd->out_pdus == 0)
        cmd_free(cmd);
}
