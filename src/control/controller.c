/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Controllers of every kind: where they run, how they are named, and the calls that all of them
 * have. */
#include "control/controller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

bool choose_ctrl_id(struct control_ctx *ctx, struct rpc_request *req, const char *wanted,
                    const char *prefix, char ret[64])
{
    if (wanted) {
        snprintf(ret, 64, "%s", wanted);
        if (!controller_find(&ctx->controllers, ret))
            return true;
        rpc_error(req, -EEXIST, "controller '%s' exists", wanted);
        return false;
    }
    for (unsigned n = 1;; n++) {
        snprintf(ret, 64, "%s%u", prefix, n);
        if (!controller_find(&ctx->controllers, ret))
            return true;
    }
}

/* ---- which reactor: the one with the fewest controllers ---- */

static unsigned choose_reactor(struct control_ctx *ctx)
{
    unsigned best = 0, *load = calloc(ctx->nreactors, sizeof(*load));
    const char *ctrl_id;
    json_t *where;
    void *tmp;

    if (!load)
        return 0;
    json_object_foreach_safe(ctx->placement, tmp, ctrl_id, where)
    {
        if (!controller_find(&ctx->controllers, ctrl_id))
            json_object_del(ctx->placement, ctrl_id);
        else
            load[json_integer_value(where)]++;
    }
    for (unsigned i = 1; i < ctx->nreactors; i++)
        if (load[i] < load[best])
            best = i;
    free(load);
    return best;
}

struct reactor *place_controller(struct control_ctx *ctx, const char *ctrl_id)
{
    unsigned reactor = choose_reactor(ctx);

    if (!ctx->placement)
        ctx->placement = json_object();
    json_object_set_new(ctx->placement, ctrl_id, json_integer(reactor));
    return ctx->reactors[reactor];
}

uint64_t controller_core(struct control_ctx *ctx, const char *ctrl_id)
{
    return (uint64_t)json_integer_value(json_object_get(ctx->placement, ctrl_id));
}

/* ---- run state during the replay ---- */

void remember_run_state(struct control_ctx *ctx, const char *ctrl_id, bool run)
{
    if (!ctx->run_after_replay)
        ctx->run_after_replay = json_object();
    json_object_set_new(ctx->run_after_replay, ctrl_id, json_boolean(run));
}

void forget_run_state(struct control_ctx *ctx, const char *ctrl_id)
{
    json_object_del(ctx->run_after_replay, ctrl_id);
    json_object_del(ctx->placement, ctrl_id);
}

/* ---- what is told of it ---- */

void set_names(json_t *o, struct controller *c)
{
    const struct link_function_info *f = controller_function(c);

    json_object_set_new(o, "ctrl_id", json_string(c->ctrl_id));
    set_number(o, "vhca_id", f->vhca_id);
    json_object_set_new(o, "vuid", json_string(f->vuid));
    json_object_set_new(o, "pci_bdf", json_string(f->pci_bdf));
}

void set_state(json_t *o, struct controller *c)
{
    const struct link_function_info *f = controller_function(c);

    set_number(o, "num_msix", f->num_msix);
    json_object_set_new(o, "state", json_string(controller_state_text(c)));
    json_object_set_new(o, "plugged", json_boolean(f->host_connected));
}

json_t *recovery_json(const struct device_counts *counts)
{
    json_t *o = json_object();

    set_number(o, "adopted", counts->adopted);
    set_number(o, "records", counts->records);
    set_number(o, "live", counts->live);
    set_number(o, "intent_stored", counts->intent_stored);
    set_number(o, "posted", counts->posted);
    set_number(o, "unpublished", counts->unpublished);
    return o;
}

/* ---- calls that are answered later ---- */

struct action *action_create(struct control_ctx *ctx, struct rpc_request *req, char *key,
                             const char *ctrl_id, void (*success)(struct action *act))
{
    struct action *act = calloc(1, sizeof(*act));

    if (!act) {
        free(key);
        rpc_error(req, -ENOMEM, "out of memory");
        return NULL;
    }
    act->ctx = ctx;
    act->req = req;
    act->key = key;
    act->success = success;
    snprintf(act->ctrl_id, sizeof(act->ctrl_id), "%s", ctrl_id);
    return act;
}

struct action *creation_create(struct control_ctx *ctx, struct rpc_request *req, char *key,
                               const char *ctrl_id, unsigned function, bool suspended,
                               struct controller_opts *ret)
{
    struct action *act = action_create(ctx, req, key, ctrl_id, NULL);

    if (!act)
        return NULL;
    act->run = !suspended;
    snprintf(act->vuid, sizeof(act->vuid), "%s", link_function_get(ctx->link, function)->vuid);
    *ret = (struct controller_opts){
        .set = &ctx->controllers,
        .ctrl_id = act->ctrl_id,
        .link = ctx->link,
        .function = function,
        .reactor = place_controller(ctx, act->ctrl_id),
        /* What it serves follows in the journal; the end of the replay lets it run. */
        .suspended = suspended || rpc_replaying(req),
    };
    return act;
}

