/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_core/core.h - what every NVMe controller does in the same way, behind PCIe or a fabric:
 * statuses, block ranges, the Identify pages of a namespace. Functions without state. Thread: any.
 */
#ifndef NVME_CORE_CORE_H
#define NVME_CORE_CORE_H

#include "base/checked.h"
#include "base/util.h"
#include "bdev/bdev.h"
#include "spec/nvme.h"

typedef uint16_t nvme_status;   /* bits 14:0 of the status field of a CQE */
enum { NVME_PENDING = 0xffff }; /* none yet: the command goes on */
#define NVME_DNR(sc) ((nvme_status)((sc) | NVME_STATUS_DNR))

/* What a bdev's result (0 or -errno) of this operation is to a host. */
nvme_status nvme_status_of(int rc, enum bdev_op op);

/* SLBA of a Read, Write or Write Zeroes, unchecked. */
static inline uint64_t nvme_rw_slba(const struct nvme_sqe *sqe)
{
    return le32_get(sqe->cdw10) | (uint64_t)le32_get(sqe->cdw11) << 32;
}

/* The blocks of a Read, Write or Write Zeroes on a namespace of nblocks, which has no protection
 * information; *lba and *count (1-based) are written on SUCCESS only. Once per I/O: inline. */
static inline nvme_status nvme_rw_range(const struct nvme_sqe *sqe, uint64_t nblocks, uint64_t *lba,
                                        uint32_t *count)
{
    uint32_t cdw12 = le32_get(sqe->cdw12), n = NVME_RW_NLB(cdw12) + 1;
    uint64_t first = nvme_rw_slba(sqe);

    if (unlikely(!checked_range(first, n, nblocks)))
        return NVME_DNR(NVME_SC_LBA_RANGE);
    if (unlikely(NVME_RW_PRINFO(cdw12)))
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    *lba = first;
    *count = n;
    return NVME_SC_SUCCESS;
}

/* A namespace as Identify shows it. */
struct nvme_ns_view {
    uint32_t nsid, anagrpid; /* anagrpid 0: not reported */
    uint64_t nblocks;
    uint8_t block_shift;
    bool shared, read_only, write_zeroes_dealloc; /* the last: the DEAC bit is taken */
    uint8_t nguid[16], eui64[8];                  /* zero: it has none */
    struct bdev_uuid uuid;
};

/* Identify (Base 2.0, 5.17) of an active namespace: CNS 00h, 08h and 03h. The caller has zeroed the
 * page. */
void nvme_identify_ns(const struct nvme_ns_view *ns, struct nvme_id_ns *id);
void nvme_identify_ns_independent(const struct nvme_ns_view *ns, struct nvme_id_ns_independent *id);
void nvme_identify_ns_descs(const struct nvme_ns_view *ns, uint8_t page[NVME_IDENTIFY_BYTES]);

/* An ASCII field of Identify: text, cut to size, and spaces. */
void nvme_pad_text(char *dst, size_t size, const char *text);

#endif
