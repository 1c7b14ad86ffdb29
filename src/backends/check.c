/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/check.h"

#include "backends/backends.h"
#include "base/checked.h"

#include <errno.h>
#include <string.h>

int check_block_bytes(const char *name, uint32_t block_bytes, struct err *err)
{
    if (block_bytes < BACKEND_BLOCK_MIN || block_bytes > BACKEND_BLOCK_MAX ||
        (block_bytes & (block_bytes - 1)))
        return err_set(err, -EINVAL, "bdev '%s': block_size %u is not a power of two from %d to %d",
                       name, block_bytes, BACKEND_BLOCK_MIN, BACKEND_BLOCK_MAX);
    return 0;
}

int check_size(const char *name, uint32_t block_bytes, uint64_t nblocks, uint64_t *bytes,
               struct err *err)
{
    int rc = check_block_bytes(name, block_bytes, err);

    if (rc)
        return rc;
    if (nblocks == 0)
        return err_set(err, -EINVAL, "bdev '%s': num_blocks must be at least 1", name);
    if (!checked_mul(block_bytes, nblocks, bytes) || *bytes > INT64_MAX)
        return err_set(err, -EINVAL, "bdev '%s': %llu blocks of %u bytes are more than 8 EiB", name,
                       (unsigned long long)nblocks, block_bytes);
    return 0;
}

struct bdev_uuid uuid_or_derived(const struct bdev_uuid *uuid, const char *kind, const char *words)
{
    struct bdev_uuid derived;

    if (uuid)
        return *uuid;
    bdev_uuid_derive(kind, words, &derived);
    return derived;
}

/* Calls copy for each piece of [skip, skip + len). */
static void for_pieces(const struct bdev_req *req, uint64_t skip, uint64_t len, char *buf,
                       void (*copy)(char *guest, char *buf, size_t len))
{
    for (int i = 0; i < req->iovcnt && len; i++) {
        const struct iovec *v = &req->iov[i];
        uint64_t n;

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        n = MIN(v->iov_len - skip, len);
        copy((char *)v->iov_base + skip, buf, n);
        skip = 0;
        buf += n;
        len -= n;
    }
}

static void to_guest(char *guest, char *buf, size_t len)
{
    memcpy(guest, buf, len);
}

static void from_guest(char *guest, char *buf, size_t len)
{
    memcpy(buf, guest, len);
}

void iov_from_buf(const struct bdev_req *req, uint64_t skip, const char *buf, uint64_t len)
{
    for_pieces(req, skip, len, (char *)buf, to_guest);
}

void iov_to_buf(const struct bdev_req *req, uint64_t skip, char *buf, uint64_t len)
{
    for_pieces(req, skip, len, buf, from_guest);
}
