/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Admin and Fabrics commands. They are few and may need all of the model, so they run on the
 * control thread. */
#include "nvmf/inside.h"

#include <stdlib.h>
#include <string.h>

/* ---- answers ---- */

/* Reactor. */
static void answered(struct mail *m)
{
    struct nvmf_cmd *cmd = container_of(m, struct nvmf_cmd, mail);
    struct nvmf_conn *c = cmd->conn;
    nvme_status st = cmd->status;

    c->away--;
    if (c->state == CONN_ASKING && st == NVME_SC_SUCCESS)
        conn_up(c);
    cmd_finish(cmd, st);
    conn_settle(c);
}

void cmd_answer(struct nvmf_cmd *cmd, nvme_status st, uint32_t dw0)
{
    cmd->status = st;
    cmd->cqe.dw0 = le32_of(dw0);
    cmd->mail.fn = answered;
    reactor_post(cmd->conn->shard->reactor, &cmd->mail);
}

nvme_status admin_reply(struct nvmf_cmd *cmd, const void *from, size_t bytes)
{
    char *room;

    if (cmd->bytes == 0)
        return NVME_DNR(NVME_SC_SGL_DATA_LENGTH);
    room = calloc(1, cmd->bytes);
    if (!room)
        return NVME_SC_INTERNAL_ERROR;
    memcpy(room, from, MIN(bytes, (size_t)cmd->bytes));
    cmd->data = room;
    cmd->heap = true;
    return NVME_SC_SUCCESS;
}

/* ---- properties (Base 2.0, 3.1.3) ---- */

static bool property(const struct nvmf_ctrl *ctrl, uint32_t offset, bool wide, uint64_t *value)
{
    const struct nvmf_transport *tr = &ctrl->target->transport;

    switch (offset) {
    case NVME_REG_CAP:
        *value = (tr->max_queue_depth - 1) | NVME_CAP_CQR | 30ULL << NVME_CAP_TO_SHIFT |
                 NVME_CAP_CSS_NVM;
        return wide;
    case NVME_REG_VS:
        *value = NVME_VS_2_0;
        return !wide;
    case NVME_REG_CC:
        *value = ctrl->cc;
        return !wide;
    case NVME_REG_CSTS:
        *value = ctrl->csts;
        return !wide;
    default:
        return false;
    }
}

static void property_get(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    struct nvme_fabrics_property p;
    uint64_t value = 0;

    memcpy(&p, &cmd->sqe, sizeof(p));
    if (!property(ctrl, le32_get(p.ofst), p.attrib & NVME_ATTRIB_BYTES_8, &value)) {
        cmd_answer(cmd, NVME_DNR(NVME_SC_INVALID_FIELD), 0);
        return;
    }
    cmd->cqe.dw1 = le32_of((uint32_t)(value >> 32));
    cmd_answer(cmd, NVME_SC_SUCCESS, (uint32_t)value);
}

static nvme_status set_cc(struct nvmf_ctrl *ctrl, uint32_t cc)
{
    uint32_t before = ctrl->cc;

    if (cc & NVME_CC_EN && !(before & NVME_CC_EN)) {
        if (NVME_CC_CSS(cc) != NVME_CC_CSS_NVM || NVME_CC_MPS(cc) != 0 || NVME_CC_AMS(cc) != 0 ||
            (ctrl->ss && (NVME_CC_IOSQES(cc) != 6 || NVME_CC_IOCQES(cc) != 4))) {
            ctrl->cc = cc;
            ctrl->csts |= NVME_CSTS_CFS;
            return NVME_SC_SUCCESS; /* it reads so in CSTS */
        }
        ctrl->csts = NVME_CSTS_RDY;
    }
    ctrl->cc = cc;
    if (!(cc & NVME_CC_EN) && before & NVME_CC_EN) {
        event_abort_all(ctrl);
        ctrl_stop(ctrl);
    }
    if (NVME_CC_SHN(cc) != NVME_CC_SHN_NONE && NVME_CC_SHN(before) == NVME_CC_SHN_NONE)
        ctrl_stop(ctrl);
    return NVME_SC_SUCCESS;
}

