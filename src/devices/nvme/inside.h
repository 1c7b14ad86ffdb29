/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/inside.h - what the files of this room share. Thread: the controller's reactor,
 * except where a comment says control. */
#ifndef DEVICES_NVME_INSIDE_H
#define DEVICES_NVME_INSIDE_H

#include "base/util.h"
#include "devices/nvme/nvme.h"
#include "devices/nvme/state.h"
#include "nvme_core/core.h"

enum {
    NVME_PAGE = 4096,        /* CC.MPS is 0, always */
    NVME_IOV_INLINE = 4,     /* enough for 16 KiB in scattered pages */
    NVME_IOV_MAX = 256,      /* of a big iov; also 256 DSM ranges fit there */
    NVME_AERL = 3,           /* 0's based */
    NVME_REMAP_US = 2000000, /* after a map change, data that is not mapped is waited for so long */
};

struct nvme_dev;
struct nvme_sq;
struct nvme_cq;

struct nvme_dev_ns {
    uint32_t nsid, block_shift;
    uint64_t nblocks;
    struct bdev_channel *channel;
    struct nvme_state_ns *st; /* NULL before adoption */
    struct nvme_dev_ns *next_dirty;
    bool dirty, write_cache, read_only, can_unmap, can_write_zeroes, copies, shared;
    bool leaving;      /* being detached: new commands are held until that is decided */
    uint32_t inflight; /* requests with the bdev */
    struct bdev_uuid uuid;
    uint8_t nguid[16], eui64[8];
    struct nvme_dev *dev;
    controller_cb left;
    void *left_arg;
    struct timer leave_timer; /* then it stays */
};

enum nvme_req_state {
    NVME_REQ_FREE,
    NVME_REQ_ACTIVE,  /* between fetch and the end of start */
    NVME_REQ_PENDING, /* with a bdev, or waiting for a queue to drain */
    NVME_REQ_HELD,    /* its memory or namespace is away or leaving: started again later */
    NVME_REQ_AER,
    NVME_REQ_DONE, /* waits for its place in the CQ */
};
enum nvme_detach { NVME_ATTACHED, NVME_DETACHED, NVME_DETACHING };

/* The private half of a slot; the other half is its record in state memory. */
struct nvme_req {
    struct nvme_sq *sq; /* NULL: never used */
    struct nvme_record *rec;
    struct nvme_req *next;
    struct nvme_dev_ns *ns;
    uint32_t dw0;
    nvme_status status;
    uint16_t slot;
    uint8_t state, detach; /* enum nvme_req_state, enum nvme_detach */
    bool in_bdev;
    void (*on_intent)(
        struct nvme_req *req); /* admin: its completion is stored; a side effect may follow */
    uint32_t effect;           /* for on_intent */
    uint32_t step, steps;      /* commands that become several bdev requests */
    uint32_t resent;           /* BDEV_RESENT: recovered, a service before us may have sent it */
    void *big;                 /* NVME_IOV_MAX iovecs from the pool, or NULL */
    struct iovec inline_iov[NVME_IOV_INLINE];
    struct bdev_req io;
};

struct nvme_sq {
    struct nvme_dev *dev;
    struct nvme_cq *cq;
    uint16_t qid;
    bool parked;        /* its ring or doorbell memory is not mapped */
    bool stopped;       /* invalid doorbell */
    uint32_t size, pos; /* pos: head modulo size */
    uint64_t head;      /* free-running */
    const char *ring;   /* NULL: look up entry by entry (the ring is spread over regions) */
    uint64_t gpa;
    _Atomic uint32_t *bar_tail, *shadow_tail, *eventidx;
    uint32_t last_eventidx, last_bar;
    void (*start)(struct nvme_req *req);
    struct nvme_record *slots;
    struct nvme_req *reqs;
    uint16_t *free;               /* stack of free slots */
    uint32_t nfree, nslots, used; /* used: slots at and above were never used */
    uint32_t inflight;            /* PENDING requests */
    bool starved;                 /* stopped fetching for lack of slots */
    struct nvme_req *delete_req;
    struct nvme_state_sq *st;
};

struct nvme_cq {
    struct nvme_dev *dev;
    uint16_t qid, iv;
    bool ien, parked, stopped, queued, full;
    uint32_t size, pos;  /* pos: tail modulo size */
    uint64_t tail, head; /* free-running; head: as last seen */
    char *ring;
    uint64_t gpa;
    _Atomic uint32_t *bar_head, *shadow_head, *eventidx;
    uint32_t last_eventidx, last_bar;
    struct nvme_req *first, *last; /* finished, in the order of posting */
    uint32_t nqueued, nsqs;
    uint32_t reposts; /* the first so many have a stored intent: their place is theirs */
    struct nvme_cq *next_dirty;
    struct nvme_state_cq *st;
};

