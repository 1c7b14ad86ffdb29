/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Get Log Page (Base 2.0, 5.16). A page is built whole; the host gets its part of it and zeroes
 * beyond the end. */
#include "nvmf/inside.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM_TEMPERATURE_K = 310 };

struct page {
    char *at; /* from calloc */
    size_t bytes;
};

static bool room(struct page *p, size_t bytes)
{
    p->at = calloc(1, bytes);
    p->bytes = p->at ? bytes : 0;
    return p->at != NULL;
}

static bool build_errors(struct page *p)
{
    return room(p, sizeof(struct nvme_log_error)); /* none is kept */
}

static bool build_smart(struct page *p)
{
    struct nvme_log_smart *s;

    if (!room(p, sizeof(*s)))
        return false;
    s = (void *)p->at;
    s->temperature[0] = ROOM_TEMPERATURE_K & 0xff;
    s->temperature[1] = ROOM_TEMPERATURE_K >> 8;
    s->avail_spare = 100;
    s->spare_thresh = 10;
    return true;
}

static bool build_fw(struct page *p)
{
    struct nvme_log_fw_slot *fw;

    if (!room(p, sizeof(*fw)))
        return false;
    fw = (void *)p->at;
    fw->afi = 1;
    nvme_pad_text(fw->frs[0], sizeof(fw->frs[0]), OPENSNAP_VERSION);
    return true;
}

