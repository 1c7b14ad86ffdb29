/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/ana.h - the Asymmetric Namespace Access log (0Ch, NVMe Base 2.0, section 8.1):
 * takes it apart and refuses what cannot be. Pure functions: the target is not trusted. */
#ifndef BACKENDS_NVME_OF_ANA_H
#define BACKENDS_NVME_OF_ANA_H

#include "base/err.h"
#include "spec/nvme.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NOF_ANA_GROUPS = 1024 };

/* The states of the groups, as the newest log says. Zeroed: there is none. */
struct nof_ana {
    uint8_t *log; /* of log_bytes, while it is read piece by piece */
    size_t log_bytes, have_bytes;
    struct {
        uint32_t grpid;
        uint8_t state;
    } groups[NOF_ANA_GROUPS];
    unsigned n;
    bool known;
};

/* Bytes of a log of so many groups (NANAGRPID), groups only; 0: there cannot be so many. */
size_t nof_ana_bytes(uint32_t nanagrpid);
/* Takes apart what was read with "groups only". 0, or -EPROTO with err filled; ana->groups is as it
 * was then. */
int nof_ana_parse(const void *log, size_t bytes, struct nof_ana *ana, struct err *err);
/* The state of a group (0: a group the log does not name, or no log). */
uint8_t nof_ana_state(const struct nof_ana *ana, uint32_t grpid);
bool nof_ana_changes(const struct nof_ana *ana);
const char *nof_ana_name(uint8_t state);

#endif
