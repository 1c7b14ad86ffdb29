/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/verify.h"

#include "base/endian.h"
#include "base/util.h"

#include <errno.h>
#include <isa-l/crc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };
#define SECTOR_MAGIC 0x31594649524556ffULL
#define UNFILLED_MAGIC 0x6e6f74796574ab5aULL

/* What every 512 bytes begin with; the rest is noise made from the same numbers. */
struct sector {
    le64 magic, seed, lba, generation;
    le32 index, crc; /* CRC32C of the sector with this field zero */
    le64 noise[(SECTOR - 40) / 8];
};
_Static_assert(sizeof(struct sector) == SECTOR, "a sector of pattern");

struct block {
    uint64_t committed; /* a read from now on returns this or a newer one */
    uint64_t newest;    /* submitted */
    uint64_t observed;  /* newest one a read has returned */
    uint64_t zeroes;    /* newest generation that may read as zeroes; 0: none */
    bool writing;
    bool known; /* false: contents are from before this run */
};

struct verify {
    struct verify_opts o;
    uint64_t errors[VERIFY_KINDS], checked;
    struct block block[];
};

const char *verify_kind_name(enum verify_kind kind)
{
    static const char *const names[VERIFY_KINDS] = {
        [VERIFY_LOST] = "lost",         [VERIFY_STALE] = "stale",
        [VERIFY_TORN] = "torn",         [VERIFY_MISPLACED] = "misplaced",
        [VERIFY_CORRUPT] = "corrupt",   [VERIFY_FOREIGN] = "foreign",
        [VERIFY_UNFILLED] = "unfilled", [VERIFY_LATE_DMA] = "late_dma",
        [VERIFY_STATUS] = "status",     [VERIFY_DUPLICATE] = "duplicate",
        [VERIFY_MISSING] = "missing",   [VERIFY_SQHD] = "sqhd",
        [VERIFY_USED_LEN] = "used_len",
    };

    return (unsigned)kind < VERIFY_KINDS ? names[kind] : "unknown";
}

struct verify *verify_create(const struct verify_opts *opts, struct err *err)
{
    struct verify *v;

    if (!opts->seed || !opts->nblocks || !opts->block_bytes || opts->block_bytes % SECTOR ||
        opts->nblocks > (1ULL << 32)) {
        err_set(err, -EINVAL, "verify: needs a seed, 1 to 2^32 blocks of a multiple of 512 bytes");
        return NULL;
    }
    v = calloc(1, sizeof(*v) + opts->nblocks * sizeof(v->block[0]));
    if (!v) {
        err_set(err, -ENOMEM, "verify: no memory for %llu blocks",
                (unsigned long long)opts->nblocks);
        return NULL;
    }
    v->o = *opts;
    return v;
}

void verify_destroy(struct verify *v)
{
    free(v);
}

static struct block *block_of(struct verify *v, uint64_t lba)
{
    return &v->block[lba - v->o.first_lba];
}

void verify_report(struct verify *v, enum verify_kind kind, uint64_t lba, const char *fmt, ...)
{
    struct verify_error e = {.kind = kind, .lba = lba};
    va_list ap;

    v->errors[kind]++;
    if (!v->o.report)
        return;
    va_start(ap, fmt);
    vsnprintf(e.text, sizeof(e.text), fmt, ap);
    va_end(ap);
    v->o.report(v->o.arg, &e);
}

/* ---- the pattern ---- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint32_t sector_crc(const struct sector *s)
{
    static const uint32_t zero;
    uint32_t crc = ~0U;

    crc = crc32_iscsi((unsigned char *)(uintptr_t)s, offsetof(struct sector, crc), crc);
    crc = crc32_iscsi((unsigned char *)(uintptr_t)&zero, sizeof(zero), crc);
    crc = crc32_iscsi((unsigned char *)(uintptr_t)s->noise, sizeof(s->noise), crc);
    return ~crc;
}

static void sector_fill(struct sector *s, uint64_t seed, uint64_t lba, uint64_t generation,
                        uint32_t index)
{
    uint64_t x = mix(seed ^ mix(lba) ^ mix(generation << 8 | index));

    s->magic = le64_of(SECTOR_MAGIC);
    s->seed = le64_of(seed);
    s->lba = le64_of(lba);
    s->generation = le64_of(generation);
    s->index = le32_of(index);
    for (unsigned i = 0; i < ARRAY_SIZE(s->noise); i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        s->noise[i] = le64_of(x);
    }
    s->crc = le32_of(sector_crc(s));
}

static bool all_zero(const void *p, size_t n)
{
    const unsigned char *c = p;

    return !c[0] && !memcmp(c, c + 1, n - 1);
}

/* ---- begin ---- */

