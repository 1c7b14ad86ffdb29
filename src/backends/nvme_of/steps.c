/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The commands that set up a controller, one after the other, and look at its namespaces (again).
 * Thread: control. Whatever fails ends the connection by tcp_fail(); host_lost() hears of it. */
#include "backends/nvme_of/admin.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { RDY_POLL_MS = 100, ADMIN_ENTRIES = 32 };

enum { STEP_NEXT = 0, STEP_AGAIN = 1 };

struct step {
    const char *name;
    /* Fills the command; false: this step is not needed. */
    bool (*start)(struct nvme_of_host *h, struct tcp_cmd *cmd);
    /* Success has come. STEP_*, or -errno with err filled. May set h->step itself to the one before
     * the next. */
    int (*end)(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err);
};

static void data(struct nvme_of_host *h, struct tcp_cmd *cmd, uint32_t bytes, bool to_host)
{
    h->iov = (struct iovec){h->buf, bytes};
    cmd->iov = &h->iov;
    cmd->iovcnt = 1;
    cmd->bytes = bytes;
    cmd->to_host = to_host;
}

/* ---- Connect and properties ---- */

static bool connect_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    struct nvme_fabrics_connect *sqe = (void *)&cmd->sqe;
    struct nvme_fabrics_connect_data *d = (void *)h->buf;

    memset(d, 0, sizeof(*d));
    memcpy(d->hostid, &h->of->hostid, sizeof(d->hostid));
    d->cntlid = le16_of(NVME_CNTLID_DYNAMIC);
    memcpy(d->subnqn, h->subnqn, sizeof(h->subnqn));
    memcpy(d->hostnqn, h->hostnqn, sizeof(h->hostnqn));
    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_CONNECT;
    sqe->sqsize = le16_of(ADMIN_ENTRIES - 1);
    sqe->kato = le32_of(h->keep_alive_ms);
    sqe->cattr = h->no_sq_flow ? NVME_CATTR_DISABLE_SQFLOW : 0;
    data(h, cmd, sizeof(*d), false);
    return true;
}

static int connect_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t dw0 = le32_get(cqe->dw0);

    if (NVME_CONNECT_AUTHREQ(dw0))
        return err_set(err, -EACCES, "the target demands authentication, which is not supported");
    h->target.cntlid = NVME_CONNECT_CNTLID(dw0);
    if (h->target.cntlid > NVME_CNTLID_MAX)
        return err_set(err, -EPROTO, "the target gave the invalid CNTLID %u", h->target.cntlid);
    admin_start_keep_alive(h);
    return STEP_NEXT;
}

static void property_get(struct tcp_cmd *cmd, uint32_t offset, bool wide)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_PROPERTY_GET;
    sqe->attrib = wide ? 1 : 0;
    sqe->ofst = le32_of(offset);
}

static bool cap_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_CAP, true);
    return true;
}

static int cap_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    h->cap = le32_get(cqe->dw0) | (uint64_t)le32_get(cqe->dw1) << 32;
    return STEP_NEXT;
}

static bool vs_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_VS, false);
    return true;
}

static int vs_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    h->vs = le32_get(cqe->dw0);
    return STEP_NEXT;
}

static bool enable_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    admin_property_set(cmd, NVME_REG_CC, admin_cc(h));
    h->rdy_polls = 0;
    return true;
}

static int nothing_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    return STEP_NEXT;
}

static bool ready_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_CSTS, false);
    return true;
}

static int ready_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t csts = le32_get(cqe->dw0),
             limit_ms = MAX(NVME_CAP_TO(h->cap) * 500, h->phase_timeout_ms);

    if (csts & NVME_CSTS_CFS)
        return err_set(err, -EIO, "the controller reports a fatal error (CSTS %08xh)", csts);
    if (csts & NVME_CSTS_RDY)
        return STEP_NEXT;
    if (++h->rdy_polls > limit_ms / RDY_POLL_MS)
        return err_set(err, -ETIMEDOUT, "not ready within %u ms (CSTS %08xh)", limit_ms, csts);
    return STEP_AGAIN;
}

/* ---- the controller ---- */

static void identify(struct nvme_of_host *h, struct tcp_cmd *cmd, uint8_t cns, uint32_t nsid)
{
    cmd->sqe.opc = NVME_ADMIN_IDENTIFY;
    cmd->sqe.nsid = le32_of(nsid);
    cmd->sqe.cdw10 = le32_of(cns);
    data(h, cmd, NVME_IDENTIFY_BYTES, true);
}

static bool ctrl_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    identify(h, cmd, NVME_CNS_CTRL, 0);
    return true;
}

static int ctrl_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    int rc = nof_check_ctrl((const struct nvme_id_ctrl *)h->buf, h->cap, h->subnqn,
                            h->target.cntlid, &h->ctrl, err);

    if (rc)
        return rc;
    h->target.entries = h->ctrl.entries;
    h->target.max_io_bytes = h->ctrl.max_io_bytes;
    h->target.volatile_cache = h->ctrl.volatile_cache;
    h->target.dsm = h->ctrl.dsm;
    h->target.write_zeroes = h->ctrl.write_zeroes;
    h->target.tcp.inline_bytes = h->ctrl.inline_bytes;
    return STEP_NEXT;
}

