/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The steps that look at the namespaces of a controller, and at their asymmetric access. Thread:
 * control. */
#include "backends/nvme_of/steps_inside.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- namespaces ---- */

/* Only when looking again: reading the log allows the next event. */
bool step_changed_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.nsid = le32_of(NVME_NSID_ALL);
    cmd->sqe.cdw10 =
        le32_of(NVME_LOG_CHANGED_NS | (sizeof(struct nvme_log_changed_ns) / 4 - 1) << 16);
    tcp_cmd_data(cmd, &p->iov, p->buf, sizeof(struct nvme_log_changed_ns), true);
    return p->scanning && !p->ana_only && (p->ctrl.oaes & NVME_OAES_NS_ATTR);
}

bool step_list_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    p->nscan = p->scan_at = p->nscan_nsids = 0;
    p->scan_refused[0] = '\0';
    step_identify(p, cmd, NVME_CNS_ACTIVE_NS_LIST, 0);
    return true;
}

int step_list_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    const le32 *list = (const void *)p->buf;
    uint32_t last = 0;

    for (unsigned i = 0; i < NVME_IDENTIFY_BYTES / sizeof(*list) && le32_get(list[i]); i++) {
        uint32_t nsid = le32_get(list[i]);

        if (nsid <= last || nsid > 0xfffffffe)
            return err_set(err, -EPROTO, "the list of active namespaces is not in order");
        last = nsid;
        if (p->nscan_nsids == p->host->max_bdevs) {
            if (!p->is_attached)
                return err_set(err, -E2BIG,
                               "the controller has more than %u namespaces (max_bdevs)",
                               p->host->max_bdevs);
            snprintf(p->scan_refused, sizeof(p->scan_refused),
                     "more than %u namespaces (max_bdevs)", p->host->max_bdevs);
            break;
        }
        p->scan_nsids[p->nscan_nsids++] = nsid;
    }
    return STEP_NEXT;
}

bool step_ns_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    if (p->scan_at == p->nscan_nsids)
        return false;
    step_identify(p, cmd, NVME_CNS_NS, p->scan_nsids[p->scan_at]);
    return true;
}

int step_ns_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    const struct nvme_id_ns *raw = (const void *)p->buf;
    struct nvme_of_namespace *ns = &p->scan[p->nscan];

    memset(ns, 0, sizeof(*ns));
    ns->nsid = p->scan_nsids[p->scan_at];
    if (nof_check_ns(raw, &p->ctrl, ns, err)) {
        /* The others may be good. */
        snprintf(p->scan_refused, sizeof(p->scan_refused), "%.190s", err->msg);
        log_line(LOG_WARNING, "nvme_of", "controller %s: %s: left out", p->host->name, err->msg);
        ns->nsid = 0;
        return STEP_NEXT;
    }
    p->scan_shared[p->nscan] = raw->nmic & NVME_NMIC_SHARED;
    p->scan_anagrpids[p->nscan] = le32_get(raw->anagrpid);
    return STEP_NEXT;
}

bool step_descs_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    if (p->scan_at == p->nscan_nsids)
        return false;
    step_identify(p, cmd, NVME_CNS_NS_DESC_LIST, p->scan_nsids[p->scan_at]);
    return true;
}

static bool seen_before(struct nof_path *p, const struct nvme_of_namespace *ns)
{
    for (unsigned i = 0; i < p->nscan; i++)
        if (memcmp(&p->scan[i].uuid, &ns->uuid, sizeof(ns->uuid)) == 0) {
            snprintf(p->scan_refused, sizeof(p->scan_refused),
                     "namespaces %u and %u claim to be the same disk", p->scan[i].nsid, ns->nsid);
            return true;
        }
    return false;
}

int step_descs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    struct nvme_of_namespace *ns = &p->scan[p->nscan];

    if (ns->nsid) {
        nof_read_descs(p->buf, ns);
        nof_derive_uuid(p->host->subnqn, ns);
        if (seen_before(p, ns))
            log_line(LOG_WARNING, "nvme_of", "controller %s: %s: the second one is left out",
                     p->host->name, p->scan_refused);
        else
            p->nscan++;
    }
    p->scan_at++;
    return STEP_NEXT;
}

/* ---- asymmetric access ---- */

/* Groups only: their state is all there is to learn, a namespace says its group itself. Piece by
 * piece, each with the offset. */
bool step_ana_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    uint32_t bytes;

    if (!p->ctrl.ana || p->ana.have_bytes == p->ana.log_bytes)
        return false;
    if (p->ana.have_bytes == 0) {
        free(p->ana.log);
        p->ana.log = calloc(1, p->ana.log_bytes);
        if (!p->ana.log) {
            tcp_fail(&p->admin, -ENOMEM, "no memory for the log of %u ANA groups",
                     p->ctrl.ana_groups);
            return false;
        }
    }
    bytes = (uint32_t)MIN(p->ana.log_bytes - p->ana.have_bytes, sizeof(p->buf));
    memset(p->buf, 0, sizeof(p->buf));
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.nsid = le32_of(NVME_NSID_ALL);
    cmd->sqe.cdw10 = le32_of(NVME_LOG_ANA | NVME_LOG_ANA_RGO | (bytes / 4 - 1) << 16);
    cmd->sqe.cdw12 = le32_of((uint32_t)p->ana.have_bytes);
    tcp_cmd_data(cmd, &p->iov, p->buf, bytes, true);
    return true;
}

int step_ana_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    size_t bytes = p->iov.iov_len;

    memcpy(p->ana.log + p->ana.have_bytes, p->buf, bytes);
    p->ana.have_bytes += bytes;
    if (p->ana.have_bytes < p->ana.log_bytes)
        return STEP_MORE;
    return nof_ana_parse(p->ana.log, p->ana.log_bytes, &p->ana, err);
}