static int by_number(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static bool build_changed(struct nvmf_ctrl *ctrl, struct page *p)
{
    struct nvme_log_changed_ns *log;

    if (!room(p, sizeof(*log)))
        return false;
    log = (void *)p->at;
    if (ctrl->nchanged > CTRL_CHANGED) {
        log->nsid[0] = le32_of(NVME_NSID_ALL);
        return true;
    }
    qsort(ctrl->changed, ctrl->nchanged, sizeof(*ctrl->changed), by_number);
    for (unsigned i = 0; i < ctrl->nchanged; i++)
        log->nsid[i] = le32_of(ctrl->changed[i]);
    return true;
}

static bool build_effects(struct page *p)
{
    static const uint8_t admin[] = {NVME_ADMIN_GET_LOG_PAGE, NVME_ADMIN_IDENTIFY,
                                    NVME_ADMIN_ABORT,        NVME_ADMIN_SET_FEATURES,
                                    NVME_ADMIN_GET_FEATURES, NVME_ADMIN_ASYNC_EVENT,
                                    NVME_ADMIN_KEEP_ALIVE};
    struct nvme_log_effects *log;

    if (!room(p, sizeof(*log)))
        return false;
    log = (void *)p->at;
    for (unsigned i = 0; i < ARRAY_SIZE(admin); i++)
        log->acs[admin[i]] = le32_of(NVME_EFFECTS_CSUPP);
    log->iocs[NVME_CMD_READ] = log->iocs[NVME_CMD_FLUSH] = le32_of(NVME_EFFECTS_CSUPP);
    log->iocs[NVME_CMD_WRITE] = log->iocs[NVME_CMD_WRITE_ZEROES] = log->iocs[NVME_CMD_DSM] =
        le32_of(NVME_EFFECTS_CSUPP | NVME_EFFECTS_LBCC);
    return true;
}

/* Groups that have namespaces. */
static bool build_ana(const struct nvmf_ctrl *ctrl, bool groups_only, struct page *p)
{
    const struct nvmf_subsystem *ss = ctrl->ss;
    const struct nvmf_listener *l = listener_find(ss, ctrl->port);
    struct nvme_log_ana *log;
    uint16_t ngroups = 0;
    char *at;

    if (!room(p,
              sizeof(*log) + ss->o.max_namespaces * (sizeof(struct nvme_ana_group) + sizeof(le32))))
        return false;
    log = (void *)p->at;
    at = p->at + sizeof(*log);
    for (uint32_t id = 1; id <= ss->o.max_namespaces; id++) {
        struct nvme_ana_group g = {.grpid = le32_of(id)}; /* its place is a multiple of 4 bytes */
        le32 *nsids = (void *)(at + sizeof(g));
        uint32_t n = 0;

        for (struct nvmf_ns *ns = NULL; (ns = ns_next(ss, ns ? ns->o.nsid : 0));) {
            if (ns->o.anagrpid != id)
                continue;
            if (!groups_only)
                nsids[n] = le32_of(ns->o.nsid);
            n++;
        }
        if (n == 0)
            continue;
        g.nnsids = le32_of(groups_only ? 0 : n);
        g.chgcnt = le64_of(l ? l->chgcnt : 0);
        g.state = (uint8_t)(l ? ana_state_of(l, id) : NVME_ANA_INACCESSIBLE);
        memcpy(at, &g, sizeof(g));
        at += sizeof(g) + (groups_only ? 0 : n * sizeof(le32));
        ngroups++;
    }
    log->chgcnt = le64_of(l ? l->chgcnt : 0);
    log->ngrps = le16_of(ngroups);
    p->bytes = (size_t)(at - p->at);
    return true;
}

static bool build_discovery(struct nvmf_ctrl *ctrl, struct page *p)
{
    p->at = discovery_log(ctrl, &p->bytes);
    return p->at != NULL;
}

static nvme_status build(struct nvmf_ctrl *ctrl, uint32_t lid, uint32_t cdw10, struct page *p)
{
    bool ok, ana = ctrl->ss && ctrl->ss->o.ana_reporting;

    if (!ctrl->ss && lid == NVME_LOG_DISCOVERY)
        ok = build_discovery(ctrl, p);
    else if (lid == NVME_LOG_ERROR)
        ok = build_errors(p);
    else if (!ctrl->ss)
        return NVME_DNR(NVME_SC_LOG_PAGE);
    else if (lid == NVME_LOG_SMART)
        ok = build_smart(p);
    else if (lid == NVME_LOG_FW_SLOT)
        ok = build_fw(p);
    else if (lid == NVME_LOG_CHANGED_NS)
        ok = build_changed(ctrl, p);
    else if (lid == NVME_LOG_EFFECTS)
        ok = build_effects(p);
    else if (lid == NVME_LOG_ANA && ana)
        ok = build_ana(ctrl, cdw10 & NVME_LOG_ANA_RGO, p);
    else
        return NVME_DNR(NVME_SC_LOG_PAGE);
    return ok ? NVME_SC_SUCCESS : NVME_SC_INTERNAL_ERROR;
}

nvme_status admin_log_page(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    uint32_t cdw10 = le32_get(cmd->sqe.cdw10), lid = NVME_LOG_LID(cdw10);
    uint64_t dwords = (cdw10 >> 16 | (uint64_t)(le32_get(cmd->sqe.cdw11) & 0xffff) << 16) + 1;
    uint64_t offset = le32_get(cmd->sqe.cdw12) | (uint64_t)le32_get(cmd->sqe.cdw13) << 32;
    struct page p = {0};
    nvme_status st;

    if (dwords * 4 != cmd->bytes)
        return NVME_DNR(NVME_SC_SGL_DATA_LENGTH);
    if (offset % 4 || le32_get(cmd->sqe.cdw14) & 1U << 23)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    st = build(ctrl, lid, cdw10, &p);
    if (st == NVME_SC_SUCCESS && offset > p.bytes)
        st = NVME_DNR(NVME_SC_INVALID_FIELD);
    if (st == NVME_SC_SUCCESS)
        st = admin_reply(cmd, p.at + offset, p.bytes - offset);
    free(p.at);
    if (st == NVME_SC_SUCCESS && !(cdw10 & NVME_LOG_RAE)) {
        if (lid == NVME_LOG_CHANGED_NS)
            ctrl->nchanged = 0;
        event_log_read(ctrl, (uint8_t)lid);
    }
    return st;
}
