/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/vhost_client.h"

#include "base/fd.h"
#include "base/util.h"
#include "client/vhost_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- shapes of messages ---- */

static int get_u64(struct vhost_client *vc, enum vhost_user_request request, uint64_t *ret,
                   struct err *err)
{
    struct vhost_call c = {
        .request = request, .reply = ret, .reply_min = sizeof(*ret), .reply_max = sizeof(*ret)};

    return vhost_call(vc, &c, err);
}

static int set_u64(struct vhost_client *vc, enum vhost_user_request request, uint64_t value,
                   const int *fd, struct err *err)
{
    struct vhost_call c = {
        .request = request, .payload = &value, .len = sizeof(value), .fds = fd, .nfds = fd != NULL};

    return vhost_call(vc, &c, err);
}

static int set_state(struct vhost_client *vc, enum vhost_user_request request, uint32_t index,
                     uint32_t num, struct err *err)
{
    struct vhost_user_vring_state s = {index, num};
    struct vhost_call c = {.request = request, .payload = &s, .len = sizeof(s)};

    return vhost_call(vc, &c, err);
}

/* ---- connection ---- */

bool vhost_client_has(const struct vhost_client *vc, enum vhost_user_protocol_feature f)
{
    return vc->info.protocol_features >> f & 1;
}

