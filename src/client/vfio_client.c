/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/vfio_client.h"

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "client/vfio_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- connection ---- */

static int negotiate(struct vfio_client *vc, const struct vfio_client_opts *o, struct err *err)
{
    static const char json[] =
        "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,"
        "\"pgsizes\":4096,\"max_dma_maps\":65535}}";
    struct vfio_user_version v = {.major = 0, .minor = o->minor};
    char reply[4096];
    struct vfio_call c = {
        .command = VFIO_USER_VERSION,
        .head = &v,
        .head_len = sizeof(v),
        .data = o->no_json ? NULL : json,
        .data_len = o->no_json ? 0 : sizeof(json),
        .reply = reply,
        .reply_max = sizeof(reply),
    };
    int rc = vfio_call_fixed(vc, &c, sizeof(v));

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
    vc->stream.timeout_ms = opts->timeout_ms ? opts->timeout_ms : 10000;
    vc->next_id = 1;
    vc->stream.sock = fd_unix_connect(opts->path, SOCK_STREAM, err);
    if (vc->stream.sock < 0) {
        free(vc);
        return NULL;
    }
    if (fd_nonblock(vc->stream.sock) < 0 || negotiate(vc, opts, err)) {
        vfio_client_close(vc);
        return NULL;
    }
    return vc;
}

void vfio_client_close(struct vfio_client *vc)
{
    if (!vc)
        return;
    close(vc->stream.sock);
    free(vc);
}

int vfio_client_fd(const struct vfio_client *vc)
{
    return vc->stream.sock;
}

bool vfio_client_alive(struct vfio_client *vc)
{
    return stream_alive(&vc->stream);
}

uint64_t vfio_client_messages(const struct vfio_client *vc)
{
    return vc->stream.messages;
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
    struct vfio_call c = {
        .command = VFIO_USER_DEVICE_GET_REGION_INFO,
        .head = &info,
        .head_len = sizeof(info),
        .reply = buf,
        .reply_max = sizeof(buf),
    };
    int rc = vfio_call_fixed(vc, &c, sizeof(info));

    if (rc)
        return rc;
    memcpy(&info, buf, sizeof(info));
    if (info.argsz > sizeof(info)) { /* there are capabilities: ask again with room, as QEMU does */
        uint32_t argsz = MIN(info.argsz, (uint32_t)sizeof(buf));

        info = (struct vfio_user_region_info){.argsz = argsz, .index = index};
        rc = vfio_call(vc, &c);
        if (rc)
            return rc;
        if (c.reply_len < sizeof(info)) {
            stream_close_fds(&c.fds_in);
            return stream_broken(&vc->stream, -EBADMSG);
        }
        memcpy(&info, buf, sizeof(info));
    }
    *ret = (struct vfio_client_region){
        .size = info.size, .flags = info.flags, .fd = -1, .fd_offset = info.offset};
    parse_area(buf, c.reply_len, ret);
    if (c.fds_in.n) {
        ret->fd = c.fds_in.fd[0];
        c.fds_in.fd[0] = -1; /* the caller's now */
    }
    stream_close_fds(&c.fds_in);
    return 0;
}

int vfio_client_irq_count(struct vfio_client *vc, uint32_t index, uint32_t *ret)
{
    struct vfio_user_irq_info info = {.argsz = sizeof(info), .index = index}, reply;
    struct vfio_call c = {
        .command = VFIO_USER_DEVICE_GET_IRQ_INFO,
        .head = &info,
        .head_len = sizeof(info),
        .reply = &reply,
        .reply_max = sizeof(reply),
    };
    int rc = vfio_call_fixed(vc, &c, sizeof(reply));

    if (!rc)
        *ret = reply.count;
    return rc;
}

int vfio_client_dma_map(struct vfio_client *vc, uint64_t iova, uint64_t size, int fd,
                        uint64_t fd_offset, uint32_t prot)
{
    struct vfio_user_dma_map map = {
        .argsz = sizeof(map), .flags = prot, .offset = fd_offset, .iova = iova, .size = size};
    struct vfio_call c = {
        .command = VFIO_USER_DMA_MAP,
        .head = &map,
        .head_len = sizeof(map),
        .fds = &fd,
        .nfds = fd >= 0,
    };

    return vfio_call_fixed(vc, &c, 0);
}

int vfio_client_dma_unmap(struct vfio_client *vc, uint64_t iova, uint64_t size)
{
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = iova, .size = size}, reply;
    struct vfio_call c = {
        .command = VFIO_USER_DMA_UNMAP,
        .head = &unmap,
        .head_len = sizeof(unmap),
        .reply = &reply,
        .reply_max = sizeof(reply),
    };

    return vfio_call_fixed(vc, &c, sizeof(reply));
}

static int set_irqs(struct vfio_client *vc, uint32_t flags, uint32_t index, uint32_t start,
                    uint32_t count, const int *fds)
{
    struct vfio_user_irq_set set = {
        .argsz = sizeof(set), .flags = flags, .index = index, .start = start, .count = count};
    struct vfio_call c = {
        .command = VFIO_USER_DEVICE_SET_IRQS,
        .head = &set,
        .head_len = sizeof(set),
        .fds = fds,
        .nfds = fds ? count : 0,
    };

    return vfio_call_fixed(vc, &c, 0);
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
    struct vfio_call c = {.command = VFIO_USER_DEVICE_RESET};

    return vfio_call_fixed(vc, &c, 0);
}

/* ---- regions ---- */

int vfio_client_read(struct vfio_client *vc, uint32_t region, uint64_t offset, void *buf,
                     uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len};
    char reply[sizeof(a) + 4096];
    struct vfio_call c = {
        .command = VFIO_USER_REGION_READ,
        .head = &a,
        .head_len = sizeof(a),
        .reply = reply,
        .reply_max = sizeof(reply),
    };
    int rc;

    if (len > 4096)
        return -EINVAL;
    rc = vfio_call_fixed(vc, &c, (uint32_t)sizeof(a) + len);
    if (!rc)
        memcpy(buf, reply + sizeof(a), len);
    return rc;
}

int vfio_client_write(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                      uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len}, reply;
    struct vfio_call c = {
        .command = VFIO_USER_REGION_WRITE,
        .head = &a,
        .head_len = sizeof(a),
        .data = buf,
        .data_len = len,
        .reply = &reply,
        .reply_max = sizeof(reply),
    };

    return vfio_call_fixed(vc, &c, sizeof(reply));
}

int vfio_client_post(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                     uint32_t len)
{
    struct vfio_user_region_access a = {.offset = offset, .region = region, .count = len};
    struct vfio_call c = {
        .command = VFIO_USER_REGION_WRITE,
        .head = &a,
        .head_len = sizeof(a),
        .data = buf,
        .data_len = len,
    };

    return vfio_post(vc, &c);
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
