/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All that the command line knows: one for both programs. */
#include "control/inside.h"

static const struct rpc_method_table *const tables[] = {COMMON_TABLES, SERVICE_TABLES,
                                                        TARGET_TABLES};
const struct rpc_method_set all_methods = {tables, ARRAY_SIZE(tables)};
