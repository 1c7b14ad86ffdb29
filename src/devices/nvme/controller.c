/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A controller on the control thread: its lease, and the errands it sends to its device on the
 * reactor. */
#include "devices/nvme/room.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the end ---- */

static void release_namespaces(struct nvme_ctrl *ctrl)
{
    list_for_each(it, &ctrl->ss->namespaces)
    {
        struct nvme_ns *ns = list_entry(it, struct nvme_ns, node);

        if (ns->attached == ctrl)
            ns->attached = NULL;
    }
}

static void ctrl_free(struct nvme_ctrl *ctrl)
{
    list_remove(&ctrl->node);
    release_namespaces(ctrl);
    nvme_dev_destroy(ctrl->dev);
    free(ctrl);
}

/* The device has stopped and nothing refers to the controller any more. */
static void gone(struct errand *e)
{
    struct nvme_ctrl *ctrl = e->ctrl;
    nvme_ctrl_cb created = ctrl->created, destroyed = ctrl->destroyed;
    void *created_arg = ctrl->created_arg, *destroyed_arg = ctrl->destroyed_arg;
    struct errand *resume = ctrl->resume_when_open;
    char id[LINK_NAME_BYTES], why[sizeof(ctrl->failure)];
    int code = -ECANCELED;
    struct err err;

    memcpy(id, ctrl->ctrl_id, sizeof(id));
    memcpy(why, ctrl->failure, sizeof(why));
    ctrl_free(ctrl);
    if (why[0])
        code = err_set(&err, e->err.code < 0 ? e->err.code : -EIO, "%s", why);
    else
        err_set(&err, code, "controller %s was destroyed", id);
    if (resume) {
        if (resume->done)
            resume->done(resume->arg, code, &err);
        free(resume);
    }
    if (created)
        created(created_arg, code, &err);
    if (destroyed)
        destroyed(destroyed_arg, 0, NULL);
}

static void quit_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_quit(e->ctrl->dev, errand_answer, e);
}

/* ---- create ---- */

static void start_resume(struct nvme_ctrl *ctrl, struct errand *e);
static void resume_on_reactor(struct mail *m);
static void start_leaving(struct nvme_ctrl *ctrl);

/* A controller that cannot run is not left behind: created comes with the error when it is gone. */
static void auto_resumed(struct errand *e)
{
    struct nvme_ctrl *ctrl = e->ctrl;

    if (e->rc == 0 || ctrl->state == CTRL_LEAVING) {
        if (ctrl->state != CTRL_LEAVING)
            ctrl->state = CTRL_STARTED;
        return;
    }
    ctrl->created = e->done;
    ctrl->created_arg = e->arg;
    e->done = NULL;
    snprintf(ctrl->failure, sizeof(ctrl->failure), "%s", e->err.msg);
    start_leaving(ctrl);
}

static void opened(void *arg, int rc, const struct err *err)
{
    struct nvme_ctrl *ctrl = arg;
    nvme_ctrl_cb created = ctrl->created;

    if (rc < 0) {
        struct errand *e = errand_new(ctrl, NULL, NULL);

        /* The lease is gone; the channels of namespaces attached meanwhile are not. */
        ctrl->lease = NULL;
        ctrl->state = CTRL_LEAVING;
        if (err)
            snprintf(ctrl->failure, sizeof(ctrl->failure), "%s", err->msg);
        e->err.code = rc;
        e->back = gone;
        errand_go(e, quit_on_reactor);
        return;
    }
    ctrl->state = CTRL_SUSPENDED;
    if (atomic_load(&ctrl->dev->recovery.adopted) && ctrl->auto_resume && !ctrl->resume_when_open) {
        /* Its namespaces cannot be attached yet: resuming now would fail the device. */
        log_line(LOG_WARNING, "nvme",
                 "ctrl %s: took over a running device: attach its namespaces and resume it",
                 ctrl->ctrl_id);
        ctrl->auto_resume = false;
    }
    ctrl->created = NULL;
    if (ctrl->resume_when_open) {
        struct errand *e = ctrl->resume_when_open;

        ctrl->resume_when_open = NULL;
        start_resume(ctrl, e);
    } else if (ctrl->auto_resume) {
        /* created comes when it runs. */
        struct errand *e = errand_new(ctrl, created, ctrl->created_arg);

        e->back = auto_resumed;
        errand_go(e, resume_on_reactor);
        return;
    }
    if (created)
        created(ctrl->created_arg, 0, NULL);
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
    if (o->function >= link_function_count(o->link))
        return err_set(err, -ENODEV, "there is no such emulated function");
    if (link_function_get(o->link, o->function)->kind != FUNCTION_NVME)
        return err_set(err, -EINVAL, "function %s is not an NVMe function",
                       link_function_get(o->link, o->function)->vuid);
    return 0;
}

