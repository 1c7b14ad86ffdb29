/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The commands that set up a controller, one after the other, and look at its namespaces (again).
 * Thread: control. Whatever fails ends the connection by tcp_fail(); path_lost() hears of it. */
#include "backends/nvme_of/admin.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RDY_POLL_MS = 100, ANA_POLL_MS = 500, ADMIN_ENTRIES = 32 };

enum { STEP_NEXT = 0, STEP_AGAIN = 1, STEP_MORE = 2 }; /* the same: after a while, at once */

struct step {
    const char *name;
    /* Fills the command; false: this step is not needed. */
    bool (*start)(struct nof_path *p, struct tcp_cmd *cmd);
    /* Success has come. STEP_*, or -errno with err filled. May set p->step itself to the one before
     * the next. */
    int (*end)(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
};

static void data(struct nof_path *p, struct tcp_cmd *cmd, uint32_t bytes, bool to_host)
{
    p->iov = (struct iovec){p->buf, bytes};
    cmd->iov = &p->iov;
    cmd->iovcnt = 1;
    cmd->bytes = bytes;
    cmd->to_host = to_host;
}

/* ---- Connect and properties ---- */

static bool connect_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    struct nvme_fabrics_connect *sqe = (void *)&cmd->sqe;
    struct nvme_fabrics_connect_data *d = (void *)p->buf;

    memset(d, 0, sizeof(*d));
    memcpy(d->hostid, &p->host->of->hostid, sizeof(d->hostid));
    d->cntlid = le16_of(NVME_CNTLID_DYNAMIC);
    memcpy(d->subnqn, p->host->subnqn, sizeof(p->host->subnqn));
    memcpy(d->hostnqn, p->host->hostnqn, sizeof(p->host->hostnqn));
    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_CONNECT;
    sqe->sqsize = le16_of(ADMIN_ENTRIES - 1);
    sqe->kato = le32_of(p->host->keep_alive_ms);
    sqe->cattr = p->no_sq_flow ? NVME_CATTR_DISABLE_SQFLOW : 0;
    data(p, cmd, sizeof(*d), false);
    return true;
}

static int connect_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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

static void property_get(struct tcp_cmd *cmd, uint32_t offset, bool wide)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_PROPERTY_GET;
    sqe->attrib = wide ? 1 : 0;
    sqe->ofst = le32_of(offset);
}

static bool cap_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_CAP, true);
    return true;
}

static int cap_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    p->cap = le32_get(cqe->dw0) | (uint64_t)le32_get(cqe->dw1) << 32;
    return STEP_NEXT;
}

static bool vs_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_VS, false);
    return true;
}

static int vs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    p->vs = le32_get(cqe->dw0);
    return STEP_NEXT;
}

static bool enable_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    admin_property_set(cmd, NVME_REG_CC, admin_cc(p));
    p->rdy_polls = 0;
    return true;
}

static int nothing_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    return STEP_NEXT;
}

static bool ready_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    property_get(cmd, NVME_REG_CSTS, false);
    return true;
}

static int ready_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    uint32_t csts = le32_get(cqe->dw0),
             limit_ms = MAX(NVME_CAP_TO(p->cap) * 500, p->host->phase_timeout_ms);

    if (csts & NVME_CSTS_CFS)
        return err_set(err, -EIO, "the controller reports a fatal error (CSTS %08xh)", csts);
    if (csts & NVME_CSTS_RDY)
        return STEP_NEXT;
    if (++p->rdy_polls > limit_ms / RDY_POLL_MS)
        return err_set(err, -ETIMEDOUT, "not ready within %u ms (CSTS %08xh)", limit_ms, csts);
    return STEP_AGAIN;
}

/* ---- the controller ---- */

static void identify(struct nof_path *p, struct tcp_cmd *cmd, uint8_t cns, uint32_t nsid)
{
    cmd->sqe.opc = NVME_ADMIN_IDENTIFY;
    cmd->sqe.nsid = le32_of(nsid);
    cmd->sqe.cdw10 = le32_of(cns);
    data(p, cmd, NVME_IDENTIFY_BYTES, true);
}

