/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/frame.h - finds where a JSON text ends in a stream without delimiters, byte by byte, looking
 * at each byte once. It counts brackets only; whether the text is JSON is the parser's business. */
#ifndef RPC_FRAME_H
#define RPC_FRAME_H

#include <stdbool.h>
#include <stddef.h>

enum {
    RPC_FRAME_DEPTH = 64,    /* nesting */
    RPC_FRAME_VALUES = 8192, /* values and member names in one text */
    RPC_FRAME_BYTES = 256 * 1024,
};

struct rpc_frame { /* zeroed: in front of a text */
    size_t pos;    /* bytes looked at */
    unsigned depth, values;
    bool string, escape;
};

enum rpc_frame_result { RPC_FRAME_MORE, RPC_FRAME_DONE, RPC_FRAME_BAD };

/* buf holds the len bytes of the text that have come so far (its first is no white space). DONE:
 * the text ends at f->pos. BAD: it can never become an acceptable one, why says so. */
enum rpc_frame_result rpc_frame_scan(struct rpc_frame *f, const char *buf, size_t len,
                                     const char **why);

#endif
