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

static struct errand *errand_new(struct nvme_ctrl *ctrl, nvme_ctrl_cb done, void *arg)
{
    struct errand *e = calloc(1, sizeof(*e));

    if (!e) {
        log_line(LOG_CRITICAL, "nvme", "out of memory");
        abort(); /* our own memory; the state memory survives this */
    }
    e->ctrl = ctrl;
    e->done = done;
    e->arg = arg;
    return e;
}

static void errand_go(struct errand *e, void (*fn)(struct mail *m))
{
    e->mail.fn = fn;
    reactor_post(e->ctrl->reactor, &e->mail);
}

static void errand_came_back(struct mail *m)
{
    struct errand *e = errand_of(m);

    if (e->rc < 0 && e->err.code == 0)
        err_set(&e->err, e->rc, "controller %s: %s", e->ctrl->ctrl_id, strerror(-e->rc));
    if (e->back)
        e->back(e);
    if (e->done)
        e->done(e->arg, e->rc, e->rc < 0 ? &e->err : NULL);
    free(e);
}

static void errand_back(struct errand *e, int rc)
{
    e->rc = rc;
    e->mail.fn = errand_came_back;
    reactor_post(e->ctrl->control, &e->mail);
}

static void errand_answer(void *arg, int rc, const struct err *err)
{
    struct errand *e = arg;

    if (err)
        e->err = *err;
    errand_back(e, rc);
}

/* An answer that needs no reactor, but must not come inside the call. */
static void errand_now(struct errand *e, int rc)
{
    errand_back(e, rc);
}

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

/* ---- namespaces ---- */

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

/* ---- looking ---- */

static void find_one(struct nvme_ctrl *ctrl, void *arg)
{
    struct {
        const char *id;
        struct nvme_ctrl *found;
    } *f = arg;

    if (strcmp(ctrl->ctrl_id, f->id) == 0)
        f->found = ctrl;
}

struct nvme_ctrl *nvme_ctrl_find(struct nvme_subsystems *set, const char *ctrl_id)
{
    struct {
        const char *id;
        struct nvme_ctrl *found;
    } f = {ctrl_id, NULL};

    nvme_ctrl_for_each(set, find_one, &f);
    return f.found;
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

static void put_state(struct nvme_ctrl *ctrl)
{
    static const char *const names[] = {
        [CTRL_WAITING] = "WAITING",    [CTRL_SUSPENDED] = "SUSPENDED",
        [CTRL_STARTED] = "STARTED",    [CTRL_SUSPENDING] = "SUSPENDING",
        [CTRL_LEAVING] = "SUSPENDING",
    };
    const char *text = names[ctrl->state];

    if (ctrl->failure[0] && atomic_load(&ctrl->dev->failed))
        snprintf(ctrl->state_text, sizeof(ctrl->state_text), "FAILED: %.100s", ctrl->failure);
    else if (strncmp(ctrl->info.state, "failed: ", 8) == 0)
        snprintf(ctrl->state_text, sizeof(ctrl->state_text), "FAILED: %s", ctrl->info.state + 8);
    else
        snprintf(ctrl->state_text, sizeof(ctrl->state_text), "%s", text);
}

struct nvme_ctrl_info nvme_ctrl_get_info(const struct nvme_ctrl *c)
{
    struct nvme_ctrl *ctrl =
        (struct nvme_ctrl *)(uintptr_t)c; /* its texts are made when asked for */
    const struct nvme_dev *dev = ctrl->dev;
    struct nvme_ctrl_info i = {
        .ctrl_id = ctrl->ctrl_id,
        .subsystem = ctrl->ss,
        .function = &ctrl->info,
        .cntlid = atomic_load_explicit(&dev->cntlid, memory_order_relaxed),
        .mdts = ctrl->mdts,
        .num_queues = ctrl->num_queues,
    };

    ctrl->info = *link_function_get(ctrl->link, ctrl->function);
    put_state(ctrl);
    i.state = ctrl->state_text;
    i.num_msix = ctrl->info.num_msix;
    i.plugged = ctrl->info.host_connected;
    i.recovery.adopted = dev->recovery.adopted;
    i.recovery.records = dev->recovery.records;
    i.recovery.live = dev->recovery.live;
    i.recovery.intent_stored = dev->recovery.intent_stored;
    i.recovery.posted = dev->recovery.posted;
    i.recovery.unpublished = dev->recovery.unpublished;
    i.interrupts = dev->interrupts;
    i.doorbell_messages = dev->doorbell_messages;
    i.memory_parked = dev->memory_parked;
    return i;
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
