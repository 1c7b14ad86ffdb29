/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The discovery log page: what this host may connect to. */
#include "nvmf/inside.h"

#include <stdlib.h>
#include <string.h>

static void put_text(char *dst, size_t size, const char *text)
{
    memset(dst, ' ', size);
    memcpy(dst, text, strlen(text));
}

static void put_entry(struct nvme_discovery_entry *e, const struct nvmf_subsystem *ss,
                      const struct nvmf_port *port)
{
    e->trtype = NVME_TRTYPE_TCP;
    e->adrfam = port->ipv6 ? NVME_ADRFAM_IPV6 : NVME_ADRFAM_IPV4;
    e->subtype = NVME_DISCOVERY_SUBTYPE_NVM;
    e->treq = NVME_TREQ_NOT_SPECIFIED | NVME_TREQ_DISABLE_SQFLOW;
    e->portid = le16_of(port->portid);
    e->cntlid = le16_of(NVME_CNTLID_DYNAMIC);
    e->asqsz = le16_of((uint16_t)ss->target->transport.max_aq_depth);
    put_text(e->trsvcid, sizeof(e->trsvcid), port->trsvcid);
    put_text(e->traddr, sizeof(e->traddr), port->traddr);
    memcpy(e->subnqn, ss->nqn, strlen(ss->nqn));
}

/* Entries of this host: counts them, and fills those there is room for. */
static size_t list(const struct nvmf_ctrl *ctrl, struct nvme_discovery_entry *e, size_t room)
{
    size_t n = 0;

    list_for_each(it, &ctrl->target->subsystems)
    {
        const struct nvmf_subsystem *ss = list_entry(it, struct nvmf_subsystem, node);

        if (ss->leaving || !host_allowed(ss, ctrl->hostnqn))
            continue;
        list_for_each(at, &ss->listeners)
        {
            if (n < room)
                put_entry(&e[n], ss, list_entry(at, struct nvmf_listener, node)->port);
            n++;
        }
    }
    return n;
}

void *discovery_log(struct nvmf_ctrl *ctrl, size_t *bytes)
{
    size_t n = list(ctrl, NULL, 0);
    struct nvme_log_discovery *log =
        calloc(1, sizeof(*log) + n * sizeof(struct nvme_discovery_entry));

    if (!log)
        return NULL;
    log->genctr = le64_of(ctrl->target->genctr);
    log->numrec = le64_of(n);
    list(ctrl, (void *)(log + 1), n);
    *bytes = sizeof(*log) + n * sizeof(struct nvme_discovery_entry);
    return log;
}
