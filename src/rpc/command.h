/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/command.h - command lines from the method tables: "nvme_subsystem_create --nqn X" becomes a
 * method and its params. Used by snap_rpc and for start-up files, so that both take the same words.
 * Thread: any. */
#ifndef RPC_COMMAND_H
#define RPC_COMMAND_H

#include "rpc/dispatch.h"

#include <stdio.h>

/* Splits a line as a shell does: white space, '...', "...", backslash, # to the end of the line.
 * *ret_argv ends with NULL and is freed by rpc_command_free(). 0, -EINVAL (an open quote), -ENOMEM.
 */
int rpc_command_split(const char *line, char ***ret_argv, int *ret_argc, struct err *err);
void rpc_command_free(char **argv);

/* argv[0] is the method. *ret_params is a new reference, NULL when there are none. -ENOENT: no such
 * method; -EINVAL. */
int rpc_command_parse(const struct rpc_method_set *set, int argc, char *const *argv,
                      const struct rpc_method **ret_method, json_t **ret_params, struct err *err);

/* What "<method> --help" prints. */
void rpc_command_help(const struct rpc_method *method, FILE *out);

#endif
