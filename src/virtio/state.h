/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio/state.h - what of a virtqueue outlives the service: its cursors, and a record for every
 * chain between fetch and completion. Lies in the device part of a function's state memory; an ABI
 * between service versions. Written by the service that holds the lease, read by the next one,
 * which checks it as foreign input.
 *
 * Cursors are free-running. Split rings: chains; their low 16 bits are the ring's idx. Packed
 * rings: descriptors; position = cursor % size, wrap counter = !(cursor / size & 1). */
#ifndef VIRTIO_STATE_H
#define VIRTIO_STATE_H

#include "spec/virtio.h"

#include <stdatomic.h>

struct virtq_state {
    _Alignas(64) _Atomic uint32_t start; /* the ring's incarnation the rest belongs to; 0: none */
    uint32_t size, packed;
    uint32_t reserved;
    uint64_t desc_gpa, driver_gpa, device_gpa;
    _Alignas(64) _Atomic uint64_t avail; /* fetched so far: records at or beyond it are void */
    _Atomic uint32_t slots_used;         /* slots at and above were never used */
    _Atomic uint32_t broken;            /* the driver broke the ring: nothing is fetched any more */
    _Alignas(64) _Atomic uint64_t used; /* published so far */
};
static_assert(sizeof(struct virtq_state) == 192, "ABI");

/* A chain between fetch and completion. Slots are in no order. A packed ring's descriptors are
 * overwritten by completions of others, so the record has copies of them: a chain in saved[], in
 * the format of a split ring's descriptor table. */
struct virtq_record {
    _Alignas(64) _Atomic uint64_t index1; /* cursor of the chain + 1; 0: the slot is free */
    _Atomic uint64_t intent; /* cursor of its completion + 1; 0: none. len is valid with it */
    uint32_t start;          /* the ring's incarnation; records of another one are void */
    uint32_t len;            /* bytes written, as the driver is told */
    uint16_t head;           /* split: first descriptor; packed: buffer ID */
    uint16_t ndesc;          /* ring places it takes: 1, or a packed chain's descriptors */
    uint16_t saved;          /* packed: first entry in saved[] */
    _Atomic uint8_t starts;  /* services that have begun to execute it */
    uint8_t reserved[33];
};
static_assert(sizeof(struct virtq_record) == 64, "ABI");

#endif