/* More reasons why nothing is fetched. */
enum nvme_hold {
    NVME_HOLD_DISABLED = DEVICE_HOLD_KIND,
    NVME_HOLD_SHUTDOWN = DEVICE_HOLD_KIND << 1,
    NVME_HOLD_BUS = DEVICE_HOLD_KIND << 2, /* no bus master, or not in D0 */
};

enum nvme_event { NVME_EVENT_DB_REG = 1, NVME_EVENT_DB_VALUE = 2, NVME_EVENT_NS = 4 };

struct nvme_vector {
    uint32_t pending;  /* completions posted and not signalled */
    uint64_t since_us; /* of the first */
    bool queued;
};

struct nvme_dev_opts {
    struct nvme_subsystem *subsystem;
    const char *name; /* for logs */
    struct reactor *reactor;
    uint32_t num_queues, mdts, fw_slots;
    bool write_zeroes, dsm;
};

struct nvme_dev {
    struct device base;
    struct guest_map *map;
    struct nvme_state *st;
    uint64_t map_generation;
    bool dropping;    /* a reset: what ends is forgotten */
    bool after_crash; /* the last holder died of a fault of its own */
    bool adopted;     /* a running device was taken over and waits for its first resume */
    bool owns_state;  /* the namespaces in state memory are ours, no longer our predecessor's */
    struct nvme_sq *sq[NVME_QUEUES];
    struct nvme_cq *cq[NVME_QUEUES];
    struct nvme_cq *dirty_cqs;
    struct nvme_dev_ns *dirty_ns;
    struct nvme_dev_ns **ns; /* sorted by NSID */
    unsigned nns;
    bool copies; /* a namespace has been here whose bdev moves the data itself */
    struct nvme_vector *vectors;
    unsigned nvectors, npending_vectors;
    uint16_t *pending_vectors;
    struct timer irq_timer;

    uint32_t max_depth;
    struct nvme_subsystem *ss;
    uint32_t num_queues, mdts, fw_slots;
    bool write_zeroes, dsm;
    _Atomic uint32_t cntlid;
    uint32_t max_bytes; /* of one transfer */

    struct nvme_req *held, *held_last, *aers;
    unsigned naers, nheld;
    uint32_t events_reporting; /* events taken by an AER whose intent is not stored yet */
    uint64_t remap_until_us;
    struct timer hold_timer, enable_timer;
    unsigned nleaving; /* namespaces */
    bool enable_waits;
    void *iov_pool; /* free big iovs, linked through their first word */

    /* motions */
    bool reset_function;
    uint32_t reset_epoch;
    void (*reset_done)(void *arg);
    void *reset_arg;
    bool shutdown_wanted, shutdown_flushing;
    struct bdev_req shutdown_io;
    struct nvme_dev_ns *shutdown_ns;
    uint32_t missing_bar[2 * NVME_QUEUES]; /* last values seen in doorbells that have no queue */

    /* counters that control reads without a lock */
    _Atomic uint64_t doorbell_messages;
    struct {
        _Atomic uint64_t reads, writes, flushes;
    } stats[NVME_QUEUES];
    _Atomic uint32_t has_queue; /* bit per I/O and admin SQ */
    struct found *live;         /* between the two halves of recovery */
    unsigned nlive;
};
static_assert(offsetof(struct nvme_dev, base) == 0, "function_ops gets either");

static inline struct nvme_dev *nvme_dev_of(struct device *d)
{
    return container_of(d, struct nvme_dev, base);
}

/* ---- device.c: the device model as link/function.h and controller/device.h see it ---- */
extern const struct function_ops nvme_function_ops;
struct nvme_dev *nvme_dev_create(const struct nvme_dev_opts *opts, struct err *err); /* control */
void nvme_dev_destroy(struct nvme_dev *dev); /* control; the lease is gone, channels are closed */
/* Is the admin or I/O queue held? */
static inline bool nvme_sq_held(const struct nvme_dev *dev, const struct nvme_sq *sq)
{
    return (dev->base.hold & ~(uint32_t)DEVICE_HOLD_EVENTS) || (dev->base.hold && sq->qid == 0);
}

/* ---- dev_ns.c: namespaces attached to the controller ---- */
struct nvme_dev_ns_opts {
    struct bdev *bdev;
    uint32_t nsid;
    struct bdev_uuid uuid;
    uint8_t nguid[16], eui64[8];
};
int nvme_dev_attach(struct nvme_dev *dev, const struct nvme_dev_ns_opts *opts, struct err *err);
/* Its commands in flight finish; left may come inside. After -ETIMEDOUT it stays and works on.
 * -ENOENT, -EBUSY: it is being detached. */
