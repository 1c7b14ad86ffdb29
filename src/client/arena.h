/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/arena.h - inside: memory of a host that its device can reach: one memfd, mapped here at
 * `at` and at `base` for the device. Pages are handed out and never given back. Thread: one. */
#ifndef CLIENT_ARENA_H
#define CLIENT_ARENA_H

#include <stdint.h>

enum { ARENA_PAGE = 4096 };

struct arena {
    int fd;
    char *at;             /* NULL: not open */
    uint64_t base;        /* the device's address of at */
    uint64_t bytes, used; /* bytes is a multiple of 2 MiB */
};

/* 0 or -errno; then there is nothing to close. */
int arena_open(struct arena *a, const char *name, uint64_t bytes, uint64_t base);
void arena_close(struct arena *a); /* accepts one of zeroes */
/* Page-aligned and zeroed. NULL: used up. */
void *arena_alloc(struct arena *a, uint64_t bytes, uint64_t *ret_address);

/* The device's address of a byte in it. */
static inline uint64_t arena_address(const struct arena *a, const void *p)
{
    return a->base + (uint64_t)((const char *)p - a->at);
}

#endif
