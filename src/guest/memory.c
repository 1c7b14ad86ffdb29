/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/memory.h"

#include "base/checked.h"
#include "base/undumped.h"
#include "base/util.h"
#include "guest/guard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct guest_map {
    struct guest_region **regions; /* sorted by gpa */
    unsigned count, space;
    struct guest_region *last; /* of the newest look-up */
    uint64_t generation;
};

/* ---- regions ---- */

struct guest_region *guest_region_open(uint32_t id, uint64_t gpa, uint64_t size_bytes, int fd,
                                       uint64_t fd_offset, uint32_t prot, struct err *err)
{
    struct guest_region *region;
    uint64_t end;
    struct stat st;
    int flags = 0;

    if (size_bytes == 0 || !checked_add(gpa, size_bytes, &end) ||
        !checked_add(fd_offset, size_bytes, &end)) {
        err_set(err, -EINVAL, "guest memory at 0x%llx: impossible size 0x%llx",
                (unsigned long long)gpa, (unsigned long long)size_bytes);
        return NULL;
    }
    if (fstat(fd, &st) < 0 || (S_ISREG(st.st_mode) && (uint64_t)st.st_size < end)) {
        err_set(err, -EINVAL, "guest memory at 0x%llx: the file is shorter than 0x%llx bytes",
                (unsigned long long)gpa, (unsigned long long)end);
        return NULL;
    }
    region = calloc(1, sizeof(*region));
    if (!region) {
        err_set(err, -ENOMEM, "no memory for a guest region");
        return NULL;
    }
    *region = (struct guest_region){.gpa = gpa, .size_bytes = size_bytes, .id = id, .prot = prot};
    if (prot & GUEST_READ)
        flags |= PROT_READ;
    if (prot & GUEST_WRITE)
        flags |= PROT_WRITE | PROT_READ;
    region->host = mmap(NULL, size_bytes, flags, MAP_SHARED | MAP_NORESERVE, fd, (off_t)fd_offset);
    if (region->host == MAP_FAILED) {
        err_set(err, -errno, "guest memory at 0x%llx: cannot map 0x%llx bytes: %s",
                (unsigned long long)gpa, (unsigned long long)size_bytes, strerror(errno));
        free(region);
        return NULL;
    }
    undumped_mark(region->host, size_bytes);
    madvise(region->host, size_bytes, MADV_DONTFORK);
    guard_add(region->host, size_bytes);
    return region;
}

void guest_region_close(struct guest_region *region)
{
    if (!region)
        return;
    guard_remove(region->host);
    munmap(region->host, region->size_bytes);
    free(region);
}

/* ---- the map ---- */

struct guest_map *guest_map_create(void)
{
    struct guest_map *map = calloc(1, sizeof(*map));

    if (map)
        map->generation = 1;
    return map;
}

void guest_map_destroy(struct guest_map *map)
{
    if (!map)
        return;
    for (unsigned i = 0; i < map->count; i++)
        guest_region_close(map->regions[i]);
    free(map->regions);
    free(map);
}

/* Index of the first region that ends behind gpa. */
static unsigned lower_bound(const struct guest_map *map, uint64_t gpa)
{
    unsigned lo = 0, hi = map->count;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (map->regions[mid]->gpa + map->regions[mid]->size_bytes <= gpa)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int guest_map_add(struct guest_map *map, struct guest_region *region, struct err *err)
{
    unsigned at = lower_bound(map, region->gpa);

    if (at < map->count && map->regions[at]->gpa < region->gpa + region->size_bytes)
        return err_set(err, -EEXIST, "guest memory at 0x%llx overlaps the region at 0x%llx",
                       (unsigned long long)region->gpa, (unsigned long long)map->regions[at]->gpa);
    if (map->count == map->space) {
        unsigned space = map->space ? map->space * 2 : 16;
        struct guest_region **grown = realloc(map->regions, space * sizeof(*grown));

        if (!grown)
            return err_set(err, -ENOMEM, "no memory for %u guest regions", space);
        map->regions = grown;
        map->space = space;
    }
    memmove(&map->regions[at + 1], &map->regions[at], (map->count - at) * sizeof(*map->regions));
    map->regions[at] = region;
    map->count++;
    map->last = region;
    map->generation++;
    return 0;
}

static int index_of(const struct guest_map *map, uint32_t id)
{
    for (unsigned i = 0; i < map->count; i++)
        if (map->regions[i]->id == id)
            return (int)i;
    return -1;
}

struct guest_region *guest_map_take(struct guest_map *map, uint32_t id)
{
    int at = index_of(map, id);
    struct guest_region *region;

    if (at < 0)
        return NULL;
    region = map->regions[at];
    map->count--;
    memmove(&map->regions[at], &map->regions[at + 1],
            (map->count - (unsigned)at) * sizeof(*map->regions));
    map->last = NULL;
    map->generation++;
    return region;
}

const struct guest_region *guest_map_find(const struct guest_map *map, uint32_t id)
{
    int at = index_of(map, id);

    return at < 0 ? NULL : map->regions[at];
}

uint64_t guest_map_generation(const struct guest_map *map)
{
    return map->generation;
}

bool guest_map_poisoned(const struct guest_map *map)
{
    for (unsigned i = 0; i < map->count; i++)
        if (guard_poisoned(map->regions[i]->host))
            return true;
    return false;
}

/* The region that holds gpa, or NULL. */
static struct guest_region *region_at(struct guest_map *map, uint64_t gpa)
{
    struct guest_region *region = map->last;
    unsigned at;

    if (likely(region && gpa - region->gpa < region->size_bytes))
        return region;
    at = lower_bound(map, gpa);
    if (at == map->count || map->regions[at]->gpa > gpa)
        return NULL;
    return map->last = map->regions[at];
}

void *guest_ptr(struct guest_map *map, uint64_t gpa, uint64_t len, uint32_t prot)
{
    struct guest_region *region = region_at(map, gpa);

    if (!region || (region->prot & prot) != prot ||
        !checked_range(gpa - region->gpa, len, region->size_bytes))
        return NULL;
    return region->host + (gpa - region->gpa);
}

int guest_iov(struct guest_map *map, uint64_t gpa, uint64_t len, uint32_t prot, struct iovec *iov,
              int *n, int max)
{
    int count = *n;
    size_t joined = 0; /* bytes added to the entry that was the last one */
    int rc = 0;

    while (len > 0) {
        struct guest_region *region = region_at(map, gpa);
        uint64_t part;
        char *host;

        if (!region || (region->prot & prot) != prot) {
            rc = -EFAULT;
            break;
        }
        part = MIN(len, region->size_bytes - (gpa - region->gpa));
        host = region->host + (gpa - region->gpa);
        if (count > 0 && (char *)iov[count - 1].iov_base + iov[count - 1].iov_len == host) {
            iov[count - 1].iov_len += part;
            if (count == *n)
                joined += part;
        } else if (count < max) {
            iov[count++] = (struct iovec){host, part};
        } else {
            rc = -E2BIG;
            break;
        }
        gpa += part;
        len -= part;
    }
    if (rc < 0) {
        if (joined)
            iov[*n - 1].iov_len -= joined;
        return rc;
    }
    *n = count;
    return 0;
}
