/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Get and Set Features (Base 2.0, 5.15 and 5.27). */
#include "nvmf/inside.h"

#include <string.h>

static nvme_status set_queues(struct nvmf_ctrl *ctrl, uint32_t asked, uint32_t *dw0)
{
    uint32_t sq = (asked & 0xffff) + 1, cq = (asked >> 16) + 1;
    uint32_t most = ctrl->target->transport.max_io_queues;

    if (sq > 0xffff || cq > 0xffff)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    ctrl->io_queues = MIN(MIN(sq, cq), most);
    *dw0 = (ctrl->io_queues - 1) | (ctrl->io_queues - 1) << 16;
    return NVME_SC_SUCCESS;
}

static nvme_status set(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd, uint32_t *dw0)
{
    uint32_t cdw10 = le32_get(cmd->sqe.cdw10), value = le32_get(cmd->sqe.cdw11);

    if (cdw10 & NVME_FEAT_SV)
        return NVME_DNR(NVME_SC_FEATURE_NOT_SAVEABLE);
    switch (NVME_FEAT_FID(cdw10)) {
    case NVME_FEAT_NUM_QUEUES:
        return ctrl->ss ? set_queues(ctrl, value, dw0) : NVME_DNR(NVME_SC_INVALID_FIELD);
    case NVME_FEAT_ASYNC_EVENT:
        ctrl->event_config = value;
        return NVME_SC_SUCCESS;
    case NVME_FEAT_KATO:
        ctrl->kato_ms = value;
        ctrl_look(ctrl);
        return NVME_SC_SUCCESS;
    case NVME_FEAT_WRITE_CACHE: /* what a bdev has, it has; FUA and Flush do the rest */
        return value & 1 ? NVME_SC_SUCCESS : NVME_DNR(NVME_SC_FEATURE_NOT_CHANGEABLE);
    case NVME_FEAT_HOST_BEHAVIOR: /* nothing there changes what we do */
        return NVME_SC_SUCCESS;
    default:
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    }
}

static nvme_status get(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd, uint32_t *dw0)
{
    static const uint8_t no_behavior[512];
    uint32_t fid = NVME_FEAT_FID(le32_get(cmd->sqe.cdw10));

    switch (fid) {
    case NVME_FEAT_NUM_QUEUES:
        *dw0 = (ctrl->io_queues - 1) | (ctrl->io_queues - 1) << 16;
        return ctrl->ss ? NVME_SC_SUCCESS : NVME_DNR(NVME_SC_INVALID_FIELD);
    case NVME_FEAT_ASYNC_EVENT:
        *dw0 = ctrl->event_config;
        return NVME_SC_SUCCESS;
    case NVME_FEAT_KATO:
        *dw0 = ctrl->kato_ms;
        return NVME_SC_SUCCESS;
    case NVME_FEAT_WRITE_CACHE:
        *dw0 = 1;
        return NVME_SC_SUCCESS;
    case NVME_FEAT_HOST_BEHAVIOR:
        return admin_reply(cmd, no_behavior, sizeof(no_behavior));
    case NVME_FEAT_ARBITRATION:
    case NVME_FEAT_POWER_MANAGEMENT:
    case NVME_FEAT_TEMPERATURE:
    case NVME_FEAT_ERROR_RECOVERY:
    case NVME_FEAT_WRITE_ATOMICITY:
        return NVME_SC_SUCCESS;
    default:
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    }
}

nvme_status admin_features(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd, uint32_t *dw0)
{
    if (cmd->sqe.opc == NVME_ADMIN_SET_FEATURES)
        return set(ctrl, cmd, dw0);
    if (NVME_FEAT_SEL(le32_get(cmd->sqe.cdw10)) != NVME_SEL_CURRENT)
        return NVME_DNR(NVME_SC_INVALID_FIELD); /* ONCS says so */
    if (NVME_FEAT_FID(le32_get(cmd->sqe.cdw10)) != NVME_FEAT_HOST_BEHAVIOR)
        cmd->bytes = 0; /* whatever the SGL has room for */
    return get(ctrl, cmd, dw0);
}