static void action_free(struct action *act)
{
    free(act->key);
    free(act);
}

static void answer_error(struct action *act, int rc, const struct err *err)
{
    if (act->failure)
        act->failure(act);
    if (err && err->msg[0])
        rpc_error(act->req, rc, "%s", err->msg);
    else
        rpc_error(act->req, rc, "controller '%s'", act->ctrl_id);
}

void acted(void *arg, int rc, const struct err *err)
{
    struct action *act = arg;

    if (rc < 0) {
        answer_error(act, rc, err);
    } else {
        if (act->success)
            act->success(act);
        rpc_true(act->req);
    }
    action_free(act);
}

void controller_created(void *arg, int rc, const struct err *err)
{
    static const char *const selectors[] = {"vhca_id", "pf_id", "vf_id", "pci_bdf"};
    struct action *act = arg;

    if (rc < 0) {
        forget_run_state(act->ctx, act->ctrl_id);
        answer_error(act, rc, err);
        action_free(act);
        return;
    }
    /* Saved under what was found out: its name and the function's lasting name. (What the host has
     * seen of it is in the function's state memory.) */
    for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++)
        rpc_journal_amend(act->req, selectors[i], NULL);
    rpc_journal_amend(act->req, "vuid", json_string(act->vuid));
    rpc_journal_amend(act->req, "ctrl_id", json_string(act->ctrl_id));
    rpc_journal_put(act->req, act->key);
    if (rpc_replaying(act->req))
        remember_run_state(act->ctx, act->ctrl_id, act->run);
    rpc_result(act->req, json_pack("{s:s}", "ctrl_id", act->ctrl_id));
    action_free(act);
}

/* ---- destroy ---- */

const struct rpc_param ctrl_params[] = {CTRL_ID(ctrl_args)};
const struct rpc_param ctrl_destroy_params[] = {
    CTRL_ID(ctrl_destroy_args),
    {"force", RPC_BOOL, offsetof(struct ctrl_destroy_args, force), 0,
     "also a PF whose VFs have controllers, or a plugged hot-plug function", "-f", NULL, 0, 0, 0},
    {"release_msix", RPC_BOOL, offsetof(struct ctrl_destroy_args, release_msix), RPC_UNSUPPORTED,
     "give a VF's vectors back", NULL, NULL, 0, 0, 0},
};

struct vf_search {
    const struct link_function_info *pf;
    char ctrl_id[64];
};

static void compare_pf(struct controller *c, void *arg)
{
    struct vf_search *s = arg;
    const struct link_function_info *f = controller_function(c);

    if (f->vf_index >= 0 && f->kind == s->pf->kind && f->pf_index == s->pf->pf_index)
        snprintf(s->ctrl_id, sizeof(s->ctrl_id), "%s", c->ctrl_id);
}

static void save_destroyed(struct action *act)
{
    rpc_journal_drop(act->req, act->key);
    forget_run_state(act->ctx, act->ctrl_id);
}

void destroy_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                        char *key, const struct ctrl_destroy_args *a)
{
    const struct link_function_info *f = controller_function(c);
    struct vf_search s = {f, ""};
    struct action *act;

    if (!a->force && f->vf_index < 0) {
        controller_for_each(&ctx->controllers, compare_pf, &s);
        if (s.ctrl_id[0] || (f->hotplugged && f->host_connected)) {
            free(key);
            if (s.ctrl_id[0])
                rpc_error(
                    req, -EBUSY,
                    "controller '%s' of the PF cannot go before '%s' of its VF (or use force)",
                    c->ctrl_id, s.ctrl_id);
            else
                rpc_error(req, -EBUSY, "controller '%s' is plugged (unplug it first, or use force)",
                          c->ctrl_id);
            return;
        }
    }
    act = action_create(ctx, req, key, c->ctrl_id, save_destroyed);
    if (act)
        controller_destroy(c, acted, act);
}

/* ---- suspend, resume ---- */

/* The same key for both: the later call counts. */
static void save_run_state(struct action *act)
{
    save_put(act->req, key_below(act->key, "running"));
}

void suspend_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                        char *key, const struct ctrl_suspend_args *a)
{
    enum controller_part part = a->events_only ? CONTROLLER_EVENTS : CONTROLLER_ALL;
    struct action *act;

    if (rpc_replaying(req)) {
        free(key);
        remember_run_state(ctx, c->ctrl_id, false);
        rpc_true(req);
        return;
    }
    act = action_create(ctx, req, key, c->ctrl_id, part == CONTROLLER_ALL ? save_run_state : NULL);
    if (act)
        controller_suspend(c, part, a->timeout_ms, acted, act);
}

void resume_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                       char *key)
{
    struct action *act;

    if (rpc_replaying(req)) {
        free(key);
        remember_run_state(ctx, c->ctrl_id, true);
        rpc_true(req);
        return;
    }
    act = action_create(ctx, req, key, c->ctrl_id, save_run_state);
    if (act)
        controller_resume(c, acted, act);
}
