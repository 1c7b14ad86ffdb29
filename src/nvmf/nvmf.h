/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvmf/nvmf.h - an NVMe/TCP target: subsystems with namespaces (bdevs), the hosts they admit and
 * the addresses they are reached at.
 *
 * Thread: control, but for what runs inside on the reactors: each connection is one queue and lives
 * on one of them. Names and texts are copied. Errors fill err with one sentence that names the
 * object. */
#ifndef NVMF_NVMF_H
#define NVMF_NVMF_H

#include "base/err.h"
#include "bdev/bdev.h"
#include "spec/nvme.h"
#include "spec/nvme_fabrics.h"

struct nvmf_target;
struct nvmf_subsystem;
struct json_t;

/* The end of what cannot be done at once. Runs once, perhaps inside the call. */
typedef void (*nvmf_cb)(void *arg, int rc, const struct err *err);

struct nvmf_opts {
    struct reactor *control;
    struct reactor **reactors; /* not running yet, or the caller is the only one to use them */
    unsigned nreactors;
    struct bdev_set *bdevs;
    bool held; /* listeners listen, but connections wait for nvmf_accept() */
};
/* NULL: no memory. The target ends with the process. */
struct nvmf_target *nvmf_create(const struct nvmf_opts *opts);
/* After held: the configuration is complete. A host that came earlier might be told for good that
 * it is not admitted, or that its namespace is gone. */
void nvmf_accept(struct nvmf_target *t);

/* done when all connections know what has been changed until now: it holds for every command whose
 * capsule comes later. The reactors run. */
void nvmf_when_told(struct nvmf_target *t, nvmf_cb done, void *arg);

/* ---- the transport: limits of all connections that are made after it was set ---- */
struct nvmf_transport {
    uint32_t max_queue_depth, max_aq_depth; /* entries */
    uint32_t max_io_queues;                 /* per controller */
    uint32_t in_capsule_bytes;              /* data in a command capsule of an I/O queue */
    uint32_t max_io_bytes;                  /* of a command; a power of two pages */
    uint32_t buffers;                       /* of max_io_bytes, per reactor; 0: chosen */
    bool c2h_success;                       /* no response capsule after data, where allowed */
};
extern const struct nvmf_transport nvmf_transport_default;
/* -EEXIST: it is there; -EINVAL names the limit. */
int nvmf_transport_create(struct nvmf_target *t, const struct nvmf_transport *opts,
                          struct err *err);
/* NULL: not created yet. */
const struct nvmf_transport *nvmf_transport_get(const struct nvmf_target *t);

/* ---- subsystems ---- */
struct nvmf_subsystem_opts {
    const char *nqn, *serial_number, *model_number; /* NULL: a default */
    uint32_t max_namespaces;                        /* 0: 32 */
    uint16_t min_cntlid, max_cntlid;                /* 0: 1, FFEFh */
    bool allow_any_host, ana_reporting;
};
enum { NVMF_MAX_NAMESPACES = 1024, NVMF_ANA_GROUPS = 1024 };

/* 0, or -EINVAL, -EEXIST, -ENOMEM with err filled. The options are copied. */
int nvmf_subsystem_create(struct nvmf_target *t, const struct nvmf_subsystem_opts *opts,
                          struct nvmf_subsystem **ret, struct err *err);
/* Ends its controllers; their commands finish first. */
void nvmf_subsystem_destroy(struct nvmf_subsystem *ss, nvmf_cb done, void *arg);
/* NULL: there is none. */
struct nvmf_subsystem *nvmf_subsystem_find(struct nvmf_target *t, const char *nqn);
void nvmf_subsystem_for_each(struct nvmf_target *t,
                             void (*fn)(struct nvmf_subsystem *ss, void *arg), void *arg);
struct nvmf_subsystem_opts nvmf_subsystem_get_opts(const struct nvmf_subsystem *ss);

/* ---- who may connect ---- */
int nvmf_host_add(struct nvmf_subsystem *ss, const char *hostnqn, struct err *err); /* -EEXIST */
/* Its controllers end. -ENOENT. */
int nvmf_host_remove(struct nvmf_subsystem *ss, const char *hostnqn, struct err *err);
/* false: controllers of hosts that were not added end. */
void nvmf_allow_any_host(struct nvmf_subsystem *ss, bool allow);
void nvmf_host_for_each(struct nvmf_subsystem *ss, void (*fn)(const char *hostnqn, void *arg),
                        void *arg);

/* ---- namespaces ---- */
struct nvmf_ns_opts {
    struct bdev *bdev;
    uint32_t nsid;               /* 0: the lowest that is free */
    uint32_t anagrpid;           /* 0: the NSID */
    struct bdev_uuid uuid;       /* zero: the bdev's */
    uint8_t nguid[16], eui64[8]; /* zero: none */
};
/* *nsid gets the number. -EEXIST, -ENOSPC, -EBUSY (the bdev is another's). */
int nvmf_ns_add(struct nvmf_subsystem *ss, const struct nvmf_ns_opts *opts, uint32_t *nsid,
                struct err *err);
/* Its commands in flight finish first; hosts are told. -ENOENT. */
void nvmf_ns_remove(struct nvmf_subsystem *ss, uint32_t nsid, nvmf_cb done, void *arg);
void nvmf_ns_for_each(struct nvmf_subsystem *ss,
                      void (*fn)(const struct nvmf_ns_opts *ns, void *arg), void *arg);

/* ---- listeners ---- */
struct nvmf_address {
    const char *traddr, *trsvcid; /* numeric; trsvcid "0": any free port */
    bool ipv6;
};
/* The socket listens when this returns 0. Subsystems share addresses. -EEXIST, -EADDRINUSE,
 * -EACCES ... */
int nvmf_listener_add(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                      enum nvme_ana_state state, struct err *err);
/* Controllers that came by it end. -ENOENT. */
int nvmf_listener_remove(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                         struct err *err);
/* anagrpid 0: all groups. Connections are told, and then the hosts; nvmf_when_told() waits for it.
 * -ENOENT, -EINVAL: without ANA reporting. */
int nvmf_listener_set_ana_state(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                                uint32_t anagrpid, enum nvme_ana_state state, struct err *err);
struct nvmf_listener_info {
    struct nvmf_address addr; /* the port is the real one */
    uint16_t portid;
    const uint8_t *ana_states; /* of groups 1 .. max_namespaces: enum nvme_ana_state, at [id - 1] */
    uint32_t ngroups;
};
void nvmf_listener_for_each(struct nvmf_subsystem *ss,
                            void (*fn)(const struct nvmf_listener_info *l, void *arg), void *arg);

/* ---- controllers and queues, for lists ---- */
struct nvmf_controller_info {
    uint16_t cntlid;
    const char *hostnqn;
    uint8_t hostid[16];
    unsigned io_queues;
    uint32_t kato_ms;
};
void nvmf_controller_for_each(struct nvmf_subsystem *ss,
                              void (*fn)(const struct nvmf_controller_info *c, void *arg),
                              void *arg);

struct nvmf_reactor_stats {
    const char *name;
    uint64_t admin_queues, io_queues;                 /* ever */
    uint64_t current_admin_queues, current_io_queues; /* now */
    uint64_t pending_io, completed_io, waited_for_buffer;
};
/* Read without locks: each is exact, together they are a moment's view. index < nreactors. */
struct nvmf_reactor_stats nvmf_get_stats(const struct nvmf_target *t, unsigned index);

#endif