static void property_set(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    struct nvme_fabrics_property p;

    memcpy(&p, &cmd->sqe, sizeof(p));
    if (le32_get(p.ofst) != NVME_REG_CC || p.attrib & NVME_ATTRIB_BYTES_8)
        cmd_answer(cmd, NVME_DNR(NVME_SC_INVALID_FIELD), 0);
    else
        cmd_answer(cmd, set_cc(ctrl, (uint32_t)le64_get(p.value)), 0);
}

static void fabrics(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    uint8_t fctype = (uint8_t)le32_get(cmd->sqe.nsid);

    if (fctype == NVME_FCTYPE_PROPERTY_GET && !cmd->conn->is_io)
        property_get(ctrl, cmd);
    else if (fctype == NVME_FCTYPE_PROPERTY_SET && !cmd->conn->is_io)
        property_set(ctrl, cmd);
    else if (fctype == NVME_FCTYPE_CONNECT)
        cmd_answer(cmd, NVME_DNR(NVME_SC_SEQUENCE_ERROR), 0);
    else
        cmd_answer(cmd, NVME_DNR(NVME_SC_INVALID_OPCODE), 0);
}

/* ---- admin commands ---- */

static void abort_command(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
    bool aborted = (cdw10 & 0xffff) == 0 && event_abort(ctrl, (uint16_t)(cdw10 >> 16));

    cmd_answer(cmd, NVME_SC_SUCCESS, aborted ? 0 : 1); /* others end by themselves */
}

static bool for_discovery(uint8_t opc)
{
    return opc == NVME_ADMIN_IDENTIFY || opc == NVME_ADMIN_GET_LOG_PAGE ||
           opc == NVME_ADMIN_SET_FEATURES || opc == NVME_ADMIN_GET_FEATURES ||
           opc == NVME_ADMIN_ASYNC_EVENT || opc == NVME_ADMIN_KEEP_ALIVE || opc == NVME_ADMIN_ABORT;
}

void admin_run(struct nvmf_cmd *cmd)
{
    struct nvmf_ctrl *ctrl = cmd->conn->ctrl;
    uint8_t opc = cmd->sqe.opc;
    uint32_t dw0 = 0;
    nvme_status st;

    if (ctrl->ending) {
        cmd_answer(cmd, NVME_SC_ABORTED_SQ_DELETION, 0);
        return;
    }
    if (opc == NVME_OPC_FABRICS) {
        fabrics(ctrl, cmd);
        return;
    }
    if (!ctrl_is_enabled(ctrl)) {
        cmd_answer(cmd, NVME_DNR(NVME_SC_SEQUENCE_ERROR), 0);
        return;
    }
    if (NVME_SQE_FUSE(cmd->sqe.flags) || !for_discovery(opc)) {
        cmd_answer(
            cmd, NVME_DNR(for_discovery(opc) ? NVME_SC_INVALID_FIELD : NVME_SC_INVALID_OPCODE), 0);
        return;
    }
    switch (opc) {
    case NVME_ADMIN_ASYNC_EVENT:
        event_request(ctrl, cmd);
        return;
    case NVME_ADMIN_ABORT:
        abort_command(ctrl, cmd);
        return;
    case NVME_ADMIN_IDENTIFY:
        st = admin_identify(ctrl, cmd);
        break;
    case NVME_ADMIN_GET_LOG_PAGE:
        st = admin_log_page(ctrl, cmd);
        break;
    case NVME_ADMIN_SET_FEATURES:
    case NVME_ADMIN_GET_FEATURES:
        st = admin_features(ctrl, cmd, &dw0);
        break;
    default: /* Keep Alive: that it came is all */
        st = NVME_SC_SUCCESS;
    }
    cmd_answer(cmd, st, dw0);
}
