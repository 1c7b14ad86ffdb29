/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe controllers: made on a function, destroyed, suspended, resumed; namespaces shown by them. */
#include "control/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- which function ---- */

struct selector {
    const char *vuid, *pci_bdf;
    uint32_t vhca_id, pf_id, vf_id;
    bool has_vhca_id, has_pf_id, has_vf_id;
};

static bool matches(const struct selector *s, const struct link_function_info *f)
{
    const char *bdf = s->pci_bdf;

    if (s->vuid)
        return strcmp(f->vuid, s->vuid) == 0;
    if (s->has_vhca_id)
        return f->vhca_id == s->vhca_id;
    if (s->has_pf_id)
        return f->kind == FUNCTION_NVME && f->pf_index >= 0 && (uint32_t)f->pf_index == s->pf_id &&
               (s->has_vf_id ? f->vf_index >= 0 && (uint32_t)f->vf_index == s->vf_id
                             : f->vf_index < 0);
    if (strncmp(bdf, "0000:", 5) == 0) /* the host's spelling, with its domain */
        bdf += 5;
    return strcasecmp(f->pci_bdf, bdf) == 0;
}

/* Index in the link's table; -1: answered. */
static int find_function(struct control_ctx *ctx, struct rpc_request *req, const struct selector *s)
{
    int ways = !!s->vuid + !!s->pci_bdf + s->has_vhca_id + s->has_pf_id, found = -1;

    if (ways != 1 || (s->has_vf_id && !s->has_pf_id)) {
        rpc_error(
            req, RPC_ERR_PARAMS,
            "Invalid parameters: name the function in exactly one way: 'vuid', 'vhca_id', 'pf_id' "
            "(with 'vf_id' for a virtual function) or 'pci_bdf'");
        return -1;
    }
    for (unsigned i = 0; i < link_function_count(ctx->link); i++) {
        const struct link_function_info *f = link_function_get(ctx->link, i);

        if (!matches(s, f))
            continue;
        if (found >= 0) { /* "00:00.0" of functions the host has not enumerated */
            rpc_error(req, -EINVAL, "'pci_bdf' %s means several functions: use 'vuid'", s->pci_bdf);
            return -1;
        }
        found = (int)i;
    }
    if (found < 0) {
        if (s->vuid || s->pci_bdf)
            rpc_error(req, -ENODEV, "no function '%.80s'", s->vuid ? s->vuid : s->pci_bdf);
        else if (s->has_vhca_id)
            rpc_error(req, -ENODEV, "no function with vhca_id %u", s->vhca_id);
        else if (s->has_vf_id)
            rpc_error(req, -ENODEV, "no NVMe function with pf_id %u, vf_id %u", s->pf_id, s->vf_id);
        else
            rpc_error(req, -ENODEV, "no NVMe function with pf_id %u", s->pf_id);
        return -1;
    }
    if (link_function_get(ctx->link, (unsigned)found)->kind != FUNCTION_NVME) {
        rpc_error(req, -EINVAL, "function %s is not an NVMe function",
                  link_function_get(ctx->link, (unsigned)found)->vuid);
        return -1;
    }
    return found;
}

struct vuid_search {
    const char *vuid;
    char ctrl_id[64];
};

