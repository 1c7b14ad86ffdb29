/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces are attached to and detached from a controller; control thread. */
#include "devices/nvme/room.h"

#include <errno.h>

static struct ns_errand *ns_errand_of(struct errand *e)
{
    return container_of(e, struct ns_errand, base);
}

static struct ns_errand *ns_errand_new(struct nvme_ctrl *ctrl, nvme_ctrl_cb done, void *arg)
{
    return ns_errand_of(errand_new(&ctrl->base, sizeof(struct ns_errand), done, arg));
}

static struct nvme_dev *dev_of(const struct errand *e)
{
    return nvme_dev_of(e->ctrl->dev);
}

static void attached(struct errand *e)
{
    if (e->rc < 0)
        ns_errand_of(e)->ns->attached = NULL;
}

static void attach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    errand_back(e, nvme_dev_attach(dev_of(e), &ns_errand_of(e)->opts, &e->err));
}

void nvme_ctrl_attach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg)
{
    struct ns_errand *e = ns_errand_new(ctrl, done, arg);
    int rc = 0;

    if (ns->ss != ctrl->ss)
        rc = err_set(&e->base.err, -EINVAL, "namespace %u is not of the subsystem of controller %s",
                     ns->nsid, ctrl->base.ctrl_id);
    else if (ns->attached)
        rc = err_set(&e->base.err, -EEXIST, "namespace %u is attached to controller %s already",
                     ns->nsid, ns->attached->base.ctrl_id);
    else if (ctrl->base.state == CONTROLLER_LEAVING)
        rc = err_set(&e->base.err, -EBUSY, "controller %s is being destroyed", ctrl->base.ctrl_id);
    if (rc < 0) {
        errand_now(&e->base, rc);
        return;
    }
    ns->attached = ctrl; /* from here on the namespace cannot be destroyed */
    e->ns = ns;
    e->opts = nvme_ns_dev_opts(ns);
    e->base.back = attached;
    errand_go(&e->base, attach_on_reactor);
}

static void detached(struct errand *e)
{
    if (e->rc == 0)
        ns_errand_of(e)->ns->attached = NULL;
}

static void detach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_detach(dev_of(e), ns_errand_of(e)->nsid, errand_answer, e);
}

void nvme_ctrl_detach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg)
{
    struct ns_errand *e = ns_errand_new(ctrl, done, arg);

    if (ns->attached != ctrl || ctrl->base.state == CONTROLLER_LEAVING) {
        err_set(&e->base.err, -ENOENT, "namespace %u is not attached to controller %s", ns->nsid,
                ctrl->base.ctrl_id);
        errand_now(&e->base, -ENOENT);
        return;
    }
    e->ns = ns;
    e->nsid = ns->nsid;
    e->base.back = detached;
    errand_go(&e->base, detach_on_reactor);
}

static void resize_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_resize(dev_of(e), ns_errand_of(e)->nsid, ns_errand_of(e)->nblocks);
    errand_back(e, 0);
}

void nvme_ctrl_ns_resized(struct nvme_ctrl *ctrl, uint32_t nsid, uint64_t nblocks)
{
    struct ns_errand *e;

    if (ctrl->base.state == CONTROLLER_LEAVING)
        return;
    e = ns_errand_new(ctrl, NULL, NULL);
    e->nsid = nsid;
    e->nblocks = nblocks;
    errand_go(&e->base, resize_on_reactor);
}
