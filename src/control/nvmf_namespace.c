/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces of snap_target's subsystems. */
#include "control/nvmf.h"

#include <string.h>

struct add_args {
    const char *nqn, *tgt_name, *bdev_name, *nguid, *eui64, *uuid, *ptpl_file;
    uint32_t nsid, anagrpid;
    bool no_auto_visible, hide_metadata;
};
#define AT(member) offsetof(struct add_args, member)
static const struct rpc_param add_params[] = {
    NVMF_NQN_PARAM(add_args),
    {"namespace.bdev_name", RPC_STR, AT(bdev_name), RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME,
     "its storage", NULL, NULL, 0, 0, 0},
    {"namespace.nsid", RPC_U32, AT(nsid), 0, "0, the default: the lowest that is free", "-n", NULL,
     0, 0, NVMF_MAX_NAMESPACES},
    {"namespace.nguid", RPC_STR, AT(nguid), 0, "NGUID, 32 hexadecimal digits", "-g", NULL, 0, 0, 0},
    {"namespace.eui64", RPC_STR, AT(eui64), 0, "EUI-64, 16 hexadecimal digits", "-e", NULL, 0, 0,
     0},
    {"namespace.uuid", RPC_STR, AT(uuid), 0, "UUID (default: the bdev's)", "-u", NULL, 0, 0, 0},
    {"namespace.anagrpid", RPC_U32, AT(anagrpid), 0, "ANA group; 0, the default: the NSID", "-i",
     NULL, 0, 0, NVMF_ANA_GROUPS},
    {"namespace.ptpl_file", RPC_STR, AT(ptpl_file), RPC_UNSUPPORTED, "", "-p", NULL, 0, 0, 0},
    {"namespace.no_auto_visible", RPC_BOOL, AT(no_auto_visible), RPC_UNSUPPORTED, "", "-z", NULL, 0,
     0, 0},
    {"namespace.hide_metadata", RPC_BOOL, AT(hide_metadata), RPC_UNSUPPORTED, "", "-x", NULL, 0, 0,
     0},
    NVMF_TGT_NAME_PARAM(add_args, "-t"),
};

struct search { /* a namespace by number or by UUID */
    uint32_t nsid;
    struct bdev_uuid uuid;
    bool uuid_found;
};

static void compare(const struct nvmf_ns_opts *ns, void *arg)
{
    struct search *s = arg;

    if (ns->nsid == s->nsid) /* the one that was made: its UUID is wanted */
        s->uuid = ns->uuid;
    else if (memcmp(&ns->uuid, &s->uuid, sizeof(s->uuid)) == 0)
        s->uuid_found = true;
}

/* The bdev's own UUID tells a host that it is the same disk, wherever it sees it; but within a
 * subsystem a UUID is unique. Zero: the bdev's. */
static struct bdev_uuid choose_uuid(struct nvmf_subsystem *ss, struct bdev *bd)
{
    struct search s = {.uuid = bdev_get_info(bd).uuid};
    struct bdev_uuid uuid = {{0}};

    nvmf_ns_for_each(ss, compare, &s);
    if (s.uuid_found)
        bdev_uuid_random(&uuid);
    return uuid;
}

/* What was chosen is chosen again at the next start. */
static void save_ns(struct rpc_request *req, struct nvmf_subsystem *ss, uint32_t nsid)
{
    struct search s = {.nsid = nsid};

    nvmf_ns_for_each(ss, compare, &s);
    rpc_journal_amend(req, "namespace.nsid", json_integer(nsid));
    rpc_journal_amend(req, "namespace.uuid", uuid_json(&s.uuid));
    save_put(req, key_of_nvmf_ns(nvmf_subsystem_get_opts(ss).nqn, nsid));
}

static void nvmf_subsystem_add_ns(void *arg, struct rpc_request *req, const void *args)
{
    const struct add_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvmf_ns_opts opts = {.nsid = a->nsid, .anagrpid = a->anagrpid};
    struct nvmf_subsystem *ss;
    struct err err = {0};
    uint32_t nsid;

    if (!hex_param(req, "namespace.nguid", a->nguid, opts.nguid, sizeof(opts.nguid)) ||
        !hex_param(req, "namespace.eui64", a->eui64, opts.eui64, sizeof(opts.eui64)) ||
        (a->uuid && !uuid_param(req, "namespace.uuid", a->uuid, &opts.uuid)))
        return;
    ss = need_nvmf_subsystem(ctx, req, a->nqn);
    if (!ss)
        return;
    opts.bdev = need_bdev(ctx, req, a->bdev_name);
    if (!opts.bdev)
        return;
    if (!a->uuid)
        opts.uuid = choose_uuid(ss, opts.bdev);
    if (nvmf_ns_add(ss, &opts, &nsid, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    save_ns(req, ss, nsid);
    rpc_result(req, json_integer(nsid));
}

/* ---- remove ---- */

struct remove_args {
    const char *nqn, *tgt_name;
    uint32_t nsid;
};
static const struct rpc_param remove_params[] = {
    NVMF_NQN_PARAM(remove_args),
    {"nsid", RPC_U32, offsetof(struct remove_args, nsid), RPC_REQUIRED | RPC_POSITIONAL,
     "namespace identifier", NULL, NULL, 0, 1, 0xfffffffe},
    NVMF_TGT_NAME_PARAM(remove_args, "-t"),
};

static void nvmf_subsystem_remove_ns(void *arg, struct rpc_request *req, const void *args)
{
    const struct remove_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    void *removal = ss ? nvmf_removal(req, key_of_nvmf_ns(a->nqn, a->nsid)) : NULL;

    if (removal)
        nvmf_ns_remove(ss, a->nsid, nvmf_removed, removal);
}

static const struct rpc_method methods[] = {
    {"nvmf_subsystem_add_ns", RPC_PARAMS(add_params), sizeof(struct add_args),
     nvmf_subsystem_add_ns, "show a bdev as a namespace of a subsystem", RPC_JOURNAL,
     "its namespace identifier"},
    {"nvmf_subsystem_remove_ns", RPC_PARAMS(remove_params), sizeof(struct remove_args),
     nvmf_subsystem_remove_ns, "take a namespace away from its hosts", RPC_JOURNAL, "true"},
};
const struct rpc_method_table nvmf_namespace_methods = RPC_TABLE(methods);
