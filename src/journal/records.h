/* SPDX-License-Identifier: BSD-3-Clause
 *
 * journal/records.h - the saved configuration in memory: keys and the JSON text that recreates
 * each, in order; and one line of the journal file. Thread: the journal's lock. */
#ifndef JOURNAL_RECORDS_H
#define JOURNAL_RECORDS_H

#include "rpc/dispatch.h"

#include <stddef.h>

struct record {
    char *key, *text; /* text: {"put":key,"method":..,"params":..} */
};
struct records {
    struct record *list;
    size_t n, capacity;
    size_t text_bytes;
};

void records_free(struct records *r); /* and empties it */
/* A put of a known key replaces its text and keeps its place: what was made later may depend on it.
 * A drop takes the key and all keys below it. change is one object of a line. 0, -EINVAL, -ENOMEM.
 */
int records_apply(struct records *r, json_t *change);

/* "crc32c json\n" from a JSON value; from malloc, NULL: out of memory. */
char *record_line(json_t *value, size_t *ret_len);
/* The same from finished JSON text. */
char *record_line_of_text(const char *text, size_t *ret_len);
/* The value of one line without its end; NULL when it is not intact. New reference. */
json_t *record_parse(const char *line, size_t len);

#endif