static bool queues_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_NUM_QUEUES);
    cmd->sqe.cdw11 = le32_of((h->want_queues - 1) | (h->want_queues - 1) << 16);
    return true;
}

static int queues_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t dw0 = le32_get(cqe->dw0), granted = MIN(dw0 & 0xffff, dw0 >> 16) + 1;

    pthread_mutex_lock(&h->lock);
    h->max_queues = MIN(granted, h->want_queues);
    for (unsigned qid = h->max_queues + 1; qid <= NOF_MAX_QUEUES; qid++)
        if (h->qid_used[qid])
            err_set(err, -EMFILE, "the target grants %u I/O queues, fewer than are in use",
                    h->max_queues);
    pthread_mutex_unlock(&h->lock);
    return err->code ? err->code : STEP_NEXT;
}

static bool events_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT);
    cmd->sqe.cdw11 = le32_of(NVME_OAES_NS_ATTR);
    return h->ctrl.oaes & NVME_OAES_NS_ATTR;
}

/* ---- namespaces ---- */

/* Only when looking again: reading the log allows the next event. */
static bool changed_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.nsid = le32_of(NVME_NSID_ALL);
    cmd->sqe.cdw10 =
        le32_of(NVME_LOG_CHANGED_NS | (sizeof(struct nvme_log_changed_ns) / 4 - 1) << 16);
    data(h, cmd, sizeof(struct nvme_log_changed_ns), true);
    return h->scanning && (h->ctrl.oaes & NVME_OAES_NS_ATTR);
}

static bool list_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    h->nscan = h->scan_at = h->nscan_nsids = 0;
    h->scan_refused[0] = '\0';
    identify(h, cmd, NVME_CNS_ACTIVE_NS_LIST, 0);
    return true;
}

static int list_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    const le32 *list = (const void *)h->buf;
    uint32_t last = 0;

    for (unsigned i = 0; i < NVME_IDENTIFY_BYTES / sizeof(*list) && le32_get(list[i]); i++) {
        uint32_t nsid = le32_get(list[i]);

        if (nsid <= last || nsid > 0xfffffffe)
            return err_set(err, -EPROTO, "the list of active namespaces is not in order");
        last = nsid;
        if (h->nscan_nsids == h->max_bdevs) {
            if (!h->is_attached)
                return err_set(err, -E2BIG,
                               "the controller has more than %u namespaces (max_bdevs)",
                               h->max_bdevs);
            snprintf(h->scan_refused, sizeof(h->scan_refused),
                     "more than %u namespaces (max_bdevs)", h->max_bdevs);
            break;
        }
        h->scan_nsids[h->nscan_nsids++] = nsid;
    }
    return STEP_NEXT;
}

static bool ns_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    if (h->scan_at == h->nscan_nsids)
        return false;
    identify(h, cmd, NVME_CNS_NS, h->scan_nsids[h->scan_at]);
    return true;
}

static int ns_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    const struct nvme_id_ns *raw = (const void *)h->buf;
    struct nvme_of_namespace *ns = &h->scan[h->nscan];

    memset(ns, 0, sizeof(*ns));
    ns->nsid = h->scan_nsids[h->scan_at];
    if (nof_check_ns(raw, &h->ctrl, ns, err)) {
        /* The others may be good. */
        snprintf(h->scan_refused, sizeof(h->scan_refused), "%.190s", err->msg);
        log_line(LOG_WARNING, "nvme_of", "controller %s: %s: left out", h->name, err->msg);
        ns->nsid = 0;
        return STEP_NEXT;
    }
    h->scan_shared[h->nscan] = raw->nmic & NVME_NMIC_SHARED;
    return STEP_NEXT;
}

static bool descs_start(struct nvme_of_host *h, struct tcp_cmd *cmd)
{
    if (h->scan_at == h->nscan_nsids)
        return false;
    identify(h, cmd, NVME_CNS_NS_DESC_LIST, h->scan_nsids[h->scan_at]);
    return true;
}

static bool seen_before(struct nvme_of_host *h, const struct nvme_of_namespace *ns)
{
    for (unsigned i = 0; i < h->nscan; i++)
        if (memcmp(&h->scan[i].uuid, &ns->uuid, sizeof(ns->uuid)) == 0) {
            snprintf(h->scan_refused, sizeof(h->scan_refused),
                     "namespaces %u and %u claim to be the same disk", h->scan[i].nsid, ns->nsid);
            return true;
        }
    return false;
}

static int descs_end(struct nvme_of_host *h, const struct nvme_cqe *cqe, struct err *err)
{
    struct nvme_of_namespace *ns = &h->scan[h->nscan];

    if (ns->nsid) {
        nof_read_descs(h->buf, ns);
        nof_derive_uuid(h->subnqn, ns);
        if (seen_before(h, ns))
            log_line(LOG_WARNING, "nvme_of", "controller %s: %s: the second one is left out",
                     h->name, h->scan_refused);
        else
            h->nscan++;
    }
    h->scan_at++;
    return STEP_NEXT;
}

