/* SPDX-License-Identifier: BSD-3-Clause
 *
 * controller/device.h - what every kind of device is on its reactor, beside its queues: held or
 * fetching, with so much in flight, and the motions that are the same for all: stop fetching, let
 * finish or cancel, act when nothing is in flight. Knows no queue and no command: a kind is a
 * table, and its device begins with struct device. Thread: the device's reactor, except where a
 * comment says another. */
#ifndef CONTROLLER_DEVICE_H
#define CONTROLLER_DEVICE_H

#include "base/counter.h"
#include "base/list.h"
#include "link/function.h"

struct device;
/* rc 0, or -errno with a sentence that names the object. */
typedef void (*controller_cb)(void *arg, int rc, const struct err *err);

enum controller_part { CONTROLLER_ALL, CONTROLLER_EVENTS /* control and admin commands only */ };

/* Why nothing is fetched. */
enum device_hold {
    DEVICE_HOLD_SUSPENDED = 1 << 0,
    DEVICE_HOLD_EVENTS = 1 << 1, /* control and admin commands only */
    DEVICE_HOLD_RESET = 1 << 2,
    DEVICE_HOLD_QUIT = 1 << 3,
    DEVICE_HOLD_FAILED = 1 << 4,
    DEVICE_HOLD_KIND = 1 << 8, /* from here on: the kind's own */
};

/* What a device was asked for, and does when nothing is in flight. */
struct motion {
    controller_cb cb; /* NULL: not under way */
    void *arg;
    struct timer timer;
};

/* A region of guest memory that is being taken away. */
struct device_detach {
    struct list node;
    const char *host;
    uint64_t size_bytes;
    void (*detached)(void *arg);
    void *arg;
};
static inline bool device_detach_touches(const struct device_detach *w, const void *at,
                                         size_t bytes)
{
    const char *base = at;

    return base < w->host + w->size_bytes && w->host < base + bytes;
}

/* Written by the device's reactor, read by control. */
struct device_counts {
    /* Of the newest adoption: records found, by phase. adopted 1: took over a running device. */
    _Atomic uint64_t adopted, records, live, intent_stored, posted, unpublished;
    _Atomic uint64_t from_area; /* of these, known by a front end's in-flight area only */
    _Atomic uint64_t interrupts, memory_parked;
    _Atomic uint64_t kicks;     /* of virtqueues, at the end of the newest turn */
    _Atomic uint32_t in_flight; /* at the end of the newest turn */
};

/* Every slot is filled, but for events_inflight. */
struct device_ops {
    const char *room;  /* of its log lines: "nvme" */
    const char *words; /* what is in flight, for people: "commands" */
    /* Control and admin commands in flight. NULL: the kind has none, and their suspend is done at
     * once. */
    unsigned (*events_inflight)(struct device *d);
    /* The first resume after adoption compares identity and starts the records again; later ones
     * have nothing to do. After an error, which tells why, the device has failed. */
    int (*resume)(struct device *d, struct err *err);
    void (*go_on)(struct device *d); /* suspended no more: what was held goes on */
    /* The kind's own motions. Runs after each event that one may wait for, never inside a bdev's
     * done(), so that queues and requests can be freed. */
    void (*settle)(struct device *d);
    /* Detaches what is in flight in the region; true when nothing uses it any more. Called again
     * after something ended. */
    bool (*detach)(struct device *d, const struct device_detach *w);
    void (*cancel)(struct device *d); /* all that is with a bdev */
    void (*post)(struct device *d);   /* tells the host of all that has ended */
    void (*close)(struct device *d);  /* quit: timers, channels; nothing is in flight */
    void (*broken)(struct device *d); /* shows the host that only a reset will help */
};

struct device {
    const struct device_ops *ops;
    struct function *f; /* NULL before the lease */
    struct reactor *reactor;
    uint32_t hold;     /* enum device_hold, and the kind's */
    uint32_t inflight; /* with a bdev, all queues */
    bool kicked;
    bool settle;  /* something that a motion waits for may have happened */
    bool keeping; /* a release: what is cancelled stays recorded for the next service */
    struct list detaching;
    struct motion suspend, quit;
    struct device_counts counts;
    _Atomic bool failed; /* any thread reads */
    char name[LINK_NAME_BYTES];
    /* Private to this room. */
    enum controller_part suspending;
    bool settling, settle_mailed;
    struct mail settle_mail;
};

/* Control. d is zeroed; it begins suspended. name: of the controller, for people; copied. */
void device_init(struct device *d, const struct device_ops *ops, const char *name,
                 struct reactor *reactor);

/* Stops fetching and drains; timeout_ms 0: no limit. cb may come inside. After -ETIMEDOUT the
 * device runs on. -EBUSY: it is under way already. */
void device_suspend(struct device *d, enum controller_part part, uint64_t timeout_ms,
                    controller_cb cb, void *arg);
/* -EAGAIN: no lease yet. -EIO: it has failed. -EBUSY. Or the kind's error, and it has failed. */
int device_resume(struct device *d, struct err *err);
/* Stops, drains (cancels after a while) and closes the channels; cb may come inside, and may free
 * d. Records of what did not finish stay. */
void device_quit(struct device *d, controller_cb cb, void *arg);
/* What function_ops.memory_detach asks for; the kind has looked up its rings again. */
void device_memory_detach(struct device *d, const struct guest_region *region,
                          void (*detached)(void *arg), void *arg);

/* Work is there, or a motion may go on: be called next turn. Allowed inside a bdev's done(). */
void device_kick(struct device *d);
/* Looks which motions may go on, if d->settle says so. Not inside a bdev's done(). */
void device_settle(struct device *d);
/* The end of this function's service, until the host resets it. */
void device_fail(struct device *d, const char *why);
unsigned device_inflight(void *d); /* function_ops.inflight */
/* Something waits for the end of requests. */
static inline bool device_drains(const struct device *d)
{
    return d->suspend.cb || d->quit.cb || !list_empty(&d->detaching);
}

/* ---- a kind's own motions ---- */
/* timeout_ms 0: no limit. The kind's settle() ends it; it may run inside. */
void motion_begin(struct device *d, struct motion *m, controller_cb cb, void *arg,
                  uint64_t timeout_ms, void (*expired)(struct timer *t));
void motion_end(struct motion *m, int rc, const struct err *err);
/* Ends it, if it is under way, with -ECANCELED: the controller is being destroyed. */
void motion_cancel(const struct device *d, struct motion *m);

#endif
