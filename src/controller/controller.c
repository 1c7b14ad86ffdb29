/* SPDX-License-Identifier: BSD-3-Clause */
#include "controller/controller.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the end ---- */

/* The device has stopped and nothing refers to the controller any more. */
static void gone(struct errand *e)
{
    struct controller *ctrl = e->ctrl;
    controller_cb created = ctrl->created, destroyed = ctrl->destroyed;
    void *created_arg = ctrl->created_arg, *destroyed_arg = ctrl->destroyed_arg;
    struct errand *resume = ctrl->resume_when_open;
    char id[LINK_NAME_BYTES], why[sizeof(ctrl->failure)];
    int code = -ECANCELED;
    struct err err;

    memcpy(id, ctrl->ctrl_id, sizeof(id));
    memcpy(why, ctrl->failure, sizeof(why));
    list_remove(&ctrl->node);
    ctrl->kind->free(ctrl);
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

    device_quit(e->ctrl->dev, errand_answer, e);
}

/* ---- create ---- */

static void start_resume(struct controller *ctrl, struct errand *e);
static void resume_on_reactor(struct mail *m);
static void start_leaving(struct controller *ctrl);

/* A controller that cannot run is not left behind: created comes with the error when it is gone. */
static void auto_resumed(struct errand *e)
{
    struct controller *ctrl = e->ctrl;

    if (e->rc == 0 || ctrl->state == CONTROLLER_LEAVING) {
        if (ctrl->state != CONTROLLER_LEAVING)
            ctrl->state = CONTROLLER_STARTED;
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
    struct controller *ctrl = arg;
    controller_cb created = ctrl->created;

    if (rc < 0) {
        struct errand *e = errand_new(ctrl, sizeof(struct errand), NULL, NULL);

        /* The lease is gone; the channels of what was attached meanwhile are not. */
        ctrl->lease = NULL;
        ctrl->state = CONTROLLER_LEAVING;
        if (err)
            snprintf(ctrl->failure, sizeof(ctrl->failure), "%s", err->msg);
        e->err.code = rc;
        e->back = gone;
        errand_go(e, quit_on_reactor);
        return;
    }
    ctrl->state = CONTROLLER_SUSPENDED;
    if (atomic_load(&ctrl->dev->counts.adopted) && ctrl->auto_resume && !ctrl->resume_when_open) {
        /* What it serves cannot be attached yet: resuming now would fail the device. */
        log_line(LOG_WARNING, "controller",
                 "ctrl %s: took over a running device: complete its configuration and resume it",
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
        struct errand *e = errand_new(ctrl, sizeof(struct errand), created, ctrl->created_arg);

        e->back = auto_resumed;
        errand_go(e, resume_on_reactor);
        return;
    }
    if (created)
        created(ctrl->created_arg, 0, NULL);
}

int controller_check_function(struct link_client *link, unsigned function,
                              const struct controller_kind *kind, struct err *err)
{
    if (function >= link_function_count(link))
        return err_set(err, -ENODEV, "there is no such emulated function");
    if (link_function_get(link, function)->kind != kind->function_kind)
        return err_set(err, -EINVAL, "function %s is not of kind %s",
                       link_function_get(link, function)->vuid, kind->word);
    return 0;
}

int controller_open(struct controller *ctrl, const struct controller_kind *kind, struct device *dev,
                    const struct controller_opts *o, controller_cb created, void *arg,
                    struct err *err)
{
    ctrl->kind = kind;
    ctrl->dev = dev;
    ctrl->link = o->link;
    ctrl->function = o->function;
    ctrl->control = reactor_current();
    ctrl->reactor = o->reactor;
    ctrl->auto_resume = !o->suspended;
    ctrl->created = created;
    ctrl->created_arg = arg;
    snprintf(ctrl->ctrl_id, sizeof(ctrl->ctrl_id), "%s", o->ctrl_id);
    list_append(&o->set->list, &ctrl->node);
    ctrl->lease =
        lease_open(o->link, o->function, ctrl->ctrl_id, o->reactor, kind->ops, dev, opened, ctrl);
    if (ctrl->lease)
        return 0;
    list_remove(&ctrl->node);
    return err_set(err, -ENOTCONN, "controller %s: snap_emu cannot be asked for a lease",
                   o->ctrl_id);
}

/* ---- destroy ---- */

static void lease_closed(void *arg)
{
    struct errand *e = arg;

    e->ctrl->lease = NULL;
    e->back = gone;
    if (e->ctrl->quit_done) {
        errand_now(e, 0);
        return;
    }
    errand_go(e,
              quit_on_reactor); /* the lease was never granted; channels may be open all the same */
}

static void device_has_quit(struct errand *e)
{
    struct errand *next = errand_new(e->ctrl, sizeof(struct errand), NULL, NULL);

    e->ctrl->quit_done = true;
    lease_close(e->ctrl->lease, lease_closed, next);
}

static void start_leaving(struct controller *ctrl)
{
    struct errand *e = errand_new(ctrl, sizeof(struct errand), NULL, NULL);

    ctrl->state = CONTROLLER_LEAVING;
    e->back = device_has_quit;
    errand_go(e, quit_on_reactor);
}

void controller_destroy(struct controller *ctrl, controller_cb destroyed, void *arg)
{
    struct errand *e;

    if (ctrl->state == CONTROLLER_LEAVING) {
        e = errand_new(ctrl, sizeof(struct errand), destroyed, arg);
        err_set(&e->err, -EALREADY, "controller %s is being destroyed already", ctrl->ctrl_id);
        errand_now(e, -EALREADY);
        return;
    }
    ctrl->destroyed = destroyed;
    ctrl->destroyed_arg = arg;
    if (ctrl->state == CONTROLLER_WAITING) {
        ctrl->state = CONTROLLER_LEAVING;
        lease_close(ctrl->lease, lease_closed, errand_new(ctrl, sizeof(struct errand), NULL, NULL));
        return;
    }
    start_leaving(ctrl);
}

/* ---- suspend and resume ---- */

static void suspended(struct errand *e)
{
    if (e->ctrl->state == CONTROLLER_SUSPENDING)
        e->ctrl->state =
            e->rc == 0 && e->part == CONTROLLER_ALL ? CONTROLLER_SUSPENDED : CONTROLLER_STARTED;
}

static void suspend_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    device_suspend(e->ctrl->dev, e->part, e->timeout_ms, errand_answer, e);
}

void controller_suspend(struct controller *ctrl, enum controller_part part, uint64_t timeout_ms,
                        controller_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, sizeof(struct errand), done, arg);

    e->part = part;
    e->timeout_ms = timeout_ms;
    switch (ctrl->state) {
    case CONTROLLER_STARTED:
        ctrl->state = CONTROLLER_SUSPENDING;
        e->back = suspended;
        errand_go(e, suspend_on_reactor);
        return;
    case CONTROLLER_SUSPENDED:
        errand_now(e, 0);
        return;
    case CONTROLLER_WAITING:
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
    if (e->rc == 0 && e->ctrl->state != CONTROLLER_LEAVING)
        e->ctrl->state = CONTROLLER_STARTED;
    else if (e->rc < 0 && atomic_load(&e->ctrl->dev->failed))
        snprintf(e->ctrl->failure, sizeof(e->ctrl->failure), "%s", e->err.msg);
}

static void resume_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    errand_back(e, device_resume(e->ctrl->dev, &e->err));
}

