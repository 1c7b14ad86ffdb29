/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe objects by name. */
#include "control/inside.h"

#include <errno.h>

struct nvme_subsystem *need_subsystem(struct control_ctx *ctx, struct rpc_request *req,
                                      const char *nqn)
{
    struct nvme_subsystem *ss = nvme_subsystem_find(ctx->subsystems, nqn);

    if (!ss)
        rpc_error(req, -ENODEV, "no NVMe subsystem '%s'", nqn);
    return ss;
}

struct nvme_ctrl *need_controller(struct control_ctx *ctx, struct rpc_request *req,
                                  const char *ctrl_id)
{
    struct controller *c = controller_find(&ctx->controllers, ctrl_id);
    struct nvme_ctrl *ctrl = c ? nvme_ctrl_from(c) : NULL;

    if (!ctrl)
        rpc_error(req, -ENODEV, "no NVMe controller '%s'", ctrl_id);
    return ctrl;
}
