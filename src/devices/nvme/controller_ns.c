/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces are attached to and detached from a controller; control thread. */
#include "devices/nvme/room.h"

#include <errno.h>

static void attached(struct errand *e)
{
    if (e->rc < 0)
        e->ns->attached = NULL;
}

static void attach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    errand_back(e, nvme_dev_attach(e->ctrl->dev, &e->opts, &e->err));
}

void nvme_ctrl_attach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, done, arg);
    int rc = 0;

    if (ns->ss != ctrl->ss)
        rc = err_set(&e->err, -EINVAL, "namespace %u is not of the subsystem of controller %s",
                     ns->nsid, ctrl->ctrl_id);
    else if (ns->attached)
        rc = err_set(&e->err, -EEXIST, "namespace %u is attached to controller %s already",
                     ns->nsid, ns->attached->ctrl_id);
    else if (ctrl->state == CTRL_LEAVING)
        rc = err_set(&e->err, -EBUSY, "controller %s is being destroyed", ctrl->ctrl_id);
    if (rc < 0) {
        errand_now(e, rc);
        return;
    }
    ns->attached = ctrl; /* from here on the namespace cannot be destroyed */
    e->ns = ns;
    e->opts = nvme_ns_dev_opts(ns);
    e->back = attached;
    errand_go(e, attach_on_reactor);
}

static void detached(struct errand *e)
{
    if (e->rc == 0)
        e->ns->attached = NULL;
}

static void ns_left(void *arg, int rc)
{
    errand_back(arg, rc);
}

static void detach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_detach(e->ctrl->dev, e->nsid, ns_left, e);
}

void nvme_ctrl_detach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, done, arg);

    if (ns->attached != ctrl || ctrl->state == CTRL_LEAVING) {
        err_set(&e->err, -ENOENT, "namespace %u is not attached to controller %s", ns->nsid,
                ctrl->ctrl_id);
        errand_now(e, -ENOENT);
        return;
    }
    e->ns = ns;
    e->nsid = ns->nsid;
    e->back = detached;
    errand_go(e, detach_on_reactor);
}

static void resize_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_resize(e->ctrl->dev, e->nsid, e->nblocks);
    errand_back(e, 0);
}

void nvme_ctrl_ns_resized(struct nvme_ctrl *ctrl, uint32_t nsid, uint64_t nblocks)
{
    struct errand *e;

    if (ctrl->state == CTRL_LEAVING)
        return;
    e = errand_new(ctrl, NULL, NULL);
    e->nsid = nsid;
    e->nblocks = nblocks;
    errand_go(e, resize_on_reactor);
}
