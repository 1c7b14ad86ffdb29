/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio/virtqueue.h - a virtqueue as a device model sees it, split or packed: chains are fetched
 * in batches into records that outlive the service, mapped to iovecs over guest memory, and
 * completed in batches. Knows no device and no transport.
 *
 * The rules of recovery are kept here (docs/recovery.md): a batch is recorded, then published by
 * one store of the cursor, and only then handed out; a batch of completions stores its intents,
 * writes the ring, stores the cursor, then frees the records. All the ring holds is foreign: it is
 * copied once and checked.
 * Thread: the function's reactor. */
#ifndef VIRTIO_VIRTQUEUE_H
#define VIRTIO_VIRTQUEUE_H

#include "base/err.h"
#include "guest/memory.h"
#include "virtio/inflight.h"
#include "virtio/state.h"

#include <stdbool.h>

struct virtq;

/* As the host has set it up; does not change while start stays the same. */
struct virtq_config {
    uint32_t size;
    uint32_t base;  /* where to begin (vhost-user, SET_VRING_BASE); split: avail index; packed: low
                       half avail, high half used, each with its wrap counter in bit 15: a new ring
                       begins at 0x80008000. Ignored when the in-flight area knows better */
    uint32_t start; /* incarnation, not 0 */
    uint64_t features;
    uint64_t desc_gpa, driver_gpa, device_gpa;
};

struct virtq_opts {
    struct guest_map *map;
    struct virtq_state *st;
    struct virtq_record *records; /* max_size of them */
    struct virtq_desc *saved;     /* max_size of them: copies of packed chains */
    uint32_t max_size;
    struct virtq_config cfg;
    struct virtq_inflight inflight; /* this queue's part of a vhost-user in-flight area, or zeroes.
                                       Foreign, stays mapped while the queue is open. Whoever resets
                                       the ring zeroes it */
    const char *name;               /* for logs and errors: "VblkCtrl1 queue 0"; copied */
};

/* st->start == cfg.start: takes over what the last service left: completions that were intended are
 * queued to be posted again, the rest is in virtq_live(). Otherwise a fresh start: from the ring
 * and base, or from the in-flight area when it holds this ring's chains. -EINVAL (size, addresses),
 * -EFAULT (the ring is not in guest memory, fresh start only), -EPROTO (state makes no sense),
 * -ENOMEM. */
int virtq_open(const struct virtq_opts *opts, struct virtq **ret, struct err *err);
void virtq_close(struct virtq *vq); /* leaves the state as it is; accepts NULL */
/* Forgets all that is recorded: the host has reset the ring. Only on a queue that is closed. */
void virtq_state_reset(struct virtq_state *st);

/* What was found when it was opened. from_area: records read back from the in-flight area. */
struct virtq_found {
    uint32_t records, live, intent_stored, posted, unpublished, from_area;
};
struct virtq_found virtq_get_found(const struct virtq *vq);
/* Chains to be started again before anything is fetched, in the order of fetching. Returns how many
 * there are; writes at most max slots. */
unsigned virtq_live(const struct virtq *vq, uint16_t *slots, unsigned max);

/* The map has changed: looks up the ring again; a ring that is not all there is parked. */
void virtq_bind(struct virtq *vq);

/* Takes up to max new chains into records and publishes them; returns how many. 0 also when the
 * ring is parked or broken, or completions of the last service wait to be posted again. */
unsigned virtq_fetch(struct virtq *vq, uint16_t *slots, unsigned max);
/* NULL, or what the driver did wrong: it needs a reset, nothing is fetched any more. */
const char *virtq_broken(const struct virtq *vq);
/* Breaks it, for a chain only the device model can judge. why: a literal. */
void virtq_break(struct virtq *vq, const char *why);

/* A chain as iovecs over guest memory, first what the device may read, then what it may write. */
struct virtq_iov {
    struct iovec *iov; /* room for max entries, the caller's */
    int max;
    int nreadable, nwritable;
    uint64_t readable_bytes, writable_bytes;
    uint8_t *last; /* last byte that the device may write, NULL: none */
};
/* Walks the chain of a slot: bounded, each descriptor read once; zero-length ones are skipped. 0;
 * -EFAULT: some of it is not in guest memory (now); -E2BIG: more segments than max (last is valid
 * all the same); -EINVAL: no legal chain (loop, bad index, readable behind writable, bad indirect).
 * On every error last is set when the walk reached it and it is in guest memory, else NULL. */
int virtq_map(struct virtq *vq, unsigned slot, struct virtq_iov *io);

/* Bookkeeping of executions, for "killed two services". */
uint8_t virtq_starts(const struct virtq *vq, unsigned slot);
void virtq_set_starts(struct virtq *vq, unsigned slot, uint8_t starts);
uint16_t virtq_head(const struct virtq *vq, unsigned slot); /* for logs */

/* The chain is done, len bytes were written into it: the driver is told by the next virtq_post(),
 * in the order of these calls. What the device wrote into guest memory must be there already. */
void virtq_done(struct virtq *vq, unsigned slot, uint32_t len);
/* Forgets a chain without telling the driver (a reset). */
void virtq_drop(struct virtq *vq, unsigned slot);
/* Posts all that is done. True: the driver wants an interrupt. */
bool virtq_post(struct virtq *vq);
bool virtq_has_done(const struct virtq *vq); /* virtq_post() has something to post now */
/* Chains between fetch and virtq_post()/virtq_drop(). */
unsigned virtq_inflight(const struct virtq *vq);

/* Notifications: relax (while busy): the driver need not kick. arm (before sleeping): it shall;
 * false: there is work now. */
void virtq_relax(struct virtq *vq);
bool virtq_arm(struct virtq *vq);
bool virtq_has_work(struct virtq *vq);

/* What GET_VRING_BASE answers: for base of a later start. Nothing is in flight. */
uint32_t virtq_base(const struct virtq *vq);

/* For lists. state: "RUNNING", "PARKED", "BROKEN". hw: in the driver's memory, sw: ours. */
struct virtq_info {
    const char *state;
    uint32_t size;
    uint16_t hw_avail, sw_avail, hw_used, sw_used;
    uint64_t fetched, completed;
};
struct virtq_info virtq_get_info(struct virtq *vq);

#endif