static void compare_vuid(struct nvme_ctrl *ctrl, void *arg)
{
    struct vuid_search *s = arg;
    struct nvme_ctrl_info info = nvme_ctrl_get_info(ctrl);

    if (info.function && strcmp(info.function->vuid, s->vuid) == 0)
        snprintf(s->ctrl_id, sizeof(s->ctrl_id), "%s", info.ctrl_id);
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
        if (!nvme_ctrl_find(ctx->subsystems, ctrl_id))
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

static void placed(struct control_ctx *ctx, const char *ctrl_id, unsigned reactor)
{
    if (!ctx->placement)
        ctx->placement = json_object();
    json_object_set_new(ctx->placement, ctrl_id, json_integer(reactor));
}

/* ---- run state during the replay ---- */

static void remember_run_state(struct control_ctx *ctx, const char *ctrl_id, bool run)
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

/* ---- create ---- */

struct create_args {
    const char *nqn, *ctrl_id;
    struct selector function;
    uint32_t num_queues, mdts, fw_slots, vf_num_msix;
    bool num_queues_set, write_zeroes, write_zeroes_set, compare, compare_write, deallocate_dsm,
        deallocate_dsm_set, suspended, admin_only, live_update_listener, dynamic_msix;
};
#define AT(member) offsetof(struct create_args, member)
static const struct rpc_param create_params[] = {
    {"nqn", RPC_STR, AT(nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN", "-s", NULL, 0, 0, 0},
    {"ctrl_id", RPC_STR, AT(ctrl_id), RPC_NAME, "its name (default: NVMeCtrl<n>)", "-c", "ctrl", 0,
     0, 0},
    {"vuid", RPC_STR, AT(function.vuid), 0, "the function, by VUID", NULL, NULL, 0, 0, 63},
    {"vhca_id", RPC_U32, AT(function.vhca_id), 0, "the function, by number", NULL, NULL,
     AT(function.has_vhca_id) + 1, 0, 0},
    {"pf_id", RPC_U32, AT(function.pf_id), 0, "the function: index of the PF", NULL, NULL,
     AT(function.has_pf_id) + 1, 0, 0},
    {"vf_id", RPC_U32, AT(function.vf_id), 0, "the function: index of the VF below that PF", NULL,
     NULL, AT(function.has_vf_id) + 1, 0, 0},
    {"pci_bdf", RPC_STR, AT(function.pci_bdf), 0, "the function, by PCI address", NULL, NULL, 0, 0,
     15},
    {"num_queues", RPC_U32, AT(num_queues), 0, "I/O queue pairs (default: as many as possible)",
     "-n", NULL, AT(num_queues_set) + 1, 0, NVME_MAX_IO_QUEUES},
    {"mdts", RPC_U32, AT(mdts), 0, "longest transfer: 4 KiB * 2^mdts (default 7)", NULL, NULL, 0, 1,
     NVME_MDTS_MAX},
    {"fw_slots", RPC_U32, AT(fw_slots), 0, "firmware slots reported (default 4)", NULL, NULL, 0, 1,
     7},
    {"write_zeroes", RPC_BOOL, AT(write_zeroes), 0, "Write Zeroes command (default: on)", NULL,
     NULL, AT(write_zeroes_set) + 1, 0, 0},
    {"compare", RPC_BOOL, AT(compare), RPC_UNSUPPORTED, "Compare command", NULL, NULL, 0, 0, 0},
    {"compare_write", RPC_BOOL, AT(compare_write), RPC_UNSUPPORTED, "fused Compare and Write", NULL,
     NULL, 0, 0, 0},
    {"deallocate_dsm", RPC_BOOL, AT(deallocate_dsm), 0,
     "Dataset Management, deallocate (default: on)", NULL, NULL, AT(deallocate_dsm_set) + 1, 0, 0},
    {"suspended", RPC_BOOL, AT(suspended), 0, "serve nothing before nvme_controller_resume", NULL,
     NULL, 0, 0, 0},
    {"admin_only", RPC_BOOL, AT(admin_only), 0, "no I/O queues", NULL, NULL, 0, 0, 0},
    {"live_update_listener", RPC_BOOL, AT(live_update_listener), RPC_UNSUPPORTED,
     "be the destination of a live update", "-lu", NULL, 0, 0, 0},
    {"dynamic_msix", RPC_BOOL, AT(dynamic_msix), RPC_UNSUPPORTED, "share vectors with the VFs",
     NULL, NULL, 0, 0, 0},
    {"vf_num_msix", RPC_U32, AT(vf_num_msix), RPC_UNSUPPORTED, "vectors of this VF", NULL, NULL, 0,
     0, 0},
};

struct creation {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char nqn[NVME_NQN_MAX + 1], ctrl_id[64], vuid[64];
    bool run;
};

static void created(void *arg, int rc, const struct err *err)
{
    static const char *const selectors[] = {"vhca_id", "pf_id", "vf_id", "pci_bdf"};
    struct creation *c = arg;

    if (rc < 0) {
        forget_run_state(c->ctx, c->ctrl_id);
        if (err)
            rpc_error_from(c->req, err);
        else
            rpc_error(c->req, rc, "cannot create controller '%s'", c->ctrl_id);
        free(c);
        return;
    }
    /* Saved under what was found out: its name and the function's lasting name. (The controller
     * identifier the host has seen is in the function's state memory.) */
    for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++)
        rpc_journal_amend(c->req, selectors[i], NULL);
    rpc_journal_amend(c->req, "vuid", json_string(c->vuid));
    rpc_journal_amend(c->req, "ctrl_id", json_string(c->ctrl_id));
    save_put(c->req, key_of_controller(c->nqn, c->ctrl_id));
    if (rpc_replaying(c->req))
        remember_run_state(c->ctx, c->ctrl_id, c->run);
    rpc_result(c->req, json_pack("{s:s}", "ctrl_id", c->ctrl_id));
    free(c);
}

/* true: ret is the chosen or a free name. false: answered. */
static bool choose_ctrl_id(struct control_ctx *ctx, struct rpc_request *req, const char *wanted,
                           char *ret, size_t size)
{
    if (wanted) {
        snprintf(ret, size, "%s", wanted);
        if (!nvme_ctrl_find(ctx->subsystems, ret))
            return true;
        rpc_error(req, -EEXIST, "controller '%s' exists", wanted);
        return false;
    }
    for (unsigned n = 1;; n++) {
        snprintf(ret, size, "NVMeCtrl%u", n);
        if (!nvme_ctrl_find(ctx->subsystems, ret))
            return true;
    }
}

static void nvme_controller_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct vuid_search holder = {0};
    struct nvme_subsystem *ss;
    struct creation *c;
    struct nvme_ctrl *ctrl;
    struct err err = {0};
    unsigned reactor;
    int function = find_function(ctx, req, &a->function);

    if (function < 0)
        return;
    ss = need_subsystem(ctx, req, a->nqn);
    if (!ss)
        return;
    holder.vuid = link_function_get(ctx->link, (unsigned)function)->vuid;
    nvme_ctrl_for_each(ctx->subsystems, compare_vuid, &holder);
    if (holder.ctrl_id[0]) {
        rpc_error(req, -EEXIST, "function %s has controller '%s' already", holder.vuid,
                  holder.ctrl_id);
        return;
    }
    c = calloc(1, sizeof(*c));
    if (!c) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *c = (struct creation){.ctx = ctx, .req = req, .run = !a->suspended};
    snprintf(c->nqn, sizeof(c->nqn), "%s", a->nqn);
    snprintf(c->vuid, sizeof(c->vuid), "%s", holder.vuid);
    if (!choose_ctrl_id(ctx, req, a->ctrl_id, c->ctrl_id, sizeof(c->ctrl_id))) {
        free(c);
        return;
    }
    reactor = choose_reactor(ctx);
    struct nvme_ctrl_opts opts = {
        .subsystem = ss,
        .ctrl_id = c->ctrl_id,
        .link = ctx->link,
        .function = (unsigned)function,
        .reactor = ctx->reactors[reactor],
        .num_queues = a->admin_only       ? 0
                      : a->num_queues_set ? a->num_queues
                                          : NVME_MAX_IO_QUEUES,
        .mdts = a->mdts ? a->mdts : NVME_MDTS_MAX,
        .fw_slots = a->fw_slots ? a->fw_slots : 4,
        .write_zeroes = a->write_zeroes_set ? a->write_zeroes : true,
        .deallocate_dsm = a->deallocate_dsm_set ? a->deallocate_dsm : true,
        /* Namespaces follow in the journal; the end of the replay lets it run. */
        .suspended = a->suspended || rpc_replaying(req),
        .admin_only = a->admin_only,
    };
    placed(ctx, c->ctrl_id, reactor);
    if (nvme_ctrl_create(&opts, &ctrl, created, c, &err) < 0) {
        forget_run_state(ctx, c->ctrl_id);
        free(c);
        rpc_error_from(req, &err);
    }
}

/* ---- calls on one controller that answer true later ---- */

struct action {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char nqn[NVME_NQN_MAX + 1], ctrl_id[64];
    uint32_t nsid;
    void (*success)(struct action *act); /* saves what has changed */
};

static struct action *action_create(struct control_ctx *ctx, struct rpc_request *req,
                                    const struct nvme_ctrl *ctrl,
                                    void (*success)(struct action *act))
{
    struct nvme_ctrl_info info = nvme_ctrl_get_info(ctrl);
    struct action *act = calloc(1, sizeof(*act));

    if (!act) {
        rpc_error(req, -ENOMEM, "out of memory");
        return NULL;
    }
    act->ctx = ctx;
    act->req = req;
    act->success = success;
    snprintf(act->nqn, sizeof(act->nqn), "%s", nvme_subsystem_get_info(info.subsystem).nqn);
    snprintf(act->ctrl_id, sizeof(act->ctrl_id), "%s", info.ctrl_id);
    return act;
}

static void acted(void *arg, int rc, const struct err *err)
{
    struct action *act = arg;

    if (rc == 0) {
        if (act->success)
            act->success(act);
        rpc_true(act->req);
    } else if (err && err->msg[0]) {
        rpc_error(act->req, rc, "%s", err->msg);
    } else {
        rpc_error(act->req, rc, "controller '%s'", act->ctrl_id);
    }
    free(act);
}

#define CTRL_ID(type)                                                                              \
    {                                                                                              \
        "ctrl_id", RPC_STR, offsetof(struct type, ctrl_id), RPC_REQUIRED | RPC_NAME, "controller", \
            "-c", "ctrl", 0, 0, 0                                                                  \
    }

struct destroy_args {
    const char *ctrl_id;
    bool force, release_msix;
};
static const struct rpc_param destroy_params[] = {
    CTRL_ID(destroy_args),
    {"force", RPC_BOOL, offsetof(struct destroy_args, force), 0,
     "also a PF whose VFs have controllers, or a plugged hot-plug function", "-f", NULL, 0, 0, 0},
    {"release_msix", RPC_BOOL, offsetof(struct destroy_args, release_msix), RPC_UNSUPPORTED,
     "give a VF's vectors back", NULL, NULL, 0, 0, 0},
};

struct vf_search {
    int32_t pf_index;
    char ctrl_id[64];
};

static void compare_pf(struct nvme_ctrl *ctrl, void *arg)
{
    struct vf_search *s = arg;
    struct nvme_ctrl_info info = nvme_ctrl_get_info(ctrl);

    if (info.function && info.function->vf_index >= 0 && info.function->pf_index == s->pf_index)
        snprintf(s->ctrl_id, sizeof(s->ctrl_id), "%s", info.ctrl_id);
}

static void save_destroyed(struct action *act)
{
    save_drop(act->req, key_of_controller(act->nqn, act->ctrl_id));
    forget_run_state(act->ctx, act->ctrl_id);
}

static void nvme_controller_destroy(void *arg, struct rpc_request *req, const void *args)
{
    const struct destroy_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    const struct link_function_info *f = ctrl ? nvme_ctrl_get_info(ctrl).function : NULL;
    struct action *act;

    if (!ctrl)
        return;
    if (f && !a->force && f->vf_index < 0) {
        struct vf_search s = {f->pf_index, ""};

        nvme_ctrl_for_each(ctx->subsystems, compare_pf, &s);
        if (s.ctrl_id[0]) {
            rpc_error(req, -EBUSY,
                      "controller '%s' of the PF cannot go before '%s' of its VF (or use force)",
                      a->ctrl_id, s.ctrl_id);
            return;
        }
        if (f->hotplugged && f->host_connected) {
            rpc_error(req, -EBUSY, "controller '%s' is plugged (unplug it first, or use force)",
                      a->ctrl_id);
            return;
        }
    }
    act = action_create(ctx, req, ctrl, save_destroyed);
    if (act)
        nvme_ctrl_destroy(ctrl, acted, act);
}

/* ---- suspend, resume ---- */

struct suspend_args {
    const char *ctrl_id;
    uint64_t timeout_ms;
    bool admin_only, live_update_notifier, force;
};
static const struct rpc_param suspend_params[] = {
    CTRL_ID(suspend_args),
    {"timeout_ms", RPC_U64, offsetof(struct suspend_args, timeout_ms), 0,
     "longest wait for I/O in flight (default: none)", "-t", NULL, 0, 0, 3600000},
    {"admin_only", RPC_BOOL, offsetof(struct suspend_args, admin_only), 0,
     "stop admin commands only; I/O goes on. Not saved", NULL, NULL, 0, 0, 0},
    {"live_update_notifier", RPC_BOOL, offsetof(struct suspend_args, live_update_notifier),
     RPC_UNSUPPORTED, "tell the destination of a live update", "-lu", NULL, 0, 0, 0},
    {"force", RPC_BOOL, offsetof(struct suspend_args, force), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0,
     0},
};

static void save_run_state(struct action *act)
{
    save_put(act->req, key_of_run_state(act->nqn, act->ctrl_id));
}

static void nvme_controller_suspend(void *arg, struct rpc_request *req, const void *args)
{
    const struct suspend_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    struct action *act;

    if (!ctrl)
        return;
    if (rpc_replaying(req)) {
        remember_run_state(ctx, a->ctrl_id, false);
        rpc_true(req);
        return;
    }
    act = action_create(ctx, req, ctrl, a->admin_only ? NULL : save_run_state);
    if (act)
        nvme_ctrl_suspend(ctrl, a->admin_only, a->timeout_ms, acted, act);
}

struct resume_args {
    const char *ctrl_id;
};
static const struct rpc_param resume_params[] = {CTRL_ID(resume_args)};

static void nvme_controller_resume(void *arg, struct rpc_request *req, const void *args)
{
    const struct resume_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    struct action *act;

    if (!ctrl)
        return;
    if (rpc_replaying(req)) {
        remember_run_state(ctx, a->ctrl_id, true);
        rpc_true(req);
        return;
    }
    /* The same key as of suspend: the later call counts. */
    act = action_create(ctx, req, ctrl, save_run_state);
    if (act)
        nvme_ctrl_resume(ctrl, acted, act);
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
    save_put(act->req, key_of_attachment(act->nqn, act->ctrl_id, act->nsid));
}

static void save_detached(struct action *act)
{
    save_drop(act->req, key_of_attachment(act->nqn, act->ctrl_id, act->nsid));
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
    act = action_create(ctx, req, ctrl, save_attached);
    if (!act)
        return;
    act->nsid = a->nsid;
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
    act = action_create(ctx, req, ctrl, save_detached);
    if (!act)
        return;
    act->nsid = a->nsid;
    nvme_ctrl_detach_ns(ctrl, ns, acted, act);
}

static const struct rpc_method methods[] = {
    {"nvme_controller_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvme_controller_create, "open an NVMe controller on a function", RPC_JOURNAL, "{ctrl_id}"},
    {"nvme_controller_destroy", RPC_PARAMS(destroy_params), sizeof(struct destroy_args),
     nvme_controller_destroy, "close a controller and give its function back", RPC_JOURNAL, "true"},
    {"nvme_controller_suspend", RPC_PARAMS(suspend_params), sizeof(struct suspend_args),
     nvme_controller_suspend, "stop fetching commands and finish those in flight", RPC_JOURNAL,
     "true"},
    {"nvme_controller_resume", RPC_PARAMS(resume_params), sizeof(struct resume_args),
     nvme_controller_resume, "serve commands (again)", RPC_JOURNAL, "true"},
    {"nvme_controller_attach_ns", RPC_PARAMS(ns_params), sizeof(struct ns_args),
     nvme_controller_attach_ns, "show a namespace to the host", RPC_JOURNAL, "true"},
    {"nvme_controller_detach_ns", RPC_PARAMS(ns_params), sizeof(struct ns_args),
     nvme_controller_detach_ns, "take a namespace away from the host", RPC_JOURNAL, "true"},
};
const struct rpc_method_table nvme_controller_methods = RPC_TABLE(methods);
