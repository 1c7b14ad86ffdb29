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

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct emu_function;
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
};

/* ---- function.c: one emulated function ---- */

struct emu_function {
    struct emu *emu;
    unsigned index;
    struct link_function_info info;
    struct pci_function *pci; /* NULL: a kind without a transport yet */
    struct vfio_user *vu;
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

/* ---- host.c: what the function's host does ---- */
extern const struct vfio_user_ops host_ops;

/* ---- reset.c ---- */
/* Begins a reset, or joins the one that runs. DONE: it is over. */
enum vfio_user_answer reset_begin(struct emu_function *fn, enum function_reset why);
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
/* Nothing the holder issued can touch guest memory or the medium any more: the function is free. */
void lease_end(struct emu_function *fn);
void lease_forget_waiters(struct emu *emu, const struct link_conn *conn);
/* The service that can be talked to about this function, or NULL. */
struct link_conn *lease_conn(const struct emu_function *fn);
/* To the holder, when there is one to talk to. */
void lease_tell(struct emu_function *fn, struct link_msg *msg, const int *fds, unsigned nfds);
void lease_tell_dma(struct emu_function *fn, const struct vfio_user_dma *dma);
void lease_tell_irqs(struct emu_function *fn, unsigned start, unsigned count);
void lease_tell_flags(struct emu_function *fn);
/* The connection has room again: tells what was left out meanwhile. */
void lease_catch_up(struct link_conn *conn);
void lease_wake(struct emu_function *fn);

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
