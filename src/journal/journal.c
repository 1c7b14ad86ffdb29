/* SPDX-License-Identifier: BSD-3-Clause */
#include "journal/inside.h"

#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SYNC_DELAY_MS = 300,             /* several changes share one sync; well within a second */
    RETRY_MS = 1000,                 /* after a failed rewrite */
    COMPACT_FLOOR_BYTES = 64 * 1024, /* smaller files are not worth it */
};

int journal_write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* ---- the text of a whole file ---- */

static char *header_line(size_t *ret_len)
{
    json_t *v = json_pack("{s:s,s:i}", "journal", "opensnap", "version", JOURNAL_VERSION);
    char *line = record_line(v, ret_len);

    json_decref(v);
    return line;
}

/* Locked. From malloc; NULL: out of memory. */
static char *whole_text(const struct records *r, size_t *ret_len)
{
    size_t size = 0, len = 0;
    char *text = NULL;
    FILE *f = open_memstream(&text, &size);
    char *line;

    if (!f)
        return NULL;
    line = header_line(&len);
    if (line)
        fwrite(line, 1, len, f);
    for (size_t i = 0; line && i < r->n; i++) {
        free(line);
        line = record_line_of_text(r->list[i].text, &len);
        if (line)
            fwrite(line, 1, len, f);
    }
    if (fclose(f) != 0 || !line) {
        free(text);
        text = NULL;
    }
    free(line);
    *ret_len = size;
    return text;
}

/* A synced temporary file with this text; its descriptor (append mode) or -errno. */
static int write_temp(struct journal *j, const char *text, size_t len)
{
    int fd =
        openat(j->dir_fd, JOURNAL_TEMP, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    int rc;

    if (fd < 0)
        return -errno;
    rc = journal_write_all(fd, text, len);
    crash_point(journal_temp_written);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    crash_point(journal_temp_synced);
    if (rc < 0) {
        close(fd);
        unlinkat(j->dir_fd, JOURNAL_TEMP, 0);
        return rc;
    }
    return fd;
}

/* Locked. The temporary file becomes the journal. */
static int put_in_place(struct journal *j, int fd, uint64_t bytes)
{
    crash_point(journal_temp_complete);
    if (renameat(j->dir_fd, JOURNAL_TEMP, j->dir_fd, JOURNAL_FILE) < 0) {
        int rc = -errno;

        close(fd);
        unlinkat(j->dir_fd, JOURNAL_TEMP, 0);
        return rc;
    }
    crash_point(journal_renamed);
    fd_close(&j->fd);
    j->fd = fd;
    j->file_bytes = bytes;
    j->behind = false;
    return 0;
}

/* Locked, with nobody else rewriting: the whole file anew, while the caller waits. */
int journal_rewrite(struct journal *j)
{
    size_t len = 0;
    char *text = whole_text(&j->records, &len);
    int fd, rc;

    if (!text)
        return -ENOMEM;
    fd = write_temp(j, text, len);
    free(text);
    rc = fd < 0 ? fd : put_in_place(j, fd, len);
    if (rc == 0 && fsync(j->dir_fd) < 0)
        rc = -errno;
    return rc;
}

/* ---- the helper thread ---- */

static bool wants_rewrite(const struct journal *j)
{
    return j->behind ||
           (j->file_bytes > COMPACT_FLOOR_BYTES && j->file_bytes / 2 > j->records.text_bytes);
}

/* Locked on entry and exit; unlocked while it waits for the disk. */
static int rewrite_aside(struct journal *j)
{
    size_t len = 0;
    char *text = whole_text(&j->records, &len);
    int fd, rc;

    if (!text)
        return -ENOMEM;
    j->rewriting = true;
    j->behind = false;
    pthread_mutex_unlock(&j->lock);
    fd = write_temp(j, text, len);
    free(text);
    pthread_mutex_lock(&j->lock);
    rc = fd;
    if (fd >= 0) {
        rc = journal_write_all(fd, j->tail, j->tail_len);
        if (rc < 0) {
            close(fd);
            unlinkat(j->dir_fd, JOURNAL_TEMP, 0);
        } else {
            bool again = j->behind; /* a change failed to reach the old file and the tail */

            j->dirty |= j->tail_len > 0;
            rc = put_in_place(j, fd, len + j->tail_len);
            j->behind |= again;
        }
    }
    if (rc < 0)
        j->behind = true;
    j->rewriting = false;
    free(j->tail);
    j->tail = NULL;
    j->tail_len = 0;
    if (rc == 0) {
        pthread_mutex_unlock(&j->lock);
        fsync(j->dir_fd);
        pthread_mutex_lock(&j->lock);
    }
    return rc;
}

static void sync_file(struct journal *j)
{
    int fd = fcntl(j->fd, F_DUPFD_CLOEXEC, 0);

    j->dirty = false;
    pthread_mutex_unlock(&j->lock);
    crash_point(journal_syncing);
    if (fd < 0 || fdatasync(fd) < 0)
        log_line(LOG_ERROR, "journal", "%s/%s: cannot sync: %s", j->dir, JOURNAL_FILE,
                 strerror(errno));
    crash_point(journal_synced);
    fd_close(&fd);
    pthread_mutex_lock(&j->lock);
}

/* Locked: sleeps, but not through a stop. */
static void wait_ms(struct journal *j, unsigned ms)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (!j->stop && pthread_cond_timedwait(&j->wake, &j->lock, &until) == 0)
        continue;
}

