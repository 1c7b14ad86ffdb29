/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The commands that set up a controller, one after the other, and look at its namespaces (again).
 * Thread: control. Whatever fails ends the connection by tcp_fail(); path_lost() hears of it. */
#include "backends/nvme_of/status.h"
#include "backends/nvme_of/steps_inside.h"

#include <errno.h>
#include <string.h>

enum { ANA_POLL_MS = 500 };

struct step {
    const char *name;
    /* Fills the command; false: this step is not needed. */
    bool (*start)(struct nof_path *p, struct tcp_cmd *cmd);
    /* Success has come. STEP_*, or -errno with err filled. May set p->step itself to the one before
     * the next. */
    int (*end)(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
};

void step_identify(struct nof_path *p, struct tcp_cmd *cmd, uint8_t cns, uint32_t nsid)
{
    cmd->sqe.opc = NVME_ADMIN_IDENTIFY;
    cmd->sqe.nsid = le32_of(nsid);
    cmd->sqe.cdw10 = le32_of(cns);
    tcp_cmd_data(cmd, &p->iov, p->buf, NVME_IDENTIFY_BYTES, true);
}

static int nothing_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err)
{
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
    STEP_ANA,
    STEPS,
};

static const struct step steps[STEPS] = {
    [STEP_CONNECT] = {"Connect", step_connect_start, step_connect_end},
    [STEP_CAP] = {"Property Get (CAP)", step_cap_start, step_cap_end},
    [STEP_VS] = {"Property Get (VS)", step_vs_start, step_vs_end},
    [STEP_ENABLE] = {"Property Set (CC)", step_enable_start, nothing_end},
    [STEP_READY] = {"Property Get (CSTS)", step_ready_start, step_ready_end},
    [STEP_CTRL] = {"Identify Controller", step_ctrl_start, step_ctrl_end},
    [STEP_QUEUES] = {"Set Features (Number of Queues)", step_queues_start, step_queues_end},
    [STEP_EVENTS] = {"Set Features (Asynchronous Events)", step_events_start, nothing_end},
    [STEP_CHANGED] = {"Get Log Page (Changed Namespaces)", step_changed_start, nothing_end},
    [STEP_LIST] = {"Identify (active namespaces)", step_list_start, step_list_end},
    [STEP_NS] = {"Identify Namespace", step_ns_start, step_ns_end},
    [STEP_DESCS] = {"Identify (namespace descriptors)", step_descs_start, step_descs_end},
    [STEP_ANA] = {"Get Log Page (Asymmetric Namespace Access)", step_ana_start, step_ana_end},
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
        timer_arm(p->host->of->control, &p->step_timer, STEP_RDY_POLL_MS, step_again);
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
