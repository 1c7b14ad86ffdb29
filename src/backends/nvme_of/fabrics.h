/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/fabrics.h - Fabrics commands as a host sends them: Connect, Property Get and
 * Property Set (NVMe Base 2.0, section 6). They fill a slot of tcp_cmd_get(); the caller sends it.
 * Thread: the connection's. */
#ifndef BACKENDS_NVME_OF_FABRICS_H
#define BACKENDS_NVME_OF_FABRICS_H

#include "backends/nvme_of/tcp.h"
#include "spec/nvme_fabrics.h"

enum { FABRICS_ADMIN_ENTRIES = 32 }; /* of an admin queue: the least that a controller must take */

struct fabrics_connect {
    const void *hostid;           /* 16 bytes */
    const char *subnqn, *hostnqn; /* at most NVME_NQN_MAX bytes */
    uint16_t cntlid;              /* NVME_CNTLID_DYNAMIC for an admin queue */
    uint16_t qid;                 /* 0: the admin queue */
    uint32_t entries;             /* of the queue: 1-based, unlike SQSIZE */
    uint32_t kato_ms;             /* admin queue only */
    bool no_sq_flow;              /* asks for no SQ flow control */
};
/* d and iov are the caller's until the response has come; d is filled here. */
void fabrics_connect(struct tcp_cmd *cmd, const struct fabrics_connect *c,
                     struct nvme_fabrics_connect_data *d, struct iovec *iov);
/* The value comes in dw0 and, of a wide property (8 bytes), dw1 of the response. */
void fabrics_property_get(struct tcp_cmd *cmd, uint32_t offset, bool wide);
/* Of 4 bytes. */
void fabrics_property_set(struct tcp_cmd *cmd, uint32_t offset, uint32_t value);
/* CC of an enabled controller that has this CAP: NVM command set, the smallest page. */
uint32_t fabrics_cc(uint64_t cap);

#endif
