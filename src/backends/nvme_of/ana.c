/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/ana.h"

#include <errno.h>
#include <string.h>

size_t nof_ana_bytes(uint32_t nanagrpid)
{
    if (nanagrpid == 0 || nanagrpid > NOF_ANA_GROUPS)
        return 0;
    return sizeof(struct nvme_log_ana) + nanagrpid * sizeof(struct nvme_ana_group);
}

static bool state_is_known(uint8_t state)
{
    return (state >= NVME_ANA_OPTIMIZED && state <= NVME_ANA_PERSISTENT_LOSS) ||
           state == NVME_ANA_CHANGE;
}

int nof_ana_parse(const void *log, size_t bytes, struct nof_ana *ana, struct err *err)
{
    const struct nvme_log_ana *head = log;
    const struct nvme_ana_group *g = (const void *)(head + 1);
    unsigned n;

    if (bytes < sizeof(*head))
        return err_set(err, -EPROTO, "an ANA log of %zu bytes, shorter than its header", bytes);
    n = le16_get(head->ngrps);
    if (n > NOF_ANA_GROUPS || bytes < sizeof(*head) + n * sizeof(*g))
        return err_set(err, -EPROTO, "%u ANA groups, more than it has room for", n);
    for (unsigned i = 0; i < n; i++) {
        uint32_t id = le32_get(g[i].grpid);

        if (le32_get(g[i].nnsids) != 0)
            return err_set(err, -EPROTO, "ANA group %u with namespaces, which were not asked for",
                           id);
        if (id == 0)
            return err_set(err, -EPROTO, "ANA group 0");
        for (unsigned k = 0; k < i; k++)
            if (le32_get(g[k].grpid) == id)
                return err_set(err, -EPROTO, "ANA group %u twice", id);
        if (!state_is_known(g[i].state & 0xf))
            return err_set(err, -EPROTO, "ANA group %u is in the unknown state %u", id,
                           g[i].state & 0xfU);
    }
    for (unsigned i = 0; i < n; i++) {
        ana->groups[i].grpid = le32_get(g[i].grpid);
        ana->groups[i].state = g[i].state & 0xf;
    }
    ana->n = n;
    ana->known = true;
    return 0;
}

uint8_t nof_ana_state(const struct nof_ana *ana, uint32_t grpid)
{
    for (unsigned i = 0; ana->known && i < ana->n; i++)
        if (ana->groups[i].grpid == grpid)
            return ana->groups[i].state;
    return 0;
}

bool nof_ana_changes(const struct nof_ana *ana)
{
    for (unsigned i = 0; ana->known && i < ana->n; i++)
        if (ana->groups[i].state == NVME_ANA_CHANGE)
            return true;
    return false;
}

const char *nof_ana_name(uint8_t state)
{
    switch (state) {
    case NVME_ANA_OPTIMIZED:
        return "optimized";
    case NVME_ANA_NON_OPTIMIZED:
        return "non_optimized";
    case NVME_ANA_INACCESSIBLE:
        return "inaccessible";
    case NVME_ANA_PERSISTENT_LOSS:
        return "persistent_loss";
    case NVME_ANA_CHANGE:
        return "change";
    default:
        return "unknown";
    }
}
