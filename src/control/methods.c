/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All that the service serves; one table per object. */
#include "control/inside.h"

static const struct rpc_method_table *const tables[] = {
    &general_methods,
    &emulation_methods,
    &nvme_subsystem_methods,
    &nvme_namespace_methods,
    &nvme_controller_methods,
    &nvme_controller_life_methods,
    &nvme_controller_list_methods,
    &vblk_controller_methods,
    &vblk_controller_list_methods,
    &bdev_methods,
    &bdev_memory_methods,
    &bdev_file_methods,
    &bdev_nvme_methods,
};
const struct rpc_method_set control_methods = {tables, ARRAY_SIZE(tables)};
