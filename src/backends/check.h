/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/check.h - what every backend of this room asks of the numbers it is given. Inside of the
 * room. */
#ifndef BACKENDS_CHECK_H
#define BACKENDS_CHECK_H

#include "bdev/bdev.h"

/* 0, or -EINVAL with a sentence that names the disk, the value and the limits. */
int check_block_bytes(const char *name, uint32_t block_bytes, struct err *err);
/* The same for both; *bytes is their product. */
int check_size(const char *name, uint32_t block_bytes, uint64_t nblocks, uint64_t *bytes,
               struct err *err);
/* The given one, or one derived from kind and words. */
struct bdev_uuid uuid_or_derived(const struct bdev_uuid *uuid, const char *kind, const char *words);

/* Copies between a buffer and [skip, skip + len) of an iov. */
void iov_from_buf(const struct bdev_req *req, uint64_t skip, const char *buf, uint64_t len);
void iov_to_buf(const struct bdev_req *req, uint64_t skip, char *buf, uint64_t len);

#endif
