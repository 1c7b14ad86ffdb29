/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The addresses a subsystem of snap_target is reached at, and the ANA states there. */
#include "control/nvmf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DEFAULT_PORT "4420"

/* ---- addresses ---- */

struct address_args { /* the first part of each args struct */
    const char *trtype, *adrfam, *traddr, *trsvcid;
};
#define ADDRESS_PARAMS                                                                             \
    {"listen_address.trtype",                                                                      \
     RPC_STR,                                                                                      \
     offsetof(struct address_args, trtype),                                                        \
     0,                                                                                            \
     "transport: TCP",                                                                             \
     "-t",                                                                                         \
     NULL,                                                                                         \
     0,                                                                                            \
     0,                                                                                            \
     0},                                                                                           \
        {"listen_address.adrfam",                                                                  \
         RPC_STR,                                                                                  \
         offsetof(struct address_args, adrfam),                                                    \
         0,                                                                                        \
         "IPv4 or IPv6 (default: by the address)",                                                 \
         "-f",                                                                                     \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         0},                                                                                       \
        {"listen_address.traddr",                                                                  \
         RPC_STR,                                                                                  \
         offsetof(struct address_args, traddr),                                                    \
         RPC_REQUIRED,                                                                             \
         "address, numeric",                                                                       \
         "-a",                                                                                     \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         INET6_ADDRSTRLEN},                                                                        \
    {                                                                                              \
        "listen_address.trsvcid", RPC_STR, offsetof(struct address_args, trsvcid), 0,              \
            "port (default " DEFAULT_PORT "); 0 to add a listener: any that is free", "-s", NULL,  \
            0, 0, 5                                                                                \
    }

/* false: answered. What is wrong with the address itself the room nvmf says. */
static bool address_param(struct rpc_request *req, const struct address_args *a,
                          struct nvmf_address *ret)
{
    const char *family = a->adrfam && *a->adrfam ? a->adrfam : NULL;

    if (!nvmf_trtype_param(req, "listen_address.trtype", a->trtype))
        return false;
    if (family && strcasecmp(family, "IPv4") != 0 && strcasecmp(family, "IPv6") != 0) {
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'listen_address.adrfam' is '%.30s', neither IPv4 nor IPv6",
                  family);
        return false;
    }
    *ret = (struct nvmf_address){
        .traddr = a->traddr,
        .trsvcid = a->trsvcid && *a->trsvcid ? a->trsvcid : DEFAULT_PORT,
        .ipv6 = family ? strcasecmp(family, "IPv6") == 0 : strchr(a->traddr, ':') != NULL,
    };
    return true;
}

/* An address can be written in several ways; saved under one. It is one that nvmf has taken. */
static char *key_of_listener(const char *nqn, const struct nvmf_address *addr)
{
    int family = addr->ipv6 ? AF_INET6 : AF_INET;
    char host[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 16];
    struct in6_addr binary;

    if (inet_pton(family, addr->traddr, &binary) != 1 ||
        !inet_ntop(family, &binary, host, sizeof(host)))
        snprintf(host, sizeof(host), "%s", addr->traddr);
    snprintf(text, sizeof(text), addr->ipv6 ? "[%s]:%lu" : "%s:%lu", host,
             strtoul(addr->trsvcid, NULL, 10));
    return key_of_nvmf_listener(nqn, text);
}

/* ---- ANA states ---- */

static const struct {
    const char *name;
    enum nvme_ana_state state;
} ana_states[] = {
    {"optimized", NVME_ANA_OPTIMIZED},
    {"non_optimized", NVME_ANA_NON_OPTIMIZED},
    {"inaccessible", NVME_ANA_INACCESSIBLE},
};

/* false: answered. */
static bool ana_param(struct rpc_request *req, const char *text, enum nvme_ana_state *ret)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ana_states); i++) {
        if (strcmp(text, ana_states[i].name) == 0) {
            *ret = ana_states[i].state;
            return true;
        }
    }
    rpc_error(req, RPC_ERR_PARAMS,
              "Invalid parameters: 'ana_state' is '%.30s', not one of optimized, non_optimized, "
              "inaccessible",
              text);
    return false;
}

