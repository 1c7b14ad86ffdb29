/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Room for the data of commands that do not come in capsules. */
#include "nvmf/inside.h"

#include "base/undumped.h"

#include <errno.h>
#include <stdlib.h>

int buffers_init(struct buffers *b, uint32_t each, unsigned count)
{
    b->map_bytes = (size_t)each * count;
    b->free = calloc(count, sizeof(*b->free));
    if (!b->free)
        return -ENOMEM;
    b->at = undumped_alloc(b->map_bytes);
    if (!b->at) {
        free(b->free);
        b->free = NULL;
        return -ENOMEM;
    }
    b->each = each;
    b->count = count;
    for (unsigned i = count; i > 0; i--)
        b->free[b->nfree++] = i - 1;
    return 0;
}

char *buffers_get(struct buffers *b)
{
    return b->nfree ? b->at + (size_t)b->free[--b->nfree] * b->each : NULL;
}

void buffers_put(struct buffers *b, char *at)
{
    b->free[b->nfree++] = (uint32_t)((size_t)(at - b->at) / b->each);
}
