/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/undumped.h"

#include <sys/mman.h>

void *undumped_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    undumped_mark(p, bytes);
    return p;
}

void undumped_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes ? bytes : 1);
}

void undumped_mark(void *p, size_t bytes)
{
    /* mmap has no flag for it. Fails only for ranges that are no mapping. */
    madvise(p, bytes, MADV_DONTDUMP);
}
