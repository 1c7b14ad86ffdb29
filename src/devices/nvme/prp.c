/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/prp.h"

#include "base/util.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { PAGE = 4096, ENTRIES_PER_PAGE = PAGE / 8 };

static uint16_t add_range(struct guest_map *map, uint64_t gpa, uint64_t bytes, uint32_t prot,
                          struct iovec *iov, int *n, int max)
{
    int rc = guest_iov(map, gpa, bytes, prot, iov, n, max);

    if (likely(rc == 0))
        return NVME_SC_SUCCESS;
    return rc == -E2BIG ? NVME_SC_INTERNAL_ERROR : NVME_SC_DATA_TRANSFER_ERROR;
}

/* Copies count entries; a list page lies inside one guest page and so inside one region. */
static bool read_entries(struct guest_map *map, uint64_t gpa, unsigned count, le64 *entries)
{
    const void *list = guest_ptr(map, gpa, count * sizeof(le64), GUEST_READ);

    if (!list)
        return false;
    memcpy(entries, list, count * sizeof(le64));
    return true;
}

static uint16_t walk_list(struct guest_map *map, uint64_t list, uint64_t bytes, uint32_t prot,
                          struct iovec *iov, int *n, int max)
{
    le64 entries[ENTRIES_PER_PAGE];

    if (list % 8 != 0 || list == 0)
        return NVME_SC_PRP_OFFSET;
    for (;;) {
        unsigned room = (unsigned)((PAGE - list % PAGE) / 8);
        uint64_t pages = (bytes + PAGE - 1) / PAGE;
        bool chained = pages > room; /* then the last entry of this page points to the next list */
        unsigned count = chained ? room : (unsigned)pages;

        if (!read_entries(map, list, count, entries))
            return NVME_SC_DATA_TRANSFER_ERROR;
        for (unsigned i = 0; i < count - chained; i++) {
            uint64_t page = le64_get(entries[i]);
            uint64_t part = MIN(bytes, (uint64_t)PAGE);
            uint16_t st;

            if (page == 0 || page % PAGE != 0)
                return NVME_SC_PRP_OFFSET;
            st = add_range(map, page, part, prot, iov, n, max);
            if (st != NVME_SC_SUCCESS)
                return st;
            bytes -= part;
        }
        if (!chained)
            return NVME_SC_SUCCESS;
        /* A chained list begins its page, so that each one holds data entries and the walk ends. */
        list = le64_get(entries[count - 1]);
        if (list == 0 || list % PAGE != 0)
            return NVME_SC_PRP_OFFSET;
    }
}

uint16_t nvme_prp_iov(struct guest_map *map, uint64_t prp1, uint64_t prp2, uint64_t bytes,
                      uint32_t prot, struct iovec *iov, int *n, int max)
{
    uint64_t part = MIN(bytes, PAGE - prp1 % PAGE);
    uint16_t st;

    if (prp1 % 4 != 0)
        return NVME_SC_PRP_OFFSET;
    st = add_range(map, prp1, part, prot, iov, n, max);
    bytes -= part;
    if (bytes == 0 || st != NVME_SC_SUCCESS)
        return st;
    if (bytes <= PAGE) {
        if (prp2 == 0 || prp2 % PAGE != 0)
            return NVME_SC_PRP_OFFSET;
        return add_range(map, prp2, bytes, prot, iov, n, max);
    }
    return walk_list(map, prp2, bytes, prot, iov, n, max);
}