static int agree_on_protocol(struct vhost_client *vc, struct err *err)
{
    const uint64_t wanted =
        1ULL << VHOST_USER_PROTOCOL_F_MQ | 1ULL << VHOST_USER_PROTOCOL_F_REPLY_ACK |
        1ULL << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ULL << VHOST_USER_PROTOCOL_F_CONFIG |
        1ULL << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
        1ULL << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | 1ULL << VHOST_USER_PROTOCOL_F_STATUS;
    uint64_t offered, n;
    int rc = get_u64(vc, VHOST_USER_GET_PROTOCOL_FEATURES, &offered, err);

    if (!rc)
        rc = set_u64(vc, VHOST_USER_SET_PROTOCOL_FEATURES, offered & wanted, NULL, err);
    if (rc)
        return rc;
    vc->info.protocol_features = offered & wanted;
    if (vhost_client_has(vc, VHOST_USER_PROTOCOL_F_MQ)) {
        if ((rc = get_u64(vc, VHOST_USER_GET_QUEUE_NUM, &n, err)))
            return rc;
        vc->info.max_queues = (uint32_t)MIN(n, 65535ULL);
    }
    if (vhost_client_has(vc, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
        if ((rc = get_u64(vc, VHOST_USER_GET_MAX_MEM_SLOTS, &n, err)))
            return rc;
        vc->info.max_mem_slots = (uint32_t)MIN(n, 65535ULL);
    }
    if (vhost_client_has(vc, VHOST_USER_PROTOCOL_F_BACKEND_REQ))
        rc = vhost_backend_open(vc, err);
    return rc;
}

static int greet(struct vhost_client *vc, struct err *err)
{
    struct vhost_call owner = {.request = VHOST_USER_SET_OWNER};
    int rc = get_u64(vc, VHOST_USER_GET_FEATURES, &vc->info.features, err);

    if (rc)
        return rc;
    vc->info.max_mem_slots = VHOST_USER_MEM_TABLE_MAX;
    if (vc->info.features & VHOST_USER_F_PROTOCOL_FEATURES)
        rc = agree_on_protocol(vc, err);
    return rc ? rc : vhost_call(vc, &owner, err);
}

struct vhost_client *vhost_client_connect(const struct vhost_client_opts *opts, struct err *err)
{
    struct vhost_client *vc = calloc(1, sizeof(*vc));

    if (!vc) {
        err_set(err, -ENOMEM, "%s: no memory", opts->path);
        return NULL;
    }
    vc->path = opts->path;
    vc->stream.timeout_ms = opts->timeout_ms ? opts->timeout_ms : 10000;
    vc->backend.sock = -1;
    vc->stream.sock = fd_unix_connect(opts->path, SOCK_STREAM, err);
    if (vc->stream.sock < 0) {
        free(vc);
        return NULL;
    }
    if (fd_nonblock(vc->stream.sock) < 0 || greet(vc, err)) {
        vhost_client_close(vc);
        return NULL;
    }
    return vc;
}

void vhost_client_close(struct vhost_client *vc)
{
    if (!vc)
        return;
    fd_close(&vc->stream.sock);
    fd_close(&vc->backend.sock);
    free(vc);
}

struct vhost_client_info vhost_client_get_info(const struct vhost_client *vc)
{
    return vc->info;
}

int vhost_client_fd(const struct vhost_client *vc)
{
    return vc->stream.sock;
}

bool vhost_client_alive(struct vhost_client *vc)
{
    return stream_alive(&vc->stream);
}

void vhost_client_limit(struct vhost_client *vc, uint32_t timeout_ms)
{
    vc->stream.timeout_ms = MIN(vc->stream.timeout_ms, timeout_ms);
}

uint64_t vhost_client_messages(const struct vhost_client *vc)
{
    return vc->stream.messages + vc->backend.messages;
}

/* ---- device ---- */

int vhost_client_set_features(struct vhost_client *vc, uint64_t features, struct err *err)
{
    return set_u64(vc, VHOST_USER_SET_FEATURES, features, NULL, err);
}

static int add_regions(struct vhost_client *vc, const struct vhost_client_memory *m, unsigned n,
                       struct err *err)
{
    for (unsigned i = 0; i < n; i++) {
        struct vhost_user_mem_one one = {.region = m[i].region};
        struct vhost_call c = {.request = VHOST_USER_ADD_MEM_REG,
                               .payload = &one,
                               .len = sizeof(one),
                               .fds = &m[i].fd,
                               .nfds = 1};
        int rc = vhost_call(vc, &c, err);

        if (rc)
            return rc;
    }
    return 0;
}

int vhost_client_set_memory(struct vhost_client *vc, const struct vhost_client_memory *m,
                            unsigned n, struct err *err)
{
    struct vhost_user_mem_table table = {.nregions = n};
    int fds[VHOST_USER_MEM_TABLE_MAX];
    struct vhost_call c = {.request = VHOST_USER_SET_MEM_TABLE,
                           .payload = &table,
                           .len = (uint32_t)(offsetof(struct vhost_user_mem_table, region) +
                                             n * sizeof(table.region[0])),
                           .fds = fds,
                           .nfds = n};

    if (n > vc->info.max_mem_slots || n > VHOST_USER_MEM_TABLE_MAX)
        return err_set(err, -E2BIG, "%s: %u memory regions, the back end takes %u", vc->path, n,
                       vc->info.max_mem_slots);
    if (vhost_client_has(vc, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
        return add_regions(vc, m, n, err);
    for (unsigned i = 0; i < n; i++) {
        table.region[i] = m[i].region;
        fds[i] = m[i].fd;
    }
    return vhost_call(vc, &c, err);
}

int vhost_client_get_config(struct vhost_client *vc, void *buf, uint32_t len, uint32_t *ret_got,
                            struct err *err)
{
    const uint32_t head = offsetof(struct vhost_user_config, data);
    struct vhost_user_config ask = {.size = len}, got = {0};
    struct vhost_call c = {.request = VHOST_USER_GET_CONFIG,
                           .payload = &ask,
                           .reply = &got,
                           .reply_min = head,
                           .reply_max = sizeof(got)};
    uint32_t have;
    int rc;

    if (len > VHOST_USER_CONFIG_MAX)
        return err_set(err, -EINVAL, "%s: %u bytes of configuration are too many", vc->path, len);
    if (!vhost_client_has(vc, VHOST_USER_PROTOCOL_F_CONFIG))
        return err_set(err, -ENOTSUP, "%s: the back end has no GET_CONFIG", vc->path);
    c.len = head + len; /* the message has the room that the answer will fill */
    rc = vhost_call(vc, &c, err);
    if (rc)
        return rc;
    /* The back end may have less of it than was asked for, and may send more. */
    have = MIN(MIN(got.size, c.reply_len - head), len);
    memcpy(buf, got.data, have);
    *ret_got = have;
    return 0;
}

int vhost_client_get_inflight(struct vhost_client *vc, struct vhost_user_inflight *io, int *ret_fd,
                              struct err *err)
{
    struct vhost_user_inflight got = {0};
    struct vhost_call c = {.request = VHOST_USER_GET_INFLIGHT_FD,
                           .payload = io,
                           .len = sizeof(*io),
                           .reply = &got,
                           .reply_min = VHOST_USER_INFLIGHT_BYTES,
                           .reply_max = sizeof(got),
                           .want_fds = true};
    int rc = vhost_call(vc, &c, err);

    if (rc)
        return rc;
    if (c.fds_in.n != 1 || !got.mmap_size) {
        stream_close_fds(&c.fds_in);
        return err_set(err, -EBADMSG, "%s: the back end gave no in-flight area", vc->path);
    }
    *ret_fd = c.fds_in.fd[0];
    io->mmap_size = got.mmap_size;
    io->mmap_offset = got.mmap_offset;
    return 0;
}

int vhost_client_set_inflight(struct vhost_client *vc, const struct vhost_user_inflight *area,
                              int fd, struct err *err)
{
    struct vhost_call c = {.request = VHOST_USER_SET_INFLIGHT_FD,
                           .payload = area,
                           .len = sizeof(*area),
                           .fds = &fd,
                           .nfds = 1};

    return vhost_call(vc, &c, err);
}

/* ---- queues ---- */

int vhost_client_start_vring(struct vhost_client *vc, const struct vhost_client_vring *v,
                             struct err *err)
{
    struct vhost_user_vring_addr addr = {.index = v->index,
                                         .desc = (uintptr_t)v->desc,
                                         .used = (uintptr_t)v->device,
                                         .avail = (uintptr_t)v->driver};
    struct vhost_call set_addr = {
        .request = VHOST_USER_SET_VRING_ADDR, .payload = &addr, .len = sizeof(addr)};
    int rc;

    if ((rc = set_state(vc, VHOST_USER_SET_VRING_NUM, v->index, v->size, err)) ||
        (rc = set_state(vc, VHOST_USER_SET_VRING_BASE, v->index, v->base, err)) ||
        (rc = vhost_call(vc, &set_addr, err)) ||
        (rc = set_u64(vc, VHOST_USER_SET_VRING_KICK, v->index, &v->kick_fd, err)))
        return rc;
    return set_u64(vc, VHOST_USER_SET_VRING_CALL, v->index, &v->call_fd, err);
}

int vhost_client_enable_vring(struct vhost_client *vc, uint32_t index, bool enable, struct err *err)
{
    if (!(vc->info.features & VHOST_USER_F_PROTOCOL_FEATURES))
        return 0; /* then rings are enabled from the beginning */
    return set_state(vc, VHOST_USER_SET_VRING_ENABLE, index, enable, err);
}

int vhost_client_stop_vring(struct vhost_client *vc, uint32_t index, uint32_t *ret_base,
                            struct err *err)
{
    struct vhost_user_vring_state ask = {.index = index}, got = {0};
    struct vhost_call c = {.request = VHOST_USER_GET_VRING_BASE,
                           .payload = &ask,
                           .len = sizeof(ask),
                           .reply = &got,
                           .reply_min = sizeof(got),
                           .reply_max = sizeof(got)};
    int rc = vhost_call(vc, &c, err);

    if (!rc)
        *ret_base = got.num;
    return rc;
}

int vhost_client_set_status(struct vhost_client *vc, uint8_t status, struct err *err)
{
    if (!vhost_client_has(vc, VHOST_USER_PROTOCOL_F_STATUS))
        return 0;
    return set_u64(vc, VHOST_USER_SET_STATUS, status, NULL, err);
}
