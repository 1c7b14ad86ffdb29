/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a load does next, and where. */
#include "base/util.h"
#include "client/load_inside.h"

enum { TRIES = 8 };

uint64_t load_random(struct load *l) /* xorshift64* */
{
    uint64_t x = l->rng;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    l->rng = x;
    return x * 0x2545f4914f6cdd1dULL;
}

/* 0 .. n - 1, without a division. */
static uint64_t below(struct load *l, uint64_t n)
{
    return (uint64_t)((unsigned __int128)load_random(l) * n >> 64);
}

static bool percent(struct load *l, unsigned share)
{
    return share && below(l, 100) < share;
}

static bool writes_now(struct load *l)
{
    switch (l->o.rw) {
    case LOAD_RANDREAD:
    case LOAD_READ:
        return false;
    case LOAD_RANDWRITE:
    case LOAD_WRITE:
        return true;
    case LOAD_RANDRW:
        return !percent(l, l->o.read_percent);
    }
    return false;
}

static bool is_sequential(const struct load *l)
{
    return l->result.phase != LOAD_MAIN || l->o.rw == LOAD_READ || l->o.rw == LOAD_WRITE;
}

static void pick_place(struct load *l, struct disk_io *io)
{
    if (is_sequential(l)) {
        io->lba = l->o.first_lba + l->cursor;
        io->nblocks = (uint32_t)MIN((uint64_t)l->o.io_blocks, l->o.nblocks - l->cursor);
        return;
    }
    io->nblocks = l->o.io_blocks;
    io->lba = l->o.first_lba +
              below(l, (l->o.nblocks - l->o.io_blocks) / l->o.align_blocks + 1) * l->o.align_blocks;
}

static enum disk_op pick_op(struct load *l)
{
    if (l->result.phase == LOAD_PREFILL)
        return DISK_WRITE;
    if (l->result.phase != LOAD_MAIN)
        return DISK_READ;
    if (percent(l, l->o.flush_percent))
        return DISK_FLUSH;
    if (!writes_now(l))
        return DISK_READ;
    if (percent(l, l->o.deallocate_percent))
        return DISK_DEALLOCATE;
    return percent(l, l->o.zeroes_percent) ? DISK_ZEROES : DISK_WRITE;
}

bool load_pick(struct load *l, struct slot *s)
{
    bool sequential = is_sequential(l);
    struct disk_io *io = &s->disk;
    unsigned tries = 0;

    io->op = pick_op(l);
    if (io->op == DISK_FLUSH) {
        io->lba = io->nblocks = 0;
        return true;
    }
    do {
        pick_place(l, io);
        if (io->op == DISK_READ || !l->o.verify ||
            verify_can_write(l->verify, io->lba, io->nblocks))
            break;
        if (sequential || ++tries == TRIES)
            return false;
    } while (true);
    if (sequential) {
        l->cursor += io->nblocks;
        if (l->cursor >= l->o.nblocks && l->result.phase == LOAD_MAIN)
            l->cursor = 0;
    }
    return true;
}
