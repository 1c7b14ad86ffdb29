/* SPDX-License-Identifier: BSD-3-Clause
 *
 * journal/inside.h - shared by the files of this room. */
#ifndef JOURNAL_INSIDE_H
#define JOURNAL_INSIDE_H

#include "journal/journal.h"
#include "journal/records.h"

#include <pthread.h>

enum { JOURNAL_VERSION = 1 };
#define JOURNAL_FILE "config.journal"
#define JOURNAL_TEMP "config.journal.new"
#define JOURNAL_BAD "config.journal.bad"
#define JOURNAL_LOCK "service.lock"

struct journal {
    char *dir;
    int dir_fd, lock_fd;
    bool orderly;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;
    pthread_t thread;
    bool thread_runs, stop;
    int fd;
    uint64_t file_bytes;
    struct records records;
    bool dirty;     /* appended, not synced */
    bool behind;    /* records hold what the file does not: it must be rewritten */
    bool rewriting; /* the helper writes a new file; tail collects what is appended meanwhile */
    char *tail;
    size_t tail_len;
};

int journal_write_all(int fd, const char *data, size_t len);
/* Locked (or before there are threads), with nobody else rewriting: the whole file anew, while the
 * caller waits. */
int journal_rewrite(struct journal *j);
/* Locked: one more line. All of it or nothing. */
int journal_append(struct journal *j, json_t *value);
/* Starts the helper thread. */
int journal_start_helper(struct journal *j);

#endif
