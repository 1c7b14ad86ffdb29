/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/fd.h - file descriptors: born O_CLOEXEC, closed once. */
#ifndef BASE_FD_H
#define BASE_FD_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Closes *fd if it is one (>= 0) and sets it to -1. */
void fd_close(int *fd);

/* A memfd of exactly size bytes, sealed against resizing. Returns the fd or -errno. */
int fd_memfd(const char *name, uint64_t size);

/* 0 or -errno. */
int fd_nonblock(int fd);

/* As many descriptors as this process may have. */
void fd_raise_limit(void);

/* An eventfd, which becomes non-blocking: a write to anything else could stop a reactor. 0 or
 * -EINVAL. */
int fd_check_eventfd(int fd);

/* Fills addr from path, checked against the 107-byte limit of Unix socket paths. 0 or
 * -ENAMETOOLONG. */
struct sockaddr_un;
int fd_sockaddr(struct sockaddr_un *addr, const char *path, struct err *err);

/* Creates a directory and its missing parents with mode. 0 or -errno; an existing directory is
 * fine. */
int fd_mkdirs(const char *path, mode_t mode, struct err *err);

/* Binds a Unix socket of the given type at path with file mode, without listening. A left-over
 * socket nobody listens on is replaced; anything else at that path is refused (-EEXIST /
 * -EADDRINUSE). Returns the fd or -errno. */
int fd_unix_bind(const char *path, int type, mode_t mode, struct err *err);

/* Connects to a Unix socket. Returns the fd or -errno. */
int fd_unix_connect(const char *path, int type, struct err *err);

/* sendmsg/recvmsg with descriptors. Non-blocking as the fd is. Return bytes, 0 at end of stream, or
 * -errno. Received descriptors are O_CLOEXEC; *nfds gets their number; surplus ones over max_fds
 * are closed and make -EMSGSIZE. */
ssize_t fd_send(int sock, const void *buf, size_t len, const int *fds, unsigned nfds);
ssize_t fd_recv(int sock, void *buf, size_t len, int *fds, unsigned max_fds, unsigned *nfds);

#endif