static void start_resume(struct controller *ctrl, struct errand *e)
{
    e->back = resumed;
    errand_go(e, resume_on_reactor);
}

void controller_resume(struct controller *ctrl, controller_cb done, void *arg)
{
    struct errand *e = errand_new(ctrl, sizeof(struct errand), done, arg);

    if (ctrl->state == CONTROLLER_LEAVING) {
        err_set(&e->err, -EBUSY, "controller %s is being destroyed", ctrl->ctrl_id);
        errand_now(e, -EBUSY);
        return;
    }
    if (ctrl->state == CONTROLLER_WAITING) {
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

/* ---- finding and describing ---- */

void controllers_init(struct controllers *set)
{
    list_init(&set->list);
}

void controller_for_each(struct controllers *set, void (*fn)(struct controller *c, void *arg),
                         void *arg)
{
    list_for_each_safe(it, &set->list) fn(list_entry(it, struct controller, node), arg);
}

struct controller *controller_find(struct controllers *set, const char *ctrl_id)
{
    list_for_each(it, &set->list)
    {
        struct controller *c = list_entry(it, struct controller, node);

        if (strcmp(c->ctrl_id, ctrl_id) == 0)
            return c;
    }
    return NULL;
}

struct controller *controller_of_function(struct controllers *set, const char *vuid)
{
    list_for_each(it, &set->list)
    {
        struct controller *c = list_entry(it, struct controller, node);

        if (strcmp(controller_function(c)->vuid, vuid) == 0)
            return c;
    }
    return NULL;
}

const struct link_function_info *controller_function(struct controller *c)
{
    c->info = *link_function_get(c->link, c->function);
    return &c->info;
}

const char *controller_state_text(struct controller *c)
{
    static const char *const names[] = {
        [CONTROLLER_WAITING] = "WAITING",    [CONTROLLER_SUSPENDED] = "SUSPENDED",
        [CONTROLLER_STARTED] = "STARTED",    [CONTROLLER_SUSPENDING] = "SUSPENDING",
        [CONTROLLER_LEAVING] = "SUSPENDING",
    };
    const struct link_function_info *f = controller_function(c);

    if (c->failure[0] && atomic_load(&c->dev->failed))
        snprintf(c->state_text, sizeof(c->state_text), "FAILED: %.100s", c->failure);
    else if (strncmp(f->state, "failed: ", 8) == 0)
        snprintf(c->state_text, sizeof(c->state_text), "FAILED: %s", f->state + 8);
    else
        snprintf(c->state_text, sizeof(c->state_text), "%s", names[c->state]);
    return c->state_text;
}
