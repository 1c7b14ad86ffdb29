/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/virtio_blk_host.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "client/stream.h"
#include "client/virtio_blk_inside.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct virtio_blk_host *of(const struct disk *d)
{
    return container_of(d, struct virtio_blk_host, disk);
}

static struct disk_info disk_info(const struct disk *d)
{
    return of(d)->info;
}

static struct disk_stats disk_stats(struct disk *d)
{
    struct virtio_blk_host *h = of(d);
    struct disk_stats s = {
        .messages = h->messages + (h->vc ? vhost_client_messages(h->vc) : 0),
        .reconnects = h->reconnects,
        .config_changes = h->config_changes,
    };

    for (unsigned i = 0; i < h->nqueues; i++) {
        blk_queue_woken(&h->queue[i]);
        s.kicks += h->queue[i].kicks;
        s.interrupts += h->queue[i].interrupts;
    }
    return s;
}

static void *disk_alloc(struct disk *d, uint64_t bytes, uint64_t *ret_gpa)
{
    return arena_alloc(&of(d)->data, bytes, ret_gpa);
}

/* ---- I/O ---- */

static bool disk_submit(struct disk *d, unsigned queue, const struct disk_io *io)
{
    static const uint32_t types[] = {
        [DISK_READ] = VIRTIO_BLK_T_IN,
        [DISK_WRITE] = VIRTIO_BLK_T_OUT,
        [DISK_ZEROES] = VIRTIO_BLK_T_WRITE_ZEROES,
        [DISK_DEALLOCATE] = VIRTIO_BLK_T_DISCARD,
        [DISK_FLUSH] = VIRTIO_BLK_T_FLUSH,
    };
    struct virtio_blk_host *h = of(d);
    bool data = io->op == DISK_READ || io->op == DISK_WRITE;
    struct blk_request req = {
        .type = types[io->op],
        .nblocks = io->nblocks,
        .len = data ? io->nblocks * h->info.block_bytes : 0,
        .lba = io->lba,
        .gpa = io->iova,
        .tag = io->tag,
    };

    return blk_queue_submit(&h->queue[queue], &req);
}

static void disk_ring(struct disk *d, unsigned queue)
{
    blk_queue_ring(&of(d)->queue[queue]);
}

static unsigned disk_poll(struct disk *d, unsigned queue, disk_completed_fn fn, void *arg)
{
    return blk_queue_poll(&of(d)->queue[queue], fn, arg);
}

static void disk_explain(const struct disk_completion *c, char *text, size_t size)
{
    if (c->flaws & DISK_BAD_USED_INDEX)
        snprintf(text, size, "used index %u on queue %u is beyond what the ring holds", c->value,
                 c->queue);
    else
        snprintf(text, size, "used id %u on queue %u, used length %u, status %u", c->id, c->queue,
                 c->value, c->status);
}

/* ---- sleeping ---- */

static bool disk_arm(struct disk *d)
{
    struct virtio_blk_host *h = of(d);
    bool sleep = true;

    for (unsigned i = 0; i < h->nqueues; i++)
        if (!virtio_ring_arm(&h->queue[i].ring))
            sleep = false;
    return sleep;
}

static unsigned disk_fds(struct disk *d, struct pollfd *fds, unsigned max)
{
    struct virtio_blk_host *h = of(d);
    unsigned n = 0;

    for (unsigned i = 0; i < h->nqueues && n < max; i++)
        fds[n++] = (struct pollfd){.fd = h->queue[i].call_fd, .events = POLLIN};
    if (h->vc && n < max)
        fds[n++] = (struct pollfd){.fd = vhost_client_fd(h->vc), .events = POLLIN};
    if (h->vc && n < max && vhost_client_backend_fd(h->vc) >= 0)
        fds[n++] = (struct pollfd){.fd = vhost_client_backend_fd(h->vc), .events = POLLIN};
    return n;
}

static void disk_woken(struct disk *d)
{
    for (unsigned i = 0; i < of(d)->nqueues; i++)
        blk_queue_woken(&of(d)->queue[i]);
}

/* ---- the connection ---- */

static void disconnect(struct virtio_blk_host *h)
{
    if (h->vc)
        h->messages += vhost_client_messages(h->vc);
    vhost_client_close(h->vc);
    h->vc = NULL;
}

static int connect_to(struct virtio_blk_host *h, struct err *err)
{
    struct vhost_client_opts o = {.path = h->o.path, .timeout_ms = h->o.timeout_ms};

    h->vc = vhost_client_connect(&o, err);
    return h->vc ? 0 : err->code;
}

/* True: it is worth another try. */
static bool passing(int rc)
{
    return rc == -ECONNREFUSED || rc == -ENOENT || rc == -ECONNRESET || rc == -ETIMEDOUT ||
           rc == -EPIPE || rc == -EAGAIN;
}

static int reconnect(struct virtio_blk_host *h, struct err *err)
{
    int rc;

    disconnect(h);
    rc = connect_to(h, err);
    if (!rc)
        rc = blk_start(h, err);
    if (!rc) {
        h->reconnects++;
        return 0;
    }
    disconnect(h);
    return passing(rc) ? 0 : rc;
}

static int disk_check(struct disk *d, struct err *err)
{
    struct virtio_blk_host *h = of(d);
    struct err gone = {0};
    bool changed = false;
    int rc = 0;

    if (!h->vc || !vhost_client_alive(h->vc)) {
        if (!h->o.reconnect)
            return err_set(err, -ECONNRESET, "%s: the socket was closed by the other side",
                           h->o.path);
        rc = reconnect(h, &gone);
    } else {
        rc = vhost_client_serve_backend(h->vc, &changed, &gone);
        if (!rc && changed) {
            h->config_changes++;
            rc = blk_read_capacity(h, &gone);
            if (!rc)
                rc = vhost_client_ack_backend(h->vc, &gone);
        }
        if (h->o.reconnect && passing(rc))
            rc = 0; /* the next check finds the connection broken */
    }
    return rc ? err_set(err, rc, "%s", gone.msg) : 0;
}

