/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/arena.h"

#include "base/fd.h"
#include "base/undumped.h"

#include <errno.h>
#include <sys/mman.h>

int arena_open(struct arena *a, const char *name, uint64_t bytes, uint64_t base)
{
    const uint64_t unit = 2ULL << 20;
    void *p;

    *a = (struct arena){.base = base, .bytes = (bytes + unit - 1) & ~(unit - 1)};
    if (a->bytes < bytes)
        return -ENOMEM;
    a->fd = fd_memfd(name, a->bytes);
    if (a->fd < 0)
        return a->fd;
    p = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
    if (p == MAP_FAILED) {
        int rc = -errno;

        fd_close(&a->fd);
        return rc;
    }
    undumped_mark(p, a->bytes);
    a->at = p;
    return 0;
}

void arena_close(struct arena *a)
{
    if (!a->at)
        return;
    munmap(a->at, a->bytes);
    fd_close(&a->fd);
    a->at = NULL;
}

void *arena_alloc(struct arena *a, uint64_t bytes, uint64_t *ret_address)
{
    uint64_t rounded = (bytes + ARENA_PAGE - 1) & ~(uint64_t)(ARENA_PAGE - 1);
    char *p = a->at + a->used;

    if (rounded < bytes || rounded > a->bytes - a->used)
        return NULL;
    *ret_address = a->base + a->used;
    a->used += rounded;
    return p;
}
