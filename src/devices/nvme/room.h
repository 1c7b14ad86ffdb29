/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/room.h - the objects of the control side. Thread: control. */
#ifndef DEVICES_NVME_ROOM_H
#define DEVICES_NVME_ROOM_H

#include "devices/nvme/inside.h"

#include <pthread.h>

struct nvme_subsystems {
    struct list subsystems;
};

struct nvme_subsystem {
    struct list node;
    struct list namespaces, controllers;
    char nqn[NVME_NQN_MAX + 1], sn[21], mn[41];
    uint32_t nn, mnan, nnamespaces;
    pthread_mutex_t lock; /* of cntlids: controllers take theirs on their reactors */
    uint8_t cntlids[65536 / 8];
};

struct nvme_ns {
    struct list node;
    struct nvme_subsystem *ss;
    struct bdev *bdev;
    struct bdev_listener listener;
    uint32_t nsid;
    struct bdev_uuid uuid;
    uint8_t nguid[16], eui64[8];
    struct nvme_ctrl *attached; /* to one controller at most */
};

enum ctrl_state { CTRL_WAITING, CTRL_SUSPENDED, CTRL_STARTED, CTRL_SUSPENDING, CTRL_LEAVING };

struct nvme_ctrl {
    struct list node;
    struct nvme_subsystem *ss;
    struct link_client *link;
    unsigned function;
    struct reactor *control, *reactor;
    char ctrl_id[LINK_NAME_BYTES];
    uint32_t num_queues, mdts;
    bool auto_resume;
    enum ctrl_state state;
    char state_text[128], failure[300];
    struct link_function_info info; /* a copy, refreshed by get_info */
    struct nvme_dev *dev;
    struct lease *lease;
    nvme_ctrl_cb created, destroyed;
    void *created_arg, *destroyed_arg;
    struct errand *resume_when_open; /* asked for while the lease was waited for */
};

/* Goes to the reactor, acts, comes back and calls back. */
struct errand {
    struct mail mail;
    struct nvme_ctrl *ctrl;
    nvme_ctrl_cb done;
    void *arg;
    int rc;
    struct err err;
    /* arguments, as the errand needs them */
    bool admin_only;
    uint64_t timeout_ms, nblocks;
    uint32_t nsid;
    struct nvme_ns *ns;
    struct nvme_dev_ns_opts opts;
    void (*back)(struct errand *e); /* on control, before done */
};

#define errand_of(m) container_of(m, struct errand, mail)

/* errand.c: an errand is freed after done; out of memory ends the service. */
struct errand *errand_new(struct nvme_ctrl *ctrl, nvme_ctrl_cb done, void *arg);
void errand_go(struct errand *e, void (*fn)(struct mail *m)); /* fn runs on the reactor */
void errand_back(struct errand *e, int rc);                   /* there: back, with this result */
void errand_answer(void *arg, int rc, const struct err *err); /* the same, as a device's callback */
void errand_now(
    struct errand *e,
    int rc); /* control: an answer that needs no reactor, but must not come inside the call */

/* namespace.c */
struct nvme_dev_ns_opts nvme_ns_dev_opts(const struct nvme_ns *ns);
/* controller_ns.c */
void nvme_ctrl_ns_resized(struct nvme_ctrl *ctrl, uint32_t nsid, uint64_t nblocks);

#endif
