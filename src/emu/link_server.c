/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The link's server end: connections of services and observers on <run-dir>/emu.sock. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "emu/emu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MESSAGES_PER_TURN = 64,
    CONNS_MAX = 64,
    OUT_MAX = 16384, /* unsent messages of a service that does not read */
    HELLO_MS = 5000,
    RETRY_MS = 5,
};

struct link_server {
    struct emu *emu;
    int fd;
    struct watch watch;
    struct list conns;
    unsigned nconns;
    char path[128];
};

struct out_msg {
    struct list node;
    struct link_msg msg;
    unsigned nfds;
    int fds[];
};

struct link_conn {
    struct list node;
    struct link_server *server;
    int fd;
    struct watch watch;
    pid_t peer_pid;
    bool welcome, broken;
    struct service *service; /* NULL: before hello, or an observer */
    struct list out;
    unsigned nout;
    uint8_t *stale;     /* one per function: its LINK_FUNCTION is to be sent */
    struct timer timer; /* hello is due; later: try to send again */
};

struct emu *link_emu(struct link_conn *conn)
{
    return conn->server->emu;
}

struct service *link_service(struct link_conn *conn)
{
    return conn->service;
}

pid_t link_peer_pid(const struct link_conn *conn)
{
    return conn->peer_pid;
}

/* ---- output ---- */

static void out_free(struct out_msg *o)
{
    for (unsigned i = 0; i < o->nfds; i++)
        fd_close(&o->fds[i]);
    free(o);
}

/* Its watch reports the end, and there it is closed. */
static void give_up(struct link_conn *conn, const char *why)
{
    if (conn->broken)
        return;
    conn->broken = true;
    log_line(LOG_WARNING, "emu", "link to pid %d ends: %s", (int)conn->peer_pid, why);
    shutdown(conn->fd, SHUT_RDWR);
}

static void flush(struct link_conn *conn);

static void retry(struct timer *t)
{
    flush(container_of(t, struct link_conn, timer));
}

/* 1: gone out; 0: not now. */
static int send_now(struct link_conn *conn, const struct link_msg *msg, const int *fds,
                    unsigned nfds)
{
    ssize_t n = fd_send(conn->fd, msg, sizeof(*msg), fds, nfds);

    if (n >= 0)
        return 1;
    if (n == -ETOOMANYREFS) /* too many descriptors in flight: the socket itself would report room
                               for ever */
        timer_arm(conn->server->emu->reactor, &conn->timer, RETRY_MS, retry);
    else if (n == -EAGAIN)
        watch_modify(conn->server->emu->reactor, &conn->watch, EPOLLIN | EPOLLOUT);
    else
        give_up(conn, strerror((int)-n));
    return 0;
}

static void enqueue(struct link_conn *conn, const struct link_msg *msg, const int *fds,
                    unsigned nfds)
{
    struct out_msg *o;

    if (conn->nout >= OUT_MAX) {
        give_up(conn, "it does not read its messages");
        return;
    }
    o = malloc(sizeof(*o) + nfds * sizeof(int));
    if (!o) {
        give_up(conn, "no memory");
        return;
    }
    o->msg = *msg;
    o->nfds = 0;
    for (unsigned i = 0; i < nfds; i++) {
        o->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (o->fds[i] < 0) {
            out_free(o);
            give_up(conn, "no descriptors left");
            return;
        }
        o->nfds++;
    }
    list_append(&conn->out, &o->node);
    conn->nout++;
}

static bool send_function(struct link_conn *conn, unsigned index)
{
    struct emu *emu = conn->server->emu;
    struct link_msg msg = {.type = LINK_FUNCTION, .function = index};

    msg.fn.functions_total = emu->nfunctions;
    msg.fn.info = emu->functions[index]->info;
    if (!send_now(conn, &msg, NULL, 0))
        return false;
    conn->stale[index] = 0;
    return true;
}

static void flush(struct link_conn *conn)
{
    struct emu *emu = conn->server->emu;

    while (!conn->broken && !list_empty(&conn->out)) {
        struct out_msg *o = list_entry(conn->out.next, struct out_msg, node);

        if (!send_now(conn, &o->msg, o->fds, o->nfds))
            return;
        list_remove(&o->node);
        conn->nout--;
        out_free(o);
    }
    for (unsigned i = 0; conn->welcome && !conn->broken && i < emu->nfunctions; i++)
        if (conn->stale[i] && !send_function(conn, i))
            return;
    if (conn->broken)
        return;
    watch_modify(emu->reactor, &conn->watch, EPOLLIN);
    lease_catch_up(conn); /* may fill it again */
}

bool link_congested(const struct link_conn *conn)
{
    return conn->nout > 0;
}

