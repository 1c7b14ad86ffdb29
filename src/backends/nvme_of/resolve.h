/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/resolve.h - names to addresses without blocking the caller's reactor. */
#ifndef BACKENDS_NVME_OF_RESOLVE_H
#define BACKENDS_NVME_OF_RESOLVE_H

#include "base/err.h"
#include "runtime/reactor.h"

#include <sys/socket.h>

struct resolve;
enum { RESOLVE_MAX = 8 };

/* done runs once on r, never inside this call: n > 0 addresses, or n == 0 and the reason. family:
 * AF_UNSPEC, AF_INET, AF_INET6. NULL: no memory or thread. A numeric address needs no thread. */
struct resolve *resolve_start(struct reactor *r, const char *host, const char *port, int family,
                              void (*done)(void *arg, const struct sockaddr_storage *addrs,
                                           unsigned n, const struct err *why),
                              void *arg);
/* done will not run. NULL is fine. */
void resolve_abandon(struct resolve *job);

#endif
