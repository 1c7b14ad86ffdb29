/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/virtio.h - Virtual I/O Device 1.3: virtqueues (2.7, 2.8), the block device (5.2). */
#ifndef SPEC_VIRTIO_H
#define SPEC_VIRTIO_H

#include "base/endian.h"

#include <assert.h>
#include <stddef.h>

/* Feature bits (6, 5.2.3). */
#define VIRTIO_F_RING_INDIRECT_DESC (1ULL << 28)
#define VIRTIO_F_RING_EVENT_IDX (1ULL << 29)
#define VIRTIO_F_VERSION_1 (1ULL << 32)
#define VIRTIO_F_RING_PACKED (1ULL << 34)
#define VIRTIO_F_RING_RESET (1ULL << 40)

#define VIRTIO_BLK_F_SIZE_MAX (1ULL << 1)
#define VIRTIO_BLK_F_SEG_MAX (1ULL << 2)
#define VIRTIO_BLK_F_RO (1ULL << 5)
#define VIRTIO_BLK_F_BLK_SIZE (1ULL << 6)
#define VIRTIO_BLK_F_FLUSH (1ULL << 9)
#define VIRTIO_BLK_F_TOPOLOGY (1ULL << 10)
#define VIRTIO_BLK_F_CONFIG_WCE (1ULL << 11)
#define VIRTIO_BLK_F_MQ (1ULL << 12)
#define VIRTIO_BLK_F_DISCARD (1ULL << 13)
#define VIRTIO_BLK_F_WRITE_ZEROES (1ULL << 14)

/* Device status (2.1). */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* ---- split virtqueues (2.7) ---- */

enum { VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2, VIRTQ_DESC_F_INDIRECT = 4 };
enum { VIRTQ_AVAIL_F_NO_INTERRUPT = 1, VIRTQ_USED_F_NO_NOTIFY = 1 };
enum { VIRTQ_MAX_SIZE = 32768 };

struct virtq_desc { /* 2.7.5 */
    le64 addr;
    le32 len;
    le16 flags, next;
};
static_assert(sizeof(struct virtq_desc) == 16, "descriptors are 16 bytes");

struct virtq_avail { /* 2.7.6; used_event follows ring[size] */
    le16 flags, idx;
    le16 ring[];
};

struct virtq_used_elem {
    le32 id, len;
};

struct virtq_used { /* 2.7.8; avail_event follows ring[size] */
    le16 flags, idx;
    struct virtq_used_elem ring[];
};
static_assert(offsetof(struct virtq_used, ring) == 4, "used elements begin at byte 4");

/* Bytes of the three parts (2.7). */
static inline uint64_t virtq_desc_bytes(uint32_t size)
{
    return 16ULL * size;
}

static inline uint64_t virtq_avail_bytes(uint32_t size)
{
    return 6 + 2ULL * size;
}

static inline uint64_t virtq_used_bytes(uint32_t size)
{
    return 6 + 8ULL * size;
}

/* ---- packed virtqueues (2.8) ---- */

enum { VIRTQ_PACKED_F_AVAIL = 1 << 7, VIRTQ_PACKED_F_USED = 1 << 15 };
enum {
    VIRTQ_PACKED_EVENT_ENABLE = 0,
    VIRTQ_PACKED_EVENT_DISABLE = 1,
    VIRTQ_PACKED_EVENT_DESC = 2, /* with EVENT_IDX only */
};

struct virtq_packed_desc { /* 2.8.13; what the device writes has the same layout */
    le64 addr;
    le32 len;
    le16 id, flags;
};
static_assert(sizeof(struct virtq_packed_desc) == 16, "descriptors are 16 bytes");

struct virtq_packed_event { /* 2.8.14 */
    le16 off_wrap;          /* bits 14:0 offset, bit 15 wrap counter */
    le16 flags;             /* bits 1:0 VIRTQ_PACKED_EVENT_* */
};
static_assert(sizeof(struct virtq_packed_event) == 4, "event suppression structures are 4 bytes");

/* ---- block device (5.2) ---- */

enum {
    VIRTIO_BLK_T_IN = 0,
    VIRTIO_BLK_T_OUT = 1,
    VIRTIO_BLK_T_FLUSH = 4,
    VIRTIO_BLK_T_GET_ID = 8,
    VIRTIO_BLK_T_DISCARD = 11,
    VIRTIO_BLK_T_WRITE_ZEROES = 13,
};
enum { VIRTIO_BLK_S_OK = 0, VIRTIO_BLK_S_IOERR = 1, VIRTIO_BLK_S_UNSUPP = 2 };
enum { VIRTIO_BLK_SECTOR = 512, VIRTIO_BLK_ID_BYTES = 20 };

struct virtio_blk_req_head {
    le32 type, reserved;
    le64 sector; /* in 512 bytes, whatever blk_size is */
};
static_assert(sizeof(struct virtio_blk_req_head) == 16, "the header is 16 bytes");

struct virtio_blk_range { /* discard, write zeroes */
    le64 sector;
    le32 num_sectors, flags; /* bit 0: unmap (write zeroes only) */
};
static_assert(sizeof(struct virtio_blk_range) == 16, "a range is 16 bytes");

struct __attribute__((packed)) virtio_blk_config {
    le64 capacity; /* in 512 bytes */
    le32 size_max, seg_max;
    le16 cylinders;
    uint8_t heads, sectors;
    le32 blk_size;
    uint8_t physical_block_exp, alignment_offset;
    le16 min_io_size;
    le32 opt_io_size;
    uint8_t writeback, unused0;
    le16 num_queues;
    le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
    le32 max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(offsetof(struct virtio_blk_config, writeback) == 32, "5.2.4");
static_assert(offsetof(struct virtio_blk_config, num_queues) == 34, "5.2.4");
static_assert(sizeof(struct virtio_blk_config) == 60, "as far as write_zeroes_may_unmap");

#endif
