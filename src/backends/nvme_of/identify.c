/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/identify.h"

#include "base/checked.h"
#include "base/util.h"
#include "spec/nvme_fabrics.h"

#include <errno.h>
#include <string.h>

enum {
    MAX_IO_BYTES = 1 << 30,
    MIN_LBADS = 9,
    MAX_LBADS = 16,
};

/* size bytes of ASCII, perhaps without an end; out has size + 1 bytes. */
static void copy_text(const char *raw, size_t size, char *out)
{
    size_t len = 0;

    for (size_t i = 0; i < size && raw[i]; i++) {
        out[i] = raw[i] >= 0x20 && raw[i] < 0x7f ? raw[i] : '?';
        if (raw[i] != ' ')
            len = i + 1;
    }
    out[len] = '\0';
}

static uint32_t max_io_bytes(uint8_t mdts, uint64_t cap)
{
    unsigned shift = 12 + NVME_CAP_MPSMIN(cap) + mdts;

    return mdts == 0 || shift >= 30 ? MAX_IO_BYTES : 1U << shift;
}

int nof_check_ctrl(const struct nvme_id_ctrl *raw, uint64_t cap, const char *subnqn,
                   uint16_t cntlid, struct nof_ctrl *ret, struct err *err)
{
    struct nof_ctrl c = {
        .cntlid = le16_get(raw->cntlid),
        .vid = le16_get(raw->vid),
        .oacs = le16_get(raw->oacs),
        .oncs = le16_get(raw->oncs),
        .kas = le16_get(raw->kas),
        .cqt_ms = le16_get(raw->cqt),
        .traffic_keep_alive = le32_get(raw->ctratt) & NVME_CTRATT_TBKAS,
        .fence_mark = memcmp(raw->vs, NVME_VS_FENCE_MARK, sizeof(NVME_VS_FENCE_MARK) - 1) == 0,
        .ver = le32_get(raw->ver),
        .oaes = le32_get(raw->oaes),
        .max_io_bytes = max_io_bytes(raw->mdts, cap),
        .volatile_cache = raw->vwc & NVME_VWC_PRESENT,
        .multi_ctrl = raw->cmic & NVME_CMIC_MULTI_CTRL,
        .ana = raw->cmic & NVME_CMIC_ANA,
        .ana_groups = le32_get(raw->nanagrpid),
        .anatt_s = raw->anatt,
    };
    uint32_t ioccsz = le32_get(raw->ioccsz);

    c.dsm = c.oncs & NVME_ONCS_DSM;
    c.write_zeroes = c.oncs & NVME_ONCS_WRITE_ZEROES;
    copy_text(raw->sn, sizeof(raw->sn), c.sn);
    copy_text(raw->mn, sizeof(raw->mn), c.mn);
    copy_text(raw->fr, sizeof(raw->fr), c.fr);
    copy_text(raw->subnqn, sizeof(c.subnqn) - 1, c.subnqn);

    if (raw->cntrltype == NVME_CNTRLTYPE_DISCOVERY || raw->cntrltype == NVME_CNTRLTYPE_ADMIN)
        return err_set(err, -EPROTO, "this is a %s controller, it has no namespaces",
                       raw->cntrltype == NVME_CNTRLTYPE_ADMIN ? "administrative" : "discovery");
    if (strcmp(c.subnqn, subnqn) != 0)
        return err_set(err, -EPROTO, "the controller says its subsystem is '%s', not '%s'",
                       c.subnqn, subnqn);
    if (c.cntlid != cntlid)
        return err_set(err, -EPROTO, "Identify says CNTLID %u, Connect said %u", c.cntlid, cntlid);
    if (NVME_CAP_MQES(cap) == 0)
        return err_set(err, -EPROTO, "the controller allows queues of one entry only (MQES 0)");
    c.entries = (uint16_t)MIN(NVME_CAP_MQES(cap) + 1, (uint32_t)NOF_MAX_QUEUE_ENTRIES);
    if ((raw->sqes & 0xf) > 6 || (raw->sqes >> 4) < 6 || (raw->cqes & 0xf) > 4 ||
        (raw->cqes >> 4) < 4)
        return err_set(err, -EPROTO,
                       "entry sizes of 64 and 16 bytes are not allowed (SQES %02xh, "
                       "CQES %02xh)",
                       raw->sqes, raw->cqes);
    if (ioccsz < sizeof(struct nvme_sqe) / 16 || le32_get(raw->iorcsz) < 1)
        return err_set(err, -EPROTO, "capsules are too small for a command (IOCCSZ %u, IORCSZ %u)",
                       ioccsz, le32_get(raw->iorcsz));
    if (le16_get(raw->icdoff) != 0)
        return err_set(err, -EPROTO, "in-capsule data at an offset (ICDOFF %u) are not supported",
                       le16_get(raw->icdoff));
    c.inline_bytes =
        MIN(ioccsz, (uint32_t)MAX_IO_BYTES / 16) * 16 - (uint32_t)sizeof(struct nvme_sqe);
    /* More in a capsule would hold up the other commands of a connection. */
    c.inline_bytes = MIN(c.inline_bytes, 65536U);
    if (!(le32_get(raw->sgls) & NVME_SGLS_OFFSET))
        c.inline_bytes = 0;
    *ret = c;
    return 0;
}

int nof_check_ns(const struct nvme_id_ns *raw, const struct nof_ctrl *ctrl,
                 struct nvme_of_namespace *ret, struct err *err)
{
    unsigned format = (raw->flbas & 0xf) | (unsigned)(raw->flbas >> 5 & 3) << 4;
    const struct nvme_lbaf *lbaf = &raw->lbaf[format];
    uint64_t nblocks = le64_get(raw->nsze), bytes;

