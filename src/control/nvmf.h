/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/nvmf.h - what the files about the objects of snap_target share. */
#ifndef CONTROL_NVMF_H
#define CONTROL_NVMF_H

#include "control/inside.h"
#include "nvmf/nvmf.h"

/* Rows that many of its methods have; type is the args struct. There is one target, so its name
 * does not matter. */
#define NVMF_NQN_PARAM(type)                                                                       \
    {                                                                                              \
        "nqn", RPC_STR, offsetof(struct type, nqn), RPC_REQUIRED | RPC_POSITIONAL | RPC_NQN,       \
            "subsystem NQN", NULL, NULL, 0, 0, 0                                                   \
    }
#define NVMF_TGT_NAME_PARAM(type, cli_short)                                                       \
    {                                                                                              \
        "tgt_name", RPC_STR, offsetof(struct type, tgt_name), 0,                                   \
            "taken and ignored: there is one target", cli_short, NULL, 0, 0, 0                     \
    }

/* The subsystem; NULL: answered -ENODEV. */
struct nvmf_subsystem *need_nvmf_subsystem(struct control_ctx *ctx, struct rpc_request *req,
                                           const char *nqn);
/* Answers with an error of the room nvmf: a wrong value as a wrong parameter, and an object that is
 * not there as in all methods here, -ENODEV. */
void nvmf_error(struct rpc_request *req, const struct err *err);
/* Transports are named in any case. false: answered. text may be NULL. */
bool nvmf_trtype_param(struct rpc_request *req, const char *member, const char *text);

/* An nvmf_cb that forgets key and answers true; arg from nvmf_removal(). */
void nvmf_removed(void *arg, int rc, const struct err *err);
void *nvmf_removal(struct rpc_request *req, char *key); /* NULL: answered, key is freed */

/* {trtype, adrfam, traddr, trsvcid}; new reference. */
json_t *nvmf_address_json(const struct nvmf_address *addr);

#endif
