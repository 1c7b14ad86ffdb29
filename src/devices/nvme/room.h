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

struct nvme_ctrl {
    struct controller base;
    struct list node; /* nvme_subsystem.controllers */
    struct nvme_subsystem *ss;
    uint32_t num_queues, mdts;
    struct nvme_dev *dev;
};

static inline struct nvme_ctrl *nvme_ctrl_of(struct controller *c)
{
    return container_of(c, struct nvme_ctrl, base);
}

/* An errand about a namespace. */
struct ns_errand {
    struct errand base;
    uint64_t nblocks;
    uint32_t nsid;
    struct nvme_ns *ns;
    struct nvme_dev_ns_opts opts;
};

/* namespace.c */
struct nvme_dev_ns_opts nvme_ns_dev_opts(const struct nvme_ns *ns);
/* controller_ns.c */
void nvme_ctrl_ns_resized(struct nvme_ctrl *ctrl, uint32_t nsid, uint64_t nblocks);

#endif
