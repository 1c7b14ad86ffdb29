/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/verify.h - says whether a disk keeps what was written to it, while reads and writes
 * overlap and the disk's software dies and comes back.
 *
 * Every 512 bytes of a written block carry the run's seed, the block's LBA, a generation and a CRC.
 * Generations of a block grow by one with every write; writes to one block never overlap
 * (verify_can_write()), reads overlap anything. So the generations a read may return are an
 * interval: from the one committed when the read was submitted to the newest one submitted when it
 * completed. Everything else has a name: lost       an older generation, and nobody has ever seen
 * the committed one stale      an older generation although a newer one was seen before: a late
 * write came after it torn       sectors of one block from different generations misplaced  a good
 * block that belongs to another LBA corrupt    a CRC that does not match, or a generation nobody
 * has written foreign    no block of this run unfilled   the read succeeded but did not fill the
 * buffer late_dma   the buffer changed after its command had completed Thread: one. */
#ifndef CLIENT_VERIFY_H
#define CLIENT_VERIFY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum verify_kind {
    VERIFY_LOST,
    VERIFY_STALE,
    VERIFY_TORN,
    VERIFY_MISPLACED,
    VERIFY_CORRUPT,
    VERIFY_FOREIGN,
    VERIFY_UNFILLED,
    VERIFY_LATE_DMA,
    /* Counted here, found by the driver of the queues: */
    VERIFY_STATUS,    /* a command ended with an error */
    VERIFY_DUPLICATE, /* a completion for a command that was not outstanding */
    VERIFY_MISSING,   /* no completion within the time allowed */
    VERIFY_SQHD,      /* a completion reports an SQ head outside of what was submitted */
    VERIFY_USED_LEN,  /* a used element says that more, or less, was written than can be */
    VERIFY_KINDS,
};
const char *verify_kind_name(enum verify_kind kind);

struct verify_error {
    enum verify_kind kind;
    uint64_t lba;
    char text[200]; /* one sentence with the generations found and expected */
};

struct verify_opts {
    uint64_t seed; /* of this run: not 0 */
    uint64_t first_lba, nblocks;
    uint32_t block_bytes; /* a multiple of 512 */
    bool allow_torn;      /* a read that overlaps a write may see part of it (not NVMe's promise) */
    void (*report)(void *arg, const struct verify_error *e);
    void *arg;
};

struct verify;
struct verify *verify_create(const struct verify_opts *opts, struct err *err);
void verify_destroy(struct verify *v);

enum verify_op { VERIFY_READ, VERIFY_WRITE, VERIFY_ZEROES, VERIFY_DEALLOCATE };

/* One command between begin and end. floor has room for max blocks per command; the caller owns all
 * of it. */
struct verify_io {
    enum verify_op op;
    uint64_t lba;
    uint32_t nblocks;
    void *buf;       /* NULL for zeroes and deallocate */
    uint64_t *floor; /* reads: oldest acceptable generation per block */
    bool sealed;     /* the buffer's sum below is valid */
    uint32_t sum, sum_bytes;
};

/* True when no write is in flight in the range. */
bool verify_can_write(const struct verify *v, uint64_t lba, uint32_t nblocks);

/* Before submission: fills buf for a write, marks it for a read. io->op, lba, nblocks, buf, floor
 * are set by the caller. */
void verify_begin(struct verify *v, struct verify_io *io);
/* After completion: checks a read; ok says whether the command succeeded (if not, both old and new
 * contents are acceptable from now on). Remembers a sum of the buffer for verify_untouched(). */
void verify_end(struct verify *v, struct verify_io *io, bool ok);
/* Before the buffer is used again, or at the end: nobody may have written to it since verify_end().
 */
void verify_untouched(struct verify *v, struct verify_io *io);

/* Reports an error found by the caller. */
void verify_report(struct verify *v, enum verify_kind kind, uint64_t lba, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

uint64_t verify_errors(const struct verify *v);
uint64_t verify_errors_of(const struct verify *v, enum verify_kind kind);
uint64_t verify_blocks_checked(const struct verify *v);

#endif
