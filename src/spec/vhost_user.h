/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/vhost_user.h - the vhost-user protocol (QEMU, docs/interop/vhost-user.rst), host byte order:
 * both ends are on one machine. */
#ifndef SPEC_VHOST_USER_H
#define SPEC_VHOST_USER_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* Bits of the features word that belong to the transport. */
#define VHOST_F_LOG_ALL (1ULL << 26)
#define VHOST_USER_F_PROTOCOL_FEATURES (1ULL << 30)

enum vhost_user_protocol_feature {
    VHOST_USER_PROTOCOL_F_MQ = 0,
    VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
    VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
    VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
    VHOST_USER_PROTOCOL_F_PAGEFAULT = 8,
    VHOST_USER_PROTOCOL_F_CONFIG = 9,
    VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
    VHOST_USER_PROTOCOL_F_HOST_NOTIFIER = 11,
    VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
    VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
    VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
    VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
    VHOST_USER_PROTOCOL_F_STATUS = 16,
    VHOST_USER_PROTOCOL_F_DEVICE_STATE = 19,
    VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20,
};

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_RESET_OWNER = 4,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_LOG_BASE = 6,
    VHOST_USER_SET_LOG_FD = 7,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_SET_VRING_ERR = 14,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_GET_QUEUE_NUM = 17,
    VHOST_USER_SET_VRING_ENABLE = 18,
    VHOST_USER_SET_BACKEND_REQ_FD = 21,
    VHOST_USER_GET_CONFIG = 24,
    VHOST_USER_SET_CONFIG = 25,
    VHOST_USER_GET_INFLIGHT_FD = 31,
    VHOST_USER_SET_INFLIGHT_FD = 32,
    VHOST_USER_RESET_DEVICE = 34,
    VHOST_USER_GET_MAX_MEM_SLOTS = 36,
    VHOST_USER_ADD_MEM_REG = 37,
    VHOST_USER_REM_MEM_REG = 38,
    VHOST_USER_SET_STATUS = 39,
    VHOST_USER_GET_STATUS = 40,
    VHOST_USER_REQUESTS = 48,
};

enum vhost_user_backend_request { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2 };

struct vhost_user_header {
    uint32_t request, flags, size; /* size: of the payload that follows */
};
static_assert(sizeof(struct vhost_user_header) == 12, "the header is 12 bytes");

enum {
    VHOST_USER_VERSION = 1, /* bits 1:0 of flags */
    VHOST_USER_VERSION_MASK = 3,
    VHOST_USER_F_REPLY = 4,
    VHOST_USER_F_NEED_REPLY = 8,
};

struct vhost_user_vring_state {
    uint32_t index, num;
};

struct vhost_user_vring_addr {
    uint32_t index, flags;           /* bit 0: log the used ring */
    uint64_t desc, used, avail, log; /* addresses of the front end's process */
};
static_assert(sizeof(struct vhost_user_vring_addr) == 40, "a vring address is 40 bytes");

/* Payload of SET_VRING_KICK, _CALL, _ERR. */
#define VHOST_USER_VRING_IDX_MASK 0xffULL
#define VHOST_USER_VRING_NOFD (1ULL << 8)

struct vhost_user_mem_region {
    uint64_t gpa, size_bytes, user_addr, mmap_offset;
};

enum { VHOST_USER_MEM_TABLE_MAX = 8 };
struct vhost_user_mem_table {
    uint32_t nregions, padding;
    struct vhost_user_mem_region region[VHOST_USER_MEM_TABLE_MAX];
};
static_assert(offsetof(struct vhost_user_mem_table, region) == 8, "regions begin at byte 8");

struct vhost_user_mem_one { /* ADD_MEM_REG, REM_MEM_REG */
    uint64_t padding;
    struct vhost_user_mem_region region;
};
static_assert(sizeof(struct vhost_user_mem_one) == 40, "one region is 40 bytes");

enum { VHOST_USER_CONFIG_MAX = 256 };
struct vhost_user_config {
    uint32_t offset, size, flags;
    uint8_t data[VHOST_USER_CONFIG_MAX];
};
static_assert(offsetof(struct vhost_user_config, data) == 12, "data begin at byte 12");

struct vhost_user_inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
    uint32_t
        padding; /* a message has 20 bytes or, from front ends that send the whole struct, 24 */
};
enum { VHOST_USER_INFLIGHT_BYTES = 20 };
static_assert(offsetof(struct vhost_user_inflight, num_queues) == 16, "num_queues is at byte 16");

/* The in-flight area ("Inflight I/O tracking"): per queue a header and an entry for each
 * descriptor. */
struct vhost_inflight_split_entry {
    uint8_t inflight, padding[5];
    uint16_t next;    /* chain of the last batch, by last_batch_head */
    uint64_t counter; /* order of fetching */
};
struct vhost_inflight_split {
    uint64_t features;
    uint16_t version; /* 1; 0: not initialised */
    uint16_t desc_num;
    uint16_t last_batch_head, used_idx;
    struct vhost_inflight_split_entry desc[];
};
static_assert(sizeof(struct vhost_inflight_split_entry) == 16, "split entries are 16 bytes");
static_assert(offsetof(struct vhost_inflight_split, desc) == 16, "split header");

struct vhost_inflight_packed_entry {
    uint8_t inflight, padding;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id, flags;
    uint32_t len;
    uint64_t addr;
};
struct vhost_inflight_packed {
    uint64_t features;
    uint16_t version, desc_num;
    uint16_t free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap_counter, old_used_wrap_counter;
    uint8_t padding[7];
    struct vhost_inflight_packed_entry desc[];
};
static_assert(sizeof(struct vhost_inflight_packed_entry) == 32, "packed entries are 32 bytes");
static_assert(offsetof(struct vhost_inflight_packed, desc) == 32, "packed header");

#endif
