/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The steps that set up a controller: Connect, its properties, what it can do, queues, events.
 * Thread: control. */
#include "backends/nvme_of/fabrics.h"
#include "backends/nvme_of/steps_inside.h"

#include <errno.h>

/* ---- Connect and properties ---- */

bool step_connect_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    struct fabrics_connect c = {
        .hostid = &p->host->of->hostid,
        .subnqn = p->host->subnqn,
        .hostnqn = p->host->hostnqn,
        .cntlid = NVME_CNTLID_DYNAMIC,
        .entries = FABRICS_ADMIN_ENTRIES,
        .kato_ms = p->host->keep_alive_ms,
        .no_sq_flow = p->no_sq_flow,
    };

    fabrics_connect(cmd, &c, (void *)p->buf, &p->iov);
    return true;
}

int step_connect_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t dw0 = le32_get(cqe->dw0);

    if (NVME_CONNECT_AUTHREQ(dw0))
        return err_set(err, -EACCES, "the target demands authentication, which is not supported");
    p->target.cntlid = NVME_CONNECT_CNTLID(dw0);
    if (p->target.cntlid > NVME_CNTLID_MAX)
        return err_set(err, -EPROTO, "the target gave the invalid CNTLID %u", p->target.cntlid);
    admin_start_keep_alive(p);
    return STEP_NEXT;
}

bool step_cap_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    fabrics_property_get(cmd, NVME_REG_CAP, true);
    return true;
}

int step_cap_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    p->cap = le32_get(cqe->dw0) | (uint64_t)le32_get(cqe->dw1) << 32;
    return STEP_NEXT;
}

bool step_vs_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    fabrics_property_get(cmd, NVME_REG_VS, false);
    return true;
}

int step_vs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    p->vs = le32_get(cqe->dw0);
    return STEP_NEXT;
}

bool step_enable_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    fabrics_property_set(cmd, NVME_REG_CC, fabrics_cc(p->cap));
    p->rdy_polls = 0;
    return true;
}

bool step_ready_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    fabrics_property_get(cmd, NVME_REG_CSTS, false);
    return true;
}

int step_ready_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t csts = le32_get(cqe->dw0),
             limit_ms = MAX(NVME_CAP_TO(p->cap) * 500, p->host->phase_timeout_ms);

    if (csts & NVME_CSTS_CFS)
        return err_set(err, -EIO, "the controller reports a fatal error (CSTS %08xh)", csts);
    if (csts & NVME_CSTS_RDY)
        return STEP_NEXT;
    if (++p->rdy_polls > limit_ms / STEP_RDY_POLL_MS)
        return err_set(err, -ETIMEDOUT, "not ready within %u ms (CSTS %08xh)", limit_ms, csts);
    return STEP_AGAIN;
}

/* ---- the controller ---- */

bool step_ctrl_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    step_identify(p, cmd, NVME_CNS_CTRL, 0);
    return true;
}

int step_ctrl_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    int rc = nof_check_ctrl((const struct nvme_id_ctrl *)p->buf, p->cap, p->host->subnqn,
                            p->target.cntlid, &p->ctrl, err);

    if (rc)
        return rc;
    p->target.entries = p->ctrl.entries;
    p->target.max_io_bytes = p->ctrl.max_io_bytes;
    p->target.volatile_cache = p->ctrl.volatile_cache;
    p->target.dsm = p->ctrl.dsm;
    p->target.write_zeroes = p->ctrl.write_zeroes;
    p->target.ana = p->ctrl.ana;
    p->target.tcp.inline_bytes = p->ctrl.inline_bytes;
    p->ana.log_bytes = nof_ana_bytes(p->ctrl.ana_groups);
    if (p->ctrl.ana && !p->ana.log_bytes)
        return err_set(err, -EPROTO, "%u ANA groups (NANAGRPID), 1 to %u are supported",
                       p->ctrl.ana_groups, NOF_ANA_GROUPS);
    return STEP_NEXT;
}

bool step_queues_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_NUM_QUEUES);
    cmd->sqe.cdw11 = le32_of((p->host->want_queues - 1) | (p->host->want_queues - 1) << 16);
    return true;
}

int step_queues_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t dw0 = le32_get(cqe->dw0), granted = MIN(dw0 & 0xffff, dw0 >> 16) + 1;

    pthread_mutex_lock(&p->host->lock);
    p->max_queues = MIN(granted, p->host->want_queues);
    for (unsigned qid = p->max_queues + 1; qid <= NOF_MAX_QUEUES; qid++)
        if (p->qid_used[qid])
            err_set(err, -EMFILE, "the target grants %u I/O queues, fewer than are in use",
                    p->max_queues);
    pthread_mutex_unlock(&p->host->lock);
    return err->code ? err->code : STEP_NEXT;
}

static uint32_t events_wanted(const struct nof_path *p)
{
    return p->ctrl.oaes & (NVME_OAES_NS_ATTR | (p->ctrl.ana ? NVME_OAES_ANA : 0));
}

bool step_events_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT);
    cmd->sqe.cdw11 = le32_of(events_wanted(p));
    return events_wanted(p) != 0;
}
