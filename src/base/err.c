/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    return code;
}

int err_prefix(struct err *err, int code, const char *fmt, ...)
{
    char head[160], tail[sizeof(err->msg)];
    va_list ap;

    if (!err)
        return code;
    va_start(ap, fmt);
    vsnprintf(head, sizeof(head), fmt, ap);
    va_end(ap);
    memcpy(tail, err->msg, sizeof(tail));
    err->code = code;
    snprintf(err->msg, sizeof(err->msg), "%s%.*s", head, (int)(sizeof(err->msg) - sizeof(head)),
             tail);
    return code;
}
