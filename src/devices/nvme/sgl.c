/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/util.h"
#include "devices/nvme/prp.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* More descriptors than this, in all segments together, are an attempt to keep us busy. */
enum { MAX_DESCRIPTORS = 1024, MAX_SEGMENTS = 64 };

struct walk {
    struct guest_map *map;
    uint64_t left; /* bytes that no data block has covered yet */
    uint32_t prot;
    struct iovec *iov;
    int *n, max;
};

static uint16_t data_block(struct walk *w, const struct nvme_sgl_desc *d)
{
    uint32_t bytes = le32_get(d->length);
    int rc;

    if (bytes > w->left)
        return NVME_SC_SGL_DATA_LENGTH; /* SGLS says: no longer than the data */
    w->left -= bytes;
    if (bytes == 0)
        return NVME_SC_SUCCESS;
    rc = guest_iov(w->map, le64_get(d->addr), bytes, w->prot, w->iov, w->n, w->max);
    if (likely(rc == 0))
        return NVME_SC_SUCCESS;
    return rc == -E2BIG ? NVME_SC_INVALID_SGL_COUNT : NVME_SC_DATA_TRANSFER_ERROR;
}

static bool is_segment(uint8_t type)
{
    return type == NVME_SGL_ID(NVME_SGL_SEGMENT, NVME_SGL_SUB_ADDRESS) ||
           type == NVME_SGL_ID(NVME_SGL_LAST_SEGMENT, NVME_SGL_SUB_ADDRESS);
}

/* One segment. *link is the descriptor that led here and becomes the one that leads on;
 * its type is 0 (a data block) when this segment was the last. */
static uint16_t segment(struct walk *w, struct nvme_sgl_desc *link, unsigned *descriptors)
{
    uint64_t gpa = le64_get(link->addr);
    uint32_t bytes = le32_get(link->length), count = bytes / sizeof(struct nvme_sgl_desc);
    bool last = NVME_SGL_TYPE(link->type) == NVME_SGL_LAST_SEGMENT;

    if (bytes == 0 || bytes % sizeof(struct nvme_sgl_desc) != 0)
        return NVME_SC_INVALID_SGL_SEGMENT;
    if (count > MAX_DESCRIPTORS - *descriptors)
        return NVME_SC_INVALID_SGL_COUNT;
    *descriptors += count;
    for (uint32_t i = 0; i < count; i++, gpa += sizeof(struct nvme_sgl_desc)) {
        const void *at = guest_ptr(w->map, gpa, sizeof(struct nvme_sgl_desc), GUEST_READ);
        struct nvme_sgl_desc d;
        uint16_t st;

        if (!at)
            return NVME_SC_DATA_TRANSFER_ERROR;
        memcpy(&d, at, sizeof(d));
        if (is_segment(d.type)) {
            if (last || i != count - 1)
                return NVME_SC_INVALID_SGL_SEGMENT;
            *link = d;
            return NVME_SC_SUCCESS;
        }
        if (d.type != NVME_SGL_ID(NVME_SGL_DATA_BLOCK, NVME_SGL_SUB_ADDRESS))
            return NVME_SC_SGL_TYPE;
        if (!last && i == count - 1)
            return NVME_SC_INVALID_SGL_SEGMENT; /* a segment that leads nowhere */
        st = data_block(w, &d);
        if (st != NVME_SC_SUCCESS)
            return st;
    }
    link->type = 0;
    return NVME_SC_SUCCESS;
}

uint16_t nvme_sgl_iov(struct guest_map *map, const struct nvme_sgl_desc *first, uint64_t bytes,
                      uint32_t prot, struct iovec *iov, int *n, int max)
{
    struct walk w = {map, bytes, prot, iov, n, max};
    struct nvme_sgl_desc link = *first;
    unsigned descriptors = 0;
    uint16_t st = NVME_SC_SUCCESS;

    if (link.type == NVME_SGL_ID(NVME_SGL_DATA_BLOCK, NVME_SGL_SUB_ADDRESS))
        st = data_block(&w, &link);
    else if (!is_segment(link.type))
        return NVME_SC_SGL_TYPE;
    else
        for (unsigned i = 0; st == NVME_SC_SUCCESS && is_segment(link.type); i++)
            st = i < MAX_SEGMENTS ? segment(&w, &link, &descriptors) : NVME_SC_INVALID_SGL_COUNT;
    if (st == NVME_SC_SUCCESS && w.left > 0)
        return NVME_SC_SGL_DATA_LENGTH;
    return st;
}
