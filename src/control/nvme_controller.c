/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe controllers: made on a function. */
#include "control/controller.h"

struct create_args {
    const char *nqn, *ctrl_id;
    struct function_selector function;
    uint32_t num_queues, mdts, fw_slots, vf_num_msix;
    bool num_queues_set, write_zeroes, write_zeroes_set, compare, compare_write, deallocate_dsm,
        deallocate_dsm_set, suspended, admin_only, live_update_listener, dynamic_msix;
};
#define AT(member) offsetof(struct create_args, member)
static const struct rpc_param create_params[] = {
    {"nqn", RPC_STR, AT(nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN", "-s", NULL, 0, 0, 0},
    {"ctrl_id", RPC_STR, AT(ctrl_id), RPC_NAME, "its name (default: NVMeCtrl<n>)", "-c", "ctrl", 0,
     0, 0},
    FUNCTION_SELECTOR(create_args, function),
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

static void nvme_controller_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    int function = select_function(ctx, req, &a->function, FUNCTION_NVME);
    struct nvme_subsystem *ss = function >= 0 ? need_subsystem(ctx, req, a->nqn) : NULL;
    struct controller_opts base;
    struct nvme_ctrl_opts opts;
    struct err err = {0};
    struct action *act;
    char ctrl_id[64];

    if (!ss || !choose_ctrl_id(ctx, req, a->ctrl_id, "NVMeCtrl", ctrl_id))
        return;
    act = creation_create(ctx, req, key_of_controller(a->nqn, ctrl_id), ctrl_id, (unsigned)function,
                          a->suspended, &base);
    if (!act)
        return;
    opts = (struct nvme_ctrl_opts){
        .base = base,
        .subsystem = ss,
        .num_queues = a->admin_only       ? 0
                      : a->num_queues_set ? a->num_queues
                                          : NVME_MAX_IO_QUEUES,
        .mdts = a->mdts ? a->mdts : NVME_MDTS_MAX,
        .fw_slots = a->fw_slots ? a->fw_slots : 4,
        .write_zeroes = a->write_zeroes_set ? a->write_zeroes : true,
        .deallocate_dsm = a->deallocate_dsm_set ? a->deallocate_dsm : true,
        .admin_only = a->admin_only,
    };
    if (nvme_ctrl_create(&opts, NULL, controller_created, act, &err) < 0)
        controller_created(act, err.code, &err);
}

static const struct rpc_method methods[] = {
    {"nvme_controller_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvme_controller_create, "open an NVMe controller on a function", RPC_JOURNAL, "{ctrl_id}"},
};
const struct rpc_method_table nvme_controller_methods = RPC_TABLE(methods);
