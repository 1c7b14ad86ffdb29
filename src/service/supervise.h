/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service/supervise.h - the parent that starts the service again after a crash. Before any thread
 * exists. */
#ifndef SERVICE_SUPERVISE_H
#define SERVICE_SUPERVISE_H

/* Forks. Returns in the child, which is the service; the parent never returns: it starts a new
 * child whenever one dies of a signal or with a failure it has not shown in its first second,
 * passes SIGTERM and SIGINT on, and exits as an orderly child does. */
void supervise(void);

#endif
