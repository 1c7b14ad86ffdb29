/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/nvme_disk.h - one namespace of an NVMe controller as a disk. */
#ifndef CLIENT_NVME_DISK_H
#define CLIENT_NVME_DISK_H

#include "client/disk.h"
#include "client/nvme_host.h"

/* Opens the controller. NULL: err says why. */
struct disk *nvme_disk_open(const struct nvme_host_opts *opts, struct err *err);

#endif
