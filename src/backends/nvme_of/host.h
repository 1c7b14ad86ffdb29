/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/host.h - inside of the room: a host (remote controller), its namespaces, and
 * what they and the I/O queues tell each other. */
#ifndef BACKENDS_NVME_OF_HOST_H
#define BACKENDS_NVME_OF_HOST_H

#include "backends/nvme_of/fence.h"
#include "backends/nvme_of/identify.h"
#include "backends/nvme_of/nvme_of.h"
#include "backends/nvme_of/resolve.h"
#include "backends/nvme_of/tcp.h"
#include "spec/nvme_fabrics.h"

#include <pthread.h>

struct nof_queue;

enum { NOF_MAX_QUEUES = 128, NOF_MAX_BDEVS = 1024, NOF_RECONNECT_MS = 1000 };

/* A namespace with a bdev: the dev of its bdev_ops. */
struct nof_ns {
    struct list node; /* nvme_of_host.namespaces, by NSID */
    struct nvme_of_host *host;
    struct bdev *bd;
    struct nvme_of_namespace
        id;            /* nsid and block size never change; the rest is the control thread's */
    _Atomic bool held; /* missing or changed at the target: its requests wait */
    struct fence fence;
    char why_held[200];
    bool shared;
};

/* What an I/O queue must know of an association; copied when handed over. */
struct nof_target {
    uint64_t assoc; /* counts associations of a host, never 0 */
    struct tcp_opts tcp;
    uint16_t cntlid, entries; /* entries per queue */
    uint32_t io_timeout_ms, max_io_bytes;
    bool no_sq_flow, volatile_cache, dsm, write_zeroes;
};

/* queue.c: reports from a queue to the host, by mail; the queue is on its reactor. */
struct nof_report {
    bool opened, closed, rescan;
    uint64_t lost_assoc; /* 0: none */
    struct err why;
};

enum host_phase {
    HOST_WAITING, /* for the reconnect timer */
    HOST_RESOLVING,
    HOST_CONNECTING, /* TCP and IC */
    HOST_SETTING_UP, /* steps.c */
    HOST_READY,
};

struct nvme_of {
    struct reactor *control;
    struct bdev_set *bdevs;
    struct bdev_uuid hostid;
    struct list hosts;
};

struct nvme_of_host {
    struct list node; /* nvme_of.hosts */
    struct nvme_of *of;
    /* Options, owned copies. */
    char name[64], traddr[256], trsvcid[16], subnqn[224], hostnqn[224], hostaddr[64], hostsvcid[16];
    int family; /* AF_UNSPEC: any */
    struct sockaddr_storage local;
    bool hdgst, ddgst, no_sq_flow;
    unsigned want_queues, max_bdevs;
    uint32_t phase_timeout_ms, keep_alive_ms, io_timeout_ms;
    void (*changed)(void *arg, struct nvme_of_host *host);
    void *changed_arg;
    void (*attached)(void *arg, struct nvme_of_host *host, const struct err *err);
    void *attached_arg;

    /* The association. */
    enum host_phase phase;
    bool is_attached; /* attached() has run with success */
    bool deleting;
    uint64_t assoc; /* number of the newest */
    struct resolve *resolve;
    struct sockaddr_storage addrs[RESOLVE_MAX];
    unsigned naddrs, next_addr, failures;
    struct tcp_conn admin;
    struct timer attach_timer, reconnect_timer, step_timer, keep_alive_timer, event_timer;
    struct nof_target target;
    uint64_t cap;
    uint32_t vs;
    struct nof_ctrl ctrl;
    struct fence_rule fence; /* of the newest association that was set up */
    uint64_t fence_delay_us; /* for those before it */
    char last_failure[300];  /* logged already */

    /* steps.c */
    unsigned step, rdy_polls;
    bool scanning, rescan_wanted; /* steps run while READY */
    bool keep_alive_out;
    struct nvme_of_namespace *scan; /* max_bdevs */
    bool *scan_shared;
    uint32_t *scan_nsids; /* active NSIDs, max_bdevs */
    unsigned nscan_nsids, scan_at, nscan;
    char scan_refused[200];
    struct iovec iov;
    _Alignas(8) uint8_t buf[4096];

    struct list namespaces;
    unsigned leaving; /* bdevs not gone yet, when deleting */
    void (*detached)(void *arg);
    void *detached_arg;

    pthread_mutex_t
        lock; /* of all below, and of the mail parts of the queues; never on the data path */
    struct list queues;
    unsigned nqueues, max_queues, last_qid;
    bool qid_used[NOF_MAX_QUEUES + 1];
};

/* ---- host.c ---- */
/* The association is lost or could not be made. */
void host_lost(struct nvme_of_host *h, const struct err *why);
/* steps.c has set up the controller: namespaces are in h->scan. */
int host_set_up(struct nvme_of_host *h, struct err *err);
/* steps.c has looked at the namespaces again. */
void host_rescanned(struct nvme_of_host *h);
/* A queue's report, on the control thread. */
void host_report(struct nvme_of_host *h, struct nof_queue *q, const struct nof_report *report);

/* ---- options.c ---- */
int host_options(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err);

/* ---- admin.c: the admin queue, steps.c: what sets up a controller ---- */
extern const struct tcp_ops admin_ops;
void steps_rescan(struct nvme_of_host *h);
/* Timers of the admin queue off. */
void admin_stop(struct nvme_of_host *h);
/* Says the controller that we leave (CC.SHN); false: it cannot be said. The connection ends, or the
 * target answers: host_lost() runs then. */
bool admin_shutdown(struct nvme_of_host *h);

/* ---- namespace.c ---- */
/* Registers the bdev of a namespace. 0 or -errno. */
int ns_add(struct nvme_of_host *h, const struct nvme_of_namespace *id, bool shared,
           struct err *err);
struct nof_ns *ns_find(struct nvme_of_host *h, uint32_t nsid);
/* Compares what a target shows now with what we know: grows, holds or lets go. found: NULL when it
 * is missing, refused may say why then. True when something to be saved has changed. */
bool ns_update(struct nof_ns *ns, const struct nvme_of_namespace *found, bool live,
               const char *refused);
extern const struct bdev_ops nvme_of_bdev_ops;

/* ---- queue.c, io.c ---- */
/* On the reactor r: the queue of r, made when there is none yet; counted. */
struct nof_queue *queue_get(struct nvme_of_host *h, struct reactor *r, struct err *err);
void queue_put(struct nof_queue *q);
int queue_submit(struct nof_queue *q, struct nof_ns *ns, struct bdev_req *req);
void queue_flush(struct nof_queue *q);
int queue_detach(struct nof_queue *q, struct bdev_req *req);
void queue_cancel(struct nof_queue *q, struct bdev_req *req);
/* Control thread, under host->lock. up: connect for this association, or look at held namespaces
 * again; else hang up. */
void queue_want(struct nof_queue *q, const struct nof_target *t);
unsigned queue_qid(const struct nof_queue *q);
struct nof_queue *queue_of_node(struct list *node);
struct list *queue_node(struct nof_queue *q);
void queue_free(struct nof_queue *q);

#endif
