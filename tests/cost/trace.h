/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tests/cost/trace.h - what the traces have in common: so many commands, DEPTH at a time, on a null
 * disk: writes of 4 KiB and reads of 512 bytes in turn, since a null disk writes the zeroes it is
 * read as, and that is not what is counted. A trace is the same in every run. */
#ifndef TESTS_COST_TRACE_H
#define TESTS_COST_TRACE_H

#include "link/function.h"

#include <stdio.h>

enum {
    TRACE_COMMANDS = 4096,
    TRACE_DEPTH = 32,
    TRACE_BLOCKS = 1 << 16, /* of 512 bytes */
};

/* A turn of the service for its function: what test_instructions.py counts, by this name. */
__attribute__((noinline, used)) void trace_turn(struct function *f);
void trace_turn(struct function *f)
{
    function_poll(f);
    function_flush(f);
}

/* The block at which a command begins. */
static inline uint64_t trace_lba(unsigned i)
{
    return (uint64_t)i * 2654435761U % (TRACE_BLOCKS / 8) * 8;
}

static inline bool trace_writes(unsigned i)
{
    return i % 2;
}

static inline uint32_t trace_blocks(unsigned i)
{
    return trace_writes(i) ? 8 : 1;
}

/* For whom the counts hold. */
static inline void trace_about(void)
{
#if defined(__clang__)
    printf("clang %d", __clang_major__);
#else
    printf("gcc %d", __GNUC__);
#endif
#if defined(__x86_64__)
    printf(" x86_64");
#elif defined(__aarch64__)
    printf(" aarch64");
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    printf(" sanitized");
#endif
#ifndef __OPTIMIZE__
    printf(" unoptimized");
#endif
    printf("\n%d\n", TRACE_COMMANDS);
}

#endif
