/* SPDX-License-Identifier: BSD-3-Clause
 *
 * control/bdev.h - what the files about one kind of bdev share. */
#ifndef CONTROL_BDEV_H
#define CONTROL_BDEV_H

#include "control/inside.h"

/* Answers a create call with the bdev's name and saves it. */
void bdev_created(struct rpc_request *req, struct bdev *bd);

struct bdev_delete_args {
    const char *name;
};
extern const struct rpc_param bdev_delete_params[1];
/* Deletes the bdev when its kind (bdev_ops.kind) is this one, and answers. */
void bdev_delete(struct control_ctx *ctx, struct rpc_request *req, const char *name,
                 const char *kind);
/* The bdev when it is of this kind; NULL: answered -ENODEV. */
struct bdev *need_bdev_of_kind(struct control_ctx *ctx, struct rpc_request *req, const char *name,
                               const char *kind);

#endif
