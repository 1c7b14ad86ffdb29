/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Taking possession of a state directory and reading what is saved there. */
#include "journal/inside.h"

#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_WAIT_MS = 2000, /* a killed service may still be on its way out */
    JOURNAL_MAX_BYTES = 256 * 1024 * 1024,
};

static int lock_directory(struct journal *j, struct err *err)
{
    char pid[32] = "";
    ssize_t n;

    j->dir_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->dir_fd < 0)
        return err_set(err, -errno, "state directory '%s': %s", j->dir, strerror(errno));
    j->lock_fd = openat(j->dir_fd, JOURNAL_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->lock_fd < 0)
        return err_set(err, -errno, "'%s/%s': %s", j->dir, JOURNAL_LOCK, strerror(errno));
    for (unsigned waited_ms = 0; flock(j->lock_fd, LOCK_EX | LOCK_NB) < 0; waited_ms += 50) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_set(err, -errno, "cannot lock '%s/%s': %s", j->dir, JOURNAL_LOCK,
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
        log_line(LOG_WARNING, "journal", "%s/%s: %s", j->dir, JOURNAL_LOCK, strerror(errno));
    return 0;
}

static int read_file(struct journal *j, char **ret, size_t *ret_len, struct err *err)
{
    struct stat st;
    char *text;
    size_t len = 0;

    j->fd =
        openat(j->dir_fd, JOURNAL_FILE, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->fd < 0 || fstat(j->fd, &st) < 0)
        return err_set(err, -errno, "'%s/%s': %s", j->dir, JOURNAL_FILE, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size > JOURNAL_MAX_BYTES)
        return err_set(err, -EINVAL, "'%s/%s' is not a journal: not a file of up to 256 MiB",
                       j->dir, JOURNAL_FILE);
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
            return err_set(err, rc, "'%s/%s': %s", j->dir, JOURNAL_FILE, strerror(-rc));
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
    json_array_foreach(value, i, change)
    {
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
        return err_set(
            err, -EPROTONOSUPPORT,
            "'%s/%s' has version %lld, this service reads version %d: use the service that "
            "wrote it, or move the file away",
            j->dir, JOURNAL_FILE, (long long)json_integer_value(version), JOURNAL_VERSION);
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
    int fd =
        openat(j->dir_fd, JOURNAL_BAD, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : journal_write_all(fd, bad, len);

    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    fd_close(&fd);
    if (rc < 0)
        return err_set(err, rc, "cannot save the damaged end of the journal as '%s/%s': %s", j->dir,
                       JOURNAL_BAD, strerror(-rc));
    crash_point(journal_set_aside);
    log_line(LOG_ERROR, "journal",
             "%s/%s: damaged from byte %llu on: %zu bytes are ignored and kept in %s", j->dir,
             JOURNAL_FILE, (unsigned long long)j->file_bytes, len, JOURNAL_BAD);
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
        rc = journal_rewrite(j);
    } else if (j->orderly) {
        json_t *mark = json_pack("{s:b}", "started", 1);

        rc = journal_append(j, mark);
        json_decref(mark);
    }
    return rc < 0
               ? err_set(err, rc, "cannot write '%s/%s': %s", j->dir, JOURNAL_FILE, strerror(-rc))
               : 0;
}

int journal_open(const char *state_dir, struct journal **ret, struct err *err)
{
    struct journal *j = calloc(1, sizeof(*j));
    int rc;

    if (!j)
        return err_set(err, -ENOMEM, "out of memory");
    j->dir_fd = j->lock_fd = j->fd = -1;
    signal(SIGXFSZ,
           SIG_IGN); /* a file that may not grow is an error to report, not a reason to die */
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    j->dir = strdup(state_dir);
    rc = j->dir ? lock_directory(j, err) : err_set(err, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = open_file(j, err);
    if (rc == 0) {
        rc = journal_start_helper(j);
        if (rc < 0)
            err_set(err, rc, "journal thread: %s", strerror(-rc));
    }
    if (rc < 0) {
        journal_close(j, false);
        return rc;
    }
    *ret = j;
    return 0;
}