    if (format > raw->nlbaf)
        return err_set(err, -EPROTO, "namespace %u: LBA format %u of %u", ret->nsid, format,
                       raw->nlbaf + 1U);
    if (lbaf->lbads < MIN_LBADS || lbaf->lbads > MAX_LBADS)
        return err_set(err, -EPROTO, "namespace %u: blocks of 2^%u bytes are not supported",
                       ret->nsid, lbaf->lbads);
    if (le16_get(lbaf->ms) != 0)
        return err_set(err, -EPROTO,
                       "namespace %u: metadata (%u bytes per block) are not supported", ret->nsid,
                       le16_get(lbaf->ms));
    if (nblocks == 0)
        return err_set(err, -EPROTO, "namespace %u: its capacity is 0", ret->nsid);
    if (!checked_mul(nblocks, 1ULL << lbaf->lbads, &bytes) || bytes > INT64_MAX)
        return err_set(err, -EPROTO, "namespace %u: %llu blocks of %u bytes are too many",
                       ret->nsid, (unsigned long long)nblocks, 1U << lbaf->lbads);
    if (ctrl->max_io_bytes < 1U << lbaf->lbads)
        return err_set(err, -EPROTO,
                       "namespace %u: a block of %u bytes is more than a command "
                       "may carry (MDTS: %u)",
                       ret->nsid, 1U << lbaf->lbads, ctrl->max_io_bytes);
    ret->block_bytes = 1U << lbaf->lbads;
    ret->nblocks = nblocks;
    ret->read_only = raw->nsattr & NVME_NSATTR_WRITE_PROTECTED;
    ret->no_unmap = !ctrl->dsm;
    ret->no_write_cache = !ctrl->volatile_cache;
    memcpy(ret->nguid, raw->nguid, sizeof(ret->nguid));
    memcpy(ret->eui64, raw->eui64, sizeof(ret->eui64));
    return 0;
}

void nof_read_descs(const uint8_t *list, struct nvme_of_namespace *ret)
{
    size_t at = 0;

    while (at + sizeof(struct nvme_ns_id_desc) <= NVME_IDENTIFY_BYTES) {
        const struct nvme_ns_id_desc *d = (const void *)(list + at);
        const uint8_t *id = list + at + sizeof(*d);

        if (d->nidl == 0 || at + sizeof(*d) + d->nidl > NVME_IDENTIFY_BYTES)
            return;
        if (d->nidt == NVME_NIDT_UUID && d->nidl == sizeof(ret->uuid))
            memcpy(&ret->uuid, id, sizeof(ret->uuid));
        else if (d->nidt == NVME_NIDT_NGUID && d->nidl == sizeof(ret->nguid))
            memcpy(ret->nguid, id, sizeof(ret->nguid));
        else if (d->nidt == NVME_NIDT_EUI64 && d->nidl == sizeof(ret->eui64))
            memcpy(ret->eui64, id, sizeof(ret->eui64));
        at += sizeof(*d) + d->nidl;
    }
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

/* FNV-1a with a finish that spreads the last bytes (the finish of MurmurHash3). */
static uint64_t hash(uint64_t seed, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t h = 0xcbf29ce484222325ULL ^ seed;

    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3ULL;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdULL;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ULL;
    return h ^ h >> 33;
}

void nof_derive_uuid(const char *subnqn, struct nvme_of_namespace *ns)
{
    struct {
        char subnqn[256];
        uint8_t eui64[8];
        le32 nsid;
    } name = {.nsid = le32_of(ns->nsid)};
    le64 half[2];

    if (!all_zero(ns->uuid.b, sizeof(ns->uuid.b)))
        return;
    if (!all_zero(ns->nguid, sizeof(ns->nguid))) {
        memcpy(&ns->uuid, ns->nguid, sizeof(ns->uuid));
        return;
    }
    memcpy(name.subnqn, subnqn, strnlen(subnqn, sizeof(name.subnqn) - 1));
    memcpy(name.eui64, ns->eui64, sizeof(name.eui64));
    half[0] = le64_of(hash(0, &name, sizeof(name)));
    half[1] = le64_of(hash(0x9e3779b97f4a7c15ULL, &name, sizeof(name)));
    memcpy(&ns->uuid, half, sizeof(ns->uuid));
    ns->uuid.b[6] = 0x80 | (ns->uuid.b[6] & 0x0f); /* RFC 9562: version 8, own making */
    ns->uuid.b[8] = 0x80 | (ns->uuid.b[8] & 0x3f);
}

int nof_same_ns(const struct nvme_of_namespace *a, const struct nvme_of_namespace *b,
                struct err *err)
{
    char was[37], is[37];

    if (memcmp(&a->uuid, &b->uuid, sizeof(a->uuid)) != 0) {
        bdev_uuid_format(&a->uuid, was);
        bdev_uuid_format(&b->uuid, is);
        return err_set(err, -ESTALE, "its UUID was %s and is now %s", was, is);
    }
    if (memcmp(a->nguid, b->nguid, sizeof(a->nguid)) != 0)
        return err_set(err, -ESTALE, "its NGUID has changed");
    if (memcmp(a->eui64, b->eui64, sizeof(a->eui64)) != 0)
        return err_set(err, -ESTALE, "its EUI64 has changed");
    if (a->block_bytes != b->block_bytes)
        return err_set(err, -ESTALE, "its block size was %u and is now %u bytes", a->block_bytes,
                       b->block_bytes);
    return 0;
}
