/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which hosts may connect to a subsystem of snap_target. */
#include "control/nvmf.h"

#include <stdlib.h>

struct host_args {
    const char *nqn, *host, *tgt_name, *psk, *dhchap_key, *dhchap_ctrlr_key;
};
#define AT(member) offsetof(struct host_args, member)
#define HOST_PARAM                                                                                 \
    {                                                                                              \
        "host", RPC_STR, AT(host), RPC_REQUIRED | RPC_POSITIONAL | RPC_NQN, "NQN of the host",     \
            NULL, NULL, 0, 0, 0                                                                    \
    }
static const struct rpc_param add_params[] = {
    NVMF_NQN_PARAM(host_args),
    HOST_PARAM,
    NVMF_TGT_NAME_PARAM(host_args, "-t"),
    {"psk", RPC_STR, AT(psk), RPC_UNSUPPORTED | RPC_SECRET, "TLS key", NULL, NULL, 0, 0, 0},
    {"dhchap_key", RPC_STR, AT(dhchap_key), RPC_UNSUPPORTED | RPC_SECRET, "", NULL, NULL, 0, 0, 0},
    {"dhchap_ctrlr_key", RPC_STR, AT(dhchap_ctrlr_key), RPC_UNSUPPORTED | RPC_SECRET, "", NULL,
     NULL, 0, 0, 0},
};
static const struct rpc_param remove_params[] = {
    NVMF_NQN_PARAM(host_args),
    HOST_PARAM,
    NVMF_TGT_NAME_PARAM(host_args, "-t"),
};

static void nvmf_subsystem_add_host(void *arg, struct rpc_request *req, const void *args)
{
    const struct host_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    struct err err = {0};

    if (!ss)
        return;
    if (nvmf_host_add(ss, a->host, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_put(req, key_of_nvmf_host(a->nqn, a->host));
    rpc_true(req);
}

static void nvmf_subsystem_remove_host(void *arg, struct rpc_request *req, const void *args)
{
    const struct host_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    struct err err = {0};

    if (!ss)
        return;
    if (nvmf_host_remove(ss, a->host, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_drop(req, key_of_nvmf_host(a->nqn, a->host));
    rpc_true(req);
}

/* ---- any host ---- */

struct any_args {
    const char *nqn, *tgt_name;
    bool allow, allow_set, disable;
};
static const struct rpc_param any_params[] = {
    NVMF_NQN_PARAM(any_args),
    {"allow_any_host", RPC_BOOL, offsetof(struct any_args, allow), 0, "any host may connect", "-e",
     "enable", offsetof(struct any_args, allow_set) + 1, 0, 0},
    {"disable", RPC_BOOL, offsetof(struct any_args, disable), 0,
     "only hosts of nvmf_subsystem_add_host may", "-d", NULL, 0, 0, 0},
    NVMF_TGT_NAME_PARAM(any_args, "-t"),
};

static void nvmf_subsystem_allow_any_host(void *arg, struct rpc_request *req, const void *args)
{
    const struct any_args *a = args;
    struct nvmf_subsystem *ss;
    char *key;

    if (a->allow_set == a->disable) {
        rpc_error(req, RPC_ERR_PARAMS,
                  a->disable ? "Invalid parameters: 'allow_any_host' and 'disable' are both given"
                             : "Invalid parameters: mandatory member 'allow_any_host' is missing");
        return;
    }
    ss = need_nvmf_subsystem(arg, req, a->nqn);
    if (!ss)
        return;
    nvmf_allow_any_host(ss, a->allow);
    key = key_of_nvmf(a->nqn);
    save_put(req, key_below(key, "allow_any_host"));
    free(key);
    rpc_true(req);
}

static const struct rpc_method methods[] = {
    {"nvmf_subsystem_add_host", RPC_PARAMS(add_params), sizeof(struct host_args),
     nvmf_subsystem_add_host, "let a host connect", RPC_JOURNAL, "true"},
    {"nvmf_subsystem_remove_host", RPC_PARAMS(remove_params), sizeof(struct host_args),
     nvmf_subsystem_remove_host, "disconnect a host and let it connect no more", RPC_JOURNAL,
     "true"},
    {"nvmf_subsystem_allow_any_host", RPC_PARAMS(any_params), sizeof(struct any_args),
     nvmf_subsystem_allow_any_host, "whether hosts that were not named may connect", RPC_JOURNAL,
     "true"},
};
const struct rpc_method_table nvmf_host_methods = RPC_TABLE(methods);
