/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The in-flight area: memory we make and the client keeps, so that it comes back after both of us
 * have forgotten it. Nothing here looks into it. */
#include "virtio/inflight.h"
#include "base/checked.h"
#include "base/fd.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

static int check_queues(const struct vhost_user *vh, const struct vhost_user_inflight *a,
                        struct err *err)
{
    struct vhost_user_limits l = limits_now(vh);

    if (a->num_queues == 0 || a->num_queues > l.queues || a->queue_size == 0 ||
        a->queue_size > l.queue_size)
        return err_set(err, -EINVAL,
                       "in-flight area: %u queues of %u entries, the limits are %u and %u",
                       a->num_queues, a->queue_size, l.queues, l.queue_size);
    return 0;
}

static uint64_t bytes_needed(const struct vhost_user_inflight *a)
{
    return virtq_inflight_stride(a->queue_size) * a->num_queues;
}

/* An answer of size 0 tells that there is none. */
int inflight_get(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_inflight a = {0};
    int fd = -1;

    memcpy(&a, m->payload, VHOST_USER_INFLIGHT_BYTES);
    a.mmap_size = a.mmap_offset = 0;
    if (check_queues(vh, &a, err) == 0) {
        a.mmap_size = (bytes_needed(&a) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        fd = fd_memfd("snap-inflight", a.mmap_size);
        if (fd < 0) {
            err_set(err, fd, "in-flight area of %llu bytes: %s", (unsigned long long)a.mmap_size,
                    strerror(-fd));
            a.mmap_size = 0;
            fd = -1;
        }
    }
    r->fd = fd;
    r->len = m->h.size;
    memcpy(r->payload, &a, r->len);
    return 0;
}

static int check_file(const struct vhost_user_inflight *a, int fd, struct err *err)
{
    unsigned long long size = a->mmap_size, offset = a->mmap_offset, need = bytes_needed(a);
    int mode = fcntl(fd, F_GETFL);
    struct stat st;
    uint64_t end;

    if (mode < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (mode & O_PATH) ||
        (mode & O_ACCMODE) != O_RDWR)
        return err_set(err, -EINVAL, "in-flight area: the descriptor is not a writable memfd");
    if (a->mmap_size < need)
        return err_set(err, -EINVAL,
                       "in-flight area: %llu bytes for %u queues of %u entries, which need %llu",
                       size, a->num_queues, a->queue_size, need);
    if (a->mmap_offset % PAGE || !checked_add(a->mmap_offset, a->mmap_size, &end) ||
        end > (uint64_t)st.st_size)
        return err_set(err, -EINVAL,
                       "in-flight area: %llu bytes at offset %llu do not fit its file of %llu "
                       "bytes, or begin inside a page",
                       size, offset, (unsigned long long)st.st_size);
    return 0;
}

int inflight_set(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_inflight a = {0};
    int rc, *fd = &vh->stream.fds[0];

    (void)r;
    memcpy(&a, m->payload, VHOST_USER_INFLIGHT_BYTES);
    if (vh->stream.nfds != 1)
        return err_set(err, -EINVAL, "in-flight area: no descriptor");
    rc = check_queues(vh, &a, err);
    if (rc == 0)
        rc = check_file(&a, *fd, err);
    if (rc < 0)
        return rc;
    inflight_clear(vh);
    vh->undrained = false;
    vh->inflight = (struct vhost_user_inflight_area){
        .size_bytes = a.mmap_size,
        .fd_offset = a.mmap_offset,
        .queues = a.num_queues,
        .queue_size = a.queue_size,
        .fd = *fd,
    };
    *fd = -1;
    vh->o.ops->inflight_set(vh->o.dev);
    return 0;
}

void inflight_void(struct vhost_user *vh, uint32_t index)
{
    const struct vhost_user_inflight_area *a = &vh->inflight;
    const uint16_t unused = 0;

    if (a->fd >= 0 && index < a->queues)
        (void)!pwrite(a->fd, &unused, sizeof(unused),
                      (off_t)(a->fd_offset + index * virtq_inflight_stride(a->queue_size) +
                              offsetof(struct vhost_inflight_split, version)));
}

/* A reset by the driver: what is recorded there is not to be done any more. The service does the
 * same at its end of the reset; when there is none, nobody else would. Not mapped here: the file is
 * foreign. */
void inflight_forget(struct vhost_user *vh)
{
    for (uint32_t i = 0; i < vh->inflight.queues; i++)
        inflight_void(vh, i);
    inflight_clear(vh);
}

void inflight_clear(struct vhost_user *vh)
{
    fd_close(&vh->inflight.fd);
}

const struct vhost_user_inflight_area *vhost_user_inflight(const struct vhost_user *vh)
{
    return vh->inflight.fd >= 0 ? &vh->inflight : NULL;
}
