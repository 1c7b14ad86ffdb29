/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/fd.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FD_MAX_PASSED = 253 }; /* SCM_MAX_FD of Linux */

void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int fd_memfd(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

void fd_raise_limit(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return;
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
}

int fd_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int fd_check_eventfd(int fd)
{
    char link[32], text[64];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, text, sizeof(text) - 1);
    if (n < 0)
        return -EINVAL;
    text[n] = '\0';
    if (strcmp(text, "anon_inode:[eventfd]") != 0)
        return -EINVAL;
    return fd_nonblock(fd);
}

int fd_sockaddr(struct sockaddr_un *addr, const char *path, struct err *err)
{
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof(addr->sun_path))
        return err_set(err, -ENAMETOOLONG,
                       "socket path '%s' has %zu bytes, the limit is %zu: use a shorter directory",
                       path, len, sizeof(addr->sun_path) - 1);
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    memcpy(addr->sun_path, path, len);
    return 0;
}

int fd_mkdirs(const char *path, mode_t mode, struct err *err)
{
    char part[4096];
    size_t len = strlen(path);
    struct stat st;

    if (len == 0 || len >= sizeof(part))
        return err_set(err, -ENAMETOOLONG, "directory '%s' is too long a name", path);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return err_set(err, -errno, "cannot create directory '%s': %s", part, strerror(errno));
    }
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return err_set(err, -ENOTDIR, "'%s' is not a directory", path);
    return 0;
}

/* Only a socket that refuses connections is ours to remove. */
static int remove_stale_socket(const char *path, const struct sockaddr_un *addr, int type,
                               struct err *err)
{
    struct stat st;
    int probe, rc;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, -EEXIST,
                       "'%s' exists and is not a socket; remove it or use another path", path);
    probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return -errno;
    rc = connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
    close(probe);
    if (rc != -ECONNREFUSED)
        return err_set(err, -EADDRINUSE, "another process listens on '%s'", path);
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int fd_unix_bind(const char *path, int type, mode_t mode, struct err *err)
{
    struct sockaddr_un addr;
    int fd, rc = fd_sockaddr(&addr, path, err);

    if (rc < 0)
        return rc;
    rc = remove_stale_socket(path, &addr, type, err);
    if (rc < 0)
        return err && err->code == rc ? rc
                                      : err_set(err, rc, "socket '%s': %s", path, strerror(-rc));
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "socket '%s': %s", path, strerror(errno));
    /* The mode is on the socket before bind(), so that there is no moment with a wider one. */
    fchmod(fd, mode);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        rc = err_set(err, -errno, "cannot bind socket '%s': %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

int fd_unix_connect(const char *path, int type, struct err *err)
{
    struct sockaddr_un addr;
    int fd, rc = fd_sockaddr(&addr, path, err);

    if (rc < 0)
        return rc;
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, -errno, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        rc = err_set(err, -errno, "cannot connect to '%s': %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

ssize_t fd_send(int sock, const void *buf, size_t len, const int *fds, unsigned nfds)
{
    char control[CMSG_SPACE(sizeof(int) * FD_MAX_PASSED)];
    struct iovec iov = {(void *)buf, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (nfds > FD_MAX_PASSED)
        return -EMSGSIZE;
    if (nfds > 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
    }
    do
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t fd_recv(int sock, void *buf, size_t len, int *fds, unsigned max_fds, unsigned *nfds)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * FD_MAX_PASSED)];
    struct iovec iov = {buf, len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    unsigned got = 0;
    bool surplus = false;
    ssize_t n;

    *nfds = 0;
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        int passed[FD_MAX_PASSED];
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(passed, CMSG_DATA(c), count * sizeof(int));
        for (size_t i = 0; i < count; i++) {
            if (got < max_fds)
                fds[got++] = passed[i];
            else {
                close(passed[i]);
                surplus = true;
            }
        }
    }
    if (surplus || (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC))) {
        for (unsigned i = 0; i < got; i++)
            close(fds[i]);
        return -EMSGSIZE;
    }
    *nfds = got;
    return n;
}
