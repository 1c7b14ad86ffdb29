/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/file.h"

#include "base/undumped.h"

#include <stdlib.h>

enum { BOUNCE_ALIGN = BACKEND_BLOCK_MAX };

char *bounce_get(struct bounce_pool *pool)
{
    char *buf;

    if (pool->nspare)
        return pool->spare[--pool->nspare];
    if (pool->made == BOUNCE_MAX)
        return NULL;
    buf = aligned_alloc(BOUNCE_ALIGN, BOUNCE_BYTES);
    if (!buf)
        return NULL;
    undumped_mark(buf, BOUNCE_BYTES); /* whole pages, all its own */
    pool->made++;
    return buf;
}

void bounce_put(struct bounce_pool *pool, char *buf)
{
    pool->spare[pool->nspare++] = buf;
}

void bounce_free(struct bounce_pool *pool)
{
    while (pool->nspare)
        free(pool->spare[--pool->nspare]);
}
