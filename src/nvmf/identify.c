/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Identify (Base 2.0, 5.17). */
#include "nvmf/inside.h"

#include <string.h>

enum { KAS_100MS = 10, ANATT_S = 10, CAPSULE_HEAD = 64, RESPONSE_BYTES = 16 };

static void build_ctrl(const struct nvmf_ctrl *ctrl, struct nvme_id_ctrl *id)
{
    const struct nvmf_transport *tr = &ctrl->target->transport;
    const struct nvmf_subsystem *ss = ctrl->ss;
    const char *nqn = ss ? ss->nqn : NVME_DISCOVERY_NQN;
    uint32_t oaes = ss ? NVME_OAES_NS_ATTR : NVME_OAES_DISCOVERY;

    nvme_pad_text(id->sn, sizeof(id->sn), ss ? ss->sn : "discovery");
    nvme_pad_text(id->mn, sizeof(id->mn), ss ? ss->mn : "OpenSNAP NVMe Target");
    nvme_pad_text(id->fr, sizeof(id->fr), OPENSNAP_VERSION);
    id->mdts = (uint8_t)__builtin_ctz(tr->max_io_bytes / 4096);
    id->cntlid = le16_of(ctrl->cntlid);
    id->ver = le32_of(NVME_VS_2_0);
    id->ctratt = le32_of(NVME_CTRATT_TBKAS);
    id->cntrltype = ss ? NVME_CNTRLTYPE_IO : NVME_CNTRLTYPE_DISCOVERY;
    id->acl = 3;
    id->aerl = CTRL_AERS - 1;
    id->lpa = NVME_LPA_EXTENDED | (ss ? NVME_LPA_EFFECTS : 0);
    id->kas = le16_of(KAS_100MS);
    id->maxcmd = le16_of((uint16_t)tr->max_queue_depth);
    id->sgls = le32_of(NVME_SGLS_SUPPORTED | NVME_SGLS_OFFSET);
    memcpy(id->subnqn, nqn, strlen(nqn));
    memcpy(id->vs, NVME_VS_FENCE_MARK, strlen(NVME_VS_FENCE_MARK));
    id->ioccsz = le32_of((CAPSULE_HEAD + (ss ? tr->in_capsule_bytes : 0)) / 16);
    id->iorcsz = le32_of(RESPONSE_BYTES / 16);
    id->msdbd = 1;
    if (ss) {
        id->cmic = NVME_CMIC_MULTI_PORT | NVME_CMIC_MULTI_CTRL;
        id->sqes = 0x66;
        id->cqes = 0x44;
        id->nn = id->mnan = le32_of(ss->o.max_namespaces);
        id->oncs = le16_of(NVME_ONCS_WRITE_ZEROES | NVME_ONCS_DSM);
        id->vwc = NVME_VWC_PRESENT | NVME_VWC_FLUSH_ALL_YES;
        id->frmw = 1 << 1 | 1;
    }
    if (ss && ss->o.ana_reporting) {
        id->cmic |= NVME_CMIC_ANA;
        id->anatt = ANATT_S;
        id->anacap = NVME_ANACAP_OPTIMIZED | NVME_ANACAP_NON_OPTIMIZED | NVME_ANACAP_INACCESSIBLE |
                     NVME_ANACAP_GROUP_STAYS;
        id->anagrpmax = id->nanagrpid = le32_of(ss->o.max_namespaces);
        oaes |= NVME_OAES_ANA;
    }
    id->oaes = le32_of(oaes);
}

static struct nvme_ns_view view_of(const struct nvmf_ns *ns)
{
    struct nvme_ns_view v = {
        .nsid = ns->o.nsid,
        .anagrpid = ns->ss->o.ana_reporting ? ns->o.anagrpid : 0,
        .nblocks = ns->info.nblocks,
        .block_shift = (uint8_t)__builtin_ctz(ns->info.block_bytes),
        .shared = true,
        .read_only = ns->info.read_only,
        .write_zeroes_dealloc = ns->info.can_write_zeroes,
        .uuid = ns->o.uuid,
    };

