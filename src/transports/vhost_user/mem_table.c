/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The client's memory. Nothing is mapped here: the descriptors go to the service that holds the
 * lease. */
#include "base/checked.h"
#include "base/fd.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

enum { PAGE = 4096 };

void mem_init(struct mem_table *t)
{
    memset(t, 0, sizeof(*t));
    t->next_id = 1;
}

/* ---- what may come in ---- */

/* Mappings begin and end at pages of the file. */
static uint64_t page_bytes(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > PAGE)
        return (uint64_t)fs.f_bsize;
    return PAGE;
}

int mem_check(const struct vhost_user_mem_region *r, int fd, struct err *err)
{
    unsigned long long gpa = r->gpa, size = r->size_bytes, offset = r->mmap_offset;
    int mode = fcntl(fd, F_GETFL);
    uint64_t end, page;
    struct stat st;

    if (r->size_bytes == 0 || !checked_add(r->gpa, r->size_bytes, &end) ||
        !checked_add(r->user_addr, r->size_bytes, &end) ||
        !checked_add(r->mmap_offset, r->size_bytes, &end))
        return err_set(err, -EINVAL, "memory at 0x%llx: impossible size 0x%llx", gpa, size);
    if (mode < 0 || fstat(fd, &st) < 0)
        return err_set(err, -EBADF, "memory at 0x%llx: no usable descriptor", gpa);
    if (!S_ISREG(st.st_mode) || (mode & O_PATH))
        return err_set(err, -EINVAL, "memory at 0x%llx is not a memfd or a file", gpa);
    if ((mode & O_ACCMODE) != O_RDWR)
        return err_set(err, -EACCES, "memory at 0x%llx is not open for reading and writing", gpa);
    if (end > (uint64_t)st.st_size)
        return err_set(err, -EINVAL,
                       "memory at 0x%llx: its file has 0x%llx bytes, offset and size need 0x%llx",
                       gpa, (unsigned long long)st.st_size, (unsigned long long)end);
    page = page_bytes(fd);
    /* Front ends share buffers of any length; huge pages are mapped and unmapped whole. */
    if (r->mmap_offset % page || (page > PAGE && r->size_bytes % page))
        return err_set(err, -EINVAL,
                       "memory at 0x%llx: offset 0x%llx or size 0x%llx is no multiple of its "
                       "file's page size 0x%llx",
                       gpa, offset, size, (unsigned long long)page);
    return 0;
}

static bool same_addresses(const struct mem_region *a, const struct vhost_user_mem_region *r)
{
    return a->mem.gpa == r->gpa && a->mem.size_bytes == r->size_bytes &&
           a->mem.user_addr == r->user_addr;
}

static bool same(const struct mem_region *a, const struct vhost_user_mem_region *r, int fd)
{
    struct stat st;

    return !a->removing && same_addresses(a, r) && a->mem.fd_offset == r->mmap_offset &&
           fstat(fd, &st) == 0 && st.st_dev == a->dev && st.st_ino == a->ino;
}

bool mem_has(const struct mem_table *t, const struct vhost_user_mem_region *r, int fd)
{
    for (unsigned i = 0; i < t->count; i++)
        if (same(&t->region[i], r, fd))
            return true;
    return false;
}

const struct vhost_user_mem *mem_add(struct mem_table *t, const struct vhost_user_mem_region *r,
                                     int *fd, struct err *err)
{
    struct mem_region *region;
    struct stat st;

    if (mem_check(r, *fd, err) < 0)
        return NULL;
    for (unsigned i = 0; i < t->count; i++) {
        const struct vhost_user_mem *m = &t->region[i].mem;

        if (!ranges_overlap(m->gpa, m->size_bytes, r->gpa, r->size_bytes) &&
            !ranges_overlap(m->user_addr, m->size_bytes, r->user_addr, r->size_bytes))
            continue;
        err_set(err, -EEXIST, "memory at 0x%llx overlaps the region at 0x%llx%s",
                (unsigned long long)r->gpa, (unsigned long long)m->gpa,
                t->region[i].removing ? ", which is being removed" : "");
        return NULL;
    }
    if (t->count == MEM_SLOTS) {
        err_set(err, -ENOSPC, "memory at 0x%llx: there are %d regions already, the limit",
                (unsigned long long)r->gpa, MEM_SLOTS);
        return NULL;
    }
    if (fstat(*fd, &st) < 0) {
        err_set(err, -errno, "memory at 0x%llx: %s", (unsigned long long)r->gpa, strerror(errno));
        return NULL;
    }
    region = &t->region[t->count++];
    *region = (struct mem_region){.mem = {.id = t->next_id,
                                          .gpa = r->gpa,
                                          .size_bytes = r->size_bytes,
                                          .user_addr = r->user_addr,
                                          .fd_offset = r->mmap_offset,
                                          .fd = *fd},
                                  .dev = st.st_dev,
                                  .ino = st.st_ino};
    t->next_id = t->next_id == UINT32_MAX ? 1 : t->next_id + 1; /* 0 means all */
    *fd = -1;
    return &region->mem;
}

/* ---- what goes out ---- */

static void sweep(struct mem_table *t)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < t->count; i++) {
        if (t->region[i].gone)
            fd_close(&t->region[i].mem.fd);
        else
            t->region[kept++] = t->region[i];
    }
    t->count = kept;
}

void mem_clear(struct mem_table *t)
{
    for (unsigned i = 0; i < t->count; i++)
        t->region[i].gone = true;
    sweep(t);
}

static void begin(struct mem_region *region, mem_removed_fn removed, void *arg)
{
    if (region->removing)
        return;
    region->removing = true;
    region->gone = removed(arg, &region->mem) == VHOST_USER_DONE;
}

int mem_remove(struct mem_table *t, const struct vhost_user_mem_region *r, mem_removed_fn removed,
               void *arg)
{
    for (unsigned i = 0; i < t->count; i++) {
        if (!same_addresses(&t->region[i], r) || t->region[i].removing)
            continue;
        begin(&t->region[i], removed, arg);
        sweep(t);
        return (int)mem_removing(t);
    }
    return -ENOENT;
}

static bool listed(const struct mem_region *region, const struct vhost_user_mem_region *r,
                   const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (same(region, &r[i], fds[i]))
            return true;
    return false;
}

int mem_keep_only(struct mem_table *t, const struct vhost_user_mem_region *r, const int *fds,
                  unsigned n, mem_removed_fn removed, void *arg)
{
    for (unsigned i = 0; i < t->count; i++)
        if (!listed(&t->region[i], r, fds, n))
            begin(&t->region[i], removed, arg);
    sweep(t);
    return (int)mem_removing(t);
}

unsigned mem_detached(struct mem_table *t, uint32_t id)
{
    for (unsigned i = 0; i < t->count; i++)
        if (t->region[i].removing && (id == 0 || t->region[i].mem.id == id))
            t->region[i].gone = true;
    sweep(t);
    return mem_removing(t);
}

unsigned mem_removing(const struct mem_table *t)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->count; i++)
        n += t->region[i].removing;
    return n;
}

/* ---- addresses ---- */

bool mem_translate(const struct mem_table *t, uint64_t user, uint64_t len, uint64_t *gpa)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct vhost_user_mem *m = &t->region[i].mem;

        if (t->region[i].removing || user < m->user_addr || user - m->user_addr >= m->size_bytes ||
            len > m->size_bytes - (user - m->user_addr))
            continue;
        *gpa = m->gpa + (user - m->user_addr);
        return true;
    }
    return false;
}
