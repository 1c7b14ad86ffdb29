/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Checks and copies the options of an attach. */
#include "backends/nvme_of/host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    DEFAULT_TIMEOUT_MS = 10000,
    DEFAULT_KEEP_ALIVE_MS = 5000, /* also: a fence by time lasts two or three of it */
    DEFAULT_IO_TIMEOUT_MS = 30000,
    MAX_TIMEOUT_MS = 600000,
};

int text_option(char *out, size_t size, const char *text, const char *what, struct err *err)
{
    if (!text || !text[0])
        return err_set(err, -EINVAL, "%s is missing", what);
    if (strlen(text) >= size)
        return err_set(err, -EINVAL, "%s is longer than %zu bytes", what, size - 1);
    strcpy(out, text);
    return 0;
}

static int check_port(const char *text, const char *what, struct err *err)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    if (!text[0] || *end || port == 0 || port > 65535)
        return err_set(err, -EINVAL, "%s '%s' is not a port number (1 to 65535)", what, text);
    return 0;
}

static int copy_local(struct nof_path *p, const struct nvme_of_opts *o, struct err *err)
{
    struct sockaddr_in *in = (void *)&p->local;
    struct sockaddr_in6 *in6 = (void *)&p->local;
    in_port_t port = 0;

    if (o->hostsvcid && o->hostsvcid[0]) {
        int rc = check_port(o->hostsvcid, "hostsvcid", err);

        if (rc)
            return rc;
        /* Admin and I/O queues are several connections. */
        if (!o->hostaddr || !o->hostaddr[0])
            return err_set(err, -EINVAL, "hostsvcid needs hostaddr");
        return err_set(err, -EOPNOTSUPP,
                       "hostsvcid is not supported: each queue has a connection of its own");
    }
    if (!o->hostaddr || !o->hostaddr[0])
        return 0;
    if (inet_pton(AF_INET, o->hostaddr, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = port;
    } else if (inet_pton(AF_INET6, o->hostaddr, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
    } else {
        return err_set(err, -EINVAL, "hostaddr '%s' is not an IP address", o->hostaddr);
    }
    if (p->family != AF_UNSPEC && p->family != p->local.ss_family)
        return err_set(err, -EINVAL, "hostaddr '%s' is not of family %s", o->hostaddr, o->adrfam);
    p->family = p->local.ss_family;
    return text_option(p->hostaddr, sizeof(p->hostaddr), o->hostaddr, "hostaddr", err);
}

int transport_options(const char *trtype, const char *adrfam, int *ret_family, struct err *err)
{
    if (trtype && strcasecmp(trtype, "TCP") != 0)
        return err_set(err, -EOPNOTSUPP, "trtype '%s' is not supported (TCP is)", trtype);
    if (!adrfam || !adrfam[0])
        *ret_family = AF_UNSPEC;
    else if (strcasecmp(adrfam, "IPv4") == 0)
        *ret_family = AF_INET;
    else if (strcasecmp(adrfam, "IPv6") == 0)
        *ret_family = AF_INET6;
    else
        return err_set(err, -EINVAL, "adrfam '%s' is neither IPv4 nor IPv6", adrfam);
    return 0;
}

static int copy_address(struct nof_path *p, const struct nvme_of_opts *o, struct err *err)
{
    int rc = transport_options(o->trtype, o->adrfam, &p->family, err);

    if (rc)
        return rc;
    rc = text_option(p->traddr, sizeof(p->traddr), o->traddr, "traddr", err);
    if (!rc)
        rc = text_option(p->trsvcid, sizeof(p->trsvcid),
                         o->trsvcid && o->trsvcid[0] ? o->trsvcid : "4420", "trsvcid", err);
    if (!rc)
        rc = check_port(p->trsvcid, "trsvcid", err);
    if (!rc)
        rc = copy_local(p, o, err);
    return rc;
}

void nvme_of_default_hostnqn(const struct nvme_of *of, char *out, size_t size)
{
    char uuid[37];

    bdev_uuid_format(&of->hostid, uuid);
    snprintf(out, size, "nqn.2014-08.org.nvmexpress:uuid:%s", uuid);
}

static uint32_t bounded_ms(uint64_t ms, uint32_t fallback)
{
    return ms == 0 ? fallback : (uint32_t)MIN(ms, (uint64_t)MAX_TIMEOUT_MS);
}

int path_options(struct nof_path *p, const struct nvme_of_opts *o, struct err *err)
{
    int rc = copy_address(p, o, err);

    if (rc)
        return rc;
    p->hdgst = o->hdgst;
    p->ddgst = o->ddgst;
    p->no_sq_flow = o->disable_sq_flow;
    p->max_queues = p->host->want_queues;
    /* Until the target is known. */
    p->fence.kind = fence_rule_for(NULL, p->host->keep_alive_ms).kind;
    return 0;
}

int host_options(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err)
{
    int rc = text_option(h->name, sizeof(h->name), o->name, "name", err);

    if (!rc)
        rc = text_option(h->subnqn, sizeof(h->subnqn), o->subnqn, "subnqn", err);
    if (!rc && o->hostnqn && o->hostnqn[0])
        rc = text_option(h->hostnqn, sizeof(h->hostnqn), o->hostnqn, "hostnqn", err);
    else if (!rc)
        nvme_of_default_hostnqn(h->of, h->hostnqn, sizeof(h->hostnqn));
    if (rc)
        return rc;
    h->want_queues =
        o->num_io_queues ? MIN(o->num_io_queues, (unsigned)NOF_MAX_QUEUES) : NOF_MAX_QUEUES;
    h->max_bdevs = o->max_bdevs ? MIN(o->max_bdevs, (unsigned)NOF_MAX_BDEVS) : 128;
    h->phase_timeout_ms = bounded_ms(o->connect_timeout_us / 1000, DEFAULT_TIMEOUT_MS);
    if (o->connect_timeout_us && o->connect_timeout_us < 1000)
        h->phase_timeout_ms = 1;
    h->keep_alive_ms = bounded_ms(o->keep_alive_ms, DEFAULT_KEEP_ALIVE_MS);
    h->io_timeout_ms = bounded_ms(o->io_timeout_ms, DEFAULT_IO_TIMEOUT_MS);
    if (o->discovery)
        snprintf(h->discovery, sizeof(h->discovery), "%s", o->discovery);
    h->changed = o->changed;
    h->changed_arg = o->changed_arg;
    return 0;
}
