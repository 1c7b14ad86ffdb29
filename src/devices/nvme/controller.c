/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An NVMe controller on the control thread. Its life is controller/'s; here it gets its device. */
#include "devices/nvme/room.h"

#include <errno.h>
#include <stdlib.h>

static void release_namespaces(struct nvme_ctrl *ctrl)
{
    list_for_each(it, &ctrl->ss->namespaces)
    {
        struct nvme_ns *ns = list_entry(it, struct nvme_ns, node);

        if (ns->attached == ctrl)
            ns->attached = NULL;
    }
}

static void ctrl_free(struct controller *c)
{
    struct nvme_ctrl *ctrl = nvme_ctrl_of(c);

    list_remove(&ctrl->node);
    release_namespaces(ctrl);
    nvme_dev_destroy(ctrl->dev);
    free(ctrl);
}

static const struct controller_kind kind = {
    .word = "NVMe",
    .function_kind = FUNCTION_NVME,
    .ops = &nvme_function_ops,
    .free = ctrl_free,
};

struct nvme_ctrl *nvme_ctrl_from(struct controller *c)
{
    return c->kind == &kind ? nvme_ctrl_of(c) : NULL;
}

static int check_opts(const struct nvme_ctrl_opts *o, struct err *err)
{
    if (o->num_queues > NVME_MAX_IO_QUEUES)
        return err_set(err, -EINVAL, "num_queues %u: 0 to %d are possible", o->num_queues,
                       NVME_MAX_IO_QUEUES);
    if (o->mdts < 1 || o->mdts > NVME_MDTS_MAX)
        return err_set(err, -EINVAL, "mdts %u: 1 to %d are possible", o->mdts, NVME_MDTS_MAX);
    if (o->fw_slots > 7)
        return err_set(err, -EINVAL, "fw_slots %u: up to 7 are possible", o->fw_slots);
    return controller_check_function(o->base.link, o->base.function, &kind, err);
}

int nvme_ctrl_create(const struct nvme_ctrl_opts *opts, struct nvme_ctrl **ret,
                     nvme_ctrl_cb created, void *arg, struct err *err)
{
    struct nvme_dev_opts dev_opts = {
        .subsystem = opts->subsystem,
        .name = opts->base.ctrl_id,
        .reactor = opts->base.reactor,
        .num_queues = opts->admin_only ? 0 : opts->num_queues,
        .mdts = opts->mdts,
        .fw_slots = opts->fw_slots ? opts->fw_slots : 1,
        .write_zeroes = opts->write_zeroes,
        .dsm = opts->deallocate_dsm,
    };
    struct nvme_ctrl *ctrl;
    int rc = check_opts(opts, err);

    if (rc < 0)
        return rc;
    ctrl = calloc(1, sizeof(*ctrl));
    if (!ctrl)
        return err_set(err, -ENOMEM, "no memory for controller %s", opts->base.ctrl_id);
    ctrl->ss = opts->subsystem;
    ctrl->num_queues = dev_opts.num_queues;
    ctrl->mdts = opts->mdts;
    list_init(&ctrl->node);
    ctrl->dev = nvme_dev_create(&dev_opts, err);
    if (!ctrl->dev) {
        free(ctrl);
        return -ENOMEM;
    }
    list_append(&ctrl->ss->controllers, &ctrl->node);
    rc = controller_open(&ctrl->base, &kind, &ctrl->dev->base, &opts->base, created, arg, err);
    if (rc < 0) {
        ctrl_free(&ctrl->base);
        return rc;
    }
    if (ret)
        *ret = ctrl;
    return 0;
}
