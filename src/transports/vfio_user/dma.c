/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the client has mapped for DMA. Nothing is mapped here: the descriptors go to the service
 * that holds the lease. */
#include "base/checked.h"
#include "base/fd.h"
#include "base/util.h"
#include "guest/memory.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Many ranges come from one file (all guest RAM is one memfd): one descriptor is kept for each file
 * and access mode. */
struct dma_file {
    struct list node;
    dev_t dev;
    ino_t ino;
    int mode, fd;
    unsigned users;
};

void dma_init(struct dma_table *t)
{
    memset(t, 0, sizeof(*t));
    list_init(&t->file_list);
    t->next_id = 1;
}

/* ---- files ---- */

static struct dma_file *file_get(struct dma_table *t, int *fd, const struct stat *st, int *rc)
{
    int mode = fcntl(*fd, F_GETFL) & O_ACCMODE;
    struct dma_file *file;

    list_for_each(it, &t->file_list)
    {
        file = list_entry(it, struct dma_file, node);
        if (file->dev == st->st_dev && file->ino == st->st_ino && file->mode == mode) {
            file->users++;
            fd_close(fd);
            return file;
        }
    }
    *rc = -ENOSPC;
    if (t->files >= DMA_MAX_FILES)
        return NULL;
    *rc = -ENOMEM;
    file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    *file = (struct dma_file){
        .dev = st->st_dev, .ino = st->st_ino, .mode = mode, .fd = *fd, .users = 1};
    *fd = -1;
    list_append(&t->file_list, &file->node);
    t->files++;
    return file;
}

static void file_put(struct dma_table *t, struct dma_file *file)
{
    if (!file || --file->users > 0)
        return;
    list_remove(&file->node);
    fd_close(&file->fd);
    free(file);
    t->files--;
}

/* The service maps what we pass on: the file must be memory-like, long enough and open for what the
 * host allows. */
static int check_file(int fd, const struct vfio_user_dma_map *m, struct stat *st)
{
    int mode = fcntl(fd, F_GETFL);
    uint64_t end;

    if (mode < 0 || fstat(fd, st) < 0)
        return -errno;
    if (!S_ISREG(st->st_mode) || (mode & O_PATH))
        return -EINVAL;
    mode &= O_ACCMODE;
    if (mode == O_WRONLY || ((m->flags & VFIO_USER_DMA_F_WRITE) && mode != O_RDWR))
        return -EACCES;
    if (m->iova % PAGE || m->size % PAGE || m->offset % PAGE)
        return -EINVAL;
    if (!checked_add(m->offset, m->size, &end) || end > (uint64_t)st->st_size)
        return -EINVAL;
    return 0;
}

/* ---- ranges ---- */

/* The first range that ends after iova. */
static unsigned lower_bound(const struct dma_table *t, uint64_t iova)
{
    unsigned lo = 0, hi = t->count;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        const struct vfio_user_dma *d = &t->ranges[mid].dma;

        if (d->iova + (d->size_bytes - 1) < iova)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int grow(struct dma_table *t)
{
    unsigned room = t->room ? t->room * 2 : 32;
    struct dma_range *ranges;

    if (t->count < t->room)
        return 0;
    if (t->count >= DMA_MAX)
        return -ENOSPC;
    ranges = realloc(t->ranges, room * sizeof(*ranges));
    if (!ranges)
        return -ENOMEM;
    t->ranges = ranges;
    t->room = room;
    return 0;
}

const struct dma_range *dma_add(struct dma_table *t, const struct vfio_user_dma_map *m, int *fd,
                                int *rc)
{
    struct dma_file *file = NULL;
    struct dma_range *range;
    uint64_t last;
    struct stat st = {0};
    unsigned at;

    *rc = -EINVAL;
    if (m->size == 0 || !checked_add(m->iova, m->size - 1, &last) || last == UINT64_MAX)
        return NULL;
    if (!(m->flags & (VFIO_USER_DMA_F_READ | VFIO_USER_DMA_F_WRITE)) ||
        (m->flags & ~(uint32_t)(VFIO_USER_DMA_F_READ | VFIO_USER_DMA_F_WRITE)))
        return NULL;
    if (*fd >= 0 && (*rc = check_file(*fd, m, &st)) < 0)
        return NULL;
    at = lower_bound(t, m->iova);
    *rc = -EEXIST;
    if (at < t->count && t->ranges[at].dma.iova <= last)
        return NULL;
    *rc = grow(t);
    if (*rc < 0)
        return NULL;
    if (*fd >= 0 && !(file = file_get(t, fd, &st, rc)))
        return NULL;
    range = &t->ranges[at];
    memmove(range + 1, range, (t->count - at) * sizeof(*range));
    t->count++;
    *range = (struct dma_range){
        .dma = {.id = t->next_id,
                .prot = (m->flags & VFIO_USER_DMA_F_READ ? GUEST_READ : 0) |
                        (m->flags & VFIO_USER_DMA_F_WRITE ? GUEST_WRITE : 0),
                .iova = m->iova,
                .size_bytes = m->size,
                .fd_offset = m->offset,
                .fd = file ? file->fd : -1},
        .file = file,
    };
    t->next_id = t->next_id == UINT32_MAX ? 1 : t->next_id + 1; /* 0 means all */
    *rc = 0;
    return range;
}

/* Drops the ranges for which gone() holds, keeping the order. */
static void drop(struct dma_table *t, bool (*gone)(const struct dma_range *range, uint32_t id),
                 uint32_t id)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < t->count; i++) {
        if (gone(&t->ranges[i], id))
            file_put(t, t->ranges[i].file);
        else
            t->ranges[kept++] = t->ranges[i];
    }
    t->count = kept;
}

static bool has_no_size(const struct dma_range *range, uint32_t id)
{
    (void)id;
    return range->dma.size_bytes == 0;
}

static bool being_removed(const struct dma_range *range, uint32_t id)
{
    return range->removing && (id == 0 || range->dma.id == id);
}

static bool any(const struct dma_range *range, uint32_t id)
{
    (void)range;
    (void)id;
    return true;
}

void dma_clear(struct dma_table *t)
{
    drop(t, any, 0);
    free(t->ranges);
    t->ranges = NULL;
    t->room = 0;
}

int dma_remove(struct dma_table *t, uint64_t iova, uint64_t size, bool all,
               enum vfio_user_answer (*removed)(void *arg, const struct vfio_user_dma *dma),
               void *arg)
{
    uint64_t last = UINT64_MAX;
    unsigned first = 0, end = t->count;
    int waiting = 0;

    if (!all) {
        if (size == 0 || !checked_add(iova, size - 1, &last))
            return -EINVAL;
        first = lower_bound(t, iova);
        for (end = first; end < t->count && t->ranges[end].dma.iova <= last; end++) {
            const struct vfio_user_dma *d = &t->ranges[end].dma;

            if (d->iova < iova || d->iova + (d->size_bytes - 1) > last)
                return -EINVAL; /* a map cannot be cut */
        }
    }
    for (unsigned i = first; i < end; i++) {
        struct dma_range *range = &t->ranges[i];

        if (!range->removing) {
            range->removing = true;
            if (!range->file || removed(arg, &range->dma) == VFIO_USER_DONE)
                range->dma.size_bytes = 0;
        }
        waiting += range->dma.size_bytes != 0;
    }
    drop(t, has_no_size, 0);
    return waiting;
}

unsigned dma_detached(struct dma_table *t, uint32_t id)
{
    drop(t, being_removed, id);
    return dma_removing(t);
}

unsigned dma_removing(const struct dma_table *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->count; i++)
        n += t->ranges[i].removing;
    return n;
}