bool verify_can_write(const struct verify *v, uint64_t lba, uint32_t nblocks)
{
    for (uint32_t i = 0; i < nblocks; i++)
        if (v->block[lba - v->o.first_lba + i].writing)
            return false;
    return true;
}

static void begin_read(struct verify *v, struct verify_io *io)
{
    const uint64_t unfilled = UNFILLED_MAGIC;

    for (uint32_t i = 0; i < io->nblocks; i++) {
        const struct block *b = block_of(v, io->lba + i);
        char *p = (char *)io->buf + (size_t)i * v->o.block_bytes;

        io->floor[i] = b->known ? b->committed : UINT64_MAX;
        for (uint32_t s = 0; s < v->o.block_bytes; s += SECTOR)
            memcpy(p + s, &unfilled, sizeof(unfilled));
    }
}

void verify_begin(struct verify *v, struct verify_io *io)
{
    io->sealed = false;
    if (io->op == VERIFY_READ) {
        begin_read(v, io);
        return;
    }
    for (uint32_t i = 0; i < io->nblocks; i++) {
        struct block *b = block_of(v, io->lba + i);

        b->writing = true;
        b->newest++;
        if (io->op == VERIFY_WRITE) {
            struct sector *s = (void *)((char *)io->buf + (size_t)i * v->o.block_bytes);

            for (uint32_t n = 0; n < v->o.block_bytes / SECTOR; n++)
                sector_fill(&s[n], v->o.seed, io->lba + i, b->newest, n);
        } else {
            b->zeroes = b->newest;
        }
    }
}

/* ---- end ---- */

static void end_write(struct verify *v, struct verify_io *io, bool ok)
{
    for (uint32_t i = 0; i < io->nblocks; i++) {
        struct block *b = block_of(v, io->lba + i);

        b->writing = false;
        /* After a failed write, and after a deallocate (which may leave what was there), old
         * contents are still good: the floor stays where it is. */
        if (!ok || io->op == VERIFY_DEALLOCATE)
            continue;
        b->committed = b->newest;
        b->known = true;
    }
}

/* What one sector turned out to be. */
struct finding {
    bool ours, zero;
    uint64_t generation;
};

/* False: reported. */
static bool sector_check(struct verify *v, uint64_t lba, uint32_t index, const struct sector *s,
                         struct finding *ret)
{
    uint64_t magic = le64_get(s->magic);

    *ret = (struct finding){0};
    if (magic == UNFILLED_MAGIC) {
        verify_report(v, VERIFY_UNFILLED, lba, "sector %u was never filled by the read", index);
        return false;
    }
    if (magic != SECTOR_MAGIC) {
        if (all_zero(s, SECTOR)) {
            ret->zero = true;
            return true;
        }
        verify_report(v, VERIFY_FOREIGN, lba, "sector %u holds no pattern (first bytes %016llx)",
                      index, (unsigned long long)magic);
        return false;
    }
    if (le32_get(s->crc) != sector_crc(s)) {
        verify_report(v, VERIFY_CORRUPT, lba,
                      "sector %u: CRC does not match (generation field %llu)", index,
                      (unsigned long long)le64_get(s->generation));
        return false;
    }
    if (le64_get(s->seed) != v->o.seed) {
        verify_report(v, VERIFY_FOREIGN, lba, "sector %u is of another run (seed %016llx)", index,
                      (unsigned long long)le64_get(s->seed));
        return false;
    }
    if (le64_get(s->lba) != lba || le32_get(s->index) != index) {
        verify_report(v, VERIFY_MISPLACED, lba,
                      "sector %u belongs to LBA %llu sector %u, generation %llu", index,
                      (unsigned long long)le64_get(s->lba), le32_get(s->index),
                      (unsigned long long)le64_get(s->generation));
        return false;
    }
    ret->ours = true;
    ret->generation = le64_get(s->generation);
    return true;
}

