/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Identify (Base 2.0, 5.17). A page is built on the stack, zeroed, and copied once. */
#include "devices/nvme/inside.h"

#include <string.h>

enum { RTD3_US = 10000000 }; /* shutdown flushes remote storage: hosts wait at least this long */

static void build_ctrl(struct nvme_dev *dev, struct nvme_id_ctrl *id)
{
    uint16_t oncs = NVME_ONCS_SAVE_SELECT | NVME_ONCS_TIMESTAMP;

    nvme_pad_text(id->sn, sizeof(id->sn), nvme_subsystem_sn(dev->ss));
    nvme_pad_text(id->mn, sizeof(id->mn), nvme_subsystem_mn(dev->ss));
    nvme_pad_text(id->fr, sizeof(id->fr), OPENSNAP_VERSION);
    id->rab = 6;
    id->cmic = NVME_CMIC_MULTI_CTRL; /* each function of a subsystem is a controller */
    id->mdts = (uint8_t)dev->mdts;
    id->cntlid = le16_of((uint16_t)dev->cntlid);
    id->ver = le32_of(NVME_VS_2_0);
    id->rtd3r = le32_of(RTD3_US);
    id->rtd3e = le32_of(RTD3_US);
    id->oaes = le32_of(NVME_OAES_NS_ATTR);
    id->cntrltype = dev->num_queues ? NVME_CNTRLTYPE_IO : NVME_CNTRLTYPE_ADMIN;
    id->oacs = le16_of(NVME_OACS_DOORBELL_BUFFER);
    id->acl = 3;
    id->aerl = NVME_AERL;
    id->frmw = (uint8_t)(dev->fw_slots << 1 | 1); /* slot 1 is read-only */
    id->lpa = NVME_LPA_EFFECTS | NVME_LPA_EXTENDED;
    id->elpe = NVME_STATE_ERRORS - 1;
    id->wctemp = le16_of(343);
    id->cctemp = le16_of(353);
    id->sqes = 0x66;
    id->cqes = 0x44;
    id->maxcmd = le16_of((uint16_t)MIN(dev->max_depth, 65535U));
    id->nn = le32_of(nvme_dev_nn(dev));
    id->mnan = le32_of(MIN(nvme_subsystem_mnan(dev->ss), nvme_dev_nn(dev)));
    if (dev->write_zeroes)
        oncs |= NVME_ONCS_WRITE_ZEROES;
    if (dev->dsm)
        oncs |= NVME_ONCS_DSM;
    id->oncs = le16_of(oncs);
    id->vwc = NVME_VWC_PRESENT | NVME_VWC_FLUSH_ALL_YES;
    id->sgls = le32_of(NVME_SGLS_SUPPORTED);
    memcpy(id->subnqn, nvme_subsystem_nqn(dev->ss), strlen(nvme_subsystem_nqn(dev->ss)));
}

static struct nvme_ns_view view_of(const struct nvme_dev *dev, const struct nvme_dev_ns *ns)
{
    struct nvme_ns_view view = {
        .nsid = ns->nsid,
        .nblocks = ns->nblocks,
        .block_shift = (uint8_t)ns->block_shift,
        .shared = ns->shared,
        .read_only = ns->read_only,
        .write_zeroes_dealloc = dev->write_zeroes && ns->can_write_zeroes,
        .uuid = ns->uuid,
    };

    memcpy(view.nguid, ns->nguid, sizeof(view.nguid));
    memcpy(view.eui64, ns->eui64, sizeof(view.eui64));
    return view;
}

static nvme_status build_list(struct nvme_dev *dev, uint32_t after, le32 *list)
{
    struct nvme_dev_ns *ns;

    if (after >= NVME_NSID_ALL - 1)
        return NVME_DNR(NVME_SC_INVALID_NAMESPACE);
    for (unsigned n = 0; n < NVME_IDENTIFY_BYTES / 4 && (ns = nvme_dev_ns_next(dev, after)); n++) {
        list[n] = le32_of(ns->nsid);
        after = ns->nsid;
    }
    return NVME_SC_SUCCESS;
}

/* An inactive namespace answers with a page of zeroes where the specification says so: SUCCESS, and
 * ret's nsid stays 0. */
static nvme_status find_ns(struct nvme_dev *dev, uint32_t nsid, bool zero_if_inactive,
                           struct nvme_ns_view *ret)
{
    struct nvme_dev_ns *ns;
    nvme_status st = nvme_dev_ns_get(dev, nsid, &ns);

    if (st == NVME_SC_SUCCESS)
        *ret = view_of(dev, ns);
    else if (st == NVME_DNR(NVME_SC_INVALID_FIELD) && zero_if_inactive)
        st = NVME_SC_SUCCESS;
    return st;
}

nvme_status nvme_identify(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t nsid = le32_get(sqe->nsid), csi = le32_get(sqe->cdw11) >> 24;
    union {
        uint8_t bytes[NVME_IDENTIFY_BYTES];
        struct nvme_id_ctrl ctrl;
        struct nvme_id_ns ns;
        struct nvme_id_ns_independent independent;
        le32 list[NVME_IDENTIFY_BYTES / 4];
    } page;
    uint32_t cns = le32_get(sqe->cdw10) & 0xff;
    struct nvme_ns_view ns = {0};
    nvme_status st = NVME_SC_SUCCESS;

    memset(&page, 0, sizeof(page));
    if ((cns == NVME_CNS_CSI_NS || cns == NVME_CNS_CSI_CTRL ||
         cns == NVME_CNS_CSI_ACTIVE_NS_LIST) &&
        csi != NVME_CSI_NVM)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    switch (cns) {
    case NVME_CNS_NS:
        st = find_ns(dev, nsid, true, &ns);
        if (ns.nsid)
            nvme_identify_ns(&ns, &page.ns);
        break;
    case NVME_CNS_CTRL:
        build_ctrl(dev, &page.ctrl);
        break;
    case NVME_CNS_ACTIVE_NS_LIST:
    case NVME_CNS_CSI_ACTIVE_NS_LIST:
        st = build_list(dev, nsid, page.list);
        break;
    case NVME_CNS_NS_DESC_LIST:
        st = find_ns(dev, nsid, false, &ns);
        if (st == NVME_SC_SUCCESS)
            nvme_identify_ns_descs(&ns, page.bytes);
        break;
    case NVME_CNS_CSI_NS: /* no storage tags, no extended formats: all zero */
        st = find_ns(dev, nsid, true, &ns);
        break;
    case NVME_CNS_CSI_CTRL: /* no limits beside MDTS */
        break;
    case NVME_CNS_CSI_INDEPENDENT_NS:
        st = find_ns(dev, nsid, true, &ns);
        if (ns.nsid)
            nvme_identify_ns_independent(&ns, &page.independent);
        break;
    default:
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    }
    if (st != NVME_SC_SUCCESS)
        return st;
    return nvme_copy_to_host(req, &page, sizeof(page), sizeof(page));
}
