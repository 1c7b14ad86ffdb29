/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_core/core.h"

#include <string.h>

void nvme_pad_text(char *dst, size_t size, const char *text)
{
    size_t len = strnlen(text, size);

    memset(dst, ' ', size);
    memcpy(dst, text, len);
}

void nvme_identify_ns(const struct nvme_ns_view *ns, struct nvme_id_ns *id)
{
    id->nsze = id->ncap = id->nuse = le64_of(ns->nblocks);
    id->nsfeat = 0;
    id->nmic = ns->shared ? NVME_NMIC_SHARED : 0;
    id->nsattr = ns->read_only ? NVME_NSATTR_WRITE_PROTECTED : 0;
    /* What a deallocated block reads as depends on the backend: not reported, except through DEAC.
     */
    id->dlfeat = ns->write_zeroes_dealloc ? NVME_DLFEAT_WZ_DEALLOC : 0;
    id->anagrpid = le32_of(ns->anagrpid);
    id->lbaf[0].lbads = ns->block_shift;
    memcpy(id->nguid, ns->nguid, sizeof(id->nguid));
    memcpy(id->eui64, ns->eui64, sizeof(id->eui64));
}

void nvme_identify_ns_independent(const struct nvme_ns_view *ns, struct nvme_id_ns_independent *id)
{
    id->nmic = ns->shared ? NVME_NMIC_SHARED : 0;
    id->anagrpid = le32_of(ns->anagrpid);
    id->nsattr = ns->read_only ? NVME_NSATTR_WRITE_PROTECTED : 0;
    id->nstat = NVME_NSTAT_NRDY;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static uint8_t *put_desc(uint8_t *at, uint8_t type, const void *value, uint8_t bytes)
{
    struct nvme_ns_id_desc d = {.nidt = type, .nidl = bytes};

    memcpy(at, &d, sizeof(d));
    memcpy(at + sizeof(d), value, bytes);
    return at + sizeof(d) + bytes;
}

void nvme_identify_ns_descs(const struct nvme_ns_view *ns, uint8_t page[NVME_IDENTIFY_BYTES])
{
    uint8_t csi = NVME_CSI_NVM;

    if (!is_zero(ns->eui64, sizeof(ns->eui64)))
        page = put_desc(page, NVME_NIDT_EUI64, ns->eui64, sizeof(ns->eui64));
    if (!is_zero(ns->nguid, sizeof(ns->nguid)))
        page = put_desc(page, NVME_NIDT_NGUID, ns->nguid, sizeof(ns->nguid));
    page = put_desc(page, NVME_NIDT_UUID, ns->uuid.b, sizeof(ns->uuid.b));
    put_desc(page, NVME_NIDT_CSI, &csi, 1);
}
