/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/lease_inside.h - a lease on one function: what lease.c (its life) and lease_events.c (what
 * snap_emu tells about it meanwhile) share. Thread: control, but for what an errand does on the
 * reactor. */
#ifndef LINK_LEASE_INSIDE_H
#define LINK_LEASE_INSIDE_H

#include "link/client_inside.h"

enum lease_state {
    LEASE_WAITING,  /* LINK_OPEN is out */
    LEASE_SYNCING,  /* granted; memory and vectors are coming in */
    LEASE_ADOPTING, /* the device model looks at the state memory */
    LEASE_OPEN,
    LEASE_CLOSING,   /* the function is being taken off its reactor */
    LEASE_RELEASING, /* LINK_RELEASE is out */
};

struct lease {
    struct list node;
    struct link_client *lc;
    enum lease_state state;
    unsigned index, reactor_index, slot;
    uint64_t cookie;
    struct reactor *reactor;
    const struct function_ops *ops;
    void *dev;
    struct function *f;
    void (*opened)(void *arg, int rc, const struct err *err);
    void *opened_arg;
    void (*closed)(void *arg);
    void *closed_arg;
    struct err failure; /* why opening failed; reported when the lease is given back */
};

/* One errand between control and reactor; it travels there and, when it has an answer, back. */
struct errand {
    struct mail mail;
    struct lease *lease;
    uint64_t cookie;
    uint32_t id, epoch, why;
    struct guest_region *region;
    int fd;
    struct function_queue queue;
    bool stop, pause;
    uint32_t queues, queue_size;
    int rc;
    struct err err;
};

#define errand_of(m) container_of(m, struct errand, mail)

/* Never NULL: the process ends when there is no memory for it. */
struct errand *lease_errand(struct lease *l, void (*fn)(struct mail *m));
void lease_errand_back(struct errand *e, void (*fn)(struct mail *m));

/* lease_events.c: a packet about a function that is leased or being leased. */
void lease_event(struct lease *l, struct packet *p);
/* function_config_changed() of a leased function; arg: the lease. Reactor thread. */
void lease_config_changed(void *arg);

#endif