enum step_index {
    STEP_CONNECT,
    STEP_CAP,
    STEP_VS,
    STEP_ENABLE,
    STEP_READY,
    STEP_CTRL,
    STEP_QUEUES,
    STEP_EVENTS,
    STEP_CHANGED,
    STEP_LIST,
    STEP_NS,
    STEP_DESCS,
    STEPS,
};

static const struct step steps[STEPS] = {
    [STEP_CONNECT] = {"Connect", connect_start, connect_end},
    [STEP_CAP] = {"Property Get (CAP)", cap_start, cap_end},
    [STEP_VS] = {"Property Get (VS)", vs_start, vs_end},
    [STEP_ENABLE] = {"Property Set (CC)", enable_start, nothing_end},
    [STEP_READY] = {"Property Get (CSTS)", ready_start, ready_end},
    [STEP_CTRL] = {"Identify Controller", ctrl_start, ctrl_end},
    [STEP_QUEUES] = {"Set Features (Number of Queues)", queues_start, queues_end},
    [STEP_EVENTS] = {"Set Features (Asynchronous Events)", events_start, nothing_end},
    [STEP_CHANGED] = {"Get Log Page (Changed Namespaces)", changed_start, nothing_end},
    [STEP_LIST] = {"Identify (active namespaces)", list_start, list_end},
    [STEP_NS] = {"Identify Namespace", ns_start, ns_end},
    [STEP_DESCS] = {"Identify (namespace descriptors)", descs_start, descs_end},
};

/* ---- running the steps ---- */

static void step_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe);
static const struct errand step_errand = {step_answer};

static void steps_over(struct nvme_of_host *h)
{
    struct err err;

    if (h->scanning) {
        h->scanning = false;
        host_rescanned(h);
        admin_want_events(h);
        if (h->rescan_wanted)
            steps_rescan(h);
        return;
    }
    if (host_set_up(h, &err)) {
        tcp_fail(&h->admin, err.code, "%s", err.msg);
        return;
    }
    admin_want_events(h);
    if (h->rescan_wanted)
        steps_rescan(h);
}

static void run_step(struct nvme_of_host *h)
{
    while (h->step < STEPS) {
        struct tcp_cmd *cmd = admin_cmd(h, 0, &step_errand);

        if (!cmd)
            return;
        if (steps[h->step].start(h, cmd)) {
            tcp_submit(&h->admin, cmd);
            tcp_flush(&h->admin);
            return;
        }
        tcp_cmd_put(&h->admin, cmd);
        h->step++;
    }
    steps_over(h);
}

static void step_again(struct timer *t)
{
    run_step(container_of(t, struct nvme_of_host, step_timer));
}

static bool tolerated(struct nvme_of_host *h, uint16_t status)
{
    switch (h->step) {
    case STEP_DESCS: /* before NVMe 1.3; the identity comes from Identify Namespace then */
        memset(h->buf, 0, NVME_IDENTIFY_BYTES);
        return h->vs < 0x00010300;
    case STEP_EVENTS:
    case STEP_CHANGED:
        return true;
    case STEP_NS: /* gone between list and question */
        memset(h->buf, 0, NVME_IDENTIFY_BYTES);
        return (status & NVME_STATUS_MASK) == NVME_SC_INVALID_NAMESPACE;
    default:
        return false;
    }
}

static void step_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe)
{
    const struct step *step = &steps[h->step];
    struct err err = {0};
    char text[160];
    int rc;

    if (status && !tolerated(h, status)) {
        if (h->step == STEP_CONNECT)
            nof_connect_text(status, le32_get(cqe->dw0), text, sizeof(text));
        else
            nof_status_text(status, text, sizeof(text));
        tcp_fail(&h->admin, -EIO, "%s: %s", step->name, text);
        return;
    }
    rc = step->end(h, cqe, &err);
    if (rc < 0) {
        tcp_fail(&h->admin, rc, "%s: %s", step->name, err.msg);
        return;
    }
    if (rc == STEP_AGAIN) {
        timer_arm(h->of->control, &h->step_timer, RDY_POLL_MS, step_again);
        return;
    }
    h->step = h->step == STEP_DESCS ? STEP_NS : h->step + 1; /* the next namespace */
    run_step(h);
}

void steps_rescan(struct nvme_of_host *h)
{
    if (h->phase != HOST_READY || h->scanning || h->deleting) {
        h->rescan_wanted = true;
        return;
    }
    h->rescan_wanted = false;
    h->scanning = true;
    h->step = STEP_CHANGED;
    run_step(h);
}

void steps_start(struct nvme_of_host *h)
{
    h->phase = HOST_SETTING_UP;
    h->step = STEP_CONNECT;
    run_step(h);
}

void steps_stop(struct nvme_of_host *h)
{
    timer_cancel(&h->step_timer);
    h->scanning = h->rescan_wanted = false;
}
