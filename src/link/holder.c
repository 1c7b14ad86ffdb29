/* SPDX-License-Identifier: BSD-3-Clause */
#include "link/holder.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 100, RETRY_US = 1000 };

uint64_t holder_start_time(void)
{
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    unsigned long long start = 0;
    size_t n;
    char *at;

    if (!f)
        return 0;
    n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    at = strrchr(text, ')'); /* field 2 may hold anything */
    if (at)
        sscanf(at + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &start);
    return start;
}

/* A snap_emu that clears up removes what it can lock: what we have locked may be no file any more.
 */
static int still_there(int fd, const char *path)
{
    struct stat ours, named;

    return fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_dev == named.st_dev &&
           ours.st_ino == named.st_ino;
}

int holder_create(const char *run_dir, struct err *err)
{
    char path[4096];
    int n, fd, rc;

    n = snprintf(path, sizeof(path), "%s/" LINK_HOLDERS_DIR, run_dir);
    if (n < 0 || n >= (int)sizeof(path) - 64)
        return err_set(err, -ENAMETOOLONG, "run directory '%s' is too long a name", run_dir);
    rc = fd_mkdirs(path, 0700, err);
    if (rc < 0)
        return rc;
    snprintf(path + n, sizeof(path) - (size_t)n, "/%d-%llu", (int)getpid(),
             (unsigned long long)holder_start_time());
    for (unsigned i = 0; i < TRIES; i++) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return err_set(err, -errno, "cannot make '%s': %s", path, strerror(errno));
        rc = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
        if (rc == 0 && still_there(fd, path))
            return fd;
        close(fd);
        if (rc < 0 && rc != -EWOULDBLOCK)
            return err_set(err, rc, "cannot lock '%s': %s", path, strerror(-rc));
        usleep(RETRY_US);
    }
    return err_set(err, -EBUSY, "cannot lock '%s': another process has it", path);
}
