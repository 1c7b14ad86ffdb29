/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/fabrics.h"

#include <string.h>

void fabrics_connect(struct tcp_cmd *cmd, const struct fabrics_connect *c,
                     struct nvme_fabrics_connect_data *d, struct iovec *iov)
{
    struct nvme_fabrics_connect *sqe = (void *)&cmd->sqe;

    memset(d, 0, sizeof(*d));
    memcpy(d->hostid, c->hostid, sizeof(d->hostid));
    d->cntlid = le16_of(c->cntlid);
    memcpy(d->subnqn, c->subnqn, strnlen(c->subnqn, NVME_NQN_MAX));
    memcpy(d->hostnqn, c->hostnqn, strnlen(c->hostnqn, NVME_NQN_MAX));
    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_CONNECT;
    sqe->qid = le16_of(c->qid);
    sqe->sqsize = le16_of((uint16_t)(c->entries - 1));
    sqe->kato = le32_of(c->kato_ms);
    sqe->cattr = c->no_sq_flow ? NVME_CATTR_DISABLE_SQFLOW : 0;
    tcp_cmd_data(cmd, iov, d, sizeof(*d), false);
}

void fabrics_property_get(struct tcp_cmd *cmd, uint32_t offset, bool wide)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_PROPERTY_GET;
    sqe->attrib = wide ? NVME_ATTRIB_BYTES_8 : 0;
    sqe->ofst = le32_of(offset);
}

void fabrics_property_set(struct tcp_cmd *cmd, uint32_t offset, uint32_t value)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_PROPERTY_SET;
    sqe->ofst = le32_of(offset);
    sqe->value = le64_of(value);
}

uint32_t fabrics_cc(uint64_t cap)
{
    return NVME_CC_EN | (uint32_t)NVME_CC_CSS_NVM << NVME_CC_CSS_SHIFT |
           NVME_CAP_MPSMIN(cap) << NVME_CC_MPS_SHIFT | 6U << NVME_CC_IOSQES_SHIFT |
           4U << NVME_CC_IOCQES_SHIFT;
}