static const char *ana_name(uint8_t state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ana_states); i++)
        if (ana_states[i].state == state)
            return ana_states[i].name;
    return "unknown";
}

/* ---- add ---- */

struct add_args {
    struct address_args address;
    const char *nqn, *tgt_name, *ana_state, *sock_impl;
    int32_t numa_id;
    bool secure_channel;
};
#define AT(member) offsetof(struct add_args, member)
static const struct rpc_param add_params[] = {
    NVMF_NQN_PARAM(add_args),
    ADDRESS_PARAMS,
    {"ana_state", RPC_STR, AT(ana_state), 0,
     "optimized (the default), non_optimized or inaccessible, for all groups", "-n", NULL, 0, 0, 0},
    NVMF_TGT_NAME_PARAM(add_args, "-p"),
    {"secure_channel", RPC_BOOL, AT(secure_channel), RPC_UNSUPPORTED, "", "-k", NULL, 0, 0, 0},
    {"sock_impl", RPC_STR, AT(sock_impl), RPC_UNSUPPORTED, "", "-S", NULL, 0, 0, 0},
    {"numa_id", RPC_I32, AT(numa_id), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
};

struct newest {
    char trsvcid[8];
};

static void look_at(const struct nvmf_listener_info *l, void *arg)
{
    struct newest *n = arg;

    snprintf(n->trsvcid, sizeof(n->trsvcid), "%s", l->addr.trsvcid);
}

static void nvmf_subsystem_add_listener(void *arg, struct rpc_request *req, const void *args)
{
    const struct add_args *a = args;
    struct control_ctx *ctx = arg;
    enum nvme_ana_state state = NVME_ANA_OPTIMIZED;
    struct nvmf_subsystem *ss;
    struct nvmf_address addr;
    struct newest newest = {""};
    struct err err = {0};

    if (!address_param(req, &a->address, &addr) ||
        (a->ana_state && !ana_param(req, a->ana_state, &state)))
        return;
    ss = need_nvmf_subsystem(ctx, req, a->nqn);
    if (!ss)
        return;
    if (!nvmf_transport_get(ctx->nvmf)) {
        rpc_error(req, -ENODEV, "no transport 'TCP' (nvmf_create_transport makes it)");
        return;
    }
    if (nvmf_listener_add(ss, &addr, state, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    /* Hosts know the port that was chosen: the next start takes the same. */
    nvmf_listener_for_each(ss, look_at, &newest);
    addr.trsvcid = newest.trsvcid;
    rpc_journal_amend(req, "listen_address.trsvcid", json_string(addr.trsvcid));
    save_put(req, key_of_listener(a->nqn, &addr));
    rpc_true(req);
}

/* ---- remove ---- */

struct remove_args {
    struct address_args address;
    const char *nqn, *tgt_name;
};
static const struct rpc_param remove_params[] = {
    NVMF_NQN_PARAM(remove_args),
    ADDRESS_PARAMS,
    NVMF_TGT_NAME_PARAM(remove_args, "-p"),
};

static void nvmf_subsystem_remove_listener(void *arg, struct rpc_request *req, const void *args)
{
    const struct remove_args *a = args;
    struct nvmf_subsystem *ss;
    struct nvmf_address addr;
    struct err err = {0};

    if (!address_param(req, &a->address, &addr))
        return;
    ss = need_nvmf_subsystem(arg, req, a->nqn);
    if (!ss)
        return;
    if (nvmf_listener_remove(ss, &addr, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_drop(req, key_of_listener(a->nqn, &addr));
    rpc_true(req);
}

/* ---- set_ana_state ---- */

struct ana_args {
    struct address_args address;
    const char *nqn, *tgt_name, *ana_state;
    uint32_t anagrpid;
};
static const struct rpc_param ana_params[] = {
    NVMF_NQN_PARAM(ana_args),
    ADDRESS_PARAMS,
    {"ana_state", RPC_STR, offsetof(struct ana_args, ana_state), RPC_REQUIRED,
     "optimized, non_optimized or inaccessible", "-n", NULL, 0, 0, 0},
    {"anagrpid", RPC_U32, offsetof(struct ana_args, anagrpid), 0,
     "ANA group; 0, the default: all groups", "-g", NULL, 0, 0, NVMF_ANA_GROUPS},
    NVMF_TGT_NAME_PARAM(ana_args, "-p"),
};

/* Below the listener's key, so that it goes with it. All groups: replaces what was said of any. */
static void save_ana_state(struct rpc_request *req, char *listener, uint32_t anagrpid)
{
    char part[24];

    if (anagrpid == 0)
        save_drop(req, key_below(listener, "ana"));
    snprintf(part, sizeof(part), "ana/%u", anagrpid);
    save_put(req, key_below(listener, part));
    free(listener);
}

static void ana_told(void *req, int rc, const struct err *err)
{
    (void)rc;
    (void)err;
    rpc_true(req);
}

static void nvmf_subsystem_listener_set_ana_state(void *arg, struct rpc_request *req,
                                                  const void *args)
{
    const struct ana_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvmf_subsystem *ss;
    enum nvme_ana_state state;
    struct nvmf_address addr;
    struct err err = {0};

    if (!address_param(req, &a->address, &addr) || !ana_param(req, a->ana_state, &state))
        return;
    ss = need_nvmf_subsystem(arg, req, a->nqn);
    if (!ss)
        return;
    if (nvmf_listener_set_ana_state(ss, &addr, a->anagrpid, state, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_ana_state(req, key_of_listener(a->nqn, &addr), a->anagrpid);
    if (rpc_replaying(req)) /* there is no connection yet */
        rpc_true(req);
    else if (rpc_journal_flush(req, &err) < 0) /* now: another call may come while we wait */
        nvmf_error(req, &err);
    else
        nvmf_when_told(ctx->nvmf, ana_told, req);
}

/* ---- list ---- */

struct get_args {
    const char *nqn, *tgt_name;
};
static const struct rpc_param get_params[] = {
    NVMF_NQN_PARAM(get_args),
    NVMF_TGT_NAME_PARAM(get_args, "-t"),
};

static void add_listener(const struct nvmf_listener_info *l, void *list)
{
    json_t *states = json_array();

    for (uint32_t i = 0; i < l->ngroups; i++)
        json_array_append_new(states, json_pack("{s:I,s:s}", "ana_group", (json_int_t)i + 1,
                                                "ana_state", ana_name(l->ana_states[i])));
    json_array_append_new(
        list, json_pack("{s:o,s:o}", "address", nvmf_address_json(&l->addr), "ana_states", states));
}

static void nvmf_subsystem_get_listeners(void *arg, struct rpc_request *req, const void *args)
{
    const struct get_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    json_t *list;

    if (!ss)
        return;
    list = json_array();
    nvmf_listener_for_each(ss, add_listener, list);
    rpc_result(req, list);
}

static const struct rpc_method methods[] = {
    {"nvmf_subsystem_add_listener", RPC_PARAMS(add_params), sizeof(struct add_args),
     nvmf_subsystem_add_listener, "let a subsystem be reached at an address", RPC_JOURNAL, "true"},
    {"nvmf_subsystem_remove_listener", RPC_PARAMS(remove_params), sizeof(struct remove_args),
     nvmf_subsystem_remove_listener,
     "let a subsystem be reached no more at an address, and disconnect who came by it", RPC_JOURNAL,
     "true"},
    {"nvmf_subsystem_listener_set_ana_state", RPC_PARAMS(ana_params), sizeof(struct ana_args),
     nvmf_subsystem_listener_set_ana_state, "set the state of ANA groups at an address",
     RPC_JOURNAL, "true"},
    {"nvmf_subsystem_get_listeners", RPC_PARAMS(get_params), sizeof(struct get_args),
     nvmf_subsystem_get_listeners, "list the addresses of a subsystem", 0,
     "array of {address: {trtype, adrfam, traddr, trsvcid}, ana_states: [{ana_group, ana_state}]}"},
};
const struct rpc_method_table nvmf_listener_methods = RPC_TABLE(methods);
