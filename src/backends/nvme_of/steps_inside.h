/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/steps_inside.h - the steps of steps.c: those that set up a controller
 * (steps_ctrl.c), and those that look at its namespaces (steps_ns.c). A ..._start() fills the
 * command; false: this step is not needed. An ..._end() is called when success has come; it returns
 * STEP_*, or -errno with err filled. Thread: control. */
#ifndef BACKENDS_NVME_OF_STEPS_INSIDE_H
#define BACKENDS_NVME_OF_STEPS_INSIDE_H

#include "backends/nvme_of/admin.h"

enum { STEP_NEXT = 0, STEP_AGAIN = 1, STEP_MORE = 2 }; /* the same: after a while, at once */
enum { STEP_RDY_POLL_MS = 100 };                       /* until STEP_AGAIN is done */

/* ---- steps.c ---- */
/* Identify, its data into p->buf. */
void step_identify(struct nof_path *p, struct tcp_cmd *cmd, uint8_t cns, uint32_t nsid);

/* ---- steps_ctrl.c ---- */
bool step_connect_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_connect_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_cap_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_cap_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_vs_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_vs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_enable_start(struct nof_path *p, struct tcp_cmd *cmd);
bool step_ready_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_ready_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_ctrl_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_ctrl_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_queues_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_queues_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_events_start(struct nof_path *p, struct tcp_cmd *cmd);

/* ---- steps_ns.c ---- */
bool step_changed_start(struct nof_path *p, struct tcp_cmd *cmd);
bool step_list_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_list_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_ns_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_ns_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_descs_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_descs_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);
bool step_ana_start(struct nof_path *p, struct tcp_cmd *cmd);
int step_ana_end(struct nof_path *p, const struct nvme_cqe *cqe, struct err *err);

#endif
