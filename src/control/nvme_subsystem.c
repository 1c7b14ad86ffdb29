/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe subsystems. */
#include "base/log.h"
#include "control/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct create_args {
    const char *nqn, *serial_number, *model_number;
    uint32_t nn, mnan;
    bool single_ctrl;
};
#define AT(member) offsetof(struct create_args, member)
static const struct rpc_param create_params[] = {
    {"nqn", RPC_STR, AT(nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN", "-s", NULL, 0, 0, 0},
    {"serial_number", RPC_STR, AT(serial_number), 0,
     "serial number, up to 20 characters (default MNC12)", "-sn", NULL, 0, 0, 20},
    {"model_number", RPC_STR, AT(model_number), 0, "model, up to 40 characters", "-mn", NULL, 0, 0,
     40},
    {"nn", RPC_U32, AT(nn), 0, "highest namespace identifier", "-nn", NULL, 0, 1, 0xfffffffe},
    {"mnan", RPC_U32, AT(mnan), 0, "most namespaces (default 1024)", "-mnan", NULL, 0, 1,
     0xfffffffe},
    {"single_ctrl", RPC_BOOL, AT(single_ctrl), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
};

static void nvme_subsystem_create_rpc(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_subsystem_opts opts = {.nqn = a->nqn,
                                       .serial_number = a->serial_number,
                                       .model_number = a->model_number,
                                       .nn = a->nn,
                                       .mnan = a->mnan};
    struct nvme_subsystem *ss;
    struct err err = {0};

    if (nvme_subsystem_create(ctx->subsystems, &opts, &ss, &err) < 0) {
        rpc_error_from(req, &err);
        return;
    }
    save_put(req, key_of_subsystem(a->nqn));
    rpc_true(req);
}

/* ---- destroy, with all that is in it when forced ---- */

struct destroy_args {
    const char *nqn;
    bool force;
};
static const struct rpc_param destroy_params[] = {
    {"nqn", RPC_STR, offsetof(struct destroy_args, nqn), RPC_REQUIRED | RPC_NQN, "subsystem NQN",
     "-s", NULL, 0, 0, 0},
    {"force", RPC_BOOL, offsetof(struct destroy_args, force), 0,
     "also destroy its controllers and namespaces", "-f", NULL, 0, 0, 0},
};

struct members { /* of one subsystem; calls that destroy may not be made while iterating */
    struct nvme_subsystem *ss;
    struct nvme_ctrl **ctrls;
    struct nvme_ns **namespaces;
    unsigned nctrls, nnamespaces;
    bool no_memory;
};

static void *grown(void *list, unsigned n, bool *no_memory)
{
    void *more = realloc(list, (n + 1) * sizeof(void *));

    if (!more)
        *no_memory = true;
    return more;
}

static void collect_ctrl(struct nvme_ctrl *ctrl, void *arg)
{
    struct members *m = arg;
    struct nvme_ctrl **more;

    if (nvme_ctrl_get_info(ctrl).subsystem != m->ss)
        return;
    more = grown(m->ctrls, m->nctrls, &m->no_memory);
    if (more) {
        m->ctrls = more;
        m->ctrls[m->nctrls++] = ctrl;
    }
}

static void collect_ns(struct nvme_ns *ns, void *arg)
{
    struct members *m = arg;
    struct nvme_ns **more = grown(m->namespaces, m->nnamespaces, &m->no_memory);

    if (more) {
        m->namespaces = more;
        m->namespaces[m->nnamespaces++] = ns;
    }
}

struct destroying {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char nqn[NVME_NQN_MAX + 1];
    unsigned pending;
    struct err err; /* of the first controller that could not be destroyed */
};

struct one_ctrl {
    struct destroying *all;
    char ctrl_id[64];
};

static int destroy_rest(struct destroying *d, struct err *err)
{
    struct nvme_subsystem *ss = nvme_subsystem_find(d->ctx->subsystems, d->nqn);
    struct members m = {.ss = ss};
    int rc = 0;

    if (!ss)
        return err_set(err, -ENODEV, "no NVMe subsystem '%s'", d->nqn);
    nvme_ns_for_each(ss, collect_ns, &m);
    if (m.no_memory)
        rc = err_set(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < m.nnamespaces && rc == 0; i++) {
        uint32_t nsid = nvme_ns_get_info(m.namespaces[i]).nsid;

        rc = nvme_ns_destroy(m.namespaces[i], err);
        if (rc == 0)
            save_drop(d->req, key_of_namespace(d->nqn, nsid));
    }
    free(m.namespaces);
    if (rc == 0)
        rc = nvme_subsystem_destroy(ss, err);
    if (rc == 0)
        save_drop(d->req, key_of_subsystem(d->nqn));
    return rc;
}

static void one_less(struct destroying *d)
{
    if (--d->pending > 0)
        return;
    if (d->err.code == 0)
        destroy_rest(d, &d->err);
    if (d->err.code)
        rpc_error_from(d->req, &d->err);
    else
        rpc_true(d->req);
    free(d);
}

static void ctrl_destroyed(void *arg, int rc, const struct err *err)
{
    struct one_ctrl *one = arg;
    struct destroying *d = one->all;

    if (rc == 0) {
        save_drop(d->req, key_of_controller(d->nqn, one->ctrl_id));
        forget_run_state(d->ctx, one->ctrl_id);
    } else if (d->err.code == 0) {
        if (err)
            d->err = *err;
        d->err.code = rc;
    }
    free(one);
    one_less(d);
}

static void nvme_subsystem_destroy_rpc(void *arg, struct rpc_request *req, const void *args)
{
    const struct destroy_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_subsystem *ss = need_subsystem(ctx, req, a->nqn);
    struct members m = {.ss = ss};
    struct destroying *d;
    struct err err = {0};

    if (!ss)
        return;
    if (!a->force) {
        if (nvme_subsystem_destroy(ss, &err) < 0) {
            rpc_error_from(req, &err);
            return;
        }
        save_drop(req, key_of_subsystem(a->nqn));
        rpc_true(req);
        return;
    }
    d = calloc(1, sizeof(*d));
    nvme_ctrl_for_each(ctx->subsystems, collect_ctrl, &m);
    if (!d || m.no_memory) {
        free(d);
        free(m.ctrls);
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *d = (struct destroying){.ctx = ctx, .req = req, .pending = 1};
    snprintf(d->nqn, sizeof(d->nqn), "%s", a->nqn);
    for (unsigned i = 0; i < m.nctrls; i++) {
        struct one_ctrl *one = calloc(1, sizeof(*one));

        if (!one) {
            err_set(&d->err, -ENOMEM, "out of memory");
            break;
        }
        one->all = d;
        snprintf(one->ctrl_id, sizeof(one->ctrl_id), "%s", nvme_ctrl_get_info(m.ctrls[i]).ctrl_id);
        d->pending++;
        controller_destroy(nvme_ctrl_base(m.ctrls[i]), ctrl_destroyed, one);
    }
    free(m.ctrls);
    one_less(d);
}

/* ---- list ---- */

struct listing {
    struct control_ctx *ctx;
    struct nvme_subsystem *ss;
    json_t *list;
};

static void add_ctrl(struct nvme_ctrl *ctrl, void *arg)
{
    struct listing *l = arg;

    if (nvme_ctrl_get_info(ctrl).subsystem == l->ss)
        json_array_append_new(l->list, controller_json(l->ctx, ctrl));
}

static void add_ns(struct nvme_ns *ns, void *arg)
{
    struct listing *l = arg;

    json_array_append_new(l->list, namespace_json(l->ctx, ns));
}

static void add_subsystem(struct nvme_subsystem *ss, void *arg)
{
    struct listing *all = arg, l = {all->ctx, ss, json_array()};
    struct nvme_subsystem_info info = nvme_subsystem_get_info(ss);
    json_t *o = json_pack("{s:s,s:s,s:s,s:I,s:I}", "nqn", info.nqn, "sn", info.sn, "mn", info.mn,
                          "mnan", (json_int_t)info.mnan, "nn", (json_int_t)info.nn);

    nvme_ctrl_for_each(all->ctx->subsystems, add_ctrl, &l);
    json_object_set_new(o, "controllers", l.list);
    l.list = json_array();
    nvme_ns_for_each(ss, add_ns, &l);
    json_object_set_new(o, "namespaces", l.list);
    json_array_append_new(all->list, o);
}

static void nvme_subsystem_list(void *arg, struct rpc_request *req, const void *args)
{
    struct control_ctx *ctx = arg;
    struct listing all = {.ctx = ctx, .list = json_array()};

    nvme_subsystem_for_each(ctx->subsystems, add_subsystem, &all);
    rpc_result(req, all.list);
}

static const struct rpc_method methods[] = {
    {"nvme_subsystem_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvme_subsystem_create_rpc, "make an NVMe subsystem", RPC_JOURNAL, "true"},
    {"nvme_subsystem_destroy", RPC_PARAMS(destroy_params), sizeof(struct destroy_args),
     nvme_subsystem_destroy_rpc, "delete an NVMe subsystem", RPC_JOURNAL, "true"},
    {"nvme_subsystem_list", RPC_NO_PARAMS, 0, nvme_subsystem_list, "list NVMe subsystems", 0,
     "array of {nqn, sn, mn, mnan, nn, controllers, namespaces}"},
};
const struct rpc_method_table nvme_subsystem_methods = RPC_TABLE(methods);
