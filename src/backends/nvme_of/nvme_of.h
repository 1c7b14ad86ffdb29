/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/nvme_of.h - NVMe-oF hosts (initiators): one object per attached remote
 * subsystem, with one or more paths (addresses, each with a controller of its own), and one bdev
 * per active namespace of it, named <name>n<nsid>.
 *
 * Thread: control, for every function here. Callbacks run on the control reactor, never inside the
 * call that takes them. I/O queues live on the reactors that open channels of the bdevs; nothing of
 * that is visible here. Owner: strings and arrays in option structs are copied. */
#ifndef BACKENDS_NVME_OF_NVME_OF_H
#define BACKENDS_NVME_OF_NVME_OF_H

#include "base/err.h"
#include "bdev/bdev.h"
#include "runtime/reactor.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct nvme_of;      /* all hosts of this process */
struct nvme_of_host; /* one attached remote subsystem */
struct nof_path;     /* one of its addresses */

/* hostid: stable for this machine and state directory; the default host NQN is made from it. */
struct nvme_of *nvme_of_create(struct reactor *control, struct bdev_set *bdevs,
                               const struct bdev_uuid *hostid);
/* All hosts must be detached. NULL is fine. */
void nvme_of_destroy(struct nvme_of *of);

/* Reads <state_dir>/hostid, or makes one up and saves it there. 0 or -errno. */
int nvme_of_hostid_load(const char *state_dir, struct bdev_uuid *ret, struct err *err);

/* A namespace that was there before: lets its bdev exist while the target cannot be reached. */
struct nvme_of_namespace {
    uint32_t nsid;
    uint32_t block_bytes;
    uint64_t nblocks;
    struct bdev_uuid uuid; /* of the bdev: the namespace's own or derived */
    uint8_t nguid[16], eui64[8];
    char bdev[80];                            /* name of its bdev; may be empty in "known" */
    bool no_write_cache, no_unmap, read_only; /* false is the safe assumption */
};

/* What to do when the name is there already. Of FAILOVER and MULTIPATH both make another path,
 * which is connected at once. */
enum nvme_of_multipath { NVME_OF_FAILOVER, NVME_OF_MULTIPATH, NVME_OF_DISABLE };

struct nvme_of_opts {
    const char *name;    /* 1..63 characters */
    const char *trtype;  /* "TCP" (any case) or NULL */
    const char *adrfam;  /* "IPv4", "IPv6" (any case) or NULL: as the address says */
    const char *traddr;  /* address or host name */
    const char *trsvcid; /* port number; NULL: "4420" */
    const char *subnqn;
    const char *hostnqn;              /* NULL: nqn.2014-08.org.nvmexpress:uuid:<hostid> */
    const char *hostaddr, *hostsvcid; /* local numeric address and port, or NULL */
    bool hdgst, ddgst;
    bool disable_sq_flow;   /* ask for no SQ flow control (a Linux target then uses the C2H SUCCESS
                               flag) */
    unsigned num_io_queues; /* at most so many reactors may use it; 0: 128 */
    unsigned max_bdevs;     /* 0: 128 */
    uint64_t connect_timeout_us; /* bound of the first attach and of each later phase; 0: 10 s */
    uint32_t keep_alive_ms;      /* 0: 5000 */
    uint32_t
        io_timeout_ms; /* a command without an answer for so long ends the association; 0: 30000 */

    /* Not NULL (journal replay): the bdevs are registered at once, done runs soon, the connection
     * is made in the background, I/O is held until it is there and the identities of the namespaces
     * are the same. */
    const struct nvme_of_namespace *known;
    unsigned nknown;
    /* Another path of a host that is there: the same, its connection is made in the background. */
    bool background;
    enum nvme_of_multipath multipath;
    const char *discovery; /* name of the discovery it belongs to, or NULL */

    /* The namespaces or their sizes have changed (also by the background connection): time to save
     * nvme_of_namespaces() again. May be NULL. */
    void (*changed)(void *arg, struct nvme_of_host *host);
    void *changed_arg;
};

/* Connects and registers the bdevs; or, when a host of this name is there, adds a path to it: the
 * same subsystem, whose namespaces must be the same by the new path. done runs once: with the host
 * and err NULL, or with NULL and the reason; a host or path that failed is gone and has left
 * nothing behind. Returns 0 (done will run) or -errno with err filled: wrong or unsupported
 * options, name or path taken (-EEXIST). */
int nvme_of_attach(struct nvme_of *of, const struct nvme_of_opts *opts,
                   void (*done)(void *arg, struct nvme_of_host *host, const struct err *err),
                   void *arg, struct err *err);

/* -EBUSY naming the bdev while one of the bdevs is claimed, -EALREADY while it is being detached;
 * else 0, and done (may be NULL) runs when bdevs, connections and the host are gone. */
