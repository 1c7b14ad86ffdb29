/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The inventory of PCI functions. */
#include "control/inside.h"

#include <string.h>

struct list_args {
    bool all;
};
static const struct rpc_param list_params[] = {
    {"all", RPC_BOOL, offsetof(struct list_args, all), 0,
     "also virtual functions that nobody uses yet", "-a", NULL, 0, 0, 0},
};

static const char *kind_word(uint32_t kind)
{
    return kind == FUNCTION_NVME ? "NVME" : "VBLK";
}

static json_t *function_json(const struct link_function_info *f)
{
    json_t *o = json_object();

    json_object_set_new(o, "hotplugged", json_boolean(f->hotplugged));
    json_object_set_new(o, "emulation_type", json_string(kind_word(f->kind)));
    json_object_set_new(o, "pf_index", json_integer(f->pf_index));
    if (f->vf_index >= 0)
        json_object_set_new(o, "vf_index", json_integer(f->vf_index));
    json_object_set_new(o, "pci_bdf", json_string(f->pci_bdf));
    json_object_set_new(o, "vhca_id", json_integer(f->vhca_id));
    json_object_set_new(o, "vuid", json_string(f->vuid));
    if (f->ctrl_id[0])
        json_object_set_new(o, "ctrl_id", json_string(f->ctrl_id));
    json_object_set_new(o, "num_msix", json_integer(f->num_msix));
    json_object_set_new(o, "state", json_string(f->state));
    json_object_set_new(o, "plugged", json_boolean(f->host_connected));
    if (f->holder_pid)
        json_object_set_new(o, "holder_pid", json_integer(f->holder_pid));
    return o;
}

/* Without "all", a VF counts once somebody has done something with it: a controller is open or a
 * host is there. */
static bool in_use(const struct link_function_info *f)
{
    return f->ctrl_id[0] || f->host_connected;
}

static json_t *vfs_of(const struct link_client *link, const struct link_function_info *pf, bool all)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < link_function_count(link); i++) {
        const struct link_function_info *f = link_function_get(link, i);

        if (f->vf_index >= 0 && f->kind == pf->kind && f->pf_index == pf->pf_index &&
            (all || in_use(f)))
            json_array_append_new(list, function_json(f));
    }
    return list;
}

static void emulation_function_list(void *ctx, struct rpc_request *req, const void *args)
{
    const struct list_args *a = args;
    struct control_ctx *c = ctx;
    json_t *list = json_array();

    for (unsigned i = 0; i < link_function_count(c->link); i++) {
        const struct link_function_info *f = link_function_get(c->link, i);
        json_t *o;

        if (f->vf_index >= 0)
            continue;
        o = function_json(f);
        json_object_set_new(o, "num_vfs", json_integer(f->num_vfs));
        json_object_set_new(o, "vfs", vfs_of(c->link, f, a->all));
        json_array_append_new(list, o);
    }
    rpc_result(req, list);
}

static const struct rpc_method methods[] = {
    {"emulation_function_list", RPC_PARAMS(list_params), sizeof(struct list_args),
     emulation_function_list, "list physical functions and their virtual functions", 0,
     "array of {emulation_type, pf_index, vf_index, pci_bdf, vhca_id, vuid, ctrl_id, ..., vfs}"},
};
const struct rpc_method_table emulation_methods = RPC_TABLE(methods);
