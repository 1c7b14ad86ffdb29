/* SPDX-License-Identifier: BSD-3-Clause
 *
 * emu/emu.h - what the files of this room share: the functions, the services that lease them, the
 * link between. Everything runs on one thread and never blocks. */
#ifndef EMU_EMU_H
#define EMU_EMU_H

#include "base/list.h"
#include "emu/registers.h"
#include "emu/topology.h"
#include "link/message.h"
#include "link/state_memory.h"
#include "pci/function.h"
#include "runtime/reactor.h"
#include "transports/vfio_user/vfio_user.h"
#include "transports/vhost_user/vhost_user.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct emu_function;
struct holders;
struct keepsakes;
struct link_conn;
struct link_server;
struct service;

struct emu {
    struct reactor *reactor;
    struct topology topology;
    char run_dir[96];
    struct emu_function **functions;
    unsigned nfunctions;
    struct list services;
    struct link_server *server;
    struct keepsakes *keepsakes;
    struct holders *holders;
};

/* ---- a function's socket ---- */

/* One range of the host's memory, whichever transport it came by. */
struct host_memory {
    uint32_t id, prot; /* GUEST_READ | GUEST_WRITE */
    uint64_t gpa, size_bytes, fd_offset;
    int fd; /* the transport's */
};

typedef void (*host_memory_fn)(struct emu_function *fn, const struct host_memory *mem);

/* What leases and resets want of the socket, whichever protocol it speaks. Every slot is filled. */
struct host_transport {
    int (*listen)(struct emu_function *fn, struct err *err);
    bool (*has_client)(const struct emu_function *fn);
    uint32_t (*flags)(const struct emu_function *fn); /* STATE_BUS_MASTER, _POWERED, .. */
    int (*irq_fd)(const struct emu_function *fn, unsigned vector); /* -1: it has none */
    void (*memory_for_each)(struct emu_function *fn, host_memory_fn each);
    void (*memory_detached)(struct emu_function *fn, uint32_t id); /* 0: of all ranges */
    void (*hide)(struct emu_function *fn, bool hidden);            /* while a reset runs */
    void (*reset)(struct emu_function *fn); /* the transport's own part: configuration space */
    void (*reset_done)(struct emu_function *fn);
    void (*config_changed)(struct emu_function *fn);
};

/* ---- function.c: one emulated function ---- */

struct emu_function {
    struct emu *emu;
    unsigned index;
    struct link_function_info info;
    const struct host_transport *host;
    struct pci_function *pci; /* with vu */
    struct vfio_user *vu;     /* NVMe, else NULL */
    struct vhost_user *vh;    /* virtio-blk, else NULL */
    /* Doorbell page; state memory, made with the first lease. */
    int state_fd, doorbell_fd;
    uint64_t state_bytes;
    struct registers regs;
    bool started;    /* has had a controller: clients are accepted */
    bool mapped;     /* the client may map the doorbell page */
    char failed[48]; /* why snap_emu stopped it; "": it did not */
    /* lease.c */
    struct service *holder;
    uint32_t wake_reactor, wake_slot;
    struct list waiters;
    bool irqs_stale, flags_stale; /* to be told when the holder's socket has room again */
    /* queues.c: what the holder is to be told when its socket has room again */
    uint64_t queues_stale; /* one bit a queue */
    bool inflight_stale;
    uint64_t stop_cookie;
    /* reset.c */
    bool resetting;
    uint64_t reset_cookie;
};

/* Makes all functions of the topology. */
int functions_create(struct emu *emu, struct err *err);
void functions_destroy(struct emu *emu);
/* Makes the state memory unless it is there. */
int function_memory(struct emu_function *fn, struct err *err);
/* Something about it has changed: works out state and flags anew, tells the holder about flags and
 * all services about the rest. */
void function_changed(struct emu_function *fn);
void function_fail(struct emu_function *fn, const char *why);

/* ---- pci_host.c, virtqueue_host.c: what the function's host does, by transport ---- */
int pci_host_create(struct emu_function *fn, const char *path, struct err *err);
extern const struct host_transport pci_host;
int virtqueue_host_create(struct emu_function *fn, const char *path, struct err *err);
extern const struct host_transport virtqueue_host;

/* ---- reset.c ---- */
/* Begins a reset, or joins the one that runs. True: it is over; else reset_done() of the transport
 * tells. */
bool reset_begin(struct emu_function *fn, enum function_reset why);
/* The holder has answered. -EBADMSG: with nonsense. */
int reset_answered(struct emu_function *fn, uint64_t cookie, uint32_t epoch);
/* Nobody holds the function any more: a reset that runs ends here. */
void reset_alone(struct emu_function *fn);

