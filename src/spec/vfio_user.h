/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/vfio_user.h - vfio-user protocol 0.0/0.1 (QEMU tree, docs/interop/vfio-user.rst) and the
 * parts of the VFIO interface it carries. All fields are in host byte order: both ends are on one
 * machine. */
#ifndef SPEC_VFIO_USER_H
#define SPEC_VFIO_USER_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* ---- header ---- */
enum vfio_user_command {
    VFIO_USER_VERSION = 1,
    VFIO_USER_DMA_MAP = 2,
    VFIO_USER_DMA_UNMAP = 3,
    VFIO_USER_DEVICE_GET_INFO = 4,
    VFIO_USER_DEVICE_GET_REGION_INFO = 5,
    VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
    VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
    VFIO_USER_DEVICE_SET_IRQS = 8,
    VFIO_USER_REGION_READ = 9,
    VFIO_USER_REGION_WRITE = 10,
    VFIO_USER_DMA_READ = 11, /* server -> client */
    VFIO_USER_DMA_WRITE = 12,
    VFIO_USER_DEVICE_RESET = 13,
    VFIO_USER_REGION_WRITE_MULTI = 15,
    VFIO_USER_DEVICE_FEATURE = 16,
    VFIO_USER_MIG_DATA_READ = 17,
    VFIO_USER_MIG_DATA_WRITE = 18,
    VFIO_USER_COMMANDS /* one more than the last */
};

enum {
    VFIO_USER_F_TYPE_MASK = 0xf, /* 0 command, 1 reply */
    VFIO_USER_F_COMMAND = 0x0,
    VFIO_USER_F_REPLY = 0x1,
    VFIO_USER_F_NO_REPLY = 0x10,
    VFIO_USER_F_ERROR = 0x20,
};

struct vfio_user_header {
    uint16_t id, command;
    uint32_t size; /* whole message, this header included */
    uint32_t flags;
    uint32_t error; /* positive errno with VFIO_USER_F_ERROR */
};
static_assert(sizeof(struct vfio_user_header) == 16, "header");

/* ---- VERSION: these four bytes, then a NUL-terminated JSON text ---- */
struct vfio_user_version {
    uint16_t major, minor;
};
static_assert(sizeof(struct vfio_user_version) == 4, "VERSION");

/* ---- DMA ---- */
enum { VFIO_USER_DMA_F_READ = 1, VFIO_USER_DMA_F_WRITE = 2 };
struct vfio_user_dma_map {
    uint32_t argsz, flags;
    uint64_t offset; /* into the file that comes along, if any */
    uint64_t iova, size;
};
static_assert(sizeof(struct vfio_user_dma_map) == 32, "DMA_MAP");

enum { VFIO_USER_UNMAP_F_DIRTY_BITMAP = 1, VFIO_USER_UNMAP_F_ALL = 2 };
struct vfio_user_dma_unmap {
    uint32_t argsz, flags;
    uint64_t iova, size;
};
static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "DMA_UNMAP");

/* ---- device ---- */
enum { VFIO_DEVICE_F_RESET = 1, VFIO_DEVICE_F_PCI = 2 };
struct vfio_user_device_info {
    uint32_t argsz, flags, num_regions, num_irqs;
};
static_assert(sizeof(struct vfio_user_device_info) == 16, "DEVICE_GET_INFO");

enum vfio_pci_region {
    VFIO_PCI_BAR0,
    VFIO_PCI_BAR1,
    VFIO_PCI_BAR2,
    VFIO_PCI_BAR3,
    VFIO_PCI_BAR4,
    VFIO_PCI_BAR5,
    VFIO_PCI_ROM,
    VFIO_PCI_CONFIG,
    VFIO_PCI_VGA,
    VFIO_PCI_REGIONS
};

enum {
    VFIO_REGION_F_READ = 1,
    VFIO_REGION_F_WRITE = 2,
    VFIO_REGION_F_MMAP = 4,
    VFIO_REGION_F_CAPS = 8
};
struct vfio_user_region_info {
    uint32_t argsz, flags, index, cap_offset;
    uint64_t size, offset;
};
static_assert(sizeof(struct vfio_user_region_info) == 32, "GET_REGION_INFO");

