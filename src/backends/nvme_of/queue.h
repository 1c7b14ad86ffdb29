/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/queue.h - an I/O queue: one TCP connection of a host on one reactor; what
 * queue.c (its life) and io.c (its requests) share. Thread: the queue's reactor, except where
 * host->lock is named. */
#ifndef BACKENDS_NVME_OF_QUEUE_H
#define BACKENDS_NVME_OF_QUEUE_H

#include "backends/nvme_of/host.h"

enum {
    QUEUE_SLOTS = NOF_MAX_QUEUE_ENTRIES - 1
}; /* a queue holds one command less than it has entries */

/* What control wants of a queue: the newest wish counts. */
struct nof_wish {
    bool up;
    struct nof_target target;
};

struct nof_queue {
    struct tcp_conn conn;
    struct nvme_of_host *host;
    struct reactor *r;
    unsigned refs; /* channels */
    unsigned qid;

    /* The reactor's. */
    bool open;        /* connecting or up, for target.assoc */
    bool up;          /* Connect has succeeded */
    bool have_target; /* target has been filled once */
    unsigned limit;   /* commands at a time */
    uint64_t next_seq;
    struct nof_target target;
    struct list pending, held, fenced, delayed, active, ended;
    struct timer ended_timer, retry_timer, fence_timer;
    struct nvme_fabrics_connect_data connect_data;
    struct iovec connect_iov;
    struct nvme_dsm_range ranges[QUEUE_SLOTS]; /* by slot */
    struct iovec range_iovs[QUEUE_SLOTS];

    /* Under host->lock. */
    struct list node;
    bool closed;
    struct nof_wish wish;
    bool wish_posted, report_posted;
    struct mail wish_mail, report_mail;
    struct nof_report report;
};

/* ---- io.c ---- */
void io_init(struct nof_queue *q);
/* Sends what waits, in order, as far as there are slots. */
void io_pump(struct nof_queue *q);
/* The response to a command of io_pump(); arg and blocks are the slot's, which is free again. */
void io_command_done(struct nof_queue *q, void *arg, uint32_t blocks, uint16_t status);
/* The connection is going: all requests wait again, in the order of their arrival. Before
 * tcp_close(). */
void io_connection_lost(struct nof_queue *q);
/* Requests of held namespaces and behind the fence wait with the others again; io_pump() looks at
 * them. */
void io_look_again(struct nof_queue *q);
/* There are no requests any more. */
void io_stop(struct nof_queue *q);

/* ---- queue.c ---- */
/* The target does not know a namespace: the host should look. */
void queue_ask_rescan(struct nof_queue *q);

#endif
