/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/checked.h - arithmetic on numbers that came from somebody else. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* True when the sum or product fits; *ret is written only then. */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

/* True when [first, first + count) lies inside [0, limit); an empty range lies everywhere up to
 * limit. */
static inline bool checked_range(uint64_t first, uint64_t count, uint64_t limit)
{
    return first <= limit && count <= limit - first;
}

/* True when the half-open ranges share at least one unit. Neither sum may overflow (checked
 * before). */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return a < b + blen && b < a + alen;
}

#endif
