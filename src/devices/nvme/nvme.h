/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/nvme.h - NVMe subsystems, namespaces and controllers, as the control plane makes
 * them. Thread: control; a controller's commands run on its reactor. Names and texts are copied.
 * Errors fill err with one sentence that names the object. */
#ifndef DEVICES_NVME_NVME_H
#define DEVICES_NVME_NVME_H

#include "bdev/bdev.h"
#include "controller/controller.h"
#include "spec/nvme.h"

struct nvme_subsystems; /* the set */
struct nvme_subsystem;
struct nvme_ns;
struct nvme_ctrl;

enum {
    NVME_MAX_IO_QUEUES = 31,
    NVME_MDTS_MAX = 7, /* 512 KiB */
};

/* ---- subsystems ---- */
struct nvme_subsystem_opts {
    const char *nqn, *serial_number, *model_number; /* NULL: "MNC12", "OpenSNAP NVMe Controller" */
    uint32_t nn, mnan;                              /* 0: 0xfffffffe, 1024 */
};
struct nvme_subsystems *nvme_subsystems_create(void);
void nvme_subsystems_destroy(struct nvme_subsystems *set); /* empty */
int nvme_subsystem_create(struct nvme_subsystems *set, const struct nvme_subsystem_opts *opts,
                          struct nvme_subsystem **ret, struct err *err);
/* -EBUSY unless it has neither controllers nor namespaces. */
int nvme_subsystem_destroy(struct nvme_subsystem *ss, struct err *err);
struct nvme_subsystem *nvme_subsystem_find(struct nvme_subsystems *set, const char *nqn);

struct nvme_subsystem_info {
    const char *nqn, *sn, *mn;
    uint32_t nn, mnan;
};
struct nvme_subsystem_info nvme_subsystem_get_info(const struct nvme_subsystem *ss);
void nvme_subsystem_for_each(struct nvme_subsystems *set,
                             void (*fn)(struct nvme_subsystem *ss, void *arg), void *arg);

/* ---- namespaces ---- */
struct nvme_ns_opts {
    struct nvme_subsystem *subsystem;
    struct bdev *bdev;
    uint32_t nsid;
    struct bdev_uuid uuid;
    uint8_t nguid[16], eui64[8]; /* zero: none given */
};
int nvme_ns_create(const struct nvme_ns_opts *opts, struct nvme_ns **ret, struct err *err);
int nvme_ns_destroy(struct nvme_ns *ns, struct err *err); /* -EBUSY while attached */
struct nvme_ns *nvme_ns_find(struct nvme_subsystem *ss, uint32_t nsid);

struct nvme_ns_info {
    uint32_t nsid;
    struct bdev *bdev;
    struct bdev_uuid uuid;
    struct nvme_subsystem *subsystem;
};
struct nvme_ns_info nvme_ns_get_info(const struct nvme_ns *ns);
void nvme_ns_for_each(struct nvme_subsystem *ss, void (*fn)(struct nvme_ns *ns, void *arg),
                      void *arg);

/* ---- controllers ---- */
struct nvme_ctrl_opts {
    struct controller_opts base;
    struct nvme_subsystem *subsystem;
    uint32_t num_queues; /* I/O queues, 0..31 */
    uint32_t mdts, fw_slots;
    bool write_zeroes, deallocate_dsm, admin_only;
};
typedef controller_cb nvme_ctrl_cb;

/* Opens the lease and adopts or initialises. The controller exists (controller_find) from the
 * return of this call on and is gone again when created comes with an error. created runs once,
 * never inside. */
int nvme_ctrl_create(const struct nvme_ctrl_opts *opts, struct nvme_ctrl **ret,
                     nvme_ctrl_cb created, void *arg, struct err *err);
/* Its life is controller/controller.h's. First resume after adoption: compares identity (on a
 * difference the device fails loudly), resubmits the records in flight, then fetches. */
struct controller *nvme_ctrl_base(struct nvme_ctrl *ctrl);
struct nvme_ctrl *nvme_ctrl_from(struct controller *c); /* NULL: of another kind */
void nvme_ctrl_attach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg);
/* Commands in flight finish, new ones wait. -ETIMEDOUT: some are still there after 2 s, and all is
 * as before; -EBUSY: it is being detached; -ENOENT. */
void nvme_ctrl_detach_ns(struct nvme_ctrl *ctrl, struct nvme_ns *ns, nvme_ctrl_cb done, void *arg);

void nvme_ctrl_for_each(struct nvme_subsystems *set, void (*fn)(struct nvme_ctrl *ctrl, void *arg),
                        void *arg);

struct nvme_queue_stats {
    uint64_t reads, writes, flushes;
};
/* What the kind knows; controller/ tells state and function. */
struct nvme_ctrl_info {
    const char *ctrl_id;
    struct nvme_subsystem *subsystem;
    uint32_t cntlid, mdts, num_queues;
    const struct device_counts *counts; /* valid while the controller is */
    uint64_t doorbell_messages;
};
struct nvme_ctrl_info nvme_ctrl_get_info(const struct nvme_ctrl *ctrl);
bool nvme_ctrl_queue_stats(const struct nvme_ctrl *ctrl, unsigned qid,
                           struct nvme_queue_stats *ret); /* false: no such queue */
void nvme_ctrl_ns_for_each(struct nvme_ctrl *ctrl, void (*fn)(struct nvme_ns *ns, void *arg),
                           void *arg);
/* The controllers of a subsystem and those a namespace is attached to are found by filtering
 * nvme_ctrl_for_each. */

#endif
