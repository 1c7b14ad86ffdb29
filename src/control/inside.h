/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/inside.h - shared by the method files of this room. */
#ifndef CONTROL_INSIDE_H
#define CONTROL_INSIDE_H

#include "control/control.h"

extern const struct rpc_method_table bdev_methods, bdev_delay_methods, bdev_error_methods,
    bdev_file_methods, bdev_memory_methods, bdev_nvme_methods, bdev_nvme_discovery_methods,
    bdev_nvme_path_methods, emulation_methods, general_methods, nvme_controller_methods,
    nvme_controller_life_methods, nvme_controller_list_methods, nvme_namespace_methods,
    nvme_subsystem_methods, nvmf_host_methods, nvmf_listener_methods, nvmf_namespace_methods,
    nvmf_stats_methods, nvmf_subsystem_methods, nvmf_transport_methods, reactor_methods,
    vblk_controller_methods, vblk_controller_list_methods;

/* Rows of the programs' sets of methods. */
#define COMMON_TABLES                                                                              \
    &general_methods, &reactor_methods, &bdev_methods, &bdev_memory_methods, &bdev_file_methods,   \
        &bdev_delay_methods, &bdev_error_methods, &bdev_nvme_methods,                              \
        &bdev_nvme_discovery_methods, &bdev_nvme_path_methods
#define SERVICE_TABLES                                                                             \
    &emulation_methods, &nvme_subsystem_methods, &nvme_namespace_methods,                          \
        &nvme_controller_methods, &nvme_controller_life_methods, &nvme_controller_list_methods,    \
        &vblk_controller_methods, &vblk_controller_list_methods
#define TARGET_TABLES                                                                              \
    &nvmf_transport_methods, &nvmf_subsystem_methods, &nvmf_namespace_methods,                     \
        &nvmf_listener_methods, &nvmf_host_methods, &nvmf_stats_methods

/* Keys of the saved configuration, "nvme/<nqn>/ns/1": any part may hold '/', which is escaped. From
 * malloc, never NULL (the process ends when there is no memory for 300 bytes). ns 0 and ctrl NULL:
 * leave that part out. */
char *key_of_bdev(const char *name);
char *key_of_nvme_of(const char *name);
char *key_of_discovery(const char *name);
char *key_of_subsystem(const char *nqn);
char *key_of_namespace(const char *nqn, uint32_t nsid);
char *key_of_controller(const char *nqn, const char *ctrl_id);
char *key_of_vblk(const char *ctrl_id);
char *key_of_nvmf(const char *nqn);
char *key_of_nvmf_ns(const char *nqn, uint32_t nsid);
char *key_of_nvmf_host(const char *nqn, const char *hostnqn);
char *key_of_nvmf_listener(const char *nqn, const char *address);
char *key_of_attachment(const char *ctrl_key, uint32_t nsid);
char *key_below(const char *key, const char *part); /* part: our own word */
/* rpc_journal_put/drop, and free(key). */
void save_put(struct rpc_request *req, char *key);
void save_drop(struct rpc_request *req, char *key);

/* A discovery has attached or changed a controller, or detached it: saves that
 * (nvme_of_discovery_opts).
 */
void nvme_of_discovered(void *ctx, struct nvme_of_host *host);
void nvme_of_undiscovered(void *ctx, const char *host);

void set_number(json_t *o, const char *name, uint64_t n); /* a new member */
/* uuid.c's text form as a new JSON string. */
json_t *uuid_json(const struct bdev_uuid *uuid);

/* Answers -EINVAL naming the member, or gives the UUID. false: answered. */
bool uuid_param(struct rpc_request *req, const char *member, const char *text,
                struct bdev_uuid *ret);
/* The same for n bytes as hexadecimal digits; dashes and colons between digits are skipped. text
 * may be NULL: b stays as it is. */
bool hex_param(struct rpc_request *req, const char *member, const char *text, uint8_t *b, size_t n);

/* Objects by name; NULL: answered -ENODEV. */
struct nvme_subsystem *need_subsystem(struct control_ctx *ctx, struct rpc_request *req,
                                      const char *nqn);
struct nvme_ctrl *need_controller(struct control_ctx *ctx, struct rpc_request *req,
                                  const char *ctrl_id);
struct vblk_ctrl *need_vblk(struct control_ctx *ctx, struct rpc_request *req, const char *ctrl_id);
struct bdev *need_bdev(struct control_ctx *ctx, struct rpc_request *req, const char *name);

/* The objects of the list calls; new references. */
json_t *controller_json(struct control_ctx *ctx, struct nvme_ctrl *ctrl);
json_t *namespace_json(struct control_ctx *ctx, struct nvme_ns *ns);

/* During the replay: whether its end lets the controller run. */
void remember_run_state(struct control_ctx *ctx, const char *ctrl_id, bool run);
/* After the destruction of one or all controllers of a subsystem. */
void forget_run_state(struct control_ctx *ctx, const char *ctrl_id);

#endif
