/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/identify.h - takes a target's Identify data apart and refuses what cannot be.
 * Pure functions: the target is not trusted, and each refusal says what is wrong. */
#ifndef BACKENDS_NVME_OF_IDENTIFY_H
#define BACKENDS_NVME_OF_IDENTIFY_H

#include "backends/nvme_of/nvme_of.h"
#include "spec/nvme.h"

enum { NOF_MAX_QUEUE_ENTRIES = 128 };

struct nof_ctrl {
    uint16_t cntlid, vid, oacs, oncs, kas; /* kas: units of 100 ms */
    uint16_t cqt_ms;                       /* 0: not reported */
    uint32_t ver, oaes;
    uint32_t max_io_bytes; /* of one command; at most 1 GiB */
    uint32_t inline_bytes; /* in an I/O queue's capsule */
    uint16_t entries;      /* of an I/O queue */
    uint32_t ana_groups;   /* NANAGRPID */
    uint8_t anatt_s;       /* the longest change of an ANA group */
    bool volatile_cache, dsm, write_zeroes, multi_ctrl, ana;
    bool traffic_keep_alive, fence_mark;     /* NVME_VS_FENCE_MARK */
    char sn[21], mn[41], fr[9], subnqn[224]; /* printable, without trailing spaces */
};

/* cap: the CAP property; cntlid: what Connect returned. 0 or -EPROTO with err filled. */
int nof_check_ctrl(const struct nvme_id_ctrl *raw, uint64_t cap, const char *subnqn,
                   uint16_t cntlid, struct nof_ctrl *ret, struct err *err);

/* Block size, capacity, NGUID, EUI64 of CNS 00h; ret->nsid is set by the caller. 0 or -EPROTO with
 * err filled. */
int nof_check_ns(const struct nvme_id_ns *raw, const struct nof_ctrl *ctrl,
                 struct nvme_of_namespace *ret, struct err *err);

/* Adds UUID, NGUID and EUI64 of a descriptor list (CNS 03h, 4096 bytes). */
void nof_read_descs(const uint8_t *list, struct nvme_of_namespace *ret);

/* Gives the bdev a UUID when the namespace has none of its own: its NGUID, or one made from EUI64,
 * SUBNQN and NSID. */
void nof_derive_uuid(const char *subnqn, struct nvme_of_namespace *ns);

/* 0 when b is the same namespace as a, grown perhaps; else -ESTALE with err saying what has
 * changed. */
int nof_same_ns(const struct nvme_of_namespace *a, const struct nvme_of_namespace *b,
                struct err *err);

#endif
