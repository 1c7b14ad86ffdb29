/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/controller.h - what the methods of NVMe and virtio-blk controllers share. Thread:
 * control. */
#ifndef CONTROL_CONTROLLER_H
#define CONTROL_CONTROLLER_H

#include "control/inside.h"

/* ---- which function ---- */
struct function_selector {
    const char *vuid, *pci_bdf;
    uint32_t vhca_id, pf_id, vf_id;
    bool has_vhca_id, has_pf_id, has_vf_id;
};
/* Rows of a parameter table; s: the member of type that is the selector. */
#define FUNCTION_SELECTOR(type, s)                                                                   \
    {"vuid", RPC_STR, offsetof(struct type, s.vuid), 0, "the function, by VUID", NULL, NULL, 0,      \
     0,      63},                                                                                    \
        {"vhca_id", RPC_U32, offsetof(struct type, s.vhca_id),         0, "the function, by number", \
         NULL,      NULL,    offsetof(struct type, s.has_vhca_id) + 1, 0, 0},                        \
        {"pf_id",                                                                                    \
         RPC_U32,                                                                                    \
         offsetof(struct type, s.pf_id),                                                             \
         0,                                                                                          \
         "the function: index of the PF",                                                            \
         NULL,                                                                                       \
         NULL,                                                                                       \
         offsetof(struct type, s.has_pf_id) + 1,                                                     \
         0,                                                                                          \
         0},                                                                                         \
        {"vf_id",                                                                                    \
         RPC_U32,                                                                                    \
         offsetof(struct type, s.vf_id),                                                             \
         0,                                                                                          \
         "the function: index of the VF below that PF",                                              \
         NULL,                                                                                       \
         NULL,                                                                                       \
         offsetof(struct type, s.has_vf_id) + 1,                                                     \
         0,                                                                                          \
         0},                                                                                         \
    {                                                                                                \
        "pci_bdf", RPC_STR, offsetof(struct type, s.pci_bdf), 0, "the function, by PCI address",     \
            NULL, NULL, 0, 0, 15                                                                     \
    }
/* Index in the link's table of a function of this kind without a controller; -1: answered. */
int select_function(struct control_ctx *ctx, struct rpc_request *req,
                    const struct function_selector *s, uint32_t kind);

/* The row of the controller's name in all methods about one. */
#define CTRL_ID(type)                                                                              \
    {                                                                                              \
        "ctrl_id", RPC_STR, offsetof(struct type, ctrl_id), RPC_REQUIRED | RPC_NAME, "controller", \
            "-c", "ctrl", 0, 0, 0                                                                  \
    }
/* Of the methods that all kinds have. */
struct ctrl_args {
    const char *ctrl_id;
};
extern const struct rpc_param ctrl_params[1];
struct ctrl_destroy_args {
    const char *ctrl_id;
    bool force, release_msix;
};
extern const struct rpc_param ctrl_destroy_params[3];
struct ctrl_suspend_args { /* a kind has its own word for events_only */
    const char *ctrl_id;
    uint64_t timeout_ms;
    bool events_only, live_update_notifier, force;
};

/* true: ret is the chosen name, or the first free one (prefix<n>). false: answered. */
bool choose_ctrl_id(struct control_ctx *ctx, struct rpc_request *req, const char *wanted,
                    const char *prefix, char ret[64]);

/* The reactor with the fewest controllers; forget_run_state() takes it back. */
struct reactor *place_controller(struct control_ctx *ctx, const char *ctrl_id);
uint64_t controller_core(struct control_ctx *ctx, const char *ctrl_id); /* index of that reactor */

/* ---- what is told of it ---- */
/* Sets ctrl_id and the names of its function. */
void set_names(json_t *o, struct controller *c);
/* Sets num_msix, state and plugged. */
void set_state(json_t *o, struct controller *c);
json_t *recovery_json(const struct device_counts *counts); /* a new reference */

/* ---- calls on one controller that are answered later ---- */
struct action {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char *key; /* of the controller in the saved configuration; freed with the action */
    char ctrl_id[64], vuid[64];
    uint32_t nsid;
    bool run;                            /* creations: let it run */
    void (*success)(struct action *act); /* saves what has changed */
    void (*failure)(struct action *act); /* takes back what was saved ahead */
};
/* key is taken over. NULL: answered. */
struct action *action_create(struct control_ctx *ctx, struct rpc_request *req, char *key,
                             const char *ctrl_id, void (*success)(struct action *act));
/* The action of a creation, and what the makers of all kinds are told of it. key is taken over.
 * NULL: answered. */
struct action *creation_create(struct control_ctx *ctx, struct rpc_request *req, char *key,
                               const char *ctrl_id, unsigned function, bool suspended,
                               struct controller_opts *ret);
/* The controller_cb: saves and answers true, or answers the error. arg: the action, which is freed.
 */
void acted(void *arg, int rc, const struct err *err);
/* The same for a creation: saves it under what was found out, answers {ctrl_id}. */
void controller_created(void *arg, int rc, const struct err *err);

/* Handlers' bodies. key is taken over. */
void destroy_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                        char *key, const struct ctrl_destroy_args *a);
void suspend_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                        char *key, const struct ctrl_suspend_args *a);
void resume_controller(struct control_ctx *ctx, struct rpc_request *req, struct controller *c,
                       char *key);

#endif
