/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/discovery.h - inside of the room: what a discovery (discovery.c) and its
 * connection (discovery_admin.c) share. Thread: control. */
#ifndef BACKENDS_NVME_OF_DISCOVERY_H
#define BACKENDS_NVME_OF_DISCOVERY_H

#include "backends/nvme_of/discovery_log.h"
#include "backends/nvme_of/host.h"

enum { DISCOVERY_AGAIN_MS = 5000 }; /* after something could not be attached or detached */

enum discovery_command {
    CMD_CONNECT,
    CMD_CAP,
    CMD_ENABLE,
    CMD_READY,
    CMD_IDENTIFY,
    CMD_EVENTS,
    CMD_HEADER,
    CMD_RECORDS,
    CMD_CHECK, /* the header again */
    CMD_IDLE,  /* the log has been read */
    CMD_KEEP_ALIVE,
    CMD_EVENT,
};

struct nof_discovery {
    struct list node; /* nvme_of.discoveries */
    struct nvme_of *of;
    char name[64], traddr[256], trsvcid[16], adrfam[8], hostnqn[224];
    struct nvme_of_discovery_opts o; /* its callbacks; the strings are above */

    struct resolve *resolve;
    struct tcp_conn admin;
    struct timer reconnect_timer, step_timer, keep_alive_timer, again_timer, limit_timer;
    struct sockaddr_storage addr;
    char last_failure[300];
    enum discovery_command step;
    bool connected, keep_alive_out, notices, look_again;
    uint64_t cap, genctr;
    unsigned polls, turns, nrecords, at;
    struct iovec iov;
    _Alignas(8) uint8_t buf[4096];
    struct nof_record *reading; /* NOF_DISCOVERY_RECORDS */
    unsigned nreading;

    struct nof_record *records; /* of the newest whole log */
    bool *tried;                /* in this round */
    unsigned n;
    bool listed;  /* there was one */
    bool busy;    /* something is being attached or detached */
    bool stuck;   /* something could not be, in this round */
    bool settled; /* the first round is over */
    bool stopping;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

/* discovery_admin.c: connects, reads the log, and again when it is told of a change; when the
 * connection is lost again after a second, for ever. */
int discovery_admin_init(struct nof_discovery *d);
void discovery_connect_soon(struct nof_discovery *d);
void discovery_disconnect(struct nof_discovery *d);

/* discovery.c: d->reading has been filled. */
void discovery_new_log(struct nof_discovery *d);

#endif
