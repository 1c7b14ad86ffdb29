/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe controllers: made on a function. */
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

static const struct rpc_method methods[] = {
    {"nvme_controller_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvme_controller_create, "open an NVMe controller on a function", RPC_JOURNAL, "{ctrl_id}"},
};
const struct rpc_method_table nvme_controller_methods = RPC_TABLE(methods);
