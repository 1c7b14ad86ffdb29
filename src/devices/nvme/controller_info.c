/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Controllers are found, listed and described; control thread. */
#include "devices/nvme/room.h"

struct controller *nvme_ctrl_base(struct nvme_ctrl *ctrl)
{
    return &ctrl->base;
}

void nvme_ctrl_for_each(struct nvme_subsystems *set, void (*fn)(struct nvme_ctrl *ctrl, void *arg),
                        void *arg)
{
    list_for_each_safe(s, &set->subsystems)
    {
        struct nvme_subsystem *ss = list_entry(s, struct nvme_subsystem, node);

        list_for_each_safe(it, &ss->controllers)
        {
            fn(list_entry(it, struct nvme_ctrl, node), arg);
        }
    }
}

struct nvme_ctrl_info nvme_ctrl_get_info(const struct nvme_ctrl *ctrl)
{
    const struct nvme_dev *dev = ctrl->dev;

    return (struct nvme_ctrl_info){
        .ctrl_id = ctrl->base.ctrl_id,
        .subsystem = ctrl->ss,
        .cntlid = atomic_load_explicit(&dev->cntlid, memory_order_relaxed),
        .mdts = ctrl->mdts,
        .num_queues = ctrl->num_queues,
        .counts = &dev->base.counts,
        .doorbell_messages = dev->doorbell_messages,
    };
}

bool nvme_ctrl_queue_stats(const struct nvme_ctrl *ctrl, unsigned qid, struct nvme_queue_stats *ret)
{
    const struct nvme_dev *dev = ctrl->dev;

    if (qid >= NVME_QUEUES || !(atomic_load(&dev->has_queue) & 1U << qid))
        return false;
    ret->reads = dev->stats[qid].reads;
    ret->writes = dev->stats[qid].writes;
    ret->flushes = dev->stats[qid].flushes;
    return true;
}

void nvme_ctrl_ns_for_each(struct nvme_ctrl *ctrl, void (*fn)(struct nvme_ns *ns, void *arg),
                           void *arg)
{
    list_for_each_safe(it, &ctrl->ss->namespaces)
    {
        struct nvme_ns *ns = list_entry(it, struct nvme_ns, node);

        if (ns->attached == ctrl)
            fn(ns, arg);
    }
}
