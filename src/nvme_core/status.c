/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_core/core.h"

#include <errno.h>

nvme_status nvme_status_of(int rc, enum bdev_op op)
{
    switch (rc) {
    case 0:
        return NVME_SC_SUCCESS;
    case -ECANCELED:
        return NVME_SC_ABORT_REQUESTED;
    case -ENOTSUP:
        return NVME_DNR(NVME_SC_INVALID_OPCODE);
    case -EINVAL:
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    case -ERANGE:
        return NVME_DNR(NVME_SC_LBA_RANGE);
    case -ENOSPC:
        return NVME_DNR(NVME_SC_CAPACITY_EXCEEDED);
    case -EROFS:
        return NVME_DNR(NVME_SC_NS_WRITE_PROTECTED);
    case -EFAULT:
        return NVME_DNR(NVME_SC_DATA_TRANSFER_ERROR);
    case -ENODEV:
        return NVME_SC_NS_NOT_READY;
    case -EIO:
        return op == BDEV_READ    ? NVME_SC_UNRECOVERED_READ
               : op == BDEV_WRITE ? NVME_SC_WRITE_FAULT
                                  : NVME_SC_INTERNAL_ERROR;
    default:
        return NVME_SC_INTERNAL_ERROR;
    }
}