/* ---- lease.c: who serves a function ---- */
/* Messages of a service; 0 or -errno, which ends the connection. */
int lease_open(struct link_conn *conn, const struct link_msg *msg);
int lease_cancel(struct link_conn *conn, const struct link_msg *msg);
int lease_start(struct link_conn *conn, const struct link_msg *msg);
int lease_release(struct link_conn *conn, const struct link_msg *msg);
int lease_detached(struct link_conn *conn, const struct link_msg *msg);
int lease_reset_done(struct link_conn *conn, const struct link_msg *msg);
int lease_queue_stopped(struct link_conn *conn, const struct link_msg *msg);
int lease_queue_paused(struct link_conn *conn, const struct link_msg *msg);
int lease_config_changed(struct link_conn *conn, const struct link_msg *msg);
/* Nothing the holder issued can touch guest memory or the medium any more: the function is free. */
void lease_end(struct emu_function *fn);
void lease_forget_waiters(struct emu *emu, const struct link_conn *conn);
/* The service that can be talked to about this function, or NULL. */
struct link_conn *lease_conn(const struct emu_function *fn);
/* To the holder, when there is one to talk to. */
void lease_tell(struct emu_function *fn, struct link_msg *msg, const int *fds, unsigned nfds);
void lease_tell_memory(struct emu_function *fn, const struct host_memory *mem);
/* Asks the holder to let go of it. True: there is none, nobody uses it. */
bool lease_take_memory(struct emu_function *fn, const struct host_memory *mem);
void lease_tell_irqs(struct emu_function *fn, unsigned start, unsigned count);
void lease_tell_flags(struct emu_function *fn);
/* The connection has room again: tells what was left out meanwhile. */
void lease_catch_up(struct link_conn *conn);
void lease_wake(struct emu_function *fn);
/* Serves those who wait for functions that are free. */
void lease_retry(struct emu *emu);

/* ---- queues.c: virtqueues and the in-flight area, towards the holder ---- */
void queues_tell(struct emu_function *fn, const struct vhost_user_queue *q);
/* True: nobody works on it, and the in-flight area says how far it got. Else the answer comes by
 * queues_stopped(), perhaps of a later holder. */
bool queues_stop(struct emu_function *fn, const struct vhost_user_queue *q);
/* Nobody holds the function any more: those that are to stop or pause have, as above. */
void queues_left(struct emu_function *fn);
void queues_stopped(struct emu_function *fn, const struct link_msg *msg);
/* Nothing more is to be fetched. True: nobody does; else queues_paused() comes. */
bool queues_pause(struct emu_function *fn, const struct vhost_user_queue *q);
void queues_paused(struct emu_function *fn, const struct link_msg *msg);
void queues_tell_inflight(struct emu_function *fn);
/* A reset or the client's end: what was not told yet is void. */
void queues_forget(struct emu_function *fn);
/* A new holder: all of them, before LINK_SYNCED; those that are to stop, after it. */
void queues_granted(struct emu_function *fn);
void queues_synced(struct emu_function *fn);
void queues_catch_up(struct emu_function *fn);

/* ---- holders.c: processes that may hold something from before our start ---- */
/* Looks at <run-dir>/holders. */
struct holders *holders_create(struct emu *emu, struct err *err);
void holders_destroy(struct holders *h);
/* While it is true, nothing is leased; after that lease_retry() runs. pid, when not NULL: one of
 * those we wait for, by its own count. */
bool holders_wait(const struct holders *h, uint32_t *pid);
/* A process is on the link (again): what it held, it has let go of. */
void holders_hello(struct holders *h, uint32_t pid, uint64_t start_time);

/* ---- service.c: a process that holds leases, or may ---- */

struct service {
    struct list node;
    struct emu *emu;
    struct link_conn *conn; /* NULL: the link is gone, the process may live */
    uint32_t pid;
    uint64_t start_time;
    char name[LINK_NAME_BYTES];
    unsigned nleases;
    bool ending;
    /* fence.c */
    int pidfd, fence_fd;
    struct watch pid_watch, fence_watch;
    bool dead, hung_up;
    struct timer overdue; /* tells the operator when the fence does not pass */
    /* how to wake its reactors */
    struct wake_page *wake; /* foreign */
    uint32_t reactors;
    int eventfds[WAKE_REACTORS];
};

/* Takes what it keeps of fds (sets them to -1). 0, or -errno with err filled. */
int service_hello(struct link_conn *conn, const struct link_msg *msg, int *fds, unsigned nfds,
                  struct service **ret, struct err *err);
void service_conn_lost(struct service *s);
void service_wake(struct service *s, uint32_t reactor, uint32_t slot);
/* Looks whether the process has ended by now. s may be gone when this returns true. */
bool service_check_dead(struct service *s);
void service_free(struct service *s);

/* ---- fence.c: what a dead process may still have under way ---- */
int fence_watch(struct service *s, struct err *err);
void fence_unwatch(struct service *s);
bool fence_passed(const struct service *s);
/* Called when pidfd or pipe have something to say (service.c). */
void service_fence_moved(struct service *s);

/* ---- link_server.c ---- */
struct link_server *link_server_create(struct emu *emu, struct err *err);
void link_server_destroy(struct link_server *server);
/* Never blocks; what does not fit the socket is kept, descriptors are duplicated. A connection that
 * cannot be served any more ends soon, not inside this call. */
void link_send(struct link_conn *conn, const struct link_msg *msg, const int *fds, unsigned nfds);
void link_close(struct link_conn *conn);
bool link_congested(const struct link_conn *conn);
void link_function_changed(struct emu *emu, unsigned index);
struct emu *link_emu(struct link_conn *conn);
struct service *link_service(struct link_conn *conn);
pid_t link_peer_pid(const struct link_conn *conn);

/* ---- keepsake.c: memory by name for services ---- */
struct keepsakes *keepsakes_create(void);
void keepsakes_destroy(struct keepsakes *k);
/* The fd stays the room's. size 0: only one that exists. */
int keepsake_get(struct keepsakes *k, const char *name, uint64_t size_bytes, int *fd,
                 uint64_t *ret_size, struct err *err);
int keepsake_drop(struct keepsakes *k, const char *name, struct err *err);

/* ---- identity.c ---- */
/* The first 12 characters of vuids: "OS" and ten hexadecimal digits from the machine's id. */
void identity_serial(char serial[13]);
uint64_t identity_hash(const char *text); /* FNV-1a */

#endif
