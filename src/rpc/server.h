/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/server.h - JSON-RPC 2.0 on a Unix stream socket, with the framing of SPDK's server: requests
 * back to back with or without white space between them, arrays of them, several in flight, a peer
 * that has closed its sending side. Thread: the reactor's. */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include "rpc/dispatch.h"

enum {
    RPC_MAX_CONNECTIONS = 64,
    RPC_MAX_IN_FLIGHT = 64,                  /* per connection; then it is read no further */
    RPC_MAX_ANSWER_BYTES = 32 * 1024 * 1024, /* a larger one becomes an error */
    RPC_MAX_UNREAD_BYTES =
        64 * 1024 * 1024, /* answers a client leaves unread before it is cut off */
    RPC_MAX_ID_BYTES = 128,
};

struct rpc_server;

/* Listens at path, mode 0600. env and its content must outlive the server and all requests. */
int rpc_server_create(struct reactor *r, const char *path, const struct rpc_env *env,
                      struct rpc_server **ret, struct err *err);
/* Closes the socket and all connections and removes the path; calls still running end without an
 * answer. Accepts NULL. */
void rpc_server_destroy(struct rpc_server *s);

#endif