/* One sector's generation against the block's window. False: reported. */
static bool window_check(struct verify *v, uint64_t lba, uint64_t floor, const struct finding *f)
{
    struct block *b = block_of(v, lba);

    if (f->zero) {
        if (b->zeroes && b->zeroes >= floor)
            return true;
        verify_report(v, VERIFY_LOST, lba, "reads as zeroes, expected generation %llu to %llu",
                      (unsigned long long)floor, (unsigned long long)b->newest);
        return false;
    }
    if (f->generation < floor) {
        bool seen = b->observed >= floor;

        verify_report(v, seen ? VERIFY_STALE : VERIFY_LOST, lba,
                      "generation %llu, expected %llu to %llu%s", (unsigned long long)f->generation,
                      (unsigned long long)floor, (unsigned long long)b->newest,
                      seen ? "; a newer one was read before" : "; a completed write is gone");
        return false;
    }
    if (f->generation > b->newest) {
        verify_report(v, VERIFY_CORRUPT, lba, "generation %llu was never written, newest is %llu",
                      (unsigned long long)f->generation, (unsigned long long)b->newest);
        return false;
    }
    return true;
}

static void check_block(struct verify *v, uint64_t lba, uint64_t floor, const struct sector *s)
{
    struct block *b = block_of(v, lba);
    struct finding first, f;
    unsigned n = v->o.block_bytes / SECTOR;
    bool same = true;

    v->checked++;
    if (floor ==
        UINT64_MAX) { /* nothing was written when the read began: only "unfilled" can be told */
        if (le64_get(s->magic) == UNFILLED_MAGIC)
            sector_check(v, lba, 0, s, &f);
        return;
    }
    if (!sector_check(v, lba, 0, &s[0], &first) || !window_check(v, lba, floor, &first))
        return;
    for (unsigned i = 1; i < n; i++) {
        if (!sector_check(v, lba, i, &s[i], &f))
            return;
        if (f.zero == first.zero && f.generation == first.generation)
            continue;
        same = false;
        if (!v->o.allow_torn || b->newest == floor) {
            verify_report(v, VERIFY_TORN, lba, "sector 0 has generation %llu, sector %u has %llu",
                          (unsigned long long)first.generation, i,
                          (unsigned long long)f.generation);
            return;
        }
        if (!window_check(v, lba, floor, &f))
            return;
    }
    if (same && first.ours && first.generation > b->observed)
        b->observed = first.generation;
}

static void seal(struct verify *v, struct verify_io *io)
{
    if (!io->buf)
        return;
    io->sum_bytes = io->nblocks * v->o.block_bytes;
    io->sum = crc32_iscsi(io->buf, (int)io->sum_bytes, 0);
    io->sealed = true;
}

void verify_end(struct verify *v, struct verify_io *io, bool ok)
{
    if (io->op != VERIFY_READ) {
        end_write(v, io, ok);
    } else if (ok) {
        for (uint32_t i = 0; i < io->nblocks; i++)
            check_block(v, io->lba + i, io->floor[i],
                        (void *)((char *)io->buf + (size_t)i * v->o.block_bytes));
    }
    seal(v, io);
}

void verify_untouched(struct verify *v, struct verify_io *io)
{
    if (!io->sealed)
        return;
    io->sealed = false;
    if (crc32_iscsi(io->buf, (int)io->sum_bytes, 0) != io->sum)
        verify_report(v, VERIFY_LATE_DMA, io->lba,
                      "the buffer of a completed %s changed after the completion",
                      io->op == VERIFY_READ ? "read" : "write");
}

uint64_t verify_errors(const struct verify *v)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < VERIFY_KINDS; i++)
        n += v->errors[i];
    return n;
}

uint64_t verify_errors_of(const struct verify *v, enum verify_kind kind)
{
    return v->errors[kind];
}

uint64_t verify_blocks_checked(const struct verify *v)
{
    return v->checked;
}
