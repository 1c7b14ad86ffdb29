/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All that snap_target serves; one table per object. */
#include "control/inside.h"

static const struct rpc_method_table *const tables[] = {COMMON_TABLES, TARGET_TABLES};
const struct rpc_method_set target_methods = {tables, ARRAY_SIZE(tables)};