void link_send(struct link_conn *conn, const struct link_msg *msg, const int *fds, unsigned nfds)
{
    if (conn->broken)
        return;
    if (conn->nout > 0 || !send_now(conn, msg, fds, nfds))
        if (!conn->broken)
            enqueue(conn, msg, fds, nfds);
}

void link_function_changed(struct emu *emu, unsigned index)
{
    if (!emu->server)
        return;
    list_for_each(it, &emu->server->conns)
    {
        struct link_conn *conn = list_entry(it, struct link_conn, node);

        if (!conn->welcome || conn->broken)
            continue;
        conn->stale[index] = 1;
        if (conn->nout == 0)
            send_function(conn, index);
    }
}

/* ---- messages ---- */

static void refuse_hello(struct link_conn *conn, const struct link_msg *msg, int rc,
                         const char *text)
{
    struct link_msg answer = {.type = LINK_WELCOME, .cookie = msg->cookie, .rc = rc};

    snprintf(answer.text, sizeof(answer.text), "%.*s", (int)sizeof(answer.text) - 1, text);
    link_send(conn, &answer, NULL, 0);
}

static int hello(struct link_conn *conn, const struct link_msg *msg, int *fds, unsigned nfds)
{
    struct emu *emu = conn->server->emu;
    struct link_msg answer = {.type = LINK_WELCOME, .cookie = msg->cookie};
    struct err err = {0};
    char text[128];

    if (conn->welcome)
        return -EBADMSG;
    if (msg->hello.version != LINK_VERSION) {
        snprintf(text, sizeof(text), "the service speaks link version %u, this snap_emu version %d",
                 msg->hello.version, LINK_VERSION);
        refuse_hello(conn, msg, -EPROTO, text);
        return -EPROTO;
    }
    /* No reactors: an observer, which sees the functions and can lease none. */
    if (msg->hello.reactors > 0 && service_hello(conn, msg, fds, nfds, &conn->service, &err) < 0) {
        refuse_hello(conn, msg, err.code, err.msg);
        return err.code;
    }
    conn->welcome = true;
    timer_cancel(&conn->timer);
    answer.welcome.version = LINK_VERSION;
    answer.welcome.functions = emu->nfunctions;
    link_send(conn, &answer, NULL, 0);
    for (unsigned i = 0; i < emu->nfunctions; i++) {
        struct link_msg fn = {.type = LINK_FUNCTION, .function = i};

        fn.fn.functions_total = emu->nfunctions;
        fn.fn.info = emu->functions[i]->info;
        link_send(conn, &fn, NULL, 0);
    }
    answer = (struct link_msg){.type = LINK_READY, .cookie = msg->cookie};
    link_send(conn, &answer, NULL, 0);
    return 0;
}

static int keep(struct link_conn *conn, const struct link_msg *msg)
{
    struct link_msg answer = {.type = LINK_KEPT, .cookie = msg->cookie};
    struct err err = {0};
    uint64_t size;
    int fd;

    answer.rc = keepsake_get(conn->server->emu->keepsakes, msg->keep.name, msg->keep.size_bytes,
                             &fd, &size, &err);
    if (answer.rc < 0) {
        memcpy(answer.text, err.msg, sizeof(answer.text) - 1);
        link_send(conn, &answer, NULL, 0);
        return 0;
    }
    crash_point(emu_kept);
    answer.keep.size_bytes = size;
    memcpy(answer.keep.name, msg->keep.name, sizeof(answer.keep.name));
    link_send(conn, &answer, &fd, 1);
    return 0;
}

static int drop(struct link_conn *conn, const struct link_msg *msg)
{
    struct link_msg answer = {.type = LINK_DROPPED, .cookie = msg->cookie};
    struct err err = {0};

    answer.rc = keepsake_drop(conn->server->emu->keepsakes, msg->keep.name, &err);
    if (answer.rc < 0)
        memcpy(answer.text, err.msg, sizeof(answer.text) - 1);
    link_send(conn, &answer, NULL, 0);
    return 0;
}

/* Only services send these; none carries descriptors. */
static int (*const handlers[])(struct link_conn *conn, const struct link_msg *msg) = {
    [LINK_OPEN] = lease_open,
    [LINK_CANCEL_OPEN] = lease_cancel,
    [LINK_START] = lease_start,
    [LINK_RELEASE] = lease_release,
    [LINK_MEM_DETACHED] = lease_detached,
    [LINK_RESET_DONE] = lease_reset_done,
    [LINK_QUEUE_STOPPED] = lease_queue_stopped,
    [LINK_QUEUE_PAUSED] = lease_queue_paused,
    [LINK_CONFIG_CHANGED] = lease_config_changed,
    [LINK_KEEP] = keep,
    [LINK_DROP] = drop,
};