enum { VFIO_REGION_CAP_SPARSE_MMAP = 1 };
struct vfio_region_cap {
    uint16_t id, version;
    uint32_t next; /* from the start of the region info; 0: last */
};
struct vfio_region_area {
    uint64_t offset, size;
};
struct vfio_region_sparse_mmap {
    struct vfio_region_cap cap;
    uint32_t nr_areas, reserved;
    struct vfio_region_area areas[];
};
static_assert(sizeof(struct vfio_region_sparse_mmap) == 16, "sparse mmap capability");

/* ---- interrupts ---- */
enum vfio_pci_irq {
    VFIO_PCI_IRQ_INTX,
    VFIO_PCI_IRQ_MSI,
    VFIO_PCI_IRQ_MSIX,
    VFIO_PCI_IRQ_ERR,
    VFIO_PCI_IRQ_REQ,
    VFIO_PCI_IRQS
};

enum {
    VFIO_IRQ_F_EVENTFD = 1,
    VFIO_IRQ_F_MASKABLE = 2,
    VFIO_IRQ_F_AUTOMASKED = 4,
    VFIO_IRQ_F_NORESIZE = 8,
};
struct vfio_user_irq_info {
    uint32_t argsz, flags, index, count;
};
static_assert(sizeof(struct vfio_user_irq_info) == 16, "GET_IRQ_INFO");

enum {
    VFIO_IRQ_SET_DATA_NONE = 1,
    VFIO_IRQ_SET_DATA_BOOL = 2,
    VFIO_IRQ_SET_DATA_EVENTFD = 4,
    VFIO_IRQ_SET_DATA_MASK = 7,
    VFIO_IRQ_SET_ACTION_MASK = 8,
    VFIO_IRQ_SET_ACTION_UNMASK = 0x10,
    VFIO_IRQ_SET_ACTION_TRIGGER = 0x20,
    VFIO_IRQ_SET_ACTIONS = 0x38,
};
struct vfio_user_irq_set {
    uint32_t argsz, flags, index, start, count; /* then count bytes with DATA_BOOL */
};
static_assert(sizeof(struct vfio_user_irq_set) == 20, "SET_IRQS");

/* ---- regions ---- */
struct vfio_user_region_access {
    uint64_t offset;
    uint32_t region, count; /* then count bytes: REGION_WRITE, and the reply to REGION_READ */
};
static_assert(sizeof(struct vfio_user_region_access) == 16, "REGION_READ, REGION_WRITE");

enum { VFIO_USER_WRITE_MULTI_MAX = 200 };
struct vfio_user_write_one {
    uint64_t offset;
    uint32_t region, count;
    uint8_t data[8];
};
static_assert(sizeof(struct vfio_user_write_one) == 24, "REGION_WRITE_MULTI entry");
struct vfio_user_write_multi {
    uint64_t wr_cnt;
    struct vfio_user_write_one writes[];
};
static_assert(sizeof(struct vfio_user_write_multi) == 8, "REGION_WRITE_MULTI");

/* server -> client */
struct vfio_user_dma_access {
    uint64_t addr, count;
};

/* ---- DEVICE_FEATURE ---- */
enum {
    VFIO_DEVICE_FEATURE_MASK = 0xffff,
    VFIO_DEVICE_FEATURE_GET = 1 << 16,
    VFIO_DEVICE_FEATURE_SET = 1 << 17,
    VFIO_DEVICE_FEATURE_PROBE = 1 << 18,
};
struct vfio_user_device_feature {
    uint32_t argsz, flags;
};

/* ---- our own capability, in the client's VERSION: {"capabilities":{"mapped_doorbells":true}} asks
 * for a doorbell page that can be mapped (BAR0, 0x1000..0x1fff) from a function whose doorbells are
 * "auto" ---- */
#define VFIO_USER_CAP_MAPPED_DOORBELLS "mapped_doorbells"

/* ---- limits of the known clients ---- */
enum {
    VFIO_USER_MAX_MSG_FDS = 16, /* QEMU refuses a server that offers more */
    VFIO_USER_MAX_DATA_XFER = 1 << 20,
    VFIO_USER_MAX_DMA_MAPS = 65535, /* QEMU refuses more */
};

#endif
