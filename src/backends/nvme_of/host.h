/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/host.h - inside of the room: a host (one remote subsystem by its name), its
 * namespaces and its paths, and what they and the I/O queues tell each other.
 *
 * A path is one address of the subsystem: one controller there, one association at a time (path.c,
 * admin.c, steps.c). On each reactor that uses a bdev of the host it has a lane (lane.c), and there
 * one I/O queue of each path (queue.c); requests wait in lanes and queues (io.c). */
#ifndef BACKENDS_NVME_OF_HOST_H
#define BACKENDS_NVME_OF_HOST_H

#include "backends/nvme_of/ana.h"
#include "backends/nvme_of/fence.h"
#include "backends/nvme_of/identify.h"
#include "backends/nvme_of/nvme_of.h"
#include "backends/nvme_of/resolve.h"
#include "backends/nvme_of/tcp.h"
#include "spec/nvme_fabrics.h"

#include <pthread.h>

struct nof_queue;
struct nof_lane;

enum {
    NOF_MAX_QUEUES = 128,
    NOF_MAX_BDEVS = 1024,
    NOF_RECONNECT_MS = 1000,
    NOF_MAX_PATHS = 16, /* at a time */
};

/* How a namespace can be used by a path; more is better. */
enum nof_access { NOF_ACCESS_NONE, NOF_ACCESS_NON_OPTIMIZED, NOF_ACCESS_OPTIMIZED };

/* A namespace with a bdev: the dev of its bdev_ops. */
struct nof_ns {
    struct list node; /* nvme_of_host.namespaces, by NSID */
    struct nvme_of_host *host;
    struct bdev *bd;
    struct nvme_of_namespace
        id;             /* nsid and block size never change; the rest is the control thread's */
    struct fence fence; /* of all paths */
    /* Written by control, read when a lane chooses: by path number. */
    _Atomic uint8_t access[FENCE_PATHS];
    _Atomic uint32_t rr_min_io;
    _Atomic bool active_active, queue_depth;
    _Atomic int preferred; /* path number, or -1 */

    /* Control. */
    uint64_t strange; /* bit of a path: it shows another namespace, or none */
    uint32_t anagrpid[FENCE_PATHS];
    char why_held[200];
    bool held; /* strange on all paths that are there: its requests wait */
    bool shared;
};

/* What an I/O queue must know of an association; copied when handed over. */
struct nof_target {
    uint64_t assoc; /* counts associations of a host, never 0 */
    struct tcp_opts tcp;
    uint16_t cntlid, entries; /* entries per queue */
    uint32_t io_timeout_ms, max_io_bytes;
    uint64_t fence_bound_us; /* see fence_loss */
    bool fence_marked;
    bool no_sq_flow, volatile_cache, dsm, write_zeroes, ana;
};

/* queue.c: reports from a queue to its path, by mail; the queue is on its reactor. */
struct nof_report {
    bool opened, closed, rescan, ana;
    uint64_t lost_assoc; /* 0: none */
    struct err why;
};

enum path_phase {
    PATH_WAITING, /* for the reconnect timer */
    PATH_RESOLVING,
    PATH_CONNECTING, /* TCP and IC */
    PATH_SETTING_UP, /* steps.c */
    PATH_READY,
};

struct nvme_of {
    struct reactor *control;
    struct bdev_set *bdevs;
    struct bdev_uuid hostid;
    struct list hosts;
    struct list discoveries;
};

struct nof_path {
    struct list node; /* nvme_of_host.paths */
    struct nvme_of_host *host;
    unsigned number; /* below FENCE_PATHS; not given to another path for long after its end */
    /* Options, owned copies. */
    char traddr[256], trsvcid[16], hostaddr[64];
    int family; /* AF_UNSPEC: any */
    struct sockaddr_storage local;
    bool hdgst, ddgst, no_sq_flow;
    void (*attached)(void *arg, struct nvme_of_host *host, const struct err *err);
    void *attached_arg;

    /* The association. */
    enum path_phase phase;
    bool is_attached; /* attached() has run with success */
    bool leaving;
    uint64_t assoc; /* number of the newest */
    uint64_t begun_us;
    struct resolve *resolve;
    struct sockaddr_storage addrs[RESOLVE_MAX];
    unsigned naddrs, next_addr, failures;
    struct tcp_conn admin;
    struct timer attach_timer, reconnect_timer, step_timer, keep_alive_timer, event_timer,
        ana_timer;
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
    bool ana_only, ana_wanted;    /* of them: the log alone */
    bool keep_alive_out;
    struct nvme_of_namespace *scan; /* max_bdevs */
    bool *scan_shared;
    uint32_t *scan_nsids, *scan_anagrpids; /* active NSIDs, max_bdevs */
    unsigned nscan_nsids, scan_at, nscan;
    char scan_refused[200];
    struct iovec iov;
    _Alignas(8) uint8_t buf[4096];
    struct nof_ana ana;    /* the states of the ANA groups at this path */
    uint64_t ana_since_us; /* a group changes since; 0: none does */

    void (*gone)(void *arg);
    void *gone_arg;

    /* Under host->lock. */
    struct list queues;
    unsigned nqueues, max_queues, last_qid;
    bool qid_used[NOF_MAX_QUEUES + 1];
};

struct nvme_of_host {
    struct list node; /* nvme_of.hosts */
    struct nvme_of *of;
    /* Options, owned copies. */
    char name[64], subnqn[224], hostnqn[224];
    char discovery[64]; /* the one that has attached it, or empty */
    unsigned want_queues, max_bdevs;
    uint32_t phase_timeout_ms, keep_alive_ms, io_timeout_ms;
    void (*changed)(void *arg, struct nvme_of_host *host);
    void *changed_arg;

