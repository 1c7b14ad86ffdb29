/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvmf/inside.h - inside of the room. Two kinds of threads: what is marked "control" belongs to the
 * control thread (the model, controllers, admin commands), what is marked "reactor" to the one
 * reactor of a connection (the stream, I/O commands). They talk by mail; a command that control
 * works on is control's until its answer. */
#ifndef NVMF_INSIDE_H
#define NVMF_INSIDE_H

#include "base/clock.h"
#include "base/counter.h"
#include "base/list.h"
#include "nvme_core/core.h"
#include "nvme_tcp/stream.h"
#include "nvmf/nvmf.h"

#include <netinet/in.h>
#include <stdatomic.h>

struct nvmf_conn;
struct nvmf_ctrl;
struct nvmf_port;

enum {
    CONN_BUF_BYTES = 32768, /* many capsules a system call */
    SCRATCH_BYTES = 16384,
    CONN_MAX = 4096,       /* connections of the target */
    CONN_MAX_NEW = 256,    /* of them, those that have not said which queue they are */
    CONN_NEW_ENOUGH = 128, /* from here on each new one is the end of the oldest of those */
};

/* ---- buffer.c: data of commands, one pool a reactor ---- */
struct buffers {
    char *at; /* one mapping, touched as it is used */
    size_t map_bytes;
    uint32_t each;
    unsigned count, nfree;
    uint32_t *free; /* a stack: the warm one first */
};
int buffers_init(struct buffers *b, uint32_t each, unsigned count); /* 0 or -ENOMEM */
char *buffers_get(struct buffers *b);                               /* NULL: all are taken */
void buffers_put(struct buffers *b, char *at);

/* ---- a reactor's share of the target ---- */
struct shard {
    struct nvmf_target *target;
    struct reactor *reactor;
    struct poller poller; /* its end of turn sends */
    struct list dirty;    /* connections with something to send or a batch to flush */
    struct list shares;   /* hosts with connections here */
    struct list hungry;   /* of them, those with commands that wait for a buffer */
    struct buffers buffers;
    unsigned nconns; /* control: placed here */
    struct mail start;
    char *scratch; /* of SCRATCH_BYTES, for data nobody wants */
    /* Written here, read by control. */
    _Atomic uint64_t admin_queues, io_queues, current_admin, current_io, pending, completed, waited;
};

/* ---- share.c (reactor): a host's share of the buffers of its reactor ---- */
struct share {
    struct list node, hungry_node;
    struct shard *shard;
    struct list waiting; /* connections with commands that wait for a buffer */
    unsigned conns, held;
    uint8_t hostid[16];
    char hostnqn[NVME_NQN_MAX + 1];
};
/* That of the host that has said so in Connect; once for each connection. NULL: no memory. */
struct share *share_get(struct shard *s, const struct nvme_fabrics_connect_data *d);
void share_put(struct share *sh);   /* none of its buffers is the connection's any more */
char *share_take(struct share *sh); /* NULL: the host must wait */
void share_give(struct share *sh, char *at);
void share_wait(struct nvmf_conn *c); /* commands of it wait for a buffer */
void share_wait_no_more(struct nvmf_conn *c);
/* Buffers may be free again: who waits, and may, gets one. */
void share_feed(struct shard *s);
/* All buffers are taken, this host has some, and one that has less waits. */
bool share_is_wanted(const struct share *sh);

/* ---- a command ---- */
enum cmd_state {
    CMD_FREE,
    CMD_DATA,    /* data from the host are coming, or asked for */
    CMD_WAIT,    /* for a buffer */
    CMD_BDEV,    /* at the bdev */
    CMD_CONTROL, /* at the control thread, perhaps for ever (Asynchronous Event Request) */
    CMD_OUT,     /* the response is on its way */
};

struct nvmf_cmd {
    struct list node; /* free or waiting */
    struct nvmf_conn *conn;
    enum cmd_state state;
    uint16_t index;
    bool to_host, in_capsule, r2t;
    bool pooled, heap; /* where data is from, when not the slot's own in-capsule room */
    bool damaged;      /* its data digest was wrong */
    bool looked_again; /* for its namespace, or its size */
    struct nvme_sqe sqe;
    struct nvme_cqe cqe;
    nvme_status status;
    char *data;
    uint32_t bytes, rx_done; /* of data; from the host: arrived */
    uint32_t age_ticks;      /* while data are waited for */
    unsigned out_pdus;       /* in line */
    /* I/O */
    struct conn_ns *ns;
    uint32_t step, steps;
    struct iovec iov[1];
    struct bdev_req io;
    /* control */
    void (*at_control)(struct nvmf_cmd *cmd);
    void (*again)(struct nvmf_cmd *cmd);
    struct mail mail;
    struct list held; /* in the controller's list of event requests */
    struct nvme_tcp_out data_out, response_out;
};

