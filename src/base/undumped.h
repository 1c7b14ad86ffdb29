/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/undumped.h - memory for data of guests and hosts: a core dump, which goes where logs and bug
 * reports go, does not hold it. Thread: any. */
#ifndef BASE_UNDUMPED_H
#define BASE_UNDUMPED_H

#include <stddef.h>

/* Zeroed memory that begins on a page and is populated by use; 0 bytes are as good as one. NULL:
 * there is none. */
void *undumped_alloc(size_t bytes);
/* bytes: as allocated. p may be NULL. */
void undumped_free(void *p, size_t bytes);

/* Says the same of a mapping of the caller's own; p is where it begins. To be called before
 * anything else knows the mapping. May be called in a signal handler. */
void undumped_mark(void *p, size_t bytes);

#endif
