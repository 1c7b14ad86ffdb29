/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/frame.h"

static enum rpc_frame_result bad(const char **why, const char *text)
{
    *why = text;
    return RPC_FRAME_BAD;
}

static enum rpc_frame_result outside_string(struct rpc_frame *f, char c, const char **why)
{
    switch (c) {
    case '"':
        f->string = true;
        break;
    case '{':
    case '[':
        f->values++;
        if (++f->depth > RPC_FRAME_DEPTH)
            return bad(why, "nested deeper than 64 levels");
        break;
    case ',':
    case ':':
        f->values++;
        break;
    case '}':
    case ']':
        if (--f->depth == 0)
            return RPC_FRAME_DONE;
        break;
    default:
        break;
    }
    if (f->values > RPC_FRAME_VALUES)
        return bad(why, "more than 8192 values in one request");
    return RPC_FRAME_MORE;
}

enum rpc_frame_result rpc_frame_scan(struct rpc_frame *f, const char *buf, size_t len,
                                     const char **why)
{
    if (f->pos == 0 && len > 0 && buf[0] != '{' && buf[0] != '[')
        return bad(why, "a request is a JSON object or an array of them");
    while (f->pos < len) {
        char c = buf[f->pos++];

        if (f->escape) {
            f->escape = false;
        } else if (f->string) {
            f->escape = c == '\\';
            f->string = c != '"';
        } else {
            enum rpc_frame_result r = outside_string(f, c, why);

            if (r != RPC_FRAME_MORE)
                return r;
        }
    }
    if (len >= RPC_FRAME_BYTES)
        return bad(why, "request exceeds 256 KiB");
    return RPC_FRAME_MORE;
}
