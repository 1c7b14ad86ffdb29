/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/nvme_inside.h - the host driver from inside: nvme_host.c (memory, I/O, open and close),
 * nvme_pci.c (doorbell page, vectors) and nvme_control.c (registers, admin commands, queues). */
#ifndef CLIENT_NVME_INSIDE_H
#define CLIENT_NVME_INSIDE_H

#include "client/arena.h"
#include "client/nvme_queue.h"

enum { ADMIN_DEPTH = 31, MAX_QUEUES = 64, MAX_VECTORS = 64 };
#define ARENA_IOVA 0x100000000ULL

struct nvme_host {
    struct nvme_host_opts o;
    struct nvme_host_info info;
    struct vfio_client *vc;
    struct nvme_bell bell;
    struct nvme_queue admin;
    struct nvme_queue io[MAX_QUEUES];
    unsigned nio;
    struct arena arena;
    char *doorbells; /* mapping of the sparse area, or NULL */
    uint64_t doorbells_bytes;
    char *admin_page;
    uint64_t admin_page_iova, shadow_iova;
    int vector_fd[MAX_VECTORS];
    unsigned nvectors;
    uint64_t interrupts;
    uint32_t cc;
};

/* ---- nvme_pci.c ---- */
int nvme_pci_map_doorbells(struct nvme_host *h, struct err *err);
int nvme_pci_open_vectors(struct nvme_host *h, struct err *err);

/* ---- nvme_control.c ---- */
/* Everything from CC.EN on. first: the queues' memory is made as well. */
int nvme_control_start(struct nvme_host *h, bool first, struct err *err);
/* CC.EN = 0, and waits until the device has let go of everything. */
void nvme_control_stop(struct nvme_host *h);

#endif
