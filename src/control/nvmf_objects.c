/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the methods of snap_target have in common. */
#include "control/nvmf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct nvmf_subsystem *need_nvmf_subsystem(struct control_ctx *ctx, struct rpc_request *req,
                                           const char *nqn)
{
    struct nvmf_subsystem *ss = nvmf_subsystem_find(ctx->nvmf, nqn);

    if (!ss)
        rpc_error(req, -ENODEV, "no subsystem '%s'", nqn);
    return ss;
}

void nvmf_error(struct rpc_request *req, const struct err *err)
{
    if (err->code == -EINVAL)
        rpc_error(req, RPC_ERR_PARAMS, "Invalid parameters: %s", err->msg);
    else if (err->code == -ENOENT)
        rpc_error(req, -ENODEV, "%s", err->msg);
    else
        rpc_error_from(req, err);
}

bool nvmf_trtype_param(struct rpc_request *req, const char *member, const char *text)
{
    if (!text || strcasecmp(text, "TCP") == 0)
        return true;
    rpc_error(req, -ENOTSUP, "parameter '%s' is not supported with the value '%.30s' (TCP is)",
              member, text);
    return false;
}

struct removal {
    struct rpc_request *req;
    char *key;
};

void *nvmf_removal(struct rpc_request *req, char *key)
{
    struct removal *r = malloc(sizeof(*r));

    if (!r) {
        free(key);
        rpc_error(req, -ENOMEM, "out of memory");
        return NULL;
    }
    *r = (struct removal){req, key};
    return r;
}

void nvmf_removed(void *arg, int rc, const struct err *err)
{
    struct removal *r = arg;

    if (rc < 0) {
        free(r->key);
        nvmf_error(r->req, err);
    } else {
        save_drop(r->req, r->key);
        rpc_true(r->req);
    }
    free(r);
}

json_t *nvmf_address_json(const struct nvmf_address *addr)
{
    return json_pack("{s:s,s:s,s:s,s:s}", "trtype", "TCP", "adrfam", addr->ipv6 ? "IPv6" : "IPv4",
                     "traddr", addr->traddr, "trsvcid", addr->trsvcid);
}
