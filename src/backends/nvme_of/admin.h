/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/admin.h - what the admin queue (admin.c) and the steps that set up a controller
 * (steps*.c) share. Thread: control. */
#ifndef BACKENDS_NVME_OF_ADMIN_H
#define BACKENDS_NVME_OF_ADMIN_H

#include "backends/nvme_of/host.h"

typedef void (*answer_fn)(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe);

/* What a command of the admin queue is for: tcp_cmd.arg. */
struct errand {
    answer_fn answer;
};

/* A slot for a command whose answer the errand wants; NULL: the connection is failing. */
struct tcp_cmd *admin_cmd(struct nof_path *p, uint8_t opc, const struct errand *errand);
void admin_start_keep_alive(struct nof_path *p);
/* Asks for the next asynchronous event, unless that is done already. */
void admin_want_events(struct nof_path *p);

/* From Connect to PATH_READY. */
void steps_start(struct nof_path *p);
void steps_stop(struct nof_path *p);

#endif
