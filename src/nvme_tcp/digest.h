/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_tcp/digest.h - CRC32C as header and data digests use it. Thread: any. */
#ifndef NVME_TCP_DIGEST_H
#define NVME_TCP_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define NVME_TCP_CRC_INIT 0xffffffffU

/* Goes on from crc (first: NVME_TCP_CRC_INIT). */
uint32_t nvme_tcp_crc_update(uint32_t crc, const void *buf, size_t len);

/* The digest as a number; it travels in little-endian order. */
static inline uint32_t nvme_tcp_crc_final(uint32_t crc)
{
    return crc ^ 0xffffffffU;
}

static inline uint32_t nvme_tcp_digest(const void *buf, size_t len)
{
    return nvme_tcp_crc_final(nvme_tcp_crc_update(NVME_TCP_CRC_INIT, buf, len));
}

#endif
