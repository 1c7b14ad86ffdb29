/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/vfio_client.h"

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = VFIO_USER_MAX_MSG_FDS, MAX_REPLY = 65536 };

struct vfio_client {
    int sock;
    int broken; /* 0, or the error every call answers from now on */
    uint16_t next_id;
    uint32_t timeout_ms;
    uint64_t messages;
};

/* One message and its reply. Descriptors received go to fds_in. */
struct call {
    uint16_t command;
    const void *head; /* fixed part of the payload */
    uint32_t head_len;
    const void *data; /* what follows it */
    uint32_t data_len;
    const int *fds;
    unsigned nfds;
    void *reply; /* payload of the answer */
    uint32_t reply_max, reply_len;
    int fds_in[MAX_FDS];
    unsigned nfds_in;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int broken(struct vfio_client *vc, int rc)
{
    vc->broken = rc;
    return rc;
}

static int wait_for(struct vfio_client *vc, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = vc->sock, .events = events};

    for (;;) {
        uint64_t now = now_ms();
        int n;

        if (now >= deadline)
            return broken(vc, -ETIMEDOUT);
        n = poll(&p, 1, (int)(deadline - now));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return broken(vc, -errno);
    }
}

static int send_message(struct vfio_client *vc, const struct call *c, uint16_t id, uint32_t flags)
{
    struct vfio_user_header h = {
        .id = id,
        .command = c->command,
        .size = (uint32_t)sizeof(h) + c->head_len + c->data_len,
        .flags = flags,
    };
    struct iovec iov[3] = {
        {&h, sizeof(h)},
        {(void *)(uintptr_t)c->head, c->head_len},
        {(void *)(uintptr_t)c->data, c->data_len},
    };
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    uint64_t deadline = now_ms() + vc->timeout_ms;
    size_t left = h.size;

    if (c->nfds) {
        struct cmsghdr *cm;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * c->nfds);
        cm = CMSG_FIRSTHDR(&msg);
        cm->cmsg_level = SOL_SOCKET;
        cm->cmsg_type = SCM_RIGHTS;
        cm->cmsg_len = CMSG_LEN(sizeof(int) * c->nfds);
        memcpy(CMSG_DATA(cm), c->fds, sizeof(int) * c->nfds);
    }
    while (left) {
        ssize_t n = sendmsg(vc->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_for(vc, POLLOUT, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n < 0)
            return broken(vc, errno == EPIPE ? -ECONNRESET : -errno);
        left -= (size_t)n;
        msg.msg_control = NULL; /* descriptors went with the first byte */
        msg.msg_controllen = 0;
        while (msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len) {
            n -= (ssize_t)msg.msg_iov->iov_len;
            msg.msg_iov++;
            msg.msg_iovlen--;
        }
        if (msg.msg_iovlen) {
            msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= (size_t)n;
        }
    }
    vc->messages++;
    return 0;
}

static void close_all(int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
}

