/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/tcp.h - one NVMe/TCP connection, host side: connect, IC exchange, command
 * capsules out of slots, data both ways straight between the socket and the commands' iov,
 * responses. Knows no queue, no namespace.
 *
 * Thread: the reactor given at open. No callback runs inside a call that is not itself made from a
 * callback, except that tcp_flush() may find the connection dead: down() then runs later. Owner:
 * the caller owns struct tcp_conn; slots are allocated once, by tcp_init(). */
#ifndef BACKENDS_NVME_OF_TCP_H
#define BACKENDS_NVME_OF_TCP_H

#include "base/err.h"
#include "base/list.h"
#include "nvme_tcp/stream.h"
#include "runtime/reactor.h"

#include <netinet/in.h>
#include <sys/socket.h>

struct tcp_conn;

/* A command slot. The first part is the user's to fill between tcp_cmd_get() and tcp_submit(). */
struct tcp_cmd {
    struct nvme_sqe sqe; /* CID, PSDT and SGL are filled in by the connection */
    const struct iovec *iov;
    int iovcnt;
    uint32_t bytes; /* of data; 0: none */
    size_t skip;    /* the data begin here in iov */
    bool to_host;   /* direction of the data */
    bool patient;   /* may take for ever (Asynchronous Event Request) */
    uint32_t timeout_ms;
    void *arg;
    uint32_t arg_blocks;

    struct nvme_cqe
        cqe; /* the response; only dw0, dw1 and sf mean something when SUCCESS stood for it */

    /* The connection's. */
    struct list node; /* free; else linked to itself */
    bool busy, in_capsule;
    bool drop; /* data that still come are read and thrown away */
    uint8_t slot, turn;
    uint32_t age_ticks;

    enum { TX_NOTHING, TX_CAPSULE, TX_H2C_DATA } tx;
    struct nvme_tcp_out out;
    uint32_t tx_off; /* of the PDU being sent: place of its data in the command's */
    uint16_t ttag;
    uint32_t r2t_next;           /* where the next R2T must begin */
    uint32_t r2t_off, r2t_bytes; /* of the current one: not yet made into PDUs */

    uint32_t rx_done; /* by PDUs that have come whole */
    bool rx_last;
};

struct tcp_ops {
    /* The IC exchange is over: commands may be submitted. */
    void (*up)(struct tcp_conn *c);
    /* The response is in cmd->cqe. The user gives the slot back by tcp_cmd_put(), now or later. */
    void (*done)(struct tcp_conn *c, struct tcp_cmd *cmd);
    /* Once, the socket is closed. The busy slots are the user's to look through (tcp_next_busy)
     * before tcp_close(). */
    void (*down)(struct tcp_conn *c, const struct err *why);
    /* After a batch of received PDUs: submit what has waited for slots. Sending follows. */
    void (*batch_end)(struct tcp_conn *c);
};

struct tcp_opts {
    struct sockaddr_storage addr, local; /* local.ss_family 0: any */
    bool hdgst, ddgst;                   /* ask for */
    uint32_t phase_timeout_ms;           /* connect and IC; a PDU that stalls half-way */
    uint32_t inline_bytes; /* data in command capsules; Fabrics commands always take 8 KiB */
};

enum { TCP_RX_BYTES = 1024, TCP_SCRATCH_BYTES = 16384 };

struct tcp_conn {
    struct reactor *r;
    const struct tcp_ops *ops;
    struct tcp_opts opts;
    enum tcp_state { TCP_CLOSED, TCP_CONNECTING, TCP_IC, TCP_UP, TCP_DOWN } state;
    struct nvme_tcp_stream stream;
    bool receiving; /* further up on this stack */
    struct watch watch;
    struct timer tick, down_timer;
    uint32_t phase_ticks; /* age of the phase */
    struct err why;

    uint32_t maxh2c_bytes;

    struct tcp_cmd *cmds;
    unsigned depth, busy;
    struct list free;
    char ic_req[NVME_TCP_IC_BYTES];
    unsigned ic_sent;

    struct tcp_cmd *rx_cmd; /* whose data are coming */
    uint8_t rx_flags;       /* of that PDU */
    char *rx;               /* TCP_RX_BYTES, and TCP_SCRATCH_BYTES behind them */
};

/* Allocates the slots (depth <= 128). 0 or -ENOMEM. */
int tcp_init(struct tcp_conn *c, struct reactor *r, unsigned depth, const struct tcp_ops *ops);
/* Closed connections only; a zeroed one is fine. */
void tcp_fini(struct tcp_conn *c);

/* Starts to connect. 0: up() or down() follows; or -errno with err filled. */
int tcp_open(struct tcp_conn *c, const struct tcp_opts *opts, struct err *err);
/* Closes at once, frees all slots; no callback runs any more. Harmless when closed. */
void tcp_close(struct tcp_conn *c);
/* The user has found the peer wrong: down() follows. */
void tcp_fail(struct tcp_conn *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A free slot with its user part cleared, or NULL. */
struct tcp_cmd *tcp_cmd_get(struct tcp_conn *c);
void tcp_cmd_put(struct tcp_conn *c, struct tcp_cmd *cmd);
/* The command's data are so many bytes at buf. iov and buf are the caller's until the response. */
static inline void tcp_cmd_data(struct tcp_cmd *cmd, struct iovec *iov, void *buf, uint32_t bytes,
                                bool to_host)
{
    *iov = (struct iovec){buf, bytes};
    cmd->iov = iov;
    cmd->iovcnt = 1;
    cmd->bytes = bytes;
    cmd->to_host = to_host;
}
/* Puts the command in line; tcp_flush() sends. */
void tcp_submit(struct tcp_conn *c, struct tcp_cmd *cmd);
void tcp_flush(struct tcp_conn *c);
/* The first busy slot (after == NULL) or the next one. */
struct tcp_cmd *tcp_next_busy(struct tcp_conn *c, struct tcp_cmd *after);

/* The command's data are elsewhere from now on (same contents for those already sent). */
void tcp_cmd_move(struct tcp_conn *c, struct tcp_cmd *cmd, const struct iovec *iov, int iovcnt,
                  size_t skip);
/* Data that still come for the command are dropped; the slot stays taken until the response. */
void tcp_cmd_drop(struct tcp_conn *c, struct tcp_cmd *cmd);
/* Bytes of its capsule have left. */
static inline bool tcp_cmd_started(const struct tcp_cmd *cmd)
{
    return cmd->tx != TX_CAPSULE || cmd->out.started;
}
/* Takes back a command of which nothing has been sent; false when it is too late. */
bool tcp_cmd_withdraw(struct tcp_conn *c, struct tcp_cmd *cmd);

/* "192.0.2.1:4420" or "[::1]:4420" into out. */
void tcp_addr_text(const struct sockaddr_storage *addr, char *out, size_t size);

#endif
