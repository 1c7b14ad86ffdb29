/* SPDX-License-Identifier: BSD-3-Clause */
#include "emu/registers.h"

#include <string.h>

#define LOAD(x) atomic_load_explicit(&(x), memory_order_acquire)
#define STORE(x, v) atomic_store_explicit(&(x), v, memory_order_release)

static uint32_t read_dword(const struct registers *r, uint64_t offset)
{
    const struct state_memory *st = r->st;
    uint64_t i = offset / 4;
    uint32_t mask;

    if (offset >= STATE_DOORBELL_OFFSET)
        return LOAD(r->doorbells[(offset - STATE_DOORBELL_OFFSET) / 4]);
    if (offset >= STATE_REG_BYTES)
        return 0;
    mask = LOAD(st->svc.reg_mask[i]);
    return (LOAD(st->emu.reg_host[i]) & mask) | (LOAD(st->svc.reg_dev[i]) & ~mask);
}

void registers_read(const struct registers *r, uint64_t offset, void *buf, size_t len)
{
    uint8_t *out = buf;

    for (size_t done = 0; done < len;) {
        uint64_t at = offset + done;
        size_t skip = at % 4, n = 4 - skip < len - done ? 4 - skip : len - done;
        uint32_t dword = read_dword(r, at - skip);

        memcpy(out + done, (uint8_t *)&dword + skip, n);
        done += n;
    }
}

static void host_image(struct state_memory *st, uint64_t offset, uint32_t value)
{
    uint64_t i = offset / 4;
    uint32_t mask = LOAD(st->svc.reg_mask[i]);

    STORE(st->emu.reg_host[i], (LOAD(st->emu.reg_host[i]) & ~mask) | (value & mask));
}

static void append(struct state_memory *st, uint32_t offset, uint32_t size, uint64_t value)
{
    uint64_t tail = LOAD(st->emu.log_tail), used = tail - LOAD(st->svc.log_head);

    if (used >= STATE_LOG_ENTRIES) { /* full, or a head that cannot be */
        STORE(st->emu.log_lost, LOAD(st->emu.log_lost) + 1);
        return;
    }
    st->log[tail % STATE_LOG_ENTRIES] = (struct state_reg_write){
        .offset = offset,
        .size = size,
        .value = value,
        .epoch = LOAD(st->emu.epoch),
        .seq = tail,
    };
    STORE(st->emu.log_tail, tail + 1);
}

/* The image is right first; then the entry, so that a reader of the entry finds the image at least
 * as new. */
static void write_register(struct state_memory *st, uint32_t offset, uint32_t size, uint64_t value)
{
    host_image(st, offset, (uint32_t)value);
    if (size == 8)
        host_image(st, offset + 4, (uint32_t)(value >> 32));
    append(st, offset, size, value);
}

bool registers_write_bytes(struct registers *r, uint64_t offset, const void *buf, size_t len)
{
    struct state_memory *st = r->st;
    const uint8_t *bytes = buf;
    bool written = false;

    for (size_t done = 0; done < len && offset + done < STATE_REG_BYTES; done++) {
        uint64_t at = offset + done, i = at / 4;
        unsigned shift = at % 4 * 8;
        uint32_t mask = LOAD(st->svc.reg_mask[i]) & (uint32_t)0xff << shift;

        if (!mask)
            continue;
        STORE(st->emu.reg_host[i],
              (LOAD(st->emu.reg_host[i]) & ~mask) | ((uint32_t)bytes[done] << shift & mask));
        append(st, (uint32_t)at, 1, bytes[done]);
        written = true;
    }
    return written;
}

static void ring_doorbell(struct registers *r, uint64_t offset, uint32_t value)
{
    struct state_emu *emu = &r->st->emu;

    STORE(r->doorbells[(offset - STATE_DOORBELL_OFFSET) / 4], value);
    STORE(emu->doorbell_messages, LOAD(emu->doorbell_messages) + 1);
}

bool registers_write(struct registers *r, uint64_t offset, const void *buf, size_t len)
{
    uint64_t value = 0;

    if ((len != 4 && len != 8) || offset % 4)
        return false;
    memcpy(&value, buf, len);
    if (offset >= STATE_DOORBELL_OFFSET) {
        ring_doorbell(r, offset, (uint32_t)value);
        if (len == 8)
            ring_doorbell(r, offset + 4, (uint32_t)(value >> 32));
        return true;
    }
    if (offset + len > STATE_REG_BYTES)
        return false;
    if (len == 8 && offset % 8) {
        write_register(r->st, (uint32_t)offset, 4, (uint32_t)value);
        write_register(r->st, (uint32_t)offset + 4, 4, value >> 32);
    } else {
        write_register(r->st, (uint32_t)offset, (uint32_t)len, value);
    }
    return true;
}

void registers_start(struct registers *r)
{
    for (unsigned i = 0; i < STATE_REG_BYTES / 4; i++)
        STORE(r->st->emu.reg_host[i], LOAD(r->st->svc.reg_host_reset[i]));
}

void registers_reset(struct registers *r, bool alone)
{
    struct state_memory *st = r->st;

    for (unsigned i = 0; i < STATE_REG_BYTES / 4; i++) {
        STORE(st->emu.reg_host[i], LOAD(st->svc.reg_host_reset[i]));
        if (alone)
            STORE(st->svc.reg_dev[i], LOAD(st->svc.reg_dev_reset[i]));
    }
    for (unsigned i = 0; i < STATE_DOORBELL_BYTES / 4; i++)
        STORE(r->doorbells[i], 0);
    if (alone) { /* what nobody has applied belongs to the epoch that ends here */
        STORE(st->svc.log_head, LOAD(st->emu.log_tail));
        STORE(st->svc.log_lost_seen, LOAD(st->emu.log_lost));
        STORE(st->svc.status, 0);
    }
    STORE(st->emu.epoch, LOAD(st->emu.epoch) + 1);
}