static int recv_bytes(struct vfio_client *vc, void *buf, size_t len, struct call *c,
                      uint64_t deadline)
{
    while (len) {
        unsigned got_fds = 0;
        ssize_t n =
            fd_recv(vc->sock, buf, len, c->fds_in + c->nfds_in, MAX_FDS - c->nfds_in, &got_fds);

        if (n == -EINTR)
            continue;
        if (n == -EAGAIN) {
            int rc = wait_for(vc, POLLIN, deadline);

            if (rc)
                return rc;
            continue;
        }
        if (n <= 0)
            return broken(vc, n ? (int)n : -ECONNRESET);
        c->nfds_in += got_fds;
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}

static int recv_reply(struct vfio_client *vc, struct call *c, uint16_t id)
{
    uint64_t deadline = now_ms() + vc->timeout_ms;
    struct vfio_user_header h;
    int rc = recv_bytes(vc, &h, sizeof(h), c, deadline);

    if (rc)
        return rc;
    if (h.id != id || h.command != c->command || h.size < sizeof(h) ||
        (h.flags & VFIO_USER_F_TYPE_MASK) != VFIO_USER_F_REPLY)
        return broken(vc, -EBADMSG);
    c->reply_len = h.size - (uint32_t)sizeof(h);
    if (h.flags & VFIO_USER_F_ERROR) {
        if (c->reply_len)
            return broken(vc, -EBADMSG); /* an error reply is a header only */
        return h.error ? -(int)MIN(h.error, 4095U) : -EIO;
    }
    if (c->reply_len > c->reply_max)
        return broken(vc, -EBADMSG);
    return recv_bytes(vc, c->reply, c->reply_len, c, deadline);
}

static int call(struct vfio_client *vc, struct call *c)
{
    uint16_t id = vc->next_id++;
    int rc = vc->broken;

    c->nfds_in = 0;
    if (!rc)
        rc = send_message(vc, c, id, VFIO_USER_F_COMMAND);
    if (!rc)
        rc = recv_reply(vc, c, id);
    if (rc) {
        close_all(c->fds_in, c->nfds_in);
        c->nfds_in = 0;
    }
    return rc;
}

/* A call whose answer has a fixed size. */
static int call_fixed(struct vfio_client *vc, struct call *c, uint32_t expect)
{
    int rc = call(vc, c);

    if (rc)
        return rc;
    close_all(c->fds_in, c->nfds_in);
    return c->reply_len < expect ? broken(vc, -EBADMSG) : 0;
}

/* ---- connection ---- */

static int negotiate(struct vfio_client *vc, const struct vfio_client_opts *o, struct err *err)
{
    static const char json[] =
        "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,"
        "\"pgsizes\":4096,\"max_dma_maps\":65535}}";
    struct vfio_user_version v = {.major = 0, .minor = o->minor};
    char reply[4096];
    struct call c = {
        .command = VFIO_USER_VERSION,
        .head = &v,
        .head_len = sizeof(v),
        .data = o->no_json ? NULL : json,
        .data_len = o->no_json ? 0 : sizeof(json),
        .reply = reply,
        .reply_max = sizeof(reply),
    };
    int rc = call_fixed(vc, &c, sizeof(v));

    if (rc)
        return err_set(err, rc, "%s: version negotiation failed: %s", o->path, strerror(-rc));
    memcpy(&v, reply, sizeof(v));
    if (v.major != 0 || v.minor > o->minor)
        return err_set(err, -EPROTO, "%s: the server speaks version %u.%u", o->path, v.major,
                       v.minor);
    if (c.reply_len == sizeof(v) || reply[c.reply_len - 1] != '\0')
        return err_set(err, -EPROTO, "%s: the server's version carries no JSON text", o->path);
    return 0;
}

struct vfio_client *vfio_client_connect(const struct vfio_client_opts *opts, struct err *err)
{
    struct vfio_client *vc = calloc(1, sizeof(*vc));

    if (!vc) {
        err_set(err, -ENOMEM, "%s: no memory", opts->path);
        return NULL;
    }
    vc->timeout_ms = opts->timeout_ms ? opts->timeout_ms : 10000;
    vc->next_id = 1;
    vc->sock = fd_unix_connect(opts->path, SOCK_STREAM, err);
    if (vc->sock < 0) {
        free(vc);
        return NULL;
    }
    if (fd_nonblock(vc->sock) < 0 || negotiate(vc, opts, err)) {
        vfio_client_close(vc);
        return NULL;
    }
    return vc;
}

void vfio_client_close(struct vfio_client *vc)
{
    if (!vc)
        return;
    close(vc->sock);
    free(vc);
}

int vfio_client_fd(const struct vfio_client *vc)
{
    return vc->sock;
}

bool vfio_client_alive(struct vfio_client *vc)
{
    char byte;

    if (!vc->broken && recv(vc->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        broken(vc, -ECONNRESET);
    return !vc->broken;
}

uint64_t vfio_client_messages(const struct vfio_client *vc)
{
    return vc->messages;
}

/* ---- device ---- */

/* The first sparse area of a capability chain. */
static void parse_area(const char *buf, uint32_t len, struct vfio_client_region *ret)
{
    struct vfio_user_region_info info;
    uint32_t at;

    memcpy(&info, buf, sizeof(info));
    at = info.flags & VFIO_REGION_F_CAPS ? info.cap_offset : 0;
    for (unsigned hops = 0; at && hops < 16; hops++) {
        struct vfio_region_sparse_mmap cap;
        struct vfio_region_area area;

        if (at > len || len - at < sizeof(cap.cap))
            return;
        memcpy(&cap.cap, buf + at, sizeof(cap.cap));
        if (cap.cap.id == VFIO_REGION_CAP_SPARSE_MMAP && len - at >= sizeof(cap) + sizeof(area)) {
            memcpy(&area, buf + at + sizeof(cap), sizeof(area));
            ret->mmap_offset = area.offset;
            ret->mmap_length = area.size;
            return;
        }
        at = cap.cap.next;
    }
}

int vfio_client_region(struct vfio_client *vc, uint32_t index, struct vfio_client_region *ret)
{
    char buf[4096];
    struct vfio_user_region_info info = {.argsz = sizeof(info), .index = index};
    struct call c = {
        .command = VFIO_USER_DEVICE_GET_REGION_INFO,
        .head = &info,
        .head_len = sizeof(info),
        .reply = buf,
        .reply_max = sizeof(buf),
    };
    int rc = call_fixed(vc, &c, sizeof(info));

    if (rc)
        return rc;
    memcpy(&info, buf, sizeof(info));
    c.nfds_in = 0;
    if (info.argsz > sizeof(info)) { /* there are capabilities: ask again with room, as QEMU does */
        uint32_t argsz = MIN(info.argsz, (uint32_t)sizeof(buf));

        info = (struct vfio_user_region_info){.argsz = argsz, .index = index};
        rc = call(vc, &c);
        if (rc)
            return rc;
        if (c.reply_len < sizeof(info)) {
            close_all(c.fds_in, c.nfds_in);
            return broken(vc, -EBADMSG);
        }
        memcpy(&info, buf, sizeof(info));
    }
    *ret = (struct vfio_client_region){
        .size = info.size, .flags = info.flags, .fd = -1, .fd_offset = info.offset};
    parse_area(buf, c.reply_len, ret);
    if (c.nfds_in) {
        ret->fd = c.fds_in[0];
        close_all(c.fds_in + 1, c.nfds_in - 1);
    }
    return 0;
}

int vfio_client_irq_count(struct vfio_client *vc, uint32_t index, uint32_t *ret)
{
    struct vfio_user_irq_info info = {.argsz = sizeof(info), .index = index}, reply;
    struct call c = {
        .command = VFIO_USER_DEVICE_GET_IRQ_INFO,
        .head = &info,
        .head_len = sizeof(info),
        .reply = &reply,
        .reply_max = sizeof(reply),
    };
    int rc = call_fixed(vc, &c, sizeof(reply));

    if (!rc)
        *ret = reply.count;
    return rc;
}

int vfio_client_dma_map(struct vfio_client *vc, uint64_t iova, uint64_t size, int fd,
                        uint64_t fd_offset, uint32_t prot)
{
    struct vfio_user_dma_map map = {
        .argsz = sizeof(map), .flags = prot, .offset = fd_offset, .iova = iova, .size = size};
    struct call c = {
        .command = VFIO_USER_DMA_MAP,
        .head = &map,
        .head_len = sizeof(map),
        .fds = &fd,
        .nfds = fd >= 0,
    };

    return call_fixed(vc, &c, 0);
}

int vfio_client_dma_unmap(struct vfio_client *vc, uint64_t iova, uint64_t size)
{
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = iova, .size = size}, reply;
    struct call c = {
        .command = VFIO_USER_DMA_UNMAP,
        .head = &unmap,
        .head_len = sizeof(unmap),
        .reply = &reply,
        .reply_max = sizeof(reply),
    };

    return call_fixed(vc, &c, sizeof(reply));
}

static int set_irqs(struct vfio_client *vc, uint32_t flags, uint32_t index, uint32_t start,
                    uint32_t count, const int *fds)
{
    struct vfio_user_irq_set set = {
        .argsz = sizeof(set), .flags = flags, .index = index, .start = start, .count = count};
    struct call c = {
        .command = VFIO_USER_DEVICE_SET_IRQS,
        .head = &set,
        .head_len = sizeof(set),
        .fds = fds,
        .nfds = fds ? count : 0,
    };

    return call_fixed(vc, &c, 0);
}

int vfio_client_set_irqs(struct vfio_client *vc, uint32_t index, uint32_t start, uint32_t count,
                         const int *fds)
{
    while (count) {
        uint32_t n = MIN(count, (uint32_t)MAX_FDS);
        int rc = set_irqs(vc, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, start,
                          n, fds);

        if (rc)
            return rc;
        start += n;
        count -= n;
        fds = fds ? fds + n : NULL;
    }
    return 0;
}

int vfio_client_disable_irqs(struct vfio_client *vc, uint32_t index)
{
    return set_irqs(vc, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 0, NULL);
}

int vfio_client_reset(struct vfio_client *vc)
{
    struct call c = {.command = VFIO_USER_DEVICE_RESET};

    return call_fixed(vc, &c, 0);
}

/* ---- regions ---- */

int vfio_client_read(struct vfio_client *vc, uint32_t region, uint64_t offset, void *buf,
                     uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len};
    char reply[sizeof(a) + 4096];
    struct call c = {
        .command = VFIO_USER_REGION_READ,
        .head = &a,
        .head_len = sizeof(a),
        .reply = reply,
        .reply_max = sizeof(reply),
    };
    int rc;

    if (len > 4096)
        return -EINVAL;
    rc = call_fixed(vc, &c, (uint32_t)sizeof(a) + len);
    if (!rc)
        memcpy(buf, reply + sizeof(a), len);
    return rc;
}

int vfio_client_write(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                      uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len}, reply;
    struct call c = {
        .command = VFIO_USER_REGION_WRITE,
        .head = &a,
        .head_len = sizeof(a),
        .data = buf,
        .data_len = len,
        .reply = &reply,
        .reply_max = sizeof(reply),
    };

    return call_fixed(vc, &c, sizeof(reply));
}

int vfio_client_post(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                     uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len};
    struct call c = {
        .command = VFIO_USER_REGION_WRITE,
        .head = &a,
        .head_len = sizeof(a),
        .data = buf,
        .data_len = len,
    };

    if (vc->broken)
        return vc->broken;
    return send_message(vc, &c, vc->next_id++, VFIO_USER_F_COMMAND | VFIO_USER_F_NO_REPLY);
}

int vfio_client_read32(struct vfio_client *vc, uint32_t region, uint64_t offset, uint32_t *ret)
{
    le32 v;
    int rc = vfio_client_read(vc, region, offset, &v, sizeof(v));

    if (!rc)
        *ret = le32_get(v);
    return rc;
}

int vfio_client_write32(struct vfio_client *vc, uint32_t region, uint64_t offset, uint32_t value)
{
    le32 v = le32_of(value);

    return vfio_client_write(vc, region, offset, &v, sizeof(v));
}

int vfio_client_write16(struct vfio_client *vc, uint32_t region, uint64_t offset, uint16_t value)
{
    le16 v = le16_of(value);

    return vfio_client_write(vc, region, offset, &v, sizeof(v));
}
