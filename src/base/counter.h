/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/counter.h - counters that one thread writes and any reads without a lock: each is exact,
 * together they are a moment's view. Plain 64-bit stores, no read-modify-write. */
#ifndef BASE_COUNTER_H
#define BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* Thread: the counter's writer. */
static inline void counter_add(_Atomic uint64_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Of a counter that is a level: what is there now. Thread: the counter's writer. */
static inline void counter_sub(_Atomic uint64_t *c, uint64_t n)
{
    counter_add(c, -n);
}

#endif
