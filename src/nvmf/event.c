/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Asynchronous events: requests of the host that wait, and notices that are due. A notice is masked
 * from its report until its log page has been read. */
#include "nvmf/inside.h"

static void answer_one(struct nvmf_ctrl *ctrl, nvme_status st, uint32_t dw0)
{
    struct nvmf_cmd *cmd = list_entry(list_pop(&ctrl->aers), struct nvmf_cmd, held);

    ctrl->naers--;
    cmd_answer(cmd, st, dw0);
}

static void report(struct nvmf_ctrl *ctrl, struct notice *n, uint32_t enabled_by, uint8_t info,
                   uint8_t lid)
{
    if (!n->due || n->masked || list_empty(&ctrl->aers))
        return;
    n->due = false;
    if (!(ctrl->event_config & enabled_by))
        return;
    n->masked = true;
    answer_one(ctrl, NVME_SC_SUCCESS, NVME_AER_DW0(NVME_AER_NOTICE, info, lid));
}

static void settle(struct nvmf_ctrl *ctrl)
{
    report(ctrl, &ctrl->ns_changed, NVME_OAES_NS_ATTR, NVME_AER_NOTICE_NS_ATTR,
           NVME_LOG_CHANGED_NS);
    report(ctrl, &ctrl->ana_changed, NVME_OAES_ANA, NVME_AER_NOTICE_ANA, NVME_LOG_ANA);
    report(ctrl, &ctrl->discovery_changed, NVME_OAES_DISCOVERY, NVME_AER_NOTICE_DISCOVERY,
           NVME_LOG_DISCOVERY);
}

void event_request(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    if (ctrl->naers == CTRL_AERS) {
        cmd_answer(cmd, NVME_DNR(NVME_SC_AER_LIMIT), 0);
        return;
    }
    list_append(&ctrl->aers, &cmd->held);
    ctrl->naers++;
    settle(ctrl);
}

void event_abort_all(struct nvmf_ctrl *ctrl)
{
    while (!list_empty(&ctrl->aers))
        answer_one(ctrl, NVME_SC_ABORTED_SQ_DELETION, 0);
}

bool event_abort(struct nvmf_ctrl *ctrl, uint16_t cid)
{
    list_for_each(it, &ctrl->aers)
    {
        struct nvmf_cmd *cmd = list_entry(it, struct nvmf_cmd, held);

        if (le16_get(cmd->sqe.cid) != cid)
            continue;
        list_remove(&cmd->held);
        ctrl->naers--;
        cmd_answer(cmd, NVME_SC_ABORT_REQUESTED, 0);
        return true;
    }
    return false;
}

void event_ns_changed(struct nvmf_ctrl *ctrl, uint32_t nsid)
{
    bool known = false;

    for (unsigned i = 0; i < MIN(ctrl->nchanged, (unsigned)CTRL_CHANGED); i++)
        known |= ctrl->changed[i] == nsid;
    if (!known && ctrl->nchanged < CTRL_CHANGED)
        ctrl->changed[ctrl->nchanged] = nsid;
    if (!known && ctrl->nchanged <= CTRL_CHANGED)
        ctrl->nchanged++;
    ctrl->ns_changed.due = true;
    settle(ctrl);
}

void event_ana_changed(struct nvmf_ctrl *ctrl)
{
    ctrl->ana_changed.due = true;
    settle(ctrl);
}

void event_discovery_changed(struct nvmf_target *t)
{
    t->genctr++;
    list_for_each_safe(it, &t->discovery)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        ctrl->discovery_changed.due = true;
        settle(ctrl);
    }
}

void event_log_read(struct nvmf_ctrl *ctrl, uint8_t lid)
{
    if (lid == NVME_LOG_CHANGED_NS)
        ctrl->ns_changed.masked = false;
    else if (lid == NVME_LOG_ANA)
        ctrl->ana_changed.masked = false;
    else if (lid == NVME_LOG_DISCOVERY)
        ctrl->discovery_changed.masked = false;
    settle(ctrl);
}
