/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/journal.h"

#include "base/fd.h"
#include "base/log.h"
#include "service/records.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    JOURNAL_VERSION = 1,
    SYNC_DELAY_MS = 300,               /* several changes share one sync; well within a second */
    RETRY_MS = 1000,                   /* after a failed rewrite */
    LOCK_WAIT_MS = 2000,               /* a killed service may still be on its way out */
    COMPACT_FLOOR_BYTES = 64 * 1024,   /* smaller files are not worth it */
    JOURNAL_MAX_BYTES = 256 * 1024 * 1024,
};

static const char file_name[] = "config.journal", temp_name[] = "config.journal.new",
                  bad_name[] = "config.journal.bad", lock_name[] = "service.lock";

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
    bool dirty;      /* appended, not synced */
    bool behind;     /* records hold what the file does not: it must be rewritten */
    bool rewriting;  /* the helper writes a new file; tail collects what is appended meanwhile */
    char *tail;
    size_t tail_len;
};

static int write_all(int fd, const char *data, size_t len)
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
    int fd = openat(j->dir_fd, temp_name, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    int rc;

    if (fd < 0)
        return -errno;
    rc = write_all(fd, text, len);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (rc < 0) {
        close(fd);
        unlinkat(j->dir_fd, temp_name, 0);
        return rc;
    }
    return fd;
}

/* Locked. The temporary file becomes the journal. */
static int put_in_place(struct journal *j, int fd, uint64_t bytes)
{
    if (renameat(j->dir_fd, temp_name, j->dir_fd, file_name) < 0) {
        int rc = -errno;

        close(fd);
        unlinkat(j->dir_fd, temp_name, 0);
        return rc;
    }
    fd_close(&j->fd);
    j->fd = fd;
    j->file_bytes = bytes;
    j->behind = false;
    return 0;
}

/* Locked, with nobody else rewriting: the whole file anew, while the caller waits. */
static int rewrite_now(struct journal *j)
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
        rc = write_all(fd, j->tail, j->tail_len);
        if (rc < 0) {
            close(fd);
            unlinkat(j->dir_fd, temp_name, 0);
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
    if (fd < 0 || fdatasync(fd) < 0)
        log_line(LOG_ERROR, "journal", "%s/%s: cannot sync: %s", j->dir, file_name, strerror(errno));
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
                         file_name, strerror(-rc));
            wait_ms(j, RETRY_MS);
        } else if (complained) {
            log_line(LOG_INFO, "journal", "%s/%s: written completely again", j->dir, file_name);
        }
        complained = rc < 0;
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* ---- appending ---- */

/* Locked. All of line or nothing of it. */
static int append(struct journal *j, const char *line, size_t len)
{
    int rc;

    if (j->behind && !j->rewriting)
        return rewrite_now(j); /* the records hold this change already */
    rc = write_all(j->fd, line, len);
    if (rc == 0)
        j->file_bytes += len;
    else if (ftruncate(j->fd, (off_t)j->file_bytes) < 0)
        log_line(LOG_ERROR, "journal", "%s/%s: cannot take back half a line: %s", j->dir, file_name,
                 strerror(errno));
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

static int append_value(struct journal *j, json_t *value)
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
        if (rc == 0)
            rc = append_value(j, n == 1 ? json_array_get(all, 0) : all);
        pthread_mutex_unlock(&j->lock);
    }
    json_decref(all);
    if (rc < 0)
        return err_set(err, rc, "'%s/%s': %s", j->dir, file_name, strerror(-rc));
    return 0;
}

int journal_clear(struct journal *j, struct err *err)
{
    int rc;

    pthread_mutex_lock(&j->lock);
    records_free(&j->records);
    j->behind = true;
    rc = j->rewriting ? 0 : rewrite_now(j);
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
    return rc < 0 ? err_set(err, rc, "'%s/%s': %s", j->dir, file_name, strerror(-rc)) : 0;
}

/* ---- opening ---- */