    memcpy(v.nguid, ns->o.nguid, sizeof(v.nguid));
    memcpy(v.eui64, ns->o.eui64, sizeof(v.eui64));
    return v;
}

static nvme_status build_list(const struct nvmf_subsystem *ss, uint32_t after, le32 *list)
{
    const struct nvmf_ns *ns;

    if (after >= NVME_NSID_ALL - 1)
        return NVME_DNR(NVME_SC_INVALID_NAMESPACE);
    for (unsigned n = 0; n < NVME_IDENTIFY_BYTES / 4 && (ns = ns_next(ss, after)); n++) {
        list[n] = le32_of(ns->o.nsid);
        after = ns->o.nsid;
    }
    return NVME_SC_SUCCESS;
}

union page {
    uint8_t bytes[NVME_IDENTIFY_BYTES];
    struct nvme_id_ctrl ctrl;
    struct nvme_id_ns ns;
    struct nvme_id_ns_independent independent;
    le32 list[NVME_IDENTIFY_BYTES / 4];
};

/* Of a namespace; one that is not there is a page of zeroes where the specification says so. */
static nvme_status build_of_ns(const struct nvmf_subsystem *ss, uint32_t cns, uint32_t nsid,
                               union page *page)
{
    const struct nvmf_ns *ns = nvmf_ns_find(ss, nsid);
    struct nvme_ns_view v;

    if (nsid == 0 || nsid > ss->o.max_namespaces)
        return NVME_DNR(NVME_SC_INVALID_NAMESPACE);
    if (!ns)
        return cns == NVME_CNS_NS_DESC_LIST ? NVME_DNR(NVME_SC_INVALID_FIELD) : NVME_SC_SUCCESS;
    v = view_of(ns);
    if (cns == NVME_CNS_NS)
        nvme_identify_ns(&v, &page->ns);
    else if (cns == NVME_CNS_NS_DESC_LIST)
        nvme_identify_ns_descs(&v, page->bytes);
    else if (cns == NVME_CNS_CSI_INDEPENDENT_NS)
        nvme_identify_ns_independent(&v, &page->independent);
    return NVME_SC_SUCCESS;
}

nvme_status admin_identify(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd)
{
    uint32_t cns = le32_get(cmd->sqe.cdw10) & 0xff, csi = le32_get(cmd->sqe.cdw11) >> 24;
    uint32_t nsid = le32_get(cmd->sqe.nsid);
    nvme_status st = NVME_SC_SUCCESS;
    union page page;

    memset(&page, 0, sizeof(page));
    if (!ctrl->ss && cns != NVME_CNS_CTRL)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    switch (cns) {
    case NVME_CNS_CTRL:
        build_ctrl(ctrl, &page.ctrl);
        break;
    case NVME_CNS_CSI_ACTIVE_NS_LIST:
    case NVME_CNS_CSI_CTRL: /* no limits beside MDTS */
    case NVME_CNS_CSI_NS:   /* no storage tags, no extended formats */
        if (csi != NVME_CSI_NVM)
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        if (cns == NVME_CNS_CSI_ACTIVE_NS_LIST)
            st = build_list(ctrl->ss, nsid, page.list);
        else if (cns == NVME_CNS_CSI_NS)
            st = build_of_ns(ctrl->ss, cns, nsid, &page);
        break;
    case NVME_CNS_ACTIVE_NS_LIST:
        st = build_list(ctrl->ss, nsid, page.list);
        break;
    case NVME_CNS_NS:
    case NVME_CNS_NS_DESC_LIST:
    case NVME_CNS_CSI_INDEPENDENT_NS:
        st = build_of_ns(ctrl->ss, cns, nsid, &page);
        break;
    default:
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    }
    return st == NVME_SC_SUCCESS ? admin_reply(cmd, &page, sizeof(page)) : st;
}
