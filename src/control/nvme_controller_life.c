/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The life of an NVMe controller: suspended, resumed, shown namespaces, destroyed. */
#include "control/controller.h"

#include <errno.h>

static char *key_of(const struct nvme_ctrl *ctrl)
{
    struct nvme_ctrl_info info = nvme_ctrl_get_info(ctrl);

    return key_of_controller(nvme_subsystem_get_info(info.subsystem).nqn, info.ctrl_id);
}

static void nvme_controller_destroy(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_destroy_args *a = args;
    struct nvme_ctrl *ctrl = need_controller(arg, req, a->ctrl_id);

    if (ctrl)
        destroy_controller(arg, req, nvme_ctrl_base(ctrl), key_of(ctrl), a);
}

/* ---- suspend, resume ---- */

static const struct rpc_param suspend_params[] = {
    CTRL_ID(ctrl_suspend_args),
    {"timeout_ms", RPC_U64, offsetof(struct ctrl_suspend_args, timeout_ms), 0,
     "longest wait for I/O in flight (default: none)", "-t", NULL, 0, 0, 3600000},
    {"admin_only", RPC_BOOL, offsetof(struct ctrl_suspend_args, events_only), 0,
     "stop admin commands only; I/O goes on. Not saved", NULL, NULL, 0, 0, 0},
    {"live_update_notifier", RPC_BOOL, offsetof(struct ctrl_suspend_args, live_update_notifier),
     RPC_UNSUPPORTED, "tell the destination of a live update", "-lu", NULL, 0, 0, 0},
    {"force", RPC_BOOL, offsetof(struct ctrl_suspend_args, force), RPC_UNSUPPORTED, "", NULL, NULL,
     0, 0, 0},
};

static void nvme_controller_suspend(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_suspend_args *a = args;
    struct nvme_ctrl *ctrl = need_controller(arg, req, a->ctrl_id);

    if (ctrl)
        suspend_controller(arg, req, nvme_ctrl_base(ctrl), key_of(ctrl), a);
}

static void nvme_controller_resume(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_args *a = args;
    struct nvme_ctrl *ctrl = need_controller(arg, req, a->ctrl_id);

    if (ctrl)
        resume_controller(arg, req, nvme_ctrl_base(ctrl), key_of(ctrl));
}

/* ---- namespaces of a controller ---- */

struct ns_args {
    const char *ctrl_id;
    uint32_t nsid;
};
static const struct rpc_param ns_params[] = {
    CTRL_ID(ns_args),
    {"nsid", RPC_U32, offsetof(struct ns_args, nsid), RPC_REQUIRED, "namespace identifier", "-n",
     NULL, 0, 1, 0xfffffffe},
};

struct holder_search {
    const struct nvme_ns *ns;
    struct nvme_ctrl *ctrl, *holder;
};

static void compare_ns(struct nvme_ns *ns, void *arg)
{
    struct holder_search *s = arg;

    if (ns == s->ns)
        s->holder = s->ctrl;
}

static void search_ctrl(struct nvme_ctrl *ctrl, void *arg)
{
    struct holder_search *s = arg;

    s->ctrl = ctrl;
    nvme_ctrl_ns_for_each(ctrl, compare_ns, s);
}

static void save_attached(struct action *act)
{
    save_put(act->req, key_of_attachment(act->key, act->nsid));
}

static void save_detached(struct action *act)
{
    save_drop(act->req, key_of_attachment(act->key, act->nsid));
}

/* NULL: answered. */
static struct nvme_ns *need_namespace(struct rpc_request *req, struct nvme_ctrl *ctrl,
                                      uint32_t nsid)
{
    struct nvme_subsystem *ss = nvme_ctrl_get_info(ctrl).subsystem;
    struct nvme_ns *ns = nvme_ns_find(ss, nsid);

    if (!ns)
        rpc_error(req, -ENODEV, "no namespace %u in '%s'", nsid, nvme_subsystem_get_info(ss).nqn);
    return ns;
}

static void nvme_controller_attach_ns(void *arg, struct rpc_request *req, const void *args)
{
    const struct ns_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    struct nvme_ns *ns = ctrl ? need_namespace(req, ctrl, a->nsid) : NULL;
    struct holder_search s = {.ns = ns};
    struct action *act;
    struct err err = {0};
    int rc;

    if (!ns)
        return;
    nvme_ctrl_for_each(ctx->subsystems, search_ctrl, &s);
    if (s.holder == ctrl) {
        rpc_error(req, -EEXIST, "namespace %u is attached to '%s' already", a->nsid, a->ctrl_id);
        return;
    }
    if (s.holder) { /* shared namespaces need reservations and more; the product has none either */
        rpc_error(req, -EBUSY, "namespace %u is attached to '%s'; namespaces cannot be shared",
                  a->nsid, nvme_ctrl_get_info(s.holder).ctrl_id);
        return;
    }
    act = action_create(ctx, req, key_of(ctrl), a->ctrl_id, NULL);
    if (!act)
        return;
    act->nsid = a->nsid;
    act->failure = save_detached;
    /* Saved first: once the namespace is in the function's state memory the next service has to
     * attach it, or it is refused. The other way round does no harm: a saved attachment that did
     * not come to pass is made up for, and its caller has no answer. So a detach is saved last. */
    save_attached(act);
    rc = rpc_journal_flush(req, &err);
    if (rc < 0) {
        acted(act, rc, &err);
        return;
    }
    nvme_ctrl_attach_ns(ctrl, ns, acted, act);
}

static void nvme_controller_detach_ns(void *arg, struct rpc_request *req, const void *args)
{
    const struct ns_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    struct nvme_ns *ns = ctrl ? need_namespace(req, ctrl, a->nsid) : NULL;
    struct holder_search s = {.ns = ns};
    struct action *act;

    if (!ns)
        return;
    search_ctrl(ctrl, &s);
    if (!s.holder) {
        rpc_error(req, -ENODEV, "namespace %u is not attached to '%s'", a->nsid, a->ctrl_id);
        return;
    }
    act = action_create(ctx, req, key_of(ctrl), a->ctrl_id, save_detached);
    if (!act)
        return;
    act->nsid = a->nsid;
    nvme_ctrl_detach_ns(ctrl, ns, acted, act);
}

static const struct rpc_method methods[] = {
    {"nvme_controller_destroy", RPC_PARAMS(ctrl_destroy_params), sizeof(struct ctrl_destroy_args),
     nvme_controller_destroy, "close a controller and give its function back", RPC_JOURNAL, "true"},
    {"nvme_controller_suspend", RPC_PARAMS(suspend_params), sizeof(struct ctrl_suspend_args),
     nvme_controller_suspend, "stop fetching commands and finish those in flight", RPC_JOURNAL,
     "true"},
    {"nvme_controller_resume", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     nvme_controller_resume, "serve commands (again)", RPC_JOURNAL, "true"},
    {"nvme_controller_attach_ns", RPC_PARAMS(ns_params), sizeof(struct ns_args),
     nvme_controller_attach_ns, "show a namespace to the host", RPC_JOURNAL, "true"},
    {"nvme_controller_detach_ns", RPC_PARAMS(ns_params), sizeof(struct ns_args),
     nvme_controller_detach_ns, "take a namespace away from the host", RPC_JOURNAL, "true"},
};
const struct rpc_method_table nvme_controller_life_methods = RPC_TABLE(methods);
