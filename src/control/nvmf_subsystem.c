/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Subsystems of snap_target. */
#include "control/nvmf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct create_args {
    const char *nqn, *tgt_name, *serial_number, *model_number, *admin_label;
    uint32_t max_namespaces, dmrsl;
    uint16_t min_cntlid, max_cntlid, wzsl;
    bool allow_any_host, ana_reporting, passthrough, enable_nssr;
};
#define AT(member) offsetof(struct create_args, member)
static const struct rpc_param create_params[] = {
    NVMF_NQN_PARAM(create_args),
    NVMF_TGT_NAME_PARAM(create_args, "-t"),
    {"serial_number", RPC_STR, AT(serial_number), 0, "up to 20 characters (default: twenty zeros)",
     "-s", NULL, 0, 0, 20},
    {"model_number", RPC_STR, AT(model_number), 0, "up to 40 characters", "-d", NULL, 0, 0, 40},
    {"max_namespaces", RPC_U32, AT(max_namespaces), 0,
     "the highest NSID and ANA group; 0, the default: 32", "-m", NULL, 0, 0, NVMF_MAX_NAMESPACES},
    {"allow_any_host", RPC_BOOL, AT(allow_any_host), 0,
     "any host may connect, not only those of nvmf_subsystem_add_host", "-a", NULL, 0, 0, 0},
    {"ana_reporting", RPC_BOOL, AT(ana_reporting), 0,
     "report asymmetric namespace access, so that listeners can have states", "-r", NULL, 0, 0, 0},
    {"min_cntlid", RPC_U16, AT(min_cntlid), 0, "lowest controller ID (default 1)", "-i", NULL, 0, 0,
     NVME_CNTLID_MAX},
    {"max_cntlid", RPC_U16, AT(max_cntlid), 0, "highest controller ID (default 65519)", "-I", NULL,
     0, 0, NVME_CNTLID_MAX},
    {"admin_label", RPC_STR, AT(admin_label), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
    {"dmrsl", RPC_U32, AT(dmrsl), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
    {"wzsl", RPC_U16, AT(wzsl), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
    {"passthrough", RPC_BOOL, AT(passthrough), RPC_UNSUPPORTED, "", "-p", NULL, 0, 0, 0},
    {"enable_nssr", RPC_BOOL, AT(enable_nssr), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
};

/* Clients send what they do not know as "". */
static const char *given(const char *text)
{
    return text && *text ? text : NULL;
}

static void nvmf_create_subsystem(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvmf_subsystem_opts opts = {.nqn = a->nqn,
                                       .serial_number = given(a->serial_number),
                                       .model_number = given(a->model_number),
                                       .max_namespaces = a->max_namespaces,
                                       .min_cntlid = a->min_cntlid,
                                       .max_cntlid = a->max_cntlid,
                                       .allow_any_host = a->allow_any_host,
                                       .ana_reporting = a->ana_reporting};
    struct nvmf_subsystem *ss;
    struct err err = {0};

    if (nvmf_subsystem_create(ctx->nvmf, &opts, &ss, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_put(req, key_of_nvmf(a->nqn));
    rpc_true(req);
}

/* ---- delete ---- */

struct delete_args {
    const char *nqn, *tgt_name;
};
static const struct rpc_param delete_params[] = {
    NVMF_NQN_PARAM(delete_args),
    NVMF_TGT_NAME_PARAM(delete_args, "-t"),
};

static void nvmf_delete_subsystem(void *arg, struct rpc_request *req, const void *args)
{
    const struct delete_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    void *removal = ss ? nvmf_removal(req, key_of_nvmf(a->nqn)) : NULL;

    if (removal)
        nvmf_subsystem_destroy(ss, nvmf_removed, removal);
}

/* ---- list ---- */

static void add_address(const struct nvmf_listener_info *l, void *list)
{
    json_array_append_new(list, nvmf_address_json(&l->addr));
}

static void add_host(const char *hostnqn, void *list)
{
    json_array_append_new(list, json_pack("{s:s}", "nqn", hostnqn));
}

static void set_hex(json_t *o, const char *name, const uint8_t *b, size_t n)
{
    static const uint8_t none[16];
    char text[33];

    if (memcmp(b, none, n) == 0)
        return;
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02X", b[i]);
    json_object_set_new(o, name, json_string(text));
}

struct namespaces {
    json_t *list;
    bool with_ana;
};

static void add_ns(const struct nvmf_ns_opts *ns, void *arg)
{
    struct namespaces *n = arg;
    json_t *o = json_pack("{s:I,s:s,s:s}", "nsid", (json_int_t)ns->nsid, "bdev_name",
                          bdev_name(ns->bdev), "name", bdev_name(ns->bdev));

    set_hex(o, "nguid", ns->nguid, sizeof(ns->nguid));
    set_hex(o, "eui64", ns->eui64, sizeof(ns->eui64));
    json_object_set_new(o, "uuid", uuid_json(&ns->uuid));
    if (n->with_ana)
        json_object_set_new(o, "anagrpid", json_integer(ns->anagrpid));
    json_array_append_new(n->list, o);
}

static json_t *subsystem_json(struct nvmf_subsystem *ss)
{
    struct nvmf_subsystem_opts opts = nvmf_subsystem_get_opts(ss);
    struct namespaces n = {json_array(), opts.ana_reporting};
    json_t *o = json_object(), *addresses = json_array(), *hosts = json_array();

    nvmf_listener_for_each(ss, add_address, addresses);
    nvmf_host_for_each(ss, add_host, hosts);
    nvmf_ns_for_each(ss, add_ns, &n);
    json_object_set_new(o, "nqn", json_string(opts.nqn));
    json_object_set_new(o, "subtype", json_string("NVMe"));
    json_object_set_new(o, "listen_addresses", addresses);
    json_object_set_new(o, "allow_any_host", json_boolean(opts.allow_any_host));
    json_object_set_new(o, "hosts", hosts);
    json_object_set_new(o, "serial_number", json_string(opts.serial_number));
    json_object_set_new(o, "model_number", json_string(opts.model_number));
    json_object_set_new(o, "max_namespaces", json_integer(opts.max_namespaces));
    json_object_set_new(o, "min_cntlid", json_integer(opts.min_cntlid));
    json_object_set_new(o, "max_cntlid", json_integer(opts.max_cntlid));
    json_object_set_new(o, "ana_reporting", json_boolean(opts.ana_reporting));
    json_object_set_new(o, "namespaces", n.list);
    return o;
}

/* It is reached at the addresses of all others. */
static json_t *discovery_json(void)
{
    return json_pack("{s:s,s:s,s:[],s:b,s:[]}", "nqn", NVME_DISCOVERY_NQN, "subtype", "Discovery",
                     "listen_addresses", "allow_any_host", true, "hosts");
}

static void add_subsystem(struct nvmf_subsystem *ss, void *list)
{
    json_array_append_new(list, subsystem_json(ss));
}

struct get_args {
    const char *nqn, *tgt_name;
};
static const struct rpc_param get_params[] = {
    {"nqn", RPC_STR, offsetof(struct get_args, nqn), RPC_POSITIONAL | RPC_NQN, "only this one",
     NULL, NULL, 0, 0, 0},
    NVMF_TGT_NAME_PARAM(get_args, "-t"),
};

static void nvmf_get_subsystems(void *arg, struct rpc_request *req, const void *args)
{
    const struct get_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvmf_subsystem *ss = NULL;
    bool discovery = !a->nqn || strcmp(a->nqn, NVME_DISCOVERY_NQN) == 0;
    json_t *list;

    if (!discovery) {
        ss = need_nvmf_subsystem(ctx, req, a->nqn);
        if (!ss)
            return;
    }
    list = json_array();
    if (discovery)
        json_array_append_new(list, discovery_json());
    if (ss)
        add_subsystem(ss, list);
    else if (!a->nqn)
        nvmf_subsystem_for_each(ctx->nvmf, add_subsystem, list);
    rpc_result(req, list);
}

static const struct rpc_method methods[] = {
    {"nvmf_create_subsystem", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvmf_create_subsystem, "make a subsystem that hosts can connect to", RPC_JOURNAL, "true"},
    {"nvmf_delete_subsystem", RPC_PARAMS(delete_params), sizeof(struct delete_args),
     nvmf_delete_subsystem, "disconnect its hosts and delete it with all that is in it",
     RPC_JOURNAL, "true"},
    {"nvmf_get_subsystems", RPC_PARAMS(get_params), sizeof(struct get_args), nvmf_get_subsystems,
     "list the target's subsystems", 0,
     "array of {nqn, subtype, listen_addresses, hosts, namespaces, ...}; the discovery subsystem "
     "is "
     "the first"},
};
const struct rpc_method_table nvmf_subsystem_methods = RPC_TABLE(methods);
