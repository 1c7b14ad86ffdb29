/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/err.h - one sentence for the person who has to act on a failure.
 * Thread: any; a struct err belongs to its caller. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

struct err {
    int code;      /* 0 or negative errno */
    char msg[300]; /* names the object, the value and the limit, and what to do */
};

/* Fills err (which may be NULL) and returns code, so that "return err_set(err, -EINVAL, ...)"
 * works. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts a prefix in front of an existing message; returns err->code (or code when err is NULL). */
int err_prefix(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
