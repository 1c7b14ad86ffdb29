/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/inside.h - what the files of this room share. */
#ifndef LINK_INSIDE_H
#define LINK_INSIDE_H

#include "link/function.h"

enum { FUNCTION_MAX_VECTORS = 2048 };

struct visits;

/* The kick eventfd of a virtqueue. */
struct function_kick {
    struct watch watch;
    struct function *f;
    int fd;
    bool silent;                 /* runs, but has no eventfd */
    struct function_queue early; /* told before adoption; start 0: none */
};

struct function {
    struct function_parts parts;
    struct guest_map *map;
    int *irq_fds; /* parts.info.num_msix entries; -1: none */
    bool *irq_pending;
    unsigned nvectors;
    uint64_t irqs_sent, kicks_seen;
    uint64_t polls;
    bool adopted, failed;
    uint32_t flags_seen; /* what the device model was told last */
    bool poisoned;       /* failed because a host memory file was truncated */
    char failure[LINK_NAME_BYTES];
    void (*failed_cb)(void *arg); /* reactor thread */
    void *failed_arg;
    void (*config_cb)(void *arg); /* reactor thread: function_config_changed() */
    void *config_arg;
    /* virtqueues */
    struct function_kick *kicks; /* FUNCTION_MAX_QUEUES, made with the first queue */
    unsigned nsilent;            /* queues that run and cannot be kicked */
    struct guest_region *inflight_region;
    uint32_t inflight_queues, inflight_queue_size;

    /* link/visits.c */
    struct visits *visits;
    struct list hot_node;
    bool hot;
    unsigned slot;
    uint64_t last_work_us;
};

/* The functions a reactor serves, and which of them it looks at each turn. Thread: the reactor's,
 * after create. */
struct visits *visits_create(struct reactor *r, struct wake_reactor *wake);
void visits_destroy(struct visits *v);
void visits_add(struct visits *v, struct function *f, unsigned slot);
void visits_remove(struct function *f);
void function_ignore_kicks(struct function *f); /* reactor thread, before it goes away */
void visits_heat(struct function *f);           /* look at it each turn until it is idle */

#endif
