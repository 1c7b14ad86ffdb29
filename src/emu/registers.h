/* SPDX-License-Identifier: BSD-3-Clause
 *
 * emu/registers.h - BAR0 of a function, or the configuration of a virtio device, answered from its
 * state memory: reads from the register images, writes into the host image and the log, doorbells
 * into the doorbell page. What the service wrote there is foreign. Thread: the emulation manager's.
 */
#ifndef EMU_REGISTERS_H
#define EMU_REGISTERS_H

#include "link/state_memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registers {
    struct state_memory *st;
    _Atomic uint32_t *doorbells; /* STATE_DOORBELL_BYTES */
};

/* BAR0: 4 KiB of registers, then the doorbells. */
enum { REGISTERS_BAR_BYTES = STATE_DOORBELL_OFFSET + STATE_DOORBELL_BYTES };

/* In range of the BAR. */
void registers_read(const struct registers *r, uint64_t offset, void *buf, size_t len);
/* Aligned dwords and qwords; anything else is ignored. True: the service has something to do. */
bool registers_write(struct registers *r, uint64_t offset, const void *buf, size_t len);

/* Any bytes below STATE_REG_BYTES, in range, of which only those take effect that the host may
 * write. True: there were some. */
bool registers_write_bytes(struct registers *r, uint64_t offset, const void *buf, size_t len);
/* The first service has said what registers hold after a reset: so it is from now on. */
void registers_start(struct registers *r);

/* A new epoch begins. alone: no service holds the function, so its part returns to the reset image
 * as well. */
void registers_reset(struct registers *r, bool alone);

#endif
