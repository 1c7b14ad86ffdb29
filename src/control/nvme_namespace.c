/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces of NVMe subsystems. */
#include "control/inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct create_args {
    const char *nqn, *bdev_name, *uuid, *nguid, *eui64, *bdev_type;
    uint32_t nsid;
};
#define AT(member) offsetof(struct create_args, member)
#define NSID_PARAM(type)                                                                           \
    {                                                                                              \
        "nsid", RPC_U32, offsetof(struct type, nsid), RPC_REQUIRED, "namespace identifier", "-n",  \
            NULL, 0, 1, 0xfffffffe                                                                 \
    }
static const struct rpc_param create_params[] = {
    {"nqn", RPC_STR, AT(nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN", "-s", NULL, 0, 0, 0},
    {"bdev_name", RPC_STR, AT(bdev_name), RPC_REQUIRED | RPC_NAME, "its storage", "-b", NULL, 0, 0,
     0},
    NSID_PARAM(create_args),
    {"uuid", RPC_STR, AT(uuid), 0, "UUID (default: the bdev's)", NULL, NULL, 0, 0, 0},
    {"nguid", RPC_STR, AT(nguid), 0, "NGUID, 32 hexadecimal digits", NULL, NULL, 0, 0, 0},
    {"eui64", RPC_STR, AT(eui64), 0, "EUI-64, 16 hexadecimal digits", NULL, NULL, 0, 0, 0},
    {"bdev_type", RPC_STR, AT(bdev_type), 0, "only spdk", NULL, "dbg_bdev_type", 0, 0, 0},
};

struct uuid_search {
    const struct bdev_uuid *uuid;
    bool found;
};

static void compare_uuid(struct nvme_ns *ns, void *arg)
{
    struct uuid_search *s = arg;
    struct nvme_ns_info info = nvme_ns_get_info(ns);

    if (memcmp(&info.uuid, s->uuid, sizeof(info.uuid)) == 0)
        s->found = true;
}

/* The bdev's own UUID tells the guest what disk it is, wherever it is shown; but within a subsystem
 * a UUID is unique. */
static struct bdev_uuid choose_uuid(struct nvme_subsystem *ss, struct bdev *bd)
{
    static const struct bdev_uuid none;
    struct bdev_uuid uuid = bdev_get_info(bd).uuid;
    struct uuid_search search = {&uuid, memcmp(&uuid, &none, sizeof(none)) == 0};

    nvme_ns_for_each(ss, compare_uuid, &search);
    if (search.found)
        bdev_uuid_random(&uuid);
    return uuid;
}

static void nvme_namespace_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ns_opts opts = {.nsid = a->nsid};
    struct nvme_ns *ns;
    struct err err = {0};

    if (a->bdev_type && strcmp(a->bdev_type, "spdk") != 0) {
        rpc_error(req, -ENOTSUP, "parameter 'bdev_type' is not supported with the value '%.30s'",
                  a->bdev_type);
        return;
    }
    if (!hex_param(req, "nguid", a->nguid, opts.nguid, 16) ||
        !hex_param(req, "eui64", a->eui64, opts.eui64, 8) ||
        (a->uuid && !uuid_param(req, "uuid", a->uuid, &opts.uuid)))
        return;
    opts.subsystem = need_subsystem(ctx, req, a->nqn);
    if (!opts.subsystem)
        return;
    if (nvme_ns_find(opts.subsystem, a->nsid)) {
        rpc_error(req, -EEXIST, "namespace %u of '%s' exists", a->nsid, a->nqn);
        return;
    }
    opts.bdev = need_bdev(ctx, req, a->bdev_name);
    if (!opts.bdev)
        return;
    if (!a->uuid)
        opts.uuid = choose_uuid(opts.subsystem, opts.bdev);
    if (nvme_ns_create(&opts, &ns, &err) < 0) {
        rpc_error_from(req, &err);
        return;
    }
    rpc_journal_amend(req, "uuid", uuid_json(&opts.uuid));
    save_put(req, key_of_namespace(a->nqn, a->nsid));
    rpc_result(req, json_pack("{s:I,s:s,s:o}", "nsid", (json_int_t)a->nsid, "bdev_name",
                              a->bdev_name, "uuid", uuid_json(&opts.uuid)));
}

struct destroy_args {
    const char *nqn;
    uint32_t nsid;
};
static const struct rpc_param destroy_params[] = {
    {"nqn", RPC_STR, offsetof(struct destroy_args, nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN",
     "-s", NULL, 0, 0, 0},
    NSID_PARAM(destroy_args),
};

static void nvme_namespace_destroy(void *arg, struct rpc_request *req, const void *args)
{
    const struct destroy_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_subsystem *ss = need_subsystem(ctx, req, a->nqn);
    struct nvme_ns *ns = ss ? nvme_ns_find(ss, a->nsid) : NULL;
    struct err err = {0};

    if (!ss)
        return;
    if (!ns) {
        rpc_error(req, -ENODEV, "no namespace %u in '%s'", a->nsid, a->nqn);
        return;
    }
    if (nvme_ns_destroy(ns, &err) < 0) {
        rpc_error_from(req, &err);
        return;
    }
    save_drop(req, key_of_namespace(a->nqn, a->nsid));
    rpc_true(req);
}

/* ---- list ---- */

struct owner_search {
    struct nvme_ns *ns;
    json_t *list;
    bool found;
};

static void compare_ns(struct nvme_ns *ns, void *arg)
{
    struct owner_search *s = arg;

    if (ns == s->ns)
        s->found = true;
}

static void add_owner(struct nvme_ctrl *ctrl, void *arg)
{
    struct owner_search *s = arg;

    s->found = false;
    nvme_ctrl_ns_for_each(ctrl, compare_ns, s);
    if (s->found)
        json_array_append_new(s->list,
                              json_pack("{s:s}", "ctrl_id", nvme_ctrl_get_info(ctrl).ctrl_id));
}

struct host_search {
    const char *bdev;
    const char *state;
};

static void compare_host(struct nvme_of_host *host, void *arg)
{
    struct host_search *s = arg;
    const char *name = nvme_of_name(host);
    size_t len = strlen(name);

    /* Its bdevs are <name>n<nsid>. */
    if (strncmp(s->bdev, name, len) == 0 && s->bdev[len] == 'n' &&
        strspn(s->bdev + len + 1, "0123456789") == strlen(s->bdev + len + 1))
        s->state = nvme_of_state(host);
}

static const char *ready_word(struct control_ctx *ctx, struct bdev *bd)
{
    struct host_search s = {bdev_name(bd), NULL};

    if (strcmp(bdev_ops_of(bd)->kind, "nvme_of") == 0)
        nvme_of_for_each(ctx->nvme_of, compare_host, &s);
    return !s.state || strcmp(s.state, "enabled") == 0 ? "Yes" : "In_progress";
}

json_t *namespace_json(struct control_ctx *ctx, struct nvme_ns *ns)
{
    struct nvme_ns_info info = nvme_ns_get_info(ns);
    struct owner_search s = {.ns = ns, .list = json_array()};

    nvme_ctrl_for_each(ctx->subsystems, add_owner, &s);
    return json_pack("{s:I,s:s,s:s,s:o,s:s,s:i,s:o}", "nsid", (json_int_t)info.nsid, "bdev",
                     bdev_name(info.bdev), "nqn", nvme_subsystem_get_info(info.subsystem).nqn,
                     "uuid", uuid_json(&info.uuid), "ready", ready_word(ctx, info.bdev),
                     "max inflights per weight", 65535, "controllers", s.list);
}

struct listing {
    struct control_ctx *ctx;
    json_t *list;
};

static void add_ns(struct nvme_ns *ns, void *arg)
{
    struct listing *l = arg;

    json_array_append_new(l->list, namespace_json(l->ctx, ns));
}

static void add_subsystem(struct nvme_subsystem *ss, void *arg)
{
    nvme_ns_for_each(ss, add_ns, arg);
}

struct list_args {
    const char *nqn;
};
static const struct rpc_param list_params[] = {
    {"nqn", RPC_STR, offsetof(struct list_args, nqn), RPC_NQN, "only of this subsystem", "-s", NULL,
     0, 0, 0},
};

static void nvme_namespace_list(void *arg, struct rpc_request *req, const void *args)
{
    const struct list_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_subsystem *ss = NULL;
    struct listing l = {ctx, NULL};

    if (a->nqn) {
        ss = need_subsystem(ctx, req, a->nqn);
        if (!ss)
            return;
    }
    l.list = json_array();
    if (ss)
        add_subsystem(ss, &l);
    else
        nvme_subsystem_for_each(ctx->subsystems, add_subsystem, &l);
    rpc_result(req, l.list);
}

static const struct rpc_method methods[] = {
    {"nvme_namespace_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvme_namespace_create, "make a namespace of a bdev", RPC_JOURNAL, "{nsid, bdev_name, uuid}"},
    {"nvme_namespace_destroy", RPC_PARAMS(destroy_params), sizeof(struct destroy_args),
     nvme_namespace_destroy, "delete a namespace that no controller shows", RPC_JOURNAL, "true"},
    {"nvme_namespace_list", RPC_PARAMS(list_params), sizeof(struct list_args), nvme_namespace_list,
     "list namespaces", 0, "array of {nsid, bdev, nqn, uuid, ready, controllers}"},
};
const struct rpc_method_table nvme_namespace_methods = RPC_TABLE(methods);
