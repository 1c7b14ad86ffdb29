/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The command slots of a connection, and the PDUs that a command becomes. */
#include "backends/nvme_of/tcp_inside.h"

#include <string.h>

/* ---- slots ---- */

struct tcp_cmd *tcp_cmd_get(struct tcp_conn *c)
{
    struct list *node = list_pop(&c->free);
    struct tcp_cmd *cmd;

    if (!node)
        return NULL;
    cmd = list_entry(node, struct tcp_cmd, node);
    memset(&cmd->sqe, 0, sizeof(cmd->sqe));
    cmd->iov = NULL;
    cmd->iovcnt = 0;
    cmd->bytes = 0;
    cmd->skip = 0;
    cmd->to_host = cmd->patient = false;
    cmd->timeout_ms = 0;
    cmd->arg = NULL;
    cmd->arg_blocks = 0;
    cmd->busy = true;
    c->busy++;
    return cmd;
}

void tcp_cmd_put(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    list_remove(&cmd->out.node);
    cmd->busy = false;
    cmd->tx = TX_NOTHING;
    cmd->turn++;
    c->busy--;
    /* Last in, first out: a warm slot. */
    list_prepend(&c->free, &cmd->node);
}

struct tcp_cmd *tcp_next_busy(struct tcp_conn *c, struct tcp_cmd *after)
{
    for (unsigned i = after ? after->slot + 1U : 0; i < c->depth; i++)
        if (c->cmds[i].busy)
            return &c->cmds[i];
    return NULL;
}

struct tcp_cmd *tcp_find(struct tcp_conn *c, uint16_t cid)
{
    unsigned slot = cid & ((1U << TCP_SLOT_BITS) - 1);
    struct tcp_cmd *cmd;

    if (slot >= c->depth)
        return NULL;
    cmd = &c->cmds[slot];
    return cmd->busy && le16_get(cmd->sqe.cid) == cid ? cmd : NULL;
}

bool tcp_cmd_withdraw(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    if (tcp_cmd_started(cmd))
        return false;
    tcp_cmd_put(c, cmd);
    return true;
}

void tcp_cmd_drop(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    cmd->drop = true;
    if (c->rx_cmd == cmd)
        c->stream.in_drop = true;
}

/* ---- commands ---- */

void tcp_cmd_move(struct tcp_conn *c, struct tcp_cmd *cmd, const struct iovec *iov, int iovcnt,
                  size_t skip)
{
    cmd->iov = iov;
    cmd->iovcnt = iovcnt;
    cmd->skip = skip;
    if (c->rx_cmd == cmd)
        c->stream.in_cursor =
            cursor_at(iov, iovcnt, skip + cmd->rx_done + nvme_tcp_data_arrived(&c->stream));
    if (cmd->tx != TX_NOTHING)
        nvme_tcp_out_move(&cmd->out, cursor_at(iov, iovcnt, skip + cmd->tx_off));
}

static void line_up(struct tcp_conn *c, struct tcp_cmd *cmd, uint32_t data_bytes, uint8_t hlen,
                    uint8_t flags)
{
    nvme_tcp_line_up(&c->stream, &cmd->out, hlen, flags,
                     cursor_at(cmd->iov, cmd->iovcnt, cmd->skip + cmd->tx_off), data_bytes);
}

void tcp_send_r2t_data(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nvme_tcp_data *pdu = (void *)cmd->out.header;
    uint32_t bytes = MIN(cmd->r2t_bytes, c->maxh2c_bytes);

    cmd->tx = TX_H2C_DATA;
    cmd->tx_off = cmd->r2t_off;
    cmd->r2t_off += bytes;
    cmd->r2t_bytes -= bytes;
    *pdu = (struct nvme_tcp_data){
        .ch.type = NVME_TCP_H2C_DATA,
        .cccid = cmd->sqe.cid,
        .ttag = le16_of(cmd->ttag),
        .datao = le32_of(cmd->tx_off),
        .datal = le32_of(bytes),
    };
    line_up(c, cmd, bytes, sizeof(*pdu), cmd->r2t_bytes == 0 ? NVME_TCP_FLAG_LAST : 0);
}

void tcp_submit(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nvme_tcp_capsule_cmd *pdu = (void *)cmd->out.header;
    uint32_t inline_bytes =
        cmd->sqe.opc == NVME_OPC_FABRICS ? NVME_TCP_ADMIN_INLINE_BYTES : c->opts.inline_bytes;

    cmd->sqe.cid = le16_of((uint16_t)(cmd->turn << TCP_SLOT_BITS | cmd->slot));
    cmd->sqe.flags = NVME_SQE_FLAGS_SGL;
    cmd->in_capsule = cmd->bytes > 0 && !cmd->to_host && cmd->bytes <= inline_bytes;
    cmd->sqe.sgl1 = (struct nvme_sgl_desc){
        .length = le32_of(cmd->bytes),
        .type = cmd->in_capsule
                    ? NVME_SGL_ID(NVME_SGL_DATA_BLOCK, NVME_SGL_SUB_OFFSET)
                    : NVME_SGL_ID(NVME_SGL_TRANSPORT_DATA_BLOCK, NVME_SGL_SUB_TRANSPORT),
    };
    cmd->drop = cmd->rx_last = false;
    cmd->age_ticks = 0;
    cmd->rx_done = 0;
    cmd->r2t_next = cmd->r2t_off = cmd->r2t_bytes = 0;
    cmd->tx = TX_CAPSULE;
    cmd->tx_off = 0;
    pdu->ch.type = NVME_TCP_CAPSULE_CMD;
    pdu->sqe = cmd->sqe;
    line_up(c, cmd, cmd->in_capsule ? cmd->bytes : 0, sizeof(*pdu), 0);
    if (!c->tick.armed)
        tcp_arm_tick(c);
}
