/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/prp.h - data pointers become an iovec over guest pages (Base 2.0, 4.1). Everything
 * read from guest memory is read once; every walk is bounded. On an error *n may have grown; the
 * entries mean nothing. Statuses come without DNR: the caller knows whether the memory may come
 * back. */
#ifndef DEVICES_NVME_PRP_H
#define DEVICES_NVME_PRP_H

#include "guest/memory.h"
#include "spec/nvme.h"

uint16_t nvme_prp_iov(struct guest_map *map, uint64_t prp1, uint64_t prp2, uint64_t bytes,
                      uint32_t prot, struct iovec *iov, int *n, int max);
uint16_t nvme_sgl_iov(struct guest_map *map, const struct nvme_sgl_desc *first, uint64_t bytes,
                      uint32_t prot, struct iovec *iov, int *n, int max);

#endif
