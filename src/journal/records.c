/* SPDX-License-Identifier: BSD-3-Clause */
#include "journal/records.h"

#include <ctype.h>
#include <errno.h>
#include <isa-l/crc.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CRC_CHARS = 8, PREFIX_CHARS = CRC_CHARS + 1 };

static uint32_t crc32c(const char *data, size_t len)
{
    return ~crc32_iscsi((unsigned char *)data, (int)len, 0xffffffffU);
}

static void record_clear(struct record *rec)
{
    free(rec->key);
    free(rec->text);
}

void records_free(struct records *r)
{
    for (size_t i = 0; i < r->n; i++)
        record_clear(&r->list[i]);
    free(r->list);
    *r = (struct records){0};
}

static struct record *find(struct records *r, const char *key)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->list[i].key, key) == 0)
            return &r->list[i];
    return NULL;
}

static int put(struct records *r, const char *key, json_t *change)
{
    char *text = json_dumps(change, JSON_COMPACT);
    struct record *rec = find(r, key);

    if (!text)
        return -ENOMEM;
    if (rec) {
        r->text_bytes -= strlen(rec->text);
        free(rec->text);
        rec->text = text;
        r->text_bytes += strlen(text);
        return 0;
    }
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 16;
        struct record *more = realloc(r->list, capacity * sizeof(*more));

        if (!more)
            goto no_memory;
        r->list = more;
        r->capacity = capacity;
    }
    r->list[r->n].key = strdup(key);
    if (!r->list[r->n].key)
        goto no_memory;
    r->list[r->n++].text = text;
    r->text_bytes += strlen(text);
    return 0;
no_memory:
    free(text);
    return -ENOMEM;
}

static bool is_or_below(const char *key, const char *top)
{
    size_t len = strlen(top);

    return strncmp(key, top, len) == 0 && (key[len] == '\0' || key[len] == '/');
}

static void drop(struct records *r, const char *top)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->n; i++) {
        if (is_or_below(r->list[i].key, top)) {
            r->text_bytes -= strlen(r->list[i].text);
            record_clear(&r->list[i]);
        } else {
            r->list[kept++] = r->list[i];
        }
    }
    r->n = kept;
}

int records_apply(struct records *r, json_t *change)
{
    const char *key = json_string_value(json_object_get(change, "put"));
    const char *gone = json_string_value(json_object_get(change, "drop"));

    if (gone) {
        drop(r, gone);
        return 0;
    }
    if (!key || !json_is_string(json_object_get(change, "method")))
        return -EINVAL;
    return put(r, key, change);
}

char *record_line_of_text(const char *text, size_t *ret_len)
{
    size_t len = strlen(text);
    char *line;

    if (len > INT_MAX - PREFIX_CHARS - 2)
        return NULL;
    line = malloc(PREFIX_CHARS + len + 2);
    if (!line)
        return NULL;
    *ret_len = (size_t)snprintf(line, PREFIX_CHARS + len + 2, "%08x %s\n", crc32c(text, len), text);
    return line;
}

char *record_line(json_t *value, size_t *ret_len)
{
    char *text = json_dumps(value, JSON_COMPACT);
    char *line = text ? record_line_of_text(text, ret_len) : NULL;

    free(text);
    return line;
}

json_t *record_parse(const char *line, size_t len)
{
    uint32_t crc = 0;

    if (len < PREFIX_CHARS || len > INT_MAX || line[CRC_CHARS] != ' ')
        return NULL;
    for (size_t i = 0; i < CRC_CHARS; i++) {
        unsigned char c = (unsigned char)line[i];

        if (!isxdigit(c) || isupper(c))
            return NULL;
        crc = crc << 4 | (uint32_t)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    if (crc != crc32c(line + PREFIX_CHARS, len - PREFIX_CHARS))
        return NULL;
    return json_loadb(line + PREFIX_CHARS, len - PREFIX_CHARS, JSON_REJECT_DUPLICATES, NULL);
}