void nvme_dev_detach(struct nvme_dev *dev, uint32_t nsid, controller_cb left, void *arg);
/* A command for it waits: it is being detached, or one of all is. */
bool nvme_dev_ns_leaves(struct nvme_dev *dev, uint32_t nsid);
void nvme_dev_resize(struct nvme_dev *dev, uint32_t nsid, uint64_t nblocks);
struct nvme_dev_ns *nvme_dev_ns_slow(struct nvme_dev *dev, uint32_t nsid);
/* The attached namespace with the smallest NSID above after, or NULL. */
struct nvme_dev_ns *nvme_dev_ns_next(struct nvme_dev *dev, uint32_t after);
void nvme_dev_ns_settle(struct nvme_dev *dev);
void nvme_dev_ns_close_all(struct nvme_dev *dev);
uint32_t nvme_dev_nn(const struct nvme_dev *dev); /* highest NSID the host may use */
static inline struct nvme_dev_ns *nvme_dev_ns_find(struct nvme_dev *dev, uint32_t nsid)
{
    if (likely(dev->nns && dev->ns[0]->nsid == nsid))
        return dev->ns[0];
    return nvme_dev_ns_slow(dev, nsid);
}
/* SUCCESS with *ret, or the status of a command that names a namespace which is not there. */
nvme_status nvme_dev_ns_get(struct nvme_dev *dev, uint32_t nsid, struct nvme_dev_ns **ret);

/* ---- record.c: slots ---- */
/* Always, but in a build that measures what records cost (docs/performance.md): it keeps those of
 * admin commands only, and recovers nothing else. */
static inline bool nvme_recorded(unsigned qid)
{
#ifdef SNAP_LEAVE_OUT_RECORDS
    return qid == 0;
#else
    return true;
#endif
}

struct nvme_req *nvme_req_take(struct nvme_sq *sq);              /* a free slot; sq->nfree > 0 */
struct nvme_req *nvme_req_at(struct nvme_sq *sq, unsigned slot); /* the private half of a slot */
void nvme_req_release(struct nvme_req *req);                     /* frees record and slot */
struct iovec *nvme_req_big_iov(struct nvme_req *req);            /* NULL: no memory */
void nvme_req_drop_big(struct nvme_req *req);
int nvme_sq_slots_init(struct nvme_sq *sq, struct nvme_record *slots, uint32_t nslots);
void nvme_sq_slots_free(struct nvme_sq *sq);
void nvme_iov_pool_free(struct nvme_dev *dev);

/* ---- sq.c, cq.c: queues ---- */
struct nvme_sq *nvme_sq_create(struct nvme_dev *dev, unsigned qid); /* from its state entry */
void nvme_sq_destroy(struct nvme_sq *sq);
unsigned nvme_sq_fetch(struct nvme_sq *sq); /* and execute; number fetched */
bool nvme_sq_has_work(struct nvme_sq *sq);
/* Executes a request that is fetched (or recovered, or held). */
void nvme_req_start(struct nvme_req *req);
/* start() answered NVME_PENDING and this is the end of it. */
void nvme_req_end(struct nvme_req *req, nvme_status status);
/* Puts it in line for its CQ. */
void nvme_req_finish(struct nvme_req *req, nvme_status status);
/* Cancels what of sq (NULL: all) is with a bdev. */
void nvme_sq_cancel(struct nvme_sq *sq);
void nvme_req_hold(struct nvme_req *req); /* nvme_dev_restart_held() starts it again */
void nvme_dev_restart_held(struct nvme_dev *dev);
void nvme_dev_unhold_sq(struct nvme_sq *sq, nvme_status status);

struct nvme_cq *nvme_cq_create(struct nvme_dev *dev, unsigned qid);
void nvme_cq_destroy(struct nvme_cq *cq);
void nvme_cq_append(struct nvme_cq *cq, struct nvme_req *req);
void nvme_cq_post(struct nvme_cq *cq);
void nvme_cq_drop_sq(struct nvme_cq *cq, const struct nvme_sq *sq);
void nvme_cq_look(struct nvme_cq *cq); /* takes the host's head in, checked */
bool nvme_cq_has_room(struct nvme_cq *cq);
void nvme_dev_post(struct nvme_dev *dev); /* all dirty CQs, then their vectors */

/* ---- irq.c ---- */
void nvme_irq_add(struct nvme_dev *dev, const struct nvme_cq *cq, uint32_t completions);
void nvme_irq_flush(struct nvme_dev *dev);
void nvme_irq_signal_all(struct nvme_dev *dev);

/* ---- doorbell.c ---- */
void nvme_dev_bind(
    struct nvme_dev *dev); /* the map has changed: look up all rings and doorbells again */
