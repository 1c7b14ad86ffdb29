/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/control.h - the programs' RPC methods and what they act on.
 * Thread: control. */
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include "backends/nvme_of/nvme_of.h"
#include "bdev/bdev.h"
#include "controller/controller.h"
#include "devices/nvme/nvme.h"
#include "devices/virtio_blk/virtio_blk.h"
#include "link/client.h"
#include "rpc/dispatch.h"

struct nvmf_target;

/* Filled by the program before the first call, but for the last part. */
struct control_ctx {
    struct reactor *reactor;   /* control */
    struct reactor **reactors; /* I/O */
    unsigned nreactors;
    struct bdev_set *bdevs;
    struct controllers controllers; /* of all kinds; initialised by the program */
    struct nvme_of *nvme_of;
    struct nvme_subsystems *subsystems; /* snap_service only */
    struct nvmf_target *nvmf;           /* snap_target only */
    struct link_client *link;           /* NULL in snap_target: no functions, no keepsakes */
    const struct rpc_env
        *env; /* the one with this ctx: its save() takes changes that no call makes */

    /* control's own, zeroed by the program */
    bool running;             /* the replay is over */
    struct list *waiting;     /* calls of framework_wait_init */
    json_t *run_after_replay; /* ctrl_id: true (resume it at the end of the replay) or false */
    json_t *placement;        /* ctrl_id: index of its reactor */
    json_t *attached;         /* name of an NVMe-oF controller: the params it was attached with */
};

/* What snap_service serves, what snap_target serves, and what the command line knows: all of it.
 * Each is an object file of its own, so that a program is linked with the rooms of its own methods
 * only. */
extern const struct rpc_method_set service_methods, target_methods, all_methods;

/* Resumes the controllers that were not suspended when they were saved, then calls done (once,
 * maybe inside) and answers framework_wait_init. Failures are logged and shown in the controllers'
 * state. */
void control_replay_finished(struct control_ctx *ctx, void (*done)(void *arg, unsigned failed),
                             void *arg);
/* Frees control's own part; no call is running. */
void control_ctx_clear(struct control_ctx *ctx);

#endif
