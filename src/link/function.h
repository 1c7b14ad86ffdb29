/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/function.h - a leased function as its device model sees it, and what a device model gives to
 * it. Thread: the reactor that serves the function, except where a comment says control. */
#ifndef LINK_FUNCTION_H
#define LINK_FUNCTION_H

#include "base/err.h"
#include "guest/memory.h"
#include "link/message.h"
#include "link/state_memory.h"
#include "runtime/reactor.h"

struct function;

/* A virtqueue as its host has set it up. start: its incarnation, never 0; while that is the same,
 * so is all but run. */
struct function_queue {
    uint32_t index, size, base, start;
    uint64_t features; /* negotiated */
    uint64_t desc_gpa, driver_gpa, device_gpa;
    bool run; /* fetch from it */
};
enum { FUNCTION_MAX_QUEUES = 64 };
enum { FUNCTION_NOT_STOPPED = UINT32_MAX }; /* base of a stop that nobody could carry out */

/* The in-flight area of a vhost-user front end. */
struct function_inflight {
    void *at; /* NULL: there is none. Foreign memory, guarded as guest memory is */
    uint64_t size_bytes;
    uint32_t queues, queue_size;
};

/* Every slot is filled. */
struct function_ops {
    /* The lease was granted, memory and interrupts as they are now are in place: initialise the
     * state memory, or take over what the last service left. An error parks the function and is
     * shown to the operator. */
    int (*adopt)(void *dev, struct function *f, struct err *err);
    /* There may be work (doorbells). Called when the activity bit was set, and every turn while the
     * function was busy lately or has mapped doorbells. Returns the amount of work done. */
    unsigned (*poll)(void *dev);
    /* End of the turn: post completions, flush bdev batches, signal vectors. */
    void (*flush)(void *dev);
    /* Before sleeping: ask the host to ring (EventIdx) and look once more; false: work is there. */
    bool (*arm)(void *dev);
    /* Commands in flight at the backend: while there are several, the next ones are taken by short
     * naps rather than by a message from the host for each. */
    unsigned (*inflight)(void *dev);
    /* A register write, in log order; must be idempotent: the last one may come again after a
     * crash. */
    void (*reg_written)(void *dev, const struct state_reg_write *w);
    /* Writes were lost (log full while parked): reset the device model, then take the register
     * image as it is. */
    void (*registers_lost)(void *dev);
    /* emu.flags changed: bus master, power. */
    void (*flags_changed)(void *dev, uint32_t flags);
    /* The map has a new region: parked queues and commands may find their memory. */
    void (*memory_added)(void *dev);
    /* Stop using [region->gpa, +size): detach what is in flight there, then call detached once (may
     * be inside). The region is out of the map already, so that nothing new finds it, and stays
     * mapped (region->host) until detached is called. */
    void (*memory_detach)(void *dev, const struct guest_region *region, void (*detached)(void *arg),
                          void *arg);
    /* Function reset: drop everything (cancel, wait for what cannot be), set the register image to
     * its reset image and device_epoch to epoch, then call done once (may be inside). */
    void (*reset)(void *dev, enum function_reset why, uint32_t epoch, void (*done)(void *arg),
                  void *arg);
    /* The host has started, disabled, enabled or (stopped not NULL) is stopping a virtqueue. A
     * queue that is being stopped is drained, then stopped(arg, base) runs once (may be inside);
     * base: where a later start goes on. function_no_queues() for devices that have none. */
    void (*queue_changed)(void *dev, const struct function_queue *q,
                          void (*stopped)(void *arg, uint32_t base), void *arg);
};

/* ---- for device models ---- */
struct guest_map *function_memory(struct function *f);
struct state_memory *function_state(struct function *f);
uint64_t
function_device_bytes(const struct function *f); /* size of the device part of the state memory */
/* The doorbell page: 4096 bytes, written by snap_emu or by the host itself. Foreign: check each
 * value. */
const _Atomic uint32_t *function_doorbells(struct function *f);
struct reactor *function_reactor(struct function *f);
uint32_t function_flags(struct function *f); /* STATE_* */
uint32_t function_epoch(struct function *f);
const struct link_function_info *function_info(const struct function *f);

/* Register images (offsets in bytes, 4-byte aligned). */
uint32_t function_reg_host(struct function *f, uint32_t offset); /* what the host wrote */
uint64_t function_reg_host64(struct function *f, uint32_t offset);
void function_reg_set(struct function *f, uint32_t offset,
                      uint32_t value); /* what the host reads */
void function_reg_set64(struct function *f, uint32_t offset, uint64_t value);

/* Signals an MSI-X vector; without an eventfd it is remembered until there is one. Never blocks. */
void function_irq(struct function *f, unsigned vector);
uint64_t function_irqs_sent(const struct function *f);
/* Kicks of its virtqueues' drivers since the lease; several before a look count as many. */
uint64_t function_kicks_seen(const struct function *f);

/* virtio: what the device offers. Before adopt() returns. */
void function_offer(struct function *f, uint64_t features, uint32_t queues, uint32_t queue_size);
/* Configuration (register image) or status has changed: the host is told. status:
 * VIRTIO_STATUS_NEEDS_RESET or 0. */
void function_config_changed(struct function *f, uint32_t status);
/* There when a queue starts or is adopted, stays until the next reset. */
struct function_inflight function_inflight_area(const struct function *f);
/* For function_ops of devices without virtqueues. */
void function_no_queues(void *dev, const struct function_queue *q,
                        void (*stopped)(void *arg, uint32_t base), void *arg);

/* The function has work again without the host's doing: poll and flush it in this turn and the
 * next. Every completion that comes from outside poll() (a bdev's done) needs it, or nobody calls
 * flush(). Cheap when it is busy anyway. */
void function_kick(struct function *f);

/* Stops the function: logs the reason, shows it in lists. The device model does nothing for it any
 * more. */
void function_fail(struct function *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool function_failed(const struct function *f);

/* ---- building one: by link/client.c on the control thread, and by unit tests from plain memory
 * ---- */
struct function_parts {
    struct reactor *reactor;
    const struct function_ops *ops;
    void *dev;
    struct link_function_info info;
    struct state_memory *state; /* mapped; unmapped by function_destroy when owned */
    uint64_t state_bytes;
    _Atomic uint32_t *doorbells;
    bool owned;
};
struct function *function_create(const struct function_parts *parts);
void function_destroy(struct function *f);
/* Reactor thread: the calls link/client.c forwards. */
int function_adopt(struct function *f, struct err *err);
void function_set_irq(struct function *f, unsigned vector,
                      int fd); /* owner: the function; -1: none */
void function_add_region(struct function *f, struct guest_region *region);
void function_detach_region(struct function *f, uint32_t id,
                            void (*detached)(void *arg, struct guest_region *region), void *arg);
void function_reset(struct function *f, enum function_reset why, uint32_t epoch,
                    void (*done)(void *arg), void *arg);
void function_flags_changed(struct function *f);
/* kick_fd: owner: the function; -1: the queue cannot be kicked. */
void function_set_queue(struct function *f, const struct function_queue *q, int kick_fd,
                        void (*stopped)(void *arg, uint32_t base), void *arg);
void function_set_inflight(struct function *f, struct guest_region *region, uint32_t queues,
                           uint32_t queue_size); /* region: owner: the function */
void function_signal_all(struct function *f);    /* every vector that has an eventfd, once */
/* One visit: applies the register log, then polls the device. Returns the work done. */
unsigned function_poll(struct function *f);
void function_flush(struct function *f);
bool function_arm(struct function *f);
unsigned function_inflight(struct function *f);

#endif