void nvme_sq_bind(struct nvme_sq *sq);
void nvme_cq_bind(struct nvme_cq *cq);
uint32_t nvme_sq_tail(struct nvme_sq *sq);
uint32_t nvme_cq_head(struct nvme_cq *cq);
void nvme_sq_relax(struct nvme_sq *sq); /* busy: keep the host from ringing */
void nvme_cq_relax(struct nvme_cq *cq);
bool nvme_sq_arm(struct nvme_sq *sq); /* idle: ask it to ring; false: there is work */
bool nvme_cq_arm(struct nvme_cq *cq);
void nvme_doorbell_clear(struct nvme_dev *dev, unsigned index); /* 2 * qid, + 1 for a CQ */
void nvme_doorbells_clear_all(struct nvme_dev *dev);
void nvme_doorbells_check(struct nvme_dev *dev);
nvme_status nvme_dbbuf_config(struct nvme_req *req);

/* ---- event.c: asynchronous events, error log ---- */
nvme_status nvme_aer(struct nvme_req *req);
void nvme_event_raise(struct nvme_dev *dev, enum nvme_event event);
void nvme_event_unmask(struct nvme_dev *dev, uint32_t events);
void nvme_event_report(struct nvme_dev *dev);
/* A completion with a stored intent is posted again: what its service meant to do right behind the
 * intent (on_intent) is done, perhaps once more. In the order of the intents. */
void nvme_event_recovered(struct nvme_req *req);
void nvme_event_ns_changed(struct nvme_dev *dev, uint32_t nsid);
void nvme_error_log(struct nvme_dev *dev, const struct nvme_req *req);

/* ---- commands ---- */
void nvme_admin_start(struct nvme_req *req);
void nvme_admin_sq_drained(struct nvme_sq *sq); /* Delete I/O SQ goes on */
void nvme_io_start(struct nvme_req *req);
void nvme_io_expect(const struct nvme_req *req); /* to be started soon: its bdev may prepare */
nvme_status nvme_identify(struct nvme_req *req);
nvme_status nvme_get_features(struct nvme_req *req);
nvme_status nvme_set_features(struct nvme_req *req);
nvme_status nvme_get_log_page(struct nvme_req *req);
uint64_t nvme_boot_ms(void);

/* ---- transfer.c: small data of admin commands, by PRP ---- */
/* Copies data_bytes and fills the rest of the bytes the host has asked for with zeroes. */
nvme_status nvme_copy_to_host(struct nvme_req *req, const void *data, uint32_t data_bytes,
                              uint32_t bytes);
nvme_status nvme_copy_from_host(struct nvme_req *req, void *data, uint32_t bytes);
/* The data pointer of a request (PRP or SGL) as req->io.iov. */
nvme_status nvme_map_data(struct nvme_req *req, uint64_t bytes, uint32_t prot);

/* ---- regs.c ---- */
void nvme_regs_init(struct nvme_dev *dev);
void nvme_regs_written(struct nvme_dev *dev, const struct state_reg_write *w);
void nvme_regs_cc(struct nvme_dev *dev, uint32_t cc);
void nvme_regs_reset_begin(struct nvme_dev *dev);
void nvme_regs_settle(struct nvme_dev *dev);
void nvme_regs_memory_added(struct nvme_dev *dev);
void nvme_regs_adopt(struct nvme_dev *dev); /* goes on with what the last service had begun */
void nvme_regs_lost(struct nvme_dev *dev);
void nvme_regs_fatal(struct nvme_dev *dev);
void nvme_dev_close_queues(struct nvme_dev *dev);

/* ---- adopt.c ---- */
int nvme_adopt(struct nvme_dev *dev, struct err *err);
int nvme_adopt_identity(struct nvme_dev *dev, struct err *err);
int nvme_adopt_records(struct nvme_dev *dev, struct err *err);
void nvme_adopt_restart(struct nvme_dev *dev);
void nvme_adopt_store_identity(struct nvme_dev *dev);
void nvme_adopt_store_ns(struct nvme_dev *dev); /* in dev_ns.c */

/* ---- subsystem.c: any thread ---- */
const char *nvme_subsystem_nqn(const struct nvme_subsystem *ss);
const char *nvme_subsystem_sn(const struct nvme_subsystem *ss);
const char *nvme_subsystem_mn(const struct nvme_subsystem *ss);
uint32_t nvme_subsystem_nn(const struct nvme_subsystem *ss);
uint32_t nvme_subsystem_mnan(const struct nvme_subsystem *ss);
/* Takes the controller ID want (0: the smallest free one). The ID, or -EBUSY, -ENOSPC. */
int nvme_subsystem_cntlid_take(struct nvme_subsystem *ss, uint32_t want);
void nvme_subsystem_cntlid_put(struct nvme_subsystem *ss, uint32_t cntlid);

#endif
