/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/tcp_inside.h"

#include <errno.h>
#include <string.h>

enum {
    IOV_MAX_SEND = 256,
    BYTES_PER_CALL = 1 << 20, /* enough to be worth a system call; bounds the time of one */
    CALLS_PER_TURN = 8,
};

/* Describes what is left of the PDU of cmd. False when v had no room for all of it. */
static bool gather(struct tcp_cmd *cmd, struct iovec *v, unsigned *n, size_t *bytes)
{
    size_t covered;

    if (*n + 3 > IOV_MAX_SEND)
        return false;
    if (cmd->tx_header_done < cmd->tx_header_bytes) {
        v[*n] = (struct iovec){cmd->header + cmd->tx_header_done,
                               cmd->tx_header_bytes - cmd->tx_header_done};
        *bytes += v[(*n)++].iov_len;
    }
    if (cmd->tx_done < cmd->tx_bytes) {
        *n += cursor_gather(&cmd->tx_cursor, cmd->tx_bytes - cmd->tx_done, v + *n,
                            IOV_MAX_SEND - 1 - *n, &covered);
        *bytes += covered;
        if (covered < cmd->tx_bytes - cmd->tx_done)
            return false;
    }
    if (cmd->tx_digest_done < cmd->tx_digest_bytes) {
        v[*n] = (struct iovec){(char *)&cmd->tx_digest + cmd->tx_digest_done,
                               cmd->tx_digest_bytes - cmd->tx_digest_done};
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
static void account(struct tcp_conn *c, size_t sent)
{
    while (sent > 0) {
        struct tcp_cmd *cmd = list_entry(c->send.next, struct tcp_cmd, node);

        cmd->started = true;
        take(&sent, &cmd->tx_header_done, cmd->tx_header_bytes);
        cursor_advance(&cmd->tx_cursor, take(&sent, &cmd->tx_done, cmd->tx_bytes));
        take(&sent, &cmd->tx_digest_done, cmd->tx_digest_bytes);
        if (cmd->tx_header_done < cmd->tx_header_bytes || cmd->tx_done < cmd->tx_bytes ||
            cmd->tx_digest_done < cmd->tx_digest_bytes)
            return;
        list_remove(&cmd->node);
        cmd->tx = TX_NOTHING;
        if (cmd->r2t_bytes > 0)
            tcp_send_r2t_data(c, cmd); /* behind the others */
    }
}

void tcp_send(struct tcp_conn *c)
{
    bool touched = false;

    for (unsigned calls = 0; !list_empty(&c->send); calls++) {
        struct iovec v[IOV_MAX_SEND];
        struct msghdr msg = {.msg_iov = v};
        size_t bytes = 0;
        unsigned n = 0;
        ssize_t sent;

        if (calls == CALLS_PER_TURN) {
            watch_modify(c->r, &c->watch, EPOLLIN | EPOLLOUT);
            return;
        }
        list_for_each(it, &c->send)
        {
            if (!gather(list_entry(it, struct tcp_cmd, node), v, &n, &bytes) ||
                bytes >= BYTES_PER_CALL)
                break;
        }
        msg.msg_iovlen = n;
        sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            watch_modify(c->r, &c->watch, EPOLLIN | EPOLLOUT);
            return;
        }
        if (sent < 0 && errno == EFAULT && !touched) {
            touched = true;
            tcp_touch(v, n, false);
            continue;
        }
        if (sent < 0) {
            tcp_fail(c, -errno, "%s", strerror(errno));
            return;
        }
        c->tx_ticks = 0;
        account(c, (size_t)sent);
    }
    watch_modify(c->r, &c->watch, EPOLLIN);
}