static bool ctrl_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    identify(p, cmd, NVME_CNS_CTRL, 0);
    return true;
}

static int ctrl_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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

static bool queues_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_NUM_QUEUES);
    cmd->sqe.cdw11 = le32_of((p->host->want_queues - 1) | (p->host->want_queues - 1) << 16);
    return true;
}

static int queues_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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

static bool events_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
    cmd->sqe.cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT);
    cmd->sqe.cdw11 = le32_of(events_wanted(p));
    return events_wanted(p) != 0;
}

/* ---- namespaces ---- */

/* Only when looking again: reading the log allows the next event. */
static bool changed_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.nsid = le32_of(NVME_NSID_ALL);
    cmd->sqe.cdw10 =
        le32_of(NVME_LOG_CHANGED_NS | (sizeof(struct nvme_log_changed_ns) / 4 - 1) << 16);
    data(p, cmd, sizeof(struct nvme_log_changed_ns), true);
    return p->scanning && !p->ana_only && (p->ctrl.oaes & NVME_OAES_NS_ATTR);
}

static bool list_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    p->nscan = p->scan_at = p->nscan_nsids = 0;
    p->scan_refused[0] = '\0';
    identify(p, cmd, NVME_CNS_ACTIVE_NS_LIST, 0);
    return true;
}

static int list_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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

static bool ns_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    if (p->scan_at == p->nscan_nsids)
        return false;
    identify(p, cmd, NVME_CNS_NS, p->scan_nsids[p->scan_at]);
    return true;
}

static int ns_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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

static bool descs_start(struct nof_path *p, struct tcp_cmd *cmd)
{
    if (p->scan_at == p->nscan_nsids)
        return false;
    identify(p, cmd, NVME_CNS_NS_DESC_LIST, p->scan_nsids[p->scan_at]);
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

static int descs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
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
static bool ana_start(struct nof_path *p, struct tcp_cmd *cmd)
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
    data(p, cmd, bytes, true);
    return true;
}

static int ana_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
    size_t bytes = p->iov.iov_len;

    memcpy(p->ana.log + p->ana.have_bytes, p->buf, bytes);
    p->ana.have_bytes += bytes;
    if (p->ana.have_bytes < p->ana.log_bytes)
        return STEP_MORE;
    return nof_ana_parse(p->ana.log, p->ana.log_bytes, &p->ana, err);
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
    STEP_ANA,
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
    [STEP_ANA] = {"Get Log Page (Asymmetric Namespace Access)", ana_start, ana_end},
};

/* ---- running the steps ---- */

static void step_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe);
static const struct errand step_errand = {step_answer};

/* While a group changes the log is looked at again, but not for longer than the controller said. */
static void ana_again(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, ana_timer);
    uint64_t limit_ms = 1000ULL * MAX(p->ctrl.anatt_s, 1);

    if (reactor_now_us(p->host->of->control) - p->ana_since_us > 1000 * limit_ms)
        tcp_fail(&p->admin, -ETIMEDOUT, "an ANA group changes for longer than %llu ms (ANATT)",
                 (unsigned long long)limit_ms);
    else
        steps_read_ana(p);
}

static void watch_ana(struct nof_path *p)
{
    struct reactor *r = p->host->of->control;

    if (!p->ctrl.ana || !nof_ana_changes(&p->ana)) {
        p->ana_since_us = 0;
        timer_cancel(&p->ana_timer);
        return;
    }
    if (!p->ana_since_us)
        p->ana_since_us = reactor_now_us(r);
    timer_arm(r, &p->ana_timer, ANA_POLL_MS, ana_again);
}