/* ---- a namespace as a connection sees it (reactor) ---- */
struct conn_ns {
    uint32_t nsid;
    struct bdev_channel *channel;
    uint64_t nblocks;
    uint8_t block_shift;
    bool read_only, write_cache, can_unmap;
    bool leaving, dirty;
    nvme_status path; /* what ANA says of it: SUCCESS, or why not */
    unsigned inflight;
    struct ns_tell *leave; /* answers when the last command is over */
};

/* ---- a connection: one queue ---- */
enum conn_state { CONN_IC, CONN_NEW, CONN_ASKING, CONN_UP, CONN_CLOSED };

struct nvmf_conn {
    struct nvmf_target *target;
    struct shard *shard;
    struct share *share; /* after Connect */

    /* reactor */
    struct nvme_tcp_stream stream;
    struct watch watch;
    struct timer tick;
    enum conn_state state;
    bool is_dirty, is_gone;
    bool is_known; /* Connect was accepted, and what control wrote may be read */
    struct list dirty_node, starved_node;
    unsigned phase_ticks;
    unsigned withheld_ticks; /* data that were asked for do not come, and others need the room */
    struct nvmf_cmd *cmds;   /* after Connect */
    unsigned depth, busy;    /* slots; not free */
    unsigned away;           /* commands at a bdev or at control */
    struct list free, waiting;
    struct nvmf_cmd *rx_cmd; /* whose data are coming */
    char *inline_at;         /* in-capsule room of the slots */
    uint32_t inline_bytes;   /* each */
    size_t inline_map_bytes;
    uint32_t max_io_bytes;
    /* Written by control while the host waits for the response to Connect. */
    bool is_io, sq_flow, c2h_success;
    uint16_t qid, sq_size, sq_head;
    uint32_t capsule_bytes;
    struct conn_ns **ns; /* by NSID - 1 */
    uint32_t nns;
    struct nvmf_cmd first; /* Connect itself */
    char first_data[sizeof(struct nvme_fabrics_connect_data)];
    _Alignas(8) char ic_resp[NVME_TCP_IC_BYTES];
    unsigned ic_left;
    char *buf; /* of CONN_BUF_BYTES */

    /* read by control, monotonic ms: when something came last; when we last saw that the host waits
     * for us, looked at once in a second */
    _Atomic uint64_t active_ms, awaited_ms;

    /* control */
    struct nvmf_ctrl *ctrl; /* NULL: before Connect */
    struct nvmf_port *port;
    struct list node; /* ctrl->conns, or target->new_conns */
    bool ending;      /* asked to close */
    struct list suitor_node;
    uint64_t arrived_ms; /* of a Connect that waits for an older controller's end */
    char peer[64];       /* host's address */
    struct mail life;    /* start, gone, free */
    struct mail close_mail, lost_mail;
};

