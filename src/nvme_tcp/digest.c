/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_tcp/digest.h"

#include "base/util.h"

#include <isa-l/crc.h>

enum { PIECE_BYTES = 1 << 30 }; /* isa-l counts in int */

/* isa-l's crc32_iscsi() inverts neither its initial value nor its result: that is done around it.
 */
uint32_t nvme_tcp_crc_update(uint32_t crc, const void *buf, size_t len)
{
    unsigned char *at =
        (unsigned char *)(uintptr_t)buf; /* only read; isa-l's prototype lacks a const */

    while (len > 0) {
        size_t n = MIN(len, (size_t)PIECE_BYTES);

        crc = crc32_iscsi(at, (int)n, crc);
        at += n;
        len -= n;
    }
    return crc;
}
