/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/status.h"

#include "base/util.h"
#include "spec/nvme_fabrics.h"

#include <errno.h>
#include <stdio.h>

struct meaning {
    uint16_t status; /* SCT and SC */
    int code;
    bool retry, even_with_dnr;
    const char *text;
};

static const struct meaning meanings[] = {
    {NVME_SC_INVALID_OPCODE, -EOPNOTSUPP, false, false, "invalid opcode"},
    {NVME_SC_INVALID_FIELD, -EINVAL, false, false, "invalid field"},
    {NVME_SC_DATA_TRANSFER_ERROR, -EIO, true, false, "data transfer error"},
    {NVME_SC_ABORTED_POWER_LOSS, -EIO, true, false, "aborted by power loss"},
    {NVME_SC_INTERNAL_ERROR, -EIO, true, false, "internal error"},
    {NVME_SC_ABORT_REQUESTED, -EIO, true, false, "aborted by request"},
    {NVME_SC_ABORTED_SQ_DELETION, -EIO, true, false, "aborted by queue deletion"},
    /* Also while a restarted target has not got its namespaces back yet. */
    {NVME_SC_INVALID_NAMESPACE, -ENODEV, true, true, "invalid namespace"},
    {NVME_SC_KAT_EXPIRED, -EIO, true, false, "keep-alive expired"},
    {NVME_SC_NS_WRITE_PROTECTED, -EROFS, false, false, "namespace is write protected"},
    {NVME_SC_COMMAND_INTERRUPTED, -EIO, true, false, "command interrupted"},
    {NVME_SC_TRANSIENT_TRANSPORT, -EIO, true, false, "transient transport error"},
    {NVME_SC_LBA_RANGE, -ERANGE, false, false, "LBA out of range"},
    {NVME_SC_CAPACITY_EXCEEDED, -ENOSPC, false, false, "capacity exceeded"},
    {NVME_SC_NS_NOT_READY, -EIO, true, false, "namespace not ready"},
    {NVME_SC_RESERVATION_CONFLICT, -EBADE, false, false, "reservation conflict"},
    {NVME_SC_CONNECT_INVALID_PARAM, -EROFS, false, false, "attempted write to read only range"},
    {NVME_SC_WRITE_FAULT, -EIO, false, false, "write fault"},
    {NVME_SC_UNRECOVERED_READ, -ENODATA, false, false, "unrecovered read error"},
    {NVME_SC_ACCESS_DENIED, -EACCES, false, false, "access denied"},
    {NVME_SC_UNWRITTEN_BLOCK, -ENODATA, false, false, "deallocated or unwritten block"},
    {NVME_SC_PATH_INTERNAL, -EIO, true, false, "internal path error"},
    {NVME_SC_ANA_PERSISTENT_LOSS, -EIO, true, false, "asymmetric access: persistent loss"},
    {NVME_SC_ANA_INACCESSIBLE, -EIO, true, false, "asymmetric access: inaccessible"},
    {NVME_SC_ANA_TRANSITION, -EIO, true, false, "asymmetric access: transition"},
    {NVME_SC_CTRL_PATHING, -EIO, true, false, "controller pathing error"},
    {NVME_SC_HOST_PATHING, -EIO, true, false, "host pathing error"},
    {NVME_SC_HOST_ABORTED, -EIO, true, false, "aborted by the host"},
};

static const struct meaning *find(uint16_t status)
{
    for (size_t i = 0; i < ARRAY_SIZE(meanings); i++)
        if (meanings[i].status == (status & NVME_STATUS_MASK))
            return &meanings[i];
    return NULL;
}

int nof_status_errno(uint16_t status)
{
    const struct meaning *m = find(status);

    if ((status & NVME_STATUS_MASK) == 0)
        return 0;
    return m ? m->code : -EIO;
}

bool nof_status_retry(uint16_t status)
{
    const struct meaning *m = find(status);

    return m && m->retry && (m->even_with_dnr || !(status & NVME_STATUS_DNR));
}

bool nof_status_path(uint16_t status)
{
    return (status >> 8 & 7) == 3 && !(status & NVME_STATUS_DNR);
}

bool nof_status_ana(uint16_t status)
{
    switch (status & NVME_STATUS_MASK) {
    case NVME_SC_ANA_PERSISTENT_LOSS:
    case NVME_SC_ANA_INACCESSIBLE:
    case NVME_SC_ANA_TRANSITION:
        return true;
    default:
        return false;
    }
}

void nof_status_text(uint16_t status, char *out, size_t size)
{
    const struct meaning *m = find(status);

    snprintf(out, size, "%s (status %03xh%s)", m ? m->text : "refused", status & NVME_STATUS_MASK,
             status & NVME_STATUS_DNR ? ", do not retry" : "");
}

void nof_connect_text(uint16_t status, uint32_t dw0, char *out, size_t size)
{
    switch (status & NVME_STATUS_MASK) {
    case NVME_SC_CONNECT_FORMAT:
        snprintf(out, size, "the target does not know this format of Connect");
        break;
    case NVME_SC_CONNECT_CTRL_BUSY:
        snprintf(out, size, "the controller is busy or out of resources");
        break;
    case NVME_SC_CONNECT_INVALID_PARAM: /* dw0: offset 15:0, bit 16: in the data */
        if (dw0 == (0x10000 | offsetof(struct nvme_fabrics_connect_data, subnqn)))
            snprintf(out, size, "the target has no subsystem of this NQN here");
        else if (dw0 == (0x10000 | offsetof(struct nvme_fabrics_connect_data, hostnqn)))
            snprintf(out, size, "the target refuses the host NQN");
        else
            snprintf(out, size, "invalid parameter at byte %u of the %s", dw0 & 0xffff,
                     dw0 & 0x10000 ? "data" : "command");
        break;
    case NVME_SC_CONNECT_INVALID_HOST:
        snprintf(out, size, "this host NQN is not allowed to use the subsystem");
        break;
    case NVME_SC_AUTH_REQUIRED:
        snprintf(out, size, "the target demands authentication, which is not supported");
        break;
    default:
        nof_status_text(status, out, size);
    }
}
