/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A command's data pointer as an iovec, and the small copies of admin commands. */
#include "devices/nvme/inside.h"
#include "devices/nvme/prp.h"

#include <string.h>

static nvme_status walk(struct nvme_req *req, uint64_t bytes, uint32_t prot, int max)
{
    struct guest_map *map = req->sq->dev->map;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    nvme_status st;

    req->io.iovcnt = 0;
    if (likely(NVME_SQE_PSDT(sqe->flags) == NVME_PSDT_PRP))
        st = nvme_prp_iov(map, le64_get(sqe->prp1), le64_get(sqe->prp2), bytes, prot, req->io.iov,
                          &req->io.iovcnt, max);
    else if (NVME_SQE_PSDT(sqe->flags) == NVME_PSDT_SGL)
        st = nvme_sgl_iov(map, &sqe->sgl1, bytes, prot, req->io.iov, &req->io.iovcnt, max);
    else
        st = NVME_SC_INVALID_FIELD;
    return st == NVME_SC_SUCCESS ? st : NVME_DNR(st);
}

nvme_status nvme_map_data(struct nvme_req *req, uint64_t bytes, uint32_t prot)
{
    nvme_status st;

    if (likely(bytes <= (NVME_IOV_INLINE - 1) * NVME_PAGE)) {
        req->io.iov = req->inline_iov;
        st = walk(req, bytes, prot, NVME_IOV_INLINE);
        /* Many small SGL blocks, or pages in many regions. */
        if (likely((st & NVME_STATUS_MASK) != NVME_SC_INVALID_SGL_COUNT &&
                   (st & NVME_STATUS_MASK) != NVME_SC_INTERNAL_ERROR))
            return st;
    }
    req->io.iov = nvme_req_big_iov(req);
    return req->io.iov ? walk(req, bytes, prot, NVME_IOV_MAX) : NVME_SC_INTERNAL_ERROR;
}

nvme_status nvme_copy_to_host(struct nvme_req *req, const void *data, uint32_t data_bytes,
                              uint32_t bytes)
{
    const char *src = data;
    nvme_status st;

    if (bytes == 0)
        return NVME_SC_SUCCESS;
    st = nvme_map_data(req, bytes, GUEST_WRITE);
    if (st != NVME_SC_SUCCESS)
        return st;
    for (int i = 0; i < req->io.iovcnt; i++) {
        struct iovec *v = &req->io.iov[i];
        size_t part = MIN(v->iov_len, (size_t)data_bytes);

        memcpy(v->iov_base, src, part);
        memset((char *)v->iov_base + part, 0, v->iov_len - part);
        src += part;
        data_bytes -= (uint32_t)part;
    }
    return NVME_SC_SUCCESS;
}

nvme_status nvme_copy_from_host(struct nvme_req *req, void *data, uint32_t bytes)
{
    nvme_status st = nvme_map_data(req, bytes, GUEST_READ);
    char *dst = data;

    if (st != NVME_SC_SUCCESS)
        return st;
    for (int i = 0; i < req->io.iovcnt; i++) {
        memcpy(dst, req->io.iov[i].iov_base, req->io.iov[i].iov_len);
        dst += req->io.iov[i].iov_len;
    }
    return NVME_SC_SUCCESS;
}
