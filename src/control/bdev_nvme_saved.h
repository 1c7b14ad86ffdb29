/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/bdev_nvme_saved.h - inside of the room: what is saved of an NVMe-oF controller we attach
 * to. Thread: control. */
#ifndef CONTROL_BDEV_NVME_SAVED_H
#define CONTROL_BDEV_NVME_SAVED_H

#include "backends/nvme_of/nvme_of.h"
#include "control/control.h"

#include <jansson.h>

enum { NVME_OF_NAMESPACES_MAX = 1024 }; /* of a controller */

/* Its namespaces: from malloc, *ret_n of them. NULL: none, or out of memory. */
struct nvme_of_namespace *nvme_of_namespace_list(const struct nvme_of_host *host, unsigned *ret_n);
/* The parameter "_namespaces" of a saved call: from malloc, *ret_n of them; *ret NULL: nothing was
 * saved. An empty list is not nothing: the target had no namespace, and need not be there now.
 * false: they are damaged. */
bool saved_nvme_of_namespaces(json_t *saved, struct nvme_of_namespace **ret, unsigned *ret_n);
/* The parameters of the attach call, borrowed; NULL: it has not been answered yet. */
json_t *saved_nvme_of_call(struct control_ctx *ctx, const struct nvme_of_host *host);
/* Brings them up to date: the first path as the call has it, the others beside. */
void update_nvme_of_call(json_t *params, const struct nvme_of_host *host);
/* Something has changed that is not a call of its own: saves the attach call anew. */
void save_nvme_of_again(struct control_ctx *ctx, const struct nvme_of_host *host);

#endif
