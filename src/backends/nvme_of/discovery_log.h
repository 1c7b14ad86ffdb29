/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/discovery_log.h - the Discovery log (70h, NVMe Base 2.0, section 5.16.1.23):
 * takes its records apart. Pure functions: the target is not trusted. */
#ifndef BACKENDS_NVME_OF_DISCOVERY_LOG_H
#define BACKENDS_NVME_OF_DISCOVERY_LOG_H

#include "base/err.h"
#include "spec/nvme_fabrics.h"

#include <stdbool.h>

enum { NOF_DISCOVERY_RECORDS = 1024 };

struct nof_record {
    char traddr[256], trsvcid[16], subnqn[224];
    bool ipv6;
};

/* Of the header: the number of records. 0, or -EPROTO with err filled: too many, or of an unknown
 * format. */
int nof_discovery_count(const struct nvme_log_discovery *head, unsigned *ret, struct err *err);
/* 1: a subsystem that can be reached; 0: something else that may be there (another transport, a
 * referral); -EPROTO with err filled: it cannot be. */
int nof_discovery_record(const struct nvme_discovery_entry *raw, struct nof_record *ret,
                         struct err *err);

#endif