/* While the connection is lost, the next start is a fresh one. */
static int disk_reset(struct disk *d, struct err *err)
{
    struct virtio_blk_host *h = of(d);
    int rc = h->vc ? blk_stop(h, err) : 0;

    if (rc && !(h->o.reconnect && passing(rc)))
        return rc;
    if (rc)
        disconnect(h);
    fd_close(&h->area_fd); /* a new one, as after a reset by QEMU */
    for (unsigned i = 0; i < h->nqueues; i++)
        blk_queue_clear(&h->queue[i]);
    if (!h->vc)
        return 0;
    rc = blk_start(h, err);
    if (!rc || !(h->o.reconnect && passing(rc)))
        return rc;
    disconnect(h);
    return 0;
}

/* ---- open and close ---- */

static void id_completed(void *arg, const struct disk_completion *c)
{
    struct disk_completion *ret = arg;

    *ret = *c;
}

/* Names the disk by its serial number; a device without one has no name. */
static int read_id(struct virtio_blk_host *h, struct err *err)
{
    uint32_t timeout_ms = h->o.timeout_ms ? h->o.timeout_ms : 10000;
    uint64_t deadline = clock_ms() + timeout_ms, gpa = 0;
    const struct timespec nap = {.tv_nsec = 50000};
    struct disk_completion c = {0};
    char text[VIRTIO_BLK_ID_BYTES + 1] = "";
    char *id = arena_alloc(&h->data, VIRTIO_BLK_ID_BYTES, &gpa);
    struct blk_request req = {
        .type = VIRTIO_BLK_T_GET_ID, .len = VIRTIO_BLK_ID_BYTES, .gpa = gpa, .tag = &c};

    if (!id)
        return err_set(err, -ENOMEM, "%s: no memory for the disk's name", h->o.path);
    blk_queue_submit(&h->queue[0], &req);
    blk_queue_ring(&h->queue[0]);
    while (!blk_queue_poll(&h->queue[0], id_completed, &c)) {
        if (clock_ms() > deadline)
            return err_set(err, -ETIMEDOUT, "%s: the device did not answer GET_ID in %u ms",
                           h->o.path, timeout_ms);
        if (!vhost_client_alive(h->vc))
            return err_set(err, -ECONNRESET, "%s: the socket was closed by the other side",
                           h->o.path);
        nanosleep(&nap, NULL);
    }
    if (!c.tag)
        return err_set(err, -EBADMSG, "%s: the device used id %u, which was not outstanding",
                       h->o.path, c.id);
    if (c.ok)
        memcpy(text, id, VIRTIO_BLK_ID_BYTES);
    for (char *p = text; *p; p++)
        if (!isprint((unsigned char)*p))
            *p = '?';
    snprintf(h->info.name, sizeof(h->info.name), "virtio-blk disk '%s'", text);
    return 0;
}

static void close_disk(struct disk *d)
{
    struct virtio_blk_host *h = of(d);

    if (h->vc) {
        vhost_client_limit(h->vc, 3000); /* a device without its service may never answer */
        if (vhost_client_alive(h->vc))
            blk_stop(h, NULL); /* the memory goes away: not before the device has let go of it */
    }
    disconnect(h);
    for (unsigned i = 0; i < h->nqueues; i++) {
        blk_queue_free(&h->queue[i]);
        fd_close(&h->queue[i].kick_fd);
        fd_close(&h->queue[i].call_fd);
    }
    arena_close(&h->control);
    arena_close(&h->data);
    fd_close(&h->area_fd);
    free(h);
}

static const struct disk_ops ops = {
    .info = disk_info,
    .stats = disk_stats,
    .alloc = disk_alloc,
    .submit = disk_submit,
    .ring = disk_ring,
    .poll = disk_poll,
    .arm = disk_arm,
    .fds = disk_fds,
    .woken = disk_woken,
    .check = disk_check,
    .reset = disk_reset,
    .explain = disk_explain,
    .close = close_disk,
};

static int open_disk(struct virtio_blk_host *h, struct err *err)
{
    int rc;

    if ((rc = connect_to(h, err)) || (rc = blk_start_prepare(h, err)) || (rc = blk_start(h, err)))
        return rc;
    return read_id(h, err);
}

struct disk *virtio_blk_open(const struct virtio_blk_opts *opts, struct err *err)
{
    struct virtio_blk_host *h;
    struct err local = {0};

    err = err ? err : &local;
    if (!opts->queues || opts->queues > DISK_MAX_QUEUES || !opts->depth || !opts->io_bytes) {
        err_set(err, -EINVAL, "queues must be 1 to %d, depth and command size at least 1",
                DISK_MAX_QUEUES);
        return NULL;
    }
    h = calloc(1, sizeof(*h));
    if (!h) {
        err_set(err, -ENOMEM, "%s: no memory", opts->path);
        return NULL;
    }
    h->disk.ops = &ops;
    h->o = *opts;
    h->area_fd = -1;
    for (unsigned i = 0; i < DISK_MAX_QUEUES; i++)
        h->queue[i].kick_fd = h->queue[i].call_fd = -1;
    h->info.kind = "virtio-blk";
    snprintf(h->info.name, sizeof(h->info.name), "%s", opts->path);
    if (open_disk(h, err)) {
        close_disk(&h->disk);
        return NULL;
    }
    return &h->disk;
}
