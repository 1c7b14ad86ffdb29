/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/client_inside.h - what client.c (the connection) and lease.c (one function on it) share.
 * Thread: control. */
#ifndef LINK_CLIENT_INSIDE_H
#define LINK_CLIENT_INSIDE_H

#include "link/client.h"
#include "link/inside.h"

struct packet { /* one message as it came */
    struct list node;
    struct link_msg msg;
    int fds[LINK_MAX_FDS];
    unsigned nfds;
};

struct link_reactor {
    struct reactor *reactor;
    struct visits *visits;
    bool slot_used[WAKE_SLOTS];
};

struct link_client {
    int fd;
    struct watch watch;
    struct reactor *control;
    struct link_reactor *reactors;
    unsigned nreactors;
    struct wake_page *wake;
    struct link_function_info *functions;
    unsigned nfunctions, functions_known;
    struct list leases;
    struct list backlog; /* packets that came while a sync call waited for its answer */
    struct mail backlog_mail;
    bool backlog_posted;
    uint64_t next_cookie;
    bool ready, broken;
    void (*lost)(void *arg);
    void *lost_arg;
};

/* 0 or -errno; a broken link is reported once by lost(). */
int link_send(struct link_client *lc, const struct link_msg *msg, const int *fds, unsigned nfds);
void packet_close_fds(struct packet *p);

/* A packet for a leased function. Takes the descriptors it uses (sets them to -1). */
void lease_packet(struct link_client *lc, struct packet *p);
/* The link is gone: leases that wait get an error, others stay as they are until the service
 * drains. */
void leases_lost(struct link_client *lc);

#endif
