/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/connection.h - one client of the RPC socket: its bytes in, its calls in flight, its answers
 * out. Thread: the reactor's. */
#ifndef RPC_CONNECTION_H
#define RPC_CONNECTION_H

#include "rpc/dispatch.h"

struct rpc_connection;

/* Owns fd from the call on, also when it returns NULL. gone runs once, right before the connection
 * frees itself. */
struct rpc_connection *rpc_connection_create(struct reactor *r, int fd, const struct rpc_env *env,
                                             void (*gone)(void *arg, struct rpc_connection *c),
                                             void *arg);
/* At once, from outside its own callbacks; calls still running end without an answer. */
void rpc_connection_destroy(struct rpc_connection *c);

/* The server's list. */
struct list *rpc_connection_node(struct rpc_connection *c);
struct rpc_connection *rpc_connection_of(struct list *node);

#endif