/* ---- conn.c ---- */
/* Control: takes the socket; a connection begins on a reactor. */
void conn_create(struct nvmf_target *t, struct nvmf_port *port, int fd, const char *peer);
/* Control: the connection ends; ctrl_conn_gone() tells when all of its commands have. */
void conn_close(struct nvmf_conn *c);
/* Reactor. */
void conn_fail(struct nvmf_conn *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void conn_fault(struct nvmf_conn *c, const struct nvme_tcp_fault *f, const void *header,
                size_t len);
void conn_dirty(struct nvmf_conn *c);
void conn_send(struct nvmf_conn *c); /* what is in line; at the end of the turn */
/* Connect was accepted: slots for its commands. Without memory for them the connection ends. */
void conn_up(struct nvmf_conn *c);
/* Something that kept a closed connection alive is over. */
void conn_settle(struct nvmf_conn *c);
/* Control: after ctrl_conn_gone(), nothing refers to it any more. */
void conn_free(struct nvmf_conn *c);

/* ---- shard.c ---- */
/* Control: before the first connection. */
void shard_init(struct shard *s, struct nvmf_target *t, struct reactor *r);

/* ---- cmd.c (reactor): slots and answers ---- */
/* Its slots, by what Connect said. 0 or -ENOMEM. */
int conn_make_slots(struct nvmf_conn *c, unsigned depth, uint32_t inline_bytes);
void conn_free_slots(struct nvmf_conn *c);
void cmd_init(struct nvmf_cmd *cmd, struct nvmf_conn *c, unsigned index);
/* The command is over: its data (when the status is success) and the response are sent. */
void cmd_finish(struct nvmf_cmd *cmd, nvme_status st);
/* Of conn_stream_ops: a PDU of a command has left. */
void cmd_sent(struct nvme_tcp_stream *s, struct nvme_tcp_out *out);
void cmd_free(struct nvmf_cmd *cmd);
/* The connection is closed: commands nobody works on end, the others' end is hastened. */
void cmd_end_all(struct nvmf_conn *c);
/* Data were asked for into buffers of the pool. */
bool cmd_awaits_data(const struct nvmf_conn *c);
/* Once a tick: data of some command have been waited for for more than so many. */
bool cmd_data_overdue(struct nvmf_conn *c, uint32_t ticks);

/* ---- capsule.c (reactor): PDUs from the host, and the commands they carry ---- */
extern const struct nvme_tcp_stream_ops conn_stream_ops;
/* A place for its data; false: it waits in line for one, and cmd_go_on() gives it to it. */
bool cmd_buffer(struct nvmf_cmd *cmd);
void cmd_go_on(struct nvmf_cmd *cmd);
/* Goes on with again() when the connection knows all that control had told until now; once. */
void cmd_look_again(struct nvmf_cmd *cmd, void (*again)(struct nvmf_cmd *cmd));

/* ---- io.c (reactor) ---- */
/* What can be checked before data come: direction, length, blocks. SUCCESS: cmd->bytes is right. */
nvme_status io_check(struct nvmf_cmd *cmd);
void io_start(struct nvmf_cmd *cmd);
void io_cancel_all(struct nvmf_conn *c);
void io_flush_batch(struct nvmf_conn *c);

/* ---- conn_ns.c: control tells connections of namespaces ---- */
enum ns_tell_kind { NS_ADD, NS_REMOVE, NS_RESIZE, NS_PATH };
struct ns_tell {
    struct mail mail;
    struct nvmf_conn *conn;
    enum ns_tell_kind kind;
    uint32_t nsid;
    struct bdev *bdev;
    uint64_t nblocks;
    nvme_status path;
    struct nvmf_ns *leaving; /* whose removal counts the answers */
};
/* Control. */
void ns_tell(struct nvmf_conn *c, enum ns_tell_kind kind, struct nvmf_ns *ns);
/* Reactor: answers what waits for ns when it has nothing in flight. */
void conn_ns_settle(struct nvmf_conn *c, struct conn_ns *ns);
void conn_ns_free_all(struct nvmf_conn *c);

/* ---- the model (control) ---- */
struct nvmf_ns {
    struct list node; /* subsystem's, by NSID */
    struct nvmf_subsystem *ss;
    struct nvmf_ns_opts o;
    struct bdev_info info;
    struct bdev_listener listener;
    bool leaving;
    unsigned waits; /* connections that have not let go of it */
    nvmf_cb removed;
    void *removed_arg;
};

struct nvmf_host {
    struct list node;
    char nqn[NVME_NQN_MAX + 1];
};

/* A listening socket. */
struct nvmf_port {
    struct list node; /* target's */
    struct nvmf_target *target;
    struct sockaddr_storage addr;
    char traddr[64], trsvcid[8];
    bool ipv6;
    uint16_t portid;
    unsigned refs;  /* listeners and connections */
    unsigned users; /* listeners: it listens */
    int fd;
    struct watch watch;
    struct timer pause; /* no descriptor is free: it accepts again when this fires */
};

struct nvmf_listener {
    struct list node; /* subsystem's */
    struct nvmf_port *port;
    uint64_t chgcnt;
    uint8_t *ana; /* states of groups 1 .. max_namespaces */
};

struct nvmf_subsystem {
    struct list node;
    struct nvmf_target *target;
    struct nvmf_subsystem_opts o; /* texts are below */
    char nqn[NVME_NQN_MAX + 1], sn[21], mn[41];
    struct list namespaces, hosts, listeners, ctrls;
    uint16_t next_cntlid;
    bool leaving;
    nvmf_cb destroyed;
    void *destroyed_arg;
};

struct nvmf_target {
    struct nvmf_opts o;
    struct nvmf_transport transport;
    bool has_transport;
    struct shard *shards;
    struct list subsystems, ports, new_conns;
    struct list discovery; /* controllers of the discovery subsystem */
    uint16_t next_discovery_cntlid;
    uint16_t next_portid;
    uint64_t genctr;
    unsigned nconns, nnew;
};

/* subsystem.c */
bool host_allowed(const struct nvmf_subsystem *ss, const char *hostnqn);
/* Its last controller has gone, or a namespace whose removal was under way. */
void subsystem_settle(struct nvmf_subsystem *ss);
struct nvmf_ns *nvmf_ns_find(const struct nvmf_subsystem *ss, uint32_t nsid);
struct nvmf_ns *ns_next(const struct nvmf_subsystem *ss, uint32_t after);
void ns_left(struct nvmf_ns *ns); /* one of ns->waits */

/* listener.c */
struct nvmf_listener *listener_find(const struct nvmf_subsystem *ss, const struct nvmf_port *port);
void listener_remove_all(struct nvmf_subsystem *ss);
void port_put(struct nvmf_port *port);
/* The state of a namespace's group at a port. */
enum nvme_ana_state ana_state_of(const struct nvmf_listener *l, uint32_t anagrpid);
nvme_status ana_path(enum nvme_ana_state state);

/* ---- ctrl.c (control): a controller is the association of a host ---- */
enum { CTRL_AERS = 4, CTRL_CHANGED = 64 };

struct nvmf_ctrl {
    struct list node;
    struct nvmf_target *target;
    struct nvmf_subsystem *ss; /* NULL: discovery */
    struct nvmf_port *port;
    struct list conns; /* the admin queue's is the first */
    uint16_t cntlid;
    char hostnqn[NVME_NQN_MAX + 1];
    uint8_t hostid[16];
    uint32_t cc, csts;
    uint32_t kato_ms;
    uint32_t io_queues; /* granted */
    struct timer watchdog;
    bool ending;
    /* events */
    struct list aers; /* nvmf_cmd.held */
    unsigned naers;
    uint32_t event_config;
    bool ana_news; /* to be told of when the connections know */
    struct notice {
        bool due;    /* to be told of */
        bool masked; /* told, and its log page not read since */
    } ns_changed, ana_changed, discovery_changed;
    uint32_t changed[CTRL_CHANGED];
    unsigned nchanged;   /* CTRL_CHANGED + 1: too many */
    struct list suitors; /* connections of the same host that wait for its end */
};

void ctrl_connect(struct nvmf_cmd *cmd); /* Connect, with its data */
void ctrl_end(struct nvmf_ctrl *ctrl, const char *why);
/* CC.EN is cleared, or shutdown asked for: the I/O queues end. */
void ctrl_stop(struct nvmf_ctrl *ctrl);
bool ctrl_is_enabled(const struct nvmf_ctrl *ctrl);
void ctrl_look(struct nvmf_ctrl *ctrl); /* its keep-alive timeout, or who waits for it, is new */
/* The connection is closed; commands of it may still be under way. */
void ctrl_conn_lost(struct nvmf_conn *c);
/* The connection has no command left and is not used any more. */
void ctrl_conn_gone(struct nvmf_conn *c);
void ctrl_for_each_io(struct nvmf_subsystem *ss, void (*fn)(struct nvmf_conn *c, void *arg),
                      void *arg);

/* ---- admin.c (control) ---- */
void admin_run(struct nvmf_cmd *cmd);
/* Control is done with it; the connection sends. */
void cmd_answer(struct nvmf_cmd *cmd, nvme_status st, uint32_t dw0);
/* The command's data are a copy of these, and zeroes behind them. */
nvme_status admin_reply(struct nvmf_cmd *cmd, const void *from, size_t bytes);
nvme_status admin_identify(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd);
nvme_status admin_log_page(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd);
nvme_status admin_features(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd, uint32_t *dw0);

/* ---- event.c (control) ---- */
void event_request(struct nvmf_ctrl *ctrl, struct nvmf_cmd *cmd);
void event_abort_all(struct nvmf_ctrl *ctrl);
/* True: it was held, and has been answered. */
bool event_abort(struct nvmf_ctrl *ctrl, uint16_t cid);
void event_ns_changed(struct nvmf_ctrl *ctrl, uint32_t nsid);
void event_ana_changed(struct nvmf_ctrl *ctrl);
void event_discovery_changed(struct nvmf_target *t);
void event_log_read(struct nvmf_ctrl *ctrl, uint8_t lid);

/* ---- discovery.c (control) ---- */
/* The log page as this host sees it, at this port; from malloc. NULL: no memory. */
void *discovery_log(struct nvmf_ctrl *ctrl, size_t *bytes);

#endif