static int handle(struct link_conn *conn, const struct link_msg *msg, int *fds, unsigned nfds)
{
    if (msg->type == LINK_HELLO)
        return hello(conn, msg, fds, nfds);
    if (!conn->service || nfds > 0 || msg->type >= ARRAY_SIZE(handlers) || !handlers[msg->type])
        return -EBADMSG;
    return handlers[msg->type](conn, msg);
}

/* 1: one handled; 0: none there; -errno: the connection is to end. */
static int receive_one(struct link_conn *conn)
{
    int fds[LINK_MAX_FDS], rc;
    struct link_msg msg;
    unsigned nfds;
    ssize_t n = fd_recv(conn->fd, &msg, sizeof(msg), fds, LINK_MAX_FDS, &nfds);

    if (n < 0)
        return n == -EAGAIN ? 0 : (int)n;
    if (n == sizeof(msg))
        rc = handle(conn, &msg, fds, nfds);
    else
        rc = n == 0 ? -ECONNRESET : -EBADMSG;
    for (unsigned i = 0; i < nfds; i++)
        fd_close(&fds[i]);
    return rc < 0 ? rc : 1;
}

static void ready(struct watch *w, uint32_t events)
{
    struct link_conn *conn = container_of(w, struct link_conn, watch);
    int rc = 1;

    if (events & EPOLLOUT)
        flush(conn);
    for (unsigned n = 0; rc > 0 && n < MESSAGES_PER_TURN && !conn->broken; n++)
        rc = receive_one(conn);
    if (rc < 0 && rc != -ECONNRESET)
        log_line(LOG_WARNING, "emu", "link to pid %d ends: %s", (int)conn->peer_pid, strerror(-rc));
    if (rc < 0 || conn->broken)
        link_close(conn);
}

/* ---- connections ---- */

void link_close(struct link_conn *conn)
{
    struct link_server *server = conn->server;
    struct service *service = conn->service;
    struct list *node;

    watch_remove(server->emu->reactor, &conn->watch);
    timer_cancel(&conn->timer);
    list_remove(&conn->node);
    server->nconns--;
    while ((node = list_pop(&conn->out)))
        out_free(list_entry(node, struct out_msg, node));
    fd_close(&conn->fd);
    lease_forget_waiters(server->emu, conn);
    free(conn->stale);
    free(conn);
    if (service)
        service_conn_lost(service);
}

static void hello_overdue(struct timer *t)
{
    link_close(container_of(t, struct link_conn, timer));
}

static bool peer_allowed(int fd, pid_t *pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return false;
    *pid = cred.pid;
    return cred.uid == 0 || cred.uid == geteuid();
}

static void incoming(struct watch *w, uint32_t events)
{
    struct link_server *server = container_of(w, struct link_server, watch);
    struct emu *emu = server->emu;
    static struct log_limit limit;
    struct link_conn *conn;
    pid_t pid = 0;
    int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0)
        return;
    conn = calloc(1, sizeof(*conn));
    if (!conn || !peer_allowed(fd, &pid) || server->nconns >= CONNS_MAX ||
        !(conn->stale = calloc(emu->nfunctions + 1, 1)) ||
        watch_add(emu->reactor, &conn->watch, fd, EPOLLIN, ready) < 0) {
        log_limited(&limit, LOG_WARNING, "emu", "link connection of pid %d refused", (int)pid);
        if (conn)
            free(conn->stale);
        free(conn);
        close(fd);
        return;
    }
    conn->server = server;
    conn->fd = fd;
    conn->peer_pid = pid;
    list_init(&conn->out);
    list_append(&server->conns, &conn->node);
    server->nconns++;
    timer_arm(emu->reactor, &conn->timer, HELLO_MS, hello_overdue);
}

struct link_server *link_server_create(struct emu *emu, struct err *err)
{
    struct link_server *server = calloc(1, sizeof(*server));
    int rc;

    if (!server) {
        err_set(err, -ENOMEM, "no memory");
        return NULL;
    }
    server->emu = emu;
    list_init(&server->conns);
    snprintf(server->path, sizeof(server->path), "%s/emu.sock", emu->run_dir);
    server->fd = fd_unix_bind(server->path, SOCK_SEQPACKET, 0600, err);
    if (server->fd < 0) {
        free(server);
        return NULL;
    }
    rc = listen(server->fd, 16) < 0
             ? -errno
             : watch_add(emu->reactor, &server->watch, server->fd, EPOLLIN, incoming);
    if (rc < 0) {
        err_set(err, rc, "cannot listen on '%s': %s", server->path, strerror(-rc));
        link_server_destroy(server);
        return NULL;
    }
    return server;
}

void link_server_destroy(struct link_server *server)
{
    if (!server)
        return;
    while (!list_empty(&server->conns))
        link_close(list_entry(server->conns.next, struct link_conn, node));
    watch_remove(server->emu->reactor, &server->watch);
    unlink(server->path);
    fd_close(&server->fd);
    free(server);
}