int nvme_ctrl_create(const struct nvme_ctrl_opts *opts, struct nvme_ctrl **ret,
                     nvme_ctrl_cb created, void *arg, struct err *err)
{
    struct nvme_dev_opts dev_opts = {
        .subsystem = opts->subsystem,
        .name = opts->ctrl_id,
        .reactor = opts->reactor,
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
        return err_set(err, -ENOMEM, "no memory for controller %s", opts->ctrl_id);
    ctrl->ss = opts->subsystem;
    ctrl->link = opts->link;
    ctrl->function = opts->function;
    ctrl->control = reactor_current();
    ctrl->reactor = opts->reactor;
    ctrl->num_queues = dev_opts.num_queues;
    ctrl->mdts = opts->mdts;
    ctrl->auto_resume = !opts->suspended;
    ctrl->created = created;
    ctrl->created_arg = arg;
    snprintf(ctrl->ctrl_id, sizeof(ctrl->ctrl_id), "%s", opts->ctrl_id);
    ctrl->dev = nvme_dev_create(&dev_opts, err);
    if (!ctrl->dev) {
        free(ctrl);
        return -ENOMEM;
    }
    list_append(&ctrl->ss->controllers, &ctrl->node);
    ctrl->lease = lease_open(opts->link, opts->function, ctrl->ctrl_id, opts->reactor,
                             &nvme_function_ops, ctrl->dev, opened, ctrl);
    if (!ctrl->lease) {
        ctrl_free(ctrl);
        return err_set(err, -ENOTCONN, "controller %s: snap_emu cannot be asked for a lease",
                       opts->ctrl_id);
    }
    if (ret)
        *ret = ctrl;
    return 0;
}

/* ---- destroy ---- */

static void lease_closed(void *arg)
{
    struct errand *e = arg;

    e->ctrl->lease = NULL;
    e->back = gone;
    if (e->ctrl->dev->quit_done) {
        errand_now(e, 0);
        return;
    }
    errand_go(e,
              quit_on_reactor); /* the lease was never granted; channels may be open all the same */
}

static void device_has_quit(struct errand *e)
{
    struct errand *next = errand_new(e->ctrl, NULL, NULL);

    e->ctrl->dev->quit_done = true;
    lease_close(e->ctrl->lease, lease_closed, next);
}

static void start_leaving(struct nvme_ctrl *ctrl)
{
    struct errand *e = errand_new(ctrl, NULL, NULL);

    ctrl->state = CTRL_LEAVING;
    e->back = device_has_quit;
    errand_go(e, quit_on_reactor);
}

void nvme_ctrl_destroy(struct nvme_ctrl *ctrl, nvme_ctrl_cb destroyed, void *arg)
{
    struct errand *e;

    if (ctrl->state == CTRL_LEAVING) {
        e = errand_new(ctrl, destroyed, arg);
        err_set(&e->err, -EALREADY, "controller %s is being destroyed already", ctrl->ctrl_id);
        errand_now(e, -EALREADY);
        return;
    }
    ctrl->destroyed = destroyed;
    ctrl->destroyed_arg = arg;
    if (ctrl->state == CTRL_WAITING) {
        ctrl->state = CTRL_LEAVING;
        lease_close(ctrl->lease, lease_closed, errand_new(ctrl, NULL, NULL));
        return;
    }
    start_leaving(ctrl);
}

/* ---- suspend and resume ---- */

static void suspended(struct errand *e)
{
    if (e->ctrl->state == CTRL_SUSPENDING)
        e->ctrl->state = e->rc == 0 && !e->admin_only ? CTRL_SUSPENDED : CTRL_STARTED;
}

static void suspend_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    nvme_dev_suspend(e->ctrl->dev, e->admin_only, e->timeout_ms, errand_answer, e);
}

void nvme_ctrl_suspend(struct nvme_ctrl *ctrl, bool admin_only, uint64_t timeout_ms,
                       nvme_ctrl_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, done, arg);

    e->admin_only = admin_only;
    e->timeout_ms = timeout_ms;
    switch (ctrl->state) {
    case CTRL_STARTED:
        ctrl->state = CTRL_SUSPENDING;
        e->back = suspended;
        errand_go(e, suspend_on_reactor);
        return;
    case CTRL_SUSPENDED:
        errand_now(e, 0);
        return;
    case CTRL_WAITING:
        ctrl->auto_resume = false;
        errand_now(e, 0);
        return;
    default:
        err_set(&e->err, -EBUSY, "controller %s is being suspended or destroyed already",
                ctrl->ctrl_id);
        errand_now(e, -EBUSY);
    }
}

static void resumed(struct errand *e)
{
    if (e->rc == 0)
        e->ctrl->failure[0] = '\0';
    if (e->rc == 0 && e->ctrl->state != CTRL_LEAVING)
        e->ctrl->state = CTRL_STARTED;
    else if (e->rc < 0 && atomic_load(&e->ctrl->dev->failed))
        snprintf(e->ctrl->failure, sizeof(e->ctrl->failure), "%s", e->err.msg);
}

static void resume_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    errand_back(e, nvme_dev_resume(e->ctrl->dev, &e->err));
}

static void start_resume(struct nvme_ctrl *ctrl, struct errand *e)
{
    e->back = resumed;
    errand_go(e, resume_on_reactor);
}

void nvme_ctrl_resume(struct nvme_ctrl *ctrl, nvme_ctrl_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, done, arg);

    if (ctrl->state == CTRL_LEAVING) {
        err_set(&e->err, -EBUSY, "controller %s is being destroyed", ctrl->ctrl_id);
        errand_now(e, -EBUSY);
        return;
    }
    if (ctrl->state == CTRL_WAITING) {
        if (ctrl->resume_when_open) {
            err_set(&e->err, -EALREADY, "controller %s will be resumed when its function is leased",
                    ctrl->ctrl_id);
            errand_now(e, -EALREADY);
            return;
        }
        ctrl->resume_when_open = e;
        return;
    }
    start_resume(ctrl, e);
}
