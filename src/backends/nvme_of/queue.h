/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/queue.h - an I/O queue: one TCP connection of a path on one reactor; a lane: the
 * queues of a host there, and the requests that wait for one; a channel: a namespace's use of a
 * lane. What lane.c, queue.c and io*.c share. Thread: the reactor, except where host->lock is
 * named. */
#ifndef BACKENDS_NVME_OF_QUEUE_H
#define BACKENDS_NVME_OF_QUEUE_H

#include "backends/nvme_of/host.h"

enum {
    QUEUE_SLOTS = NOF_MAX_QUEUE_ENTRIES - 1
}; /* a queue holds one command less than it has entries */

/* What control wants of a queue: the newest wish counts. */
struct nof_wish {
    bool up, leave;
    struct nof_target target;
};

struct nof_queue {
    struct tcp_conn conn;
    struct nof_path *path;
    struct nof_lane *lane; /* not to be touched when closed */
    struct reactor *r;
    unsigned qid;

    /* The reactor's. */
    bool in_lane;     /* lane->queues */
    bool open;        /* connecting or up, for target.assoc */
    bool up;          /* Connect has succeeded */
    bool have_target; /* target has been filled once */
    unsigned limit;   /* commands at a time */
    unsigned load;    /* requests in pending and active */
    struct nof_target target;
    struct list pending, active;
    struct nvme_fabrics_connect_data connect_data;
    struct iovec connect_iov;
    struct nvme_dsm_range ranges[QUEUE_SLOTS]; /* by slot */
    struct iovec range_iovs[QUEUE_SLOTS];

    /* Under host->lock. */
    struct list node; /* nof_path.queues */
    bool closed;
    struct nof_wish wish;
    bool wish_posted, report_posted;
    struct mail wish_mail, report_mail;
    struct nof_report report;
};

struct nof_lane {
    struct list node; /* nvme_of_host.lanes, under host->lock */
    struct nvme_of_host *host;
    struct reactor *r;
    unsigned refs; /* channels */
    struct nof_queue *queues[NOF_MAX_PATHS];
    unsigned nqueues;
    struct list channels;
    uint64_t next_seq;
    struct list waiting, fenced, delayed, ended;
    struct timer ended_timer, retry_timer, fence_timer;
    bool seen, volatile_cache, dsm; /* of the newest target of a queue, once there was one */
};

struct nof_channel {
    struct list node; /* nof_lane.channels */
    struct nof_lane *lane;
    struct nof_ns *ns;
    struct nof_queue *queue;              /* where requests go; NULL: none can be used, they wait */
    bool spread;                          /* over the set, by the policy */
    struct nof_queue *set[NOF_MAX_PATHS]; /* those of the best kind */
    unsigned nset, at;
    uint32_t left; /* requests for set[at] before the next one's turn */
};

/* ---- lane.c ---- */
/* What can be used has changed: chooses for all channels anew, sends what waits. */
void lane_look_again(struct nof_lane *lane);
void lane_choose(struct nof_lane *lane);
/* The next request's queue, when it is spread. */
struct nof_queue *channel_spread(struct nof_channel *ch);
/* The queue has a place among the lane's; false: there is none. */
bool lane_join(struct nof_lane *lane, struct nof_queue *q);
void lane_part(struct nof_lane *lane, struct nof_queue *q);

/* ---- io.c ---- */
/* There are no requests any more. */
void io_stop(struct nof_lane *lane);

/* ---- io_command.c ---- */
/* Sends what waits, in order, as far as there are slots. */
void io_pump(struct nof_queue *q);
/* All queues, and the bytes. */
void io_pump_lane(struct nof_lane *lane);
/* The response to a command of io_pump(); arg and blocks are the slot's, which is free again. */
void io_command_done(struct nof_queue *q, void *arg, uint32_t blocks, uint16_t status);

/* ---- io_dispatch.c ---- */
/* The connection is going, q->up is false and all channels have chosen: its requests go to other
 * queues or wait again, in the order of their arrival. Before tcp_close(). */
void io_connection_lost(struct nof_queue *q);
/* The channel does not use the queue any more: what has not been sent there goes elsewhere. */
void io_leave_queue(struct nof_channel *ch, struct nof_queue *q);
/* Requests that wait for a path or behind the fence look for their queue again. */
void io_look_again(struct nof_lane *lane);

/* ---- queue.c ---- */
/* NULL and err filled: no memory, or all queues of the controller are in use. Under host->lock. */
struct nof_queue *queue_create(struct nof_path *p, struct nof_lane *lane, struct err *err);
/* Nothing uses it any more; the path frees it. Not under the lock. */
void queue_close(struct nof_queue *q);
/* Something for control to look at: the target does not know a namespace, or ANA says no. */
void queue_ask_rescan(struct nof_queue *q);
void queue_ask_ana(struct nof_queue *q);

#endif