static int lock_directory(struct journal *j, struct err *err)
{
    char pid[32] = "";
    ssize_t n;

    j->dir_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->dir_fd < 0)
        return err_set(err, -errno, "state directory '%s': %s", j->dir, strerror(errno));
    j->lock_fd = openat(j->dir_fd, lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->lock_fd < 0)
        return err_set(err, -errno, "'%s/%s': %s", j->dir, lock_name, strerror(errno));
    for (unsigned waited_ms = 0; flock(j->lock_fd, LOCK_EX | LOCK_NB) < 0; waited_ms += 50) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(err, -errno, "cannot lock '%s/%s': %s", j->dir, lock_name,
                           strerror(errno));
        if (waited_ms >= LOCK_WAIT_MS) {
            n = pread(j->lock_fd, pid, sizeof(pid) - 1, 0);
            pid[strcspn(pid, "\n")] = '\0';
            return err_set(err, -EBUSY,
                           "state directory '%s' is in use by another service%s%s%s: give this one "
                           "another --state-dir",
                           j->dir, n > 0 ? " (pid " : "", pid, n > 0 ? ")" : "");
        }
        nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000L}, NULL);
    }
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(j->lock_fd, 0) < 0 || pwrite(j->lock_fd, pid, strlen(pid), 0) < 0)
        log_line(LOG_WARNING, "journal", "%s/%s: %s", j->dir, lock_name, strerror(errno));
    return 0;
}