static void *helper(void *arg)
{
    struct journal *j = arg;
    bool complained = false;

    pthread_mutex_lock(&j->lock);
    while (!j->stop) {
        if (!j->dirty && !wants_rewrite(j)) {
            pthread_cond_wait(&j->wake, &j->lock);
            continue;
        }
        wait_ms(j, SYNC_DELAY_MS);
        if (j->dirty)
            sync_file(j);
        if (j->stop || !wants_rewrite(j))
            continue;
        int rc = rewrite_aside(j);

        if (rc < 0) {
            if (!complained)
                log_line(LOG_ERROR, "journal", "%s/%s: cannot rewrite: %s; will try again", j->dir,
                         JOURNAL_FILE, strerror(-rc));
            wait_ms(j, RETRY_MS);
        } else if (complained) {
            log_line(LOG_INFO, "journal", "%s/%s: written completely again", j->dir, JOURNAL_FILE);
        }
        complained = rc < 0;
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

int journal_start_helper(struct journal *j)
{
    int rc = -pthread_create(&j->thread, NULL, helper, j);

    j->thread_runs = rc == 0;
    return rc;
}

/* ---- appending ---- */

/* Locked. All of line or nothing of it. */
static int append(struct journal *j, const char *line, size_t len)
{
    int rc;

    if (j->behind && !j->rewriting)
        return journal_rewrite(j); /* the records hold this change already */
    rc = journal_write_all(j->fd, line, len);
    if (rc == 0)
        j->file_bytes += len;
    else if (ftruncate(j->fd, (off_t)j->file_bytes) < 0)
        log_line(LOG_ERROR, "journal", "%s/%s: cannot take back half a line: %s", j->dir,
                 JOURNAL_FILE, strerror(errno));
    if (j->rewriting) {
        char *more = realloc(j->tail, j->tail_len + len);

        if (more) {
            memcpy(more + j->tail_len, line, len);
            j->tail = more;
            j->tail_len += len;
        } else {
            j->behind = true;
        }
    }
    if (rc < 0)
        j->behind = true;
    return rc;
}

int journal_append(struct journal *j, json_t *value)
{
    size_t len = 0;
    char *line = record_line(value, &len);
    int rc = line ? append(j, line, len) : -ENOMEM;

    free(line);
    if (rc == -ENOMEM)
        j->behind = true;
    j->dirty = true;
    pthread_cond_signal(&j->wake);
    return rc;
}

static json_t *change_value(const struct rpc_change *c)
{
    if (!c->params)
        return json_pack("{s:s}", "drop", c->key);
    return json_pack("{s:s,s:s,s:O}", "put", c->key, "method", c->method, "params", c->params);
}

int journal_save(void *arg, const struct rpc_change *changes, unsigned n, struct err *err)
{
    struct journal *j = arg;
    json_t *all = json_array();
    int rc = 0;

    /* One line for all changes of a call: after a crash it happened as a whole or not at all. */
    for (unsigned i = 0; i < n && rc == 0; i++)
        rc = json_array_append_new(all, change_value(&changes[i])) < 0 ? -ENOMEM : 0;
    if (rc == 0) {
        pthread_mutex_lock(&j->lock);
        for (unsigned i = 0; i < n && rc == 0; i++)
            rc = records_apply(&j->records, json_array_get(all, i));
        crash_point(journal_applied);
        if (rc == 0)
            rc = journal_append(j, n == 1 ? json_array_get(all, 0) : all);
        crash_point(journal_appended);
        pthread_mutex_unlock(&j->lock);
    }
    json_decref(all);
    if (rc < 0)
        return err_set(err, rc, "'%s/%s': %s", j->dir, JOURNAL_FILE, strerror(-rc));
    return 0;
}

int journal_clear(struct journal *j, struct err *err)
{
    int rc;

    pthread_mutex_lock(&j->lock);
    records_free(&j->records);
    j->behind = true;
    rc = j->rewriting ? 0 : journal_rewrite(j);
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
    return rc < 0 ? err_set(err, rc, "'%s/%s': %s", j->dir, JOURNAL_FILE, strerror(-rc)) : 0;
}

void journal_close(struct journal *j, bool orderly)
{
    if (!j)
        return;
    if (j->thread_runs) {
        pthread_mutex_lock(&j->lock);
        j->stop = true;
        pthread_cond_signal(&j->wake);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->thread, NULL);
        if (orderly) {
            json_t *mark = json_pack("{s:b}", "stopped", 1);

            crash_point(journal_stopping);
            if (journal_append(j, mark) < 0)
                log_line(LOG_WARNING, "journal",
                         "%s/%s: the next start will look like one after a crash", j->dir,
                         JOURNAL_FILE);
            json_decref(mark);
        }
        crash_point(journal_stopped);
        fdatasync(j->fd);
    }
    fd_close(&j->fd);
    fd_close(&j->lock_fd);
    fd_close(&j->dir_fd);
    records_free(&j->records);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
    free(j->tail);
    free(j->dir);
    free(j);
}

bool journal_was_orderly(const struct journal *j)
{
    return j->orderly;
}

int journal_lock_fd(const struct journal *j)
{
    return j->lock_fd;
}

unsigned journal_count(struct journal *j)
{
    unsigned n;

    pthread_mutex_lock(&j->lock);
    n = (unsigned)j->records.n;
    pthread_mutex_unlock(&j->lock);
    return n;
}

json_t *journal_calls(struct journal *j)
{
    json_t *calls = json_array();

    pthread_mutex_lock(&j->lock);
    for (size_t i = 0; i < j->records.n; i++)
        json_array_append_new(calls, json_loads(j->records.list[i].text, 0, NULL));
    pthread_mutex_unlock(&j->lock);
    return calls;
}
