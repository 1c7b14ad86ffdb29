/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/discovery_log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int nof_discovery_count(const struct nvme_log_discovery *head, unsigned *ret, struct err *err)
{
    uint64_t n = le64_get(head->numrec);

    if (le16_get(head->recfmt) != 0)
        return err_set(err, -EPROTO, "the discovery log has the unknown format %u",
                       le16_get(head->recfmt));
    if (n > NOF_DISCOVERY_RECORDS)
        return err_set(err, -EPROTO, "the discovery log has %llu records, more than %u",
                       (unsigned long long)n, NOF_DISCOVERY_RECORDS);
    *ret = (unsigned)n;
    return 0;
}

/* ASCII, padded with spaces or NULs (text fields) up to its whole size. */
static bool copy_text(const char *raw, size_t size, char *out, size_t room)
{
    size_t len = strnlen(raw, size);

    while (len > 0 && raw[len - 1] == ' ')
        len--;
    if (len == 0 || len >= room)
        return false;
    for (size_t i = 0; i < len; i++)
        if (raw[i] <= 0x20 || raw[i] >= 0x7f)
            return false;
    memcpy(out, raw, len);
    out[len] = '\0';
    return true;
}

static bool port_is_good(const char *text)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    return text[0] >= '0' && text[0] <= '9' && !*end && port > 0 && port <= 65535;
}

int nof_discovery_record(const struct nvme_discovery_entry *raw, struct nof_record *ret,
                         struct err *err)
{
    uint8_t binary[16];

    if (raw->subtype != NVME_DISCOVERY_SUBTYPE_NVM || raw->trtype != NVME_TRTYPE_TCP)
        return 0;
    memset(ret, 0, sizeof(*ret));
    if (!memchr(raw->subnqn, '\0', NVME_NQN_MAX + 1) ||
        !copy_text(raw->subnqn, sizeof(raw->subnqn), ret->subnqn, sizeof(ret->subnqn)))
        return err_set(err, -EPROTO, "its subsystem NQN is empty, too long or not printable");
    if (raw->adrfam != NVME_ADRFAM_IPV4 && raw->adrfam != NVME_ADRFAM_IPV6)
        return err_set(err, -EPROTO, "%s: the address family %u is not one of TCP", ret->subnqn,
                       raw->adrfam);
    ret->ipv6 = raw->adrfam == NVME_ADRFAM_IPV6;
    if (!copy_text(raw->traddr, sizeof(raw->traddr), ret->traddr, sizeof(ret->traddr)) ||
        inet_pton(ret->ipv6 ? AF_INET6 : AF_INET, ret->traddr, binary) != 1)
        return err_set(err, -EPROTO, "%s: its address is not one", ret->subnqn);
    if (!copy_text(raw->trsvcid, sizeof(raw->trsvcid), ret->trsvcid, sizeof(ret->trsvcid)) ||
        !port_is_good(ret->trsvcid))
        return err_set(err, -EPROTO, "%s: its port is not a number from 1 to 65535", ret->subnqn);
    return 1;
}