static void steps_over(struct nof_path *p)
{
    struct err err;

    watch_ana(p);
    if (p->scanning) {
        bool ana_only = p->ana_only;

        p->scanning = p->ana_only = false;
        if (ana_only)
            host_ana_read(p);
        else
            host_rescanned(p);
    } else if (host_set_up(p, &err)) {
        tcp_fail(&p->admin, err.code, "%s", err.msg);
        return;
    }
    admin_want_events(p);
    if (p->rescan_wanted)
        steps_rescan(p);
    else if (p->ana_wanted)
        steps_read_ana(p);
}

static void run_step(struct nof_path *p)
{
    while (p->step < STEPS) {
        struct tcp_cmd *cmd = admin_cmd(p, 0, &step_errand);

        if (!cmd)
            return;
        if (steps[p->step].start(p, cmd)) {
            tcp_submit(&p->admin, cmd);
            tcp_flush(&p->admin);
            return;
        }
        tcp_cmd_put(&p->admin, cmd);
        p->step++;
    }
    steps_over(p);
}

static void step_again(struct timer *t)
{
    run_step(container_of(t, struct nof_path, step_timer));
}

static bool tolerated(struct nof_path *p, uint16_t status)
{
    switch (p->step) {
    case STEP_DESCS: /* before NVMe 1.3; the identity comes from Identify Namespace then */
        memset(p->buf, 0, NVME_IDENTIFY_BYTES);
        return p->vs < 0x00010300;
    case STEP_EVENTS:
    case STEP_CHANGED:
        return true;
    case STEP_NS: /* gone between list and question */
        memset(p->buf, 0, NVME_IDENTIFY_BYTES);
        return (status & NVME_STATUS_MASK) == NVME_SC_INVALID_NAMESPACE;
    default:
        return false;
    }
}

static void step_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe)
{
    const struct step *step = &steps[p->step];
    struct err err = {0};
    char text[160];
    int rc;

    if (status && !tolerated(p, status)) {
        if (p->step == STEP_CONNECT)
            nof_connect_text(status, le32_get(cqe->dw0), text, sizeof(text));
        else
            nof_status_text(status, text, sizeof(text));
        tcp_fail(&p->admin, -EIO, "%s: %s", step->name, text);
        return;
    }
    rc = step->end(p, cqe, &err);
    if (rc < 0) {
        tcp_fail(&p->admin, rc, "%s: %s", step->name, err.msg);
        return;
    }
    if (rc == STEP_AGAIN) {
        timer_arm(p->host->of->control, &p->step_timer, RDY_POLL_MS, step_again);
        return;
    }
    if (p->step == STEP_DESCS && p->scan_at < p->nscan_nsids)
        p->step = STEP_NS; /* the next namespace */
    else if (rc != STEP_MORE)
        p->step++;
    run_step(p);
}

static bool steps_can_run(const struct nof_path *p)
{
    return p->phase == PATH_READY && !p->scanning && !p->leaving;
}

static void run_from(struct nof_path *p, enum step_index step, bool ana_only)
{
    p->scanning = true;
    p->ana_only = ana_only;
    p->ana_wanted = false;
    p->ana.have_bytes = 0;
    p->step = step;
    run_step(p);
}

void steps_rescan(struct nof_path *p)
{
    p->rescan_wanted = !steps_can_run(p);
    if (!p->rescan_wanted)
        run_from(p, STEP_CHANGED, false);
}

void steps_read_ana(struct nof_path *p)
{
    p->ana_wanted = p->ctrl.ana && !steps_can_run(p);
    if (p->ctrl.ana && !p->ana_wanted)
        run_from(p, STEP_ANA, true);
}

void steps_start(struct nof_path *p)
{
    p->phase = PATH_SETTING_UP;
    p->ana.have_bytes = 0;
    p->step = STEP_CONNECT;
    run_step(p);
}

void steps_stop(struct nof_path *p)
{
    timer_cancel(&p->step_timer);
    timer_cancel(&p->ana_timer);
    p->scanning = p->rescan_wanted = p->ana_only = p->ana_wanted = false;
    p->ana_since_us = 0;
}
