/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The function a controller is made on: named by the caller in one of several ways. */
#include "control/controller.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static bool matches(const struct function_selector *s, const struct link_function_info *f,
                    uint32_t kind)
{
    const char *bdf = s->pci_bdf;

    if (s->vuid)
        return strcmp(f->vuid, s->vuid) == 0;
    if (s->has_vhca_id)
        return f->vhca_id == s->vhca_id;
    if (s->has_pf_id)
        return f->kind == kind && f->pf_index >= 0 && (uint32_t)f->pf_index == s->pf_id &&
               (s->has_vf_id ? f->vf_index >= 0 && (uint32_t)f->vf_index == s->vf_id
                             : f->vf_index < 0);
    if (strncmp(bdf, "0000:", 5) == 0) /* the host's spelling, with its domain */
        bdf += 5;
    return strcasecmp(f->pci_bdf, bdf) == 0;
}

int select_function(struct control_ctx *ctx, struct rpc_request *req,
                    const struct function_selector *s, uint32_t kind)
{
    const char *word = kind == FUNCTION_NVME ? "NVMe" : "virtio-blk";
    const struct link_function_info *f;
    struct controller *holder;
    int ways = !!s->vuid + !!s->pci_bdf + s->has_vhca_id + s->has_pf_id, found = -1;

    if (ways != 1 || (s->has_vf_id && !s->has_pf_id)) {
        rpc_error(
            req, RPC_ERR_PARAMS,
            "Invalid parameters: name the function in exactly one way: 'vuid', 'vhca_id', 'pf_id' "
            "(with 'vf_id' for a virtual function) or 'pci_bdf'");
        return -1;
    }
    for (unsigned i = 0; i < link_function_count(ctx->link); i++) {
        f = link_function_get(ctx->link, i);
        if (!matches(s, f, kind))
            continue;
        if (found >= 0) { /* "00:00.0" of functions the host has not enumerated */
            rpc_error(req, -EINVAL, "'pci_bdf' %s means several functions: use 'vuid'", s->pci_bdf);
            return -1;
        }
        found = (int)i;
    }
    if (found < 0) {
        if (s->vuid || s->pci_bdf)
            rpc_error(req, -ENODEV, "no function '%.80s'", s->vuid ? s->vuid : s->pci_bdf);
        else if (s->has_vhca_id)
            rpc_error(req, -ENODEV, "no function with vhca_id %u", s->vhca_id);
        else if (s->has_vf_id)
            rpc_error(req, -ENODEV, "no %s function with pf_id %u, vf_id %u", word, s->pf_id,
                      s->vf_id);
        else
            rpc_error(req, -ENODEV, "no %s function with pf_id %u", word, s->pf_id);
        return -1;
    }
    f = link_function_get(ctx->link, (unsigned)found);
    if (f->kind != kind) {
        rpc_error(req, -EINVAL, "function %s is not %s %s function", f->vuid,
                  kind == FUNCTION_NVME ? "an" : "a", word);
        return -1;
    }
    holder = controller_of_function(&ctx->controllers, f->vuid);
    if (holder) {
        rpc_error(req, -EEXIST, "function %s has controller '%s' already", f->vuid,
                  holder->ctrl_id);
        return -1;
    }
    return found;
}