static int read_file(struct journal *j, char **ret, size_t *ret_len, struct err *err)
{
    struct stat st;
    char *text;
    size_t len = 0;

    j->fd = openat(j->dir_fd, file_name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->fd < 0 || fstat(j->fd, &st) < 0)
        return err_set(err, -errno, "'%s/%s': %s", j->dir, file_name, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > JOURNAL_MAX_BYTES)
        return err_set(err, -EINVAL, "'%s/%s' is not a journal: not a file of up to 256 MiB", j->dir,
                       file_name);
    text = malloc((size_t)st.st_size + 1);
    if (!text)
        return err_set(err, -ENOMEM, "out of memory");
    while (len < (size_t)st.st_size) {
        ssize_t n = pread(j->fd, text + len, (size_t)st.st_size - len, (off_t)len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int rc = -errno;

            free(text);
            return err_set(err, rc, "'%s/%s': %s", j->dir, file_name, strerror(-rc));
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret = text;
    *ret_len = len;
    return 0;
}

/* -EINVAL: not a line this program wrote. */
static int apply_line(struct journal *j, json_t *value)
{
    json_t *change;
    size_t i;
    int rc = 0;

    j->orderly = json_is_true(json_object_get(value, "stopped"));
    if (j->orderly || json_is_true(json_object_get(value, "started")))
        return 0;
    if (!json_is_array(value))
        return records_apply(&j->records, value);
    json_array_foreach(value, i, change) {
        rc = records_apply(&j->records, change);
        if (rc < 0)
            break;
    }
    return rc;
}

static int check_header(struct journal *j, json_t *value, struct err *err)
{
    json_t *version = json_object_get(value, "version");

    if (!json_object_get(value, "journal"))
        return err_set(err, -EINVAL, "no header");
    if (json_integer_value(version) != JOURNAL_VERSION)
        return err_set(err, -EPROTONOSUPPORT,
                       "'%s/%s' has version %lld, this service reads version %d: use the service that "
                       "wrote it, or move the file away",
                       j->dir, file_name, (long long)json_integer_value(version), JOURNAL_VERSION);
    return 0;
}

/* Reads the intact lines; *ret_good: bytes of them. */
static int load(struct journal *j, const char *text, size_t len, size_t *ret_good, struct err *err)
{
    size_t good = 0;
    bool first = true;

    while (good < len) {
        const char *line = text + good, *end = memchr(line, '\n', len - good);
        json_t *value = end ? record_parse(line, (size_t)(end - line)) : NULL;
        int rc;

        if (!value)
            break;
        rc = first ? check_header(j, value, err) : apply_line(j, value);
        json_decref(value);
        if (rc == -EPROTONOSUPPORT || rc == -ENOMEM)
            return rc;
        if (rc < 0)
            break;
        first = false;
        good = (size_t)(end - text) + 1;
    }
    *ret_good = good;
    return 0;
}

/* What cannot be read is kept for people, then cut off. */
static int set_aside(struct journal *j, const char *bad, size_t len, struct err *err)
{
    int fd = openat(j->dir_fd, bad_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : write_all(fd, bad, len);

    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    fd_close(&fd);
    if (rc < 0)
        return err_set(err, rc, "cannot save the damaged end of the journal as '%s/%s': %s", j->dir,
                       bad_name, strerror(-rc));
    log_line(LOG_ERROR, "journal",
             "%s/%s: damaged from byte %llu on: %zu bytes are ignored and kept in %s", j->dir,
             file_name, (unsigned long long)j->file_bytes, len, bad_name);
    return 0;
}

static int open_file(struct journal *j, struct err *err)
{
    char *text = NULL;
    size_t len = 0, good = 0;
    int rc = read_file(j, &text, &len, err);

    if (rc < 0)
        return rc;
    j->orderly = len == 0;
    rc = load(j, text, len, &good, err);
    j->file_bytes = good;
    if (rc == 0 && good < len)
        rc = set_aside(j, text + good, len - good, err);
    free(text);
    if (rc < 0)
        return rc;
    if (good < len || good == 0) {
        j->orderly = len == 0;
        rc = rewrite_now(j);
    } else if (j->orderly) {
        json_t *mark = json_pack("{s:b}", "started", 1);

        rc = append_value(j, mark);
        json_decref(mark);
    }
    return rc < 0 ? err_set(err, rc, "cannot write '%s/%s': %s", j->dir, file_name, strerror(-rc)) : 0;
}

int journal_open(const char *state_dir, struct journal **ret, struct err *err)
{
    struct journal *j = calloc(1, sizeof(*j));
    int rc;

    if (!j)
        return err_set(err, -ENOMEM, "out of memory");
    j->dir_fd = j->lock_fd = j->fd = -1;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    j->dir = strdup(state_dir);
    rc = j->dir ? lock_directory(j, err) : err_set(err, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = open_file(j, err);
    if (rc == 0) {
        rc = -pthread_create(&j->thread, NULL, helper, j);
        if (rc < 0)
            err_set(err, rc, "journal thread: %s", strerror(-rc));
    }
    if (rc < 0) {
        journal_close(j, false);
        return rc;
    }
    j->thread_runs = true;
    *ret = j;
    return 0;
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

            if (append_value(j, mark) < 0)
                log_line(LOG_WARNING, "journal", "%s/%s: the next start will look like one after a crash",
                         j->dir, file_name);
            json_decref(mark);
        }
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

unsigned journal_count(struct journal *j)
{
    unsigned n;

    pthread_mutex_lock(&j->lock);
    n = (unsigned)j->records.n;
    pthread_mutex_unlock(&j->lock);
    return n;
}

/* ---- replay ---- */

struct replay {
    const struct rpc_env *env;
    void (*done)(void *arg, unsigned ok, unsigned failed);
    void *arg;
    json_t *calls; /* of the records as they were at the beginning */
    size_t next;
    unsigned ok, failed;
    bool running, waiting;
};

static void replay_run(struct replay *r);

static void replay_answered(void *arg, json_t *result, json_t *error)
{
    struct replay *r = arg;

    if (error) {
        json_t *call = json_array_get(r->calls, r->next - 1);

        r->failed++;
        log_line(LOG_ERROR, "journal", "cannot restore '%s' (%s): %s",
                 json_string_value(json_object_get(call, "put")),
                 json_string_value(json_object_get(call, "method")),
                 json_string_value(json_object_get(error, "message")));
    } else {
        r->ok++;
    }
    r->waiting = false;
    if (!r->running)
        replay_run(r);
}

static void replay_run(struct replay *r)
{
    r->running = true;
    while (!r->waiting && r->next < json_array_size(r->calls)) {
        json_t *call = json_array_get(r->calls, r->next++);

        r->waiting = true;
        rpc_call_internal(r->env, json_string_value(json_object_get(call, "method")),
                          json_object_get(call, "params"), true, replay_answered, r);
    }
    r->running = false;
    if (r->waiting)
        return;
    r->done(r->arg, r->ok, r->failed);
    json_decref(r->calls);
    free(r);
}

void journal_replay(struct journal *j, const struct rpc_env *env,
                    void (*done)(void *arg, unsigned ok, unsigned failed), void *arg)
{
    struct replay *r = calloc(1, sizeof(*r));

    if (!r) {
        log_line(LOG_ERROR, "journal", "out of memory: nothing is restored");
        done(arg, 0, journal_count(j));
        return;
    }
    *r = (struct replay){.env = env, .done = done, .arg = arg, .calls = json_array()};
    pthread_mutex_lock(&j->lock);
    for (size_t i = 0; i < j->records.n; i++)
        json_array_append_new(r->calls, json_loads(j->records.list[i].text, 0, NULL));
    pthread_mutex_unlock(&j->lock);
    replay_run(r);
}
