/* SPDX-License-Identifier: BSD-3-Clause
 *
 * guest/memory.h - a host's memory as a function's controller sees it: guest-physical ranges mapped
 * into this process. Mappings are MADV_DONTDUMP and MADV_DONTFORK and never populated ahead. A file
 * that is truncated under a mapping does not end the process: the range turns into zeroes of our
 * own and guest_map_poisoned() says so.
 *
 * Thread: guest_region_open/close on any; all else on the reactor that owns the function. */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum { GUEST_READ = 1, GUEST_WRITE = 2 }; /* what the host allows the device to do */

struct guest_region {
    uint64_t gpa, size_bytes;
    uint32_t id; /* the sender's name for it */
    uint32_t prot;
    char *host;
};

/* Maps fd (which the caller may close afterwards). NULL with err filled: too short a file, bad
 * offset, no memory. */
struct guest_region *guest_region_open(uint32_t id, uint64_t gpa, uint64_t size_bytes, int fd,
                                       uint64_t fd_offset, uint32_t prot, struct err *err);
void guest_region_close(struct guest_region *region);

struct guest_map;
struct guest_map *guest_map_create(void);
void guest_map_destroy(struct guest_map *map); /* closes the regions in it */

/* Adds a region (owner: the map). -EEXIST when it overlaps another one. */
int guest_map_add(struct guest_map *map, struct guest_region *region, struct err *err);
/* Takes the region out and hands it back to the caller; NULL when there is none with this id. */
struct guest_region *guest_map_take(struct guest_map *map, uint32_t id);
const struct guest_region *guest_map_find(const struct guest_map *map, uint32_t id);

/* Changes with every add and take: cached pointers of an older generation are void. Never 0. */
uint64_t guest_map_generation(const struct guest_map *map);
/* True once a mapping has faulted because its file was truncated. */
bool guest_map_poisoned(const struct guest_map *map);

/* The host address of [gpa, gpa + len) when it lies in one region that allows prot, else NULL. */
void *guest_ptr(struct guest_map *map, uint64_t gpa, uint64_t len, uint32_t prot);
/* Appends the range to iov (which has *n of max entries), merging with the last entry when adjacent
 * in host memory. 0, -EFAULT (not mapped, not allowed) or -E2BIG (max reached); on error *n is
 * unchanged. */
int guest_iov(struct guest_map *map, uint64_t gpa, uint64_t len, uint32_t prot, struct iovec *iov,
              int *n, int max);

/* Installs the process's SIGBUS guard; once, at start. */
int guest_memory_guard(void);

#endif