    bool is_attached; /* its first path is */
    bool deleting;
    uint64_t assoc; /* number of the newest association of any path */
    struct list namespaces;
    unsigned leaving; /* bdevs not gone yet, when deleting */
    unsigned last_number;
    void (*detached)(void *arg);
    void *detached_arg;
    struct timer end_timer;

    pthread_mutex_t lock; /* of all below, of the queues of paths, and of the mail parts of the
                             queues; never on the data path */
    struct list paths;
    unsigned npaths;
    struct list lanes;
};

/* ---- host.c ---- */
/* steps.c has set up a path's controller: namespaces are in p->scan. */
int host_set_up(struct nof_path *p, struct err *err);
/* steps.c has looked at the namespaces, or at the ANA log, of a path again. */
void host_rescanned(struct nof_path *p);
void host_ana_read(struct nof_path *p);
/* A path could not be attached, has ended, or has one thing less to wait for. */
void host_attach_failed(struct nof_path *p, const struct err *why);
void host_path_ended(struct nof_path *p);
void host_maybe_gone(struct nvme_of_host *h);
/* Of a host that could not be attached. NULL is fine. */
void host_free(struct nvme_of_host *h);
void host_remove_namespaces(struct nvme_of_host *h);
/* The name of one of its bdevs that somebody claims, or NULL: then it may be detached. Control. */
const char *host_bdev_in_use(const struct nvme_of_host *h);

/* ---- path.c ---- */
struct nof_path *path_create(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err);
/* NULL and half-made ones are fine. Closes what is open; it has no queues. */
void path_free(struct nof_path *p);
void path_begin(struct nof_path *p);
/* The association is lost or could not be made. */
void path_lost(struct nof_path *p, const struct err *why);
void path_disconnect(struct nof_path *p);
/* Ends it in good order; host_path_ended() when it is over. */
void path_leave(struct nof_path *p);
void path_maybe_ended(struct nof_path *p);
/* Every queue of it connects (ready), looks again at what waits, or hangs up. */
void path_tell_queues(struct nof_path *p);
void path_address_text(const struct nof_path *p, char *out, size_t size);
void path_report(struct nof_path *p, struct nof_queue *q, const struct nof_report *report);
void path_ready_logged(struct nof_path *p);

/* ---- options.c ---- */
void nvme_of_default_hostnqn(const struct nvme_of *of, char *out, size_t size);
/* trtype NULL: TCP. adrfam NULL or empty: any family (AF_UNSPEC). -EOPNOTSUPP, -EINVAL. */
int transport_options(const char *trtype, const char *adrfam, int *ret_family, struct err *err);
/* Copies an option that must be there. -EINVAL: missing, empty or not shorter than size bytes. */
int text_option(char *out, size_t size, const char *text, const char *what, struct err *err);
int host_options(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err);
int path_options(struct nof_path *p, const struct nvme_of_opts *o, struct err *err);

/* ---- admin.c: the admin queue, steps.c: what sets up a controller ---- */
extern const struct tcp_ops admin_ops;
void steps_rescan(struct nof_path *p);
/* Reads the ANA log again. */
void steps_read_ana(struct nof_path *p);
/* Timers of the admin queue off. */
void admin_stop(struct nof_path *p);
/* Says the controller that we leave (CC.SHN); false: it cannot be said. The connection ends, or the
 * target answers: path_lost() runs then. */
bool admin_shutdown(struct nof_path *p);

/* ---- namespace.c ---- */
/* Registers the bdev of a namespace. 0 or -errno. */
int ns_add(struct nvme_of_host *h, const struct nvme_of_namespace *id, bool shared,
           struct err *err);
struct nof_ns *ns_find(struct nvme_of_host *h, uint32_t nsid);
/* Compares what a path shows now with what we know: grows, holds or lets go. found: NULL when it
 * is missing, refused may say why then. True when something to be saved has changed. */
bool ns_update(struct nof_ns *ns, struct nof_path *p, const struct nvme_of_namespace *found,
               bool live, const char *refused);
/* How the path can be used for it, by what is known of its identity and its ANA group there. */
void ns_set_access(struct nof_ns *ns, struct nof_path *p);
/* The path is no more. */
void ns_forget_path(struct nof_ns *ns, const struct nof_path *p);
extern const struct bdev_ops nvme_of_bdev_ops;

/* ---- lane.c, queue.c, io.c ---- */
struct nof_channel;
/* On the reactor r: a channel of the bdev, in the lane of r, which is made when there is none. */
struct nof_channel *channel_open(struct nof_ns *ns, struct reactor *r, struct err *err);
void channel_close(struct nof_channel *ch);
int channel_submit(struct nof_channel *ch, struct bdev_req *req);
void channel_flush(struct nof_channel *ch);
int channel_detach(struct nof_channel *ch, struct bdev_req *req);
void channel_cancel(struct nof_channel *ch, struct bdev_req *req);
/* Control thread, under host->lock: a queue of the new path in each lane. */
void lanes_add_path(struct nof_path *p);
/* Control thread, under host->lock. t: connect for this association, or look at what waits again;
 * NULL: hang up. leave: for ever. */
void queue_want(struct nof_queue *q, const struct nof_target *t, bool leave);
unsigned queue_qid(const struct nof_queue *q);
struct nof_queue *queue_of_node(struct list *node);
struct list *queue_node(struct nof_queue *q);
void queue_free(struct nof_queue *q);

#endif