int nvme_of_detach(struct nvme_of_host *host, void (*done)(void *arg), void *arg, struct err *err);

struct nvme_of_host *nvme_of_find(struct nvme_of *of, const char *name);
void nvme_of_for_each(struct nvme_of *of, void (*fn)(struct nvme_of_host *host, void *arg),
                      void *arg);
const char *nvme_of_name(const struct nvme_of_host *host);

/* Namespaces with a bdev, by ascending NSID. Fills at most max entries of ret, returns how many
 * there are. */
unsigned nvme_of_namespaces(const struct nvme_of_host *host, struct nvme_of_namespace *ret,
                            unsigned max);

/* Members that are NULL mean any. */
struct nvme_of_address {
    const char *trtype, *adrfam, *traddr, *trsvcid, *subnqn, *hostaddr;
};
bool nvme_of_path_is(const struct nof_path *path, const struct nvme_of_address *a);
/* Removes the one path that is meant; the last one is the host, see nvme_of_detach(). What it had
 * in flight goes by the others. -ENODEV: none is meant, -EINVAL: several are. */
int nvme_of_detach_path(struct nvme_of_host *host, const struct nvme_of_address *a,
                        void (*done)(void *arg), void *arg, struct err *err);

/* New references. trid: {trtype, adrfam, traddr, trsvcid, subnqn}; describe: an entry of
 * bdev_nvme_get_controllers, {name, ctrlrs: [{state, trid, alternate_trids, cntlid, host{nqn, addr,
 * svcid}}]}, one of ctrlrs for each path; paths: what attach calls for them would say of the
 * address and the connection. */
json_t *nvme_of_trid(const struct nof_path *path);
json_t *nvme_of_describe(const struct nvme_of_host *host);
json_t *nvme_of_paths(const struct nvme_of_host *host);
/* "enabled", "resetting" (connecting or connecting again), "deleting"; of a host: by its best path.
 */
const char *nvme_of_state(const struct nvme_of_host *host);
const char *nvme_of_path_state(const struct nof_path *path);

/* Of a bdev that is one of ours (else false). io_paths: appends {bdev_name, cntlid, current,
 * connected, accessible, transport} for each path. */
bool nvme_of_host_name(struct bdev *bd, char *out, size_t size);
bool nvme_of_io_paths(struct bdev *bd, json_t *out);
/* active_active spreads requests over all paths of the best kind: each in its turn for rr_min_io
 * requests, or the one with the fewest in flight. */
bool nvme_of_set_policy(struct bdev *bd, bool active_active, bool queue_depth, uint32_t rr_min_io);
/* Of the paths of the best kind it uses this one. -ENODEV with err filled. */
int nvme_of_set_preferred(struct bdev *bd, uint16_t cntlid, struct err *err);

/* ---- discovery ---- */

struct nof_discovery; /* a lasting connection to a discovery controller */
struct nvme_of_discovery_opts {
    const char *name;   /* 1..58 characters; the hosts it attaches are <name>0, <name>1, ... */
    const char *trtype; /* "TCP" (any case) or NULL */
    const char *adrfam; /* as in nvme_of_opts */
    const char *traddr;
    const char *trsvcid; /* NULL: "8009" */
    const char *hostnqn; /* NULL: the default one; also of the hosts */
    bool later;          /* nvme_of_discoveries_begin() lets it begin (journal replay) */
    /* So long for the first round: else the discovery ends. 0: any time. */
    uint64_t attach_timeout_ms;
    /* Once: the first round is over, or -ETIMEDOUT and the discovery is being stopped. May be NULL.
     */
    void (*settled)(void *arg, const struct err *err);
    void *settled_arg;
    /* A host was attached, or its paths, namespaces or their sizes have changed; is gone. */
    void (*changed)(void *arg, struct nvme_of_host *host);
    void (*gone)(void *arg, const char *host);
    void *changed_arg;
};
/* 0, or -errno with err filled. What it attaches follows. */
int nvme_of_discovery_start(struct nvme_of *of, const struct nvme_of_discovery_opts *o,
                            struct err *err);
void nvme_of_discoveries_begin(struct nvme_of *of);
struct nof_discovery *nvme_of_discovery_find(struct nvme_of *of, const char *name);
/* Detaches its hosts, and done runs. -EBUSY naming a bdev that is claimed, -EALREADY. */
int nvme_of_discovery_stop(struct nof_discovery *d, void (*done)(void *arg), void *arg,
                           struct err *err);
/* New reference: array of {name, trid, referrals, connected, entries}. */
json_t *nvme_of_discovery_list(struct nvme_of *of);
/* Empty when it belongs to none. */
const char *nvme_of_discovery_of(const struct nvme_of_host *host);
const char *nvme_of_hostnqn(const struct nvme_of_host *host);
const char *nvme_of_subnqn(const struct nvme_of_host *host);

#endif
