/* SPDX-License-Identifier: BSD-3-Clause */
#include "link/client.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "link/client_inside.h"
#include "link/holder.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ANSWER_MS = 5000 };

/* ---- packets ---- */

void packet_close_fds(struct packet *p)
{
    for (unsigned i = 0; i < p->nfds; i++)
        fd_close(&p->fds[i]);
    p->nfds = 0;
}

static void link_broken(struct link_client *lc, int rc)
{
    if (lc->broken)
        return;
    lc->broken = true;
    log_line(LOG_ERROR, "link", "connection to snap_emu is lost: %s", strerror(-rc));
    watch_remove(lc->control, &lc->watch);
    leases_lost(lc);
    if (lc->ready && lc->lost)
        lc->lost(lc->lost_arg);
}

int link_send(struct link_client *lc, const struct link_msg *msg, const int *fds, unsigned nfds)
{
    ssize_t n;

    if (lc->broken)
        return -ENOTCONN;
    for (;;) {
        struct pollfd pfd = {lc->fd, POLLOUT, 0};

        n = fd_send(lc->fd, msg, sizeof(*msg), fds, nfds);
        if (n != -EAGAIN)
            break;
        if (poll(&pfd, 1, ANSWER_MS) == 0) {
            n = -ETIMEDOUT;
            break;
        }
    }
    if (n < 0)
        link_broken(lc, (int)n);
    return n < 0 ? (int)n : 0;
}

/* 1: got one; 0: nothing there now; -errno: the link is unusable. */
static int receive(struct link_client *lc, struct packet *p)
{
    ssize_t n = fd_recv(lc->fd, &p->msg, sizeof(p->msg), p->fds, LINK_MAX_FDS, &p->nfds);

    if (n == -EAGAIN)
        return 0;
    if (n < 0)
        return (int)n;
    if (n == sizeof(p->msg))
        return 1;
    packet_close_fds(p);
    return n == 0 ? -ECONNRESET : -EBADMSG;
}

/* ---- what comes in ---- */

static void terminate_names(struct link_function_info *info)
{
    info->vuid[sizeof(info->vuid) - 1] = '\0';
    info->ctrl_id[sizeof(info->ctrl_id) - 1] = '\0';
    info->pci_bdf[sizeof(info->pci_bdf) - 1] = '\0';
    info->state[sizeof(info->state) - 1] = '\0';
}

static int on_function(struct link_client *lc, const struct link_msg *msg)
{
    uint32_t total = msg->fn.functions_total, index = msg->function;

    if (total > WAKE_SLOTS * 4 || index >= total)
        return -EBADMSG;
    if (total > lc->nfunctions) {
        struct link_function_info *grown = realloc(lc->functions, total * sizeof(*lc->functions));

        if (!grown)
            return -ENOMEM;
        memset(grown + lc->nfunctions, 0, (total - lc->nfunctions) * sizeof(*grown));
        lc->functions = grown;
        lc->nfunctions = total;
    }
    lc->functions[index] = msg->fn.info;
    terminate_names(&lc->functions[index]);
    return 0;
}

static int handle(struct link_client *lc, struct packet *p)
{
    switch (p->msg.type) {
    case LINK_WELCOME:
        return p->msg.rc < 0 ? p->msg.rc : 0;
    case LINK_READY:
        lc->ready = true;
        return 0;
    case LINK_FUNCTION:
        return on_function(lc, &p->msg);
    case LINK_KEPT: /* too late: who asked has given up */
    case LINK_DROPPED:
        return 0;
    default:
        lease_packet(lc, p);
        return 0;
    }
}

static void run_backlog(struct mail *m);

static void link_ready(struct watch *w, uint32_t events)
{
    struct link_client *lc = container_of(w, struct link_client, watch);
    struct packet p = {0};
    int rc;

    (void)events;
    run_backlog(&lc->backlog_mail); /* older than what waits in the socket */
    for (int i = 0; i < 64; i++) {  /* bounded: other descriptors want their turn */
        rc = receive(lc, &p);
        if (rc == 0)
            return;
        if (rc > 0) {
            rc = handle(lc, &p);
            packet_close_fds(&p);
        }
        if (rc < 0) {
            link_broken(lc, rc);
            return;
        }
    }
}

/* ---- waiting for one answer ---- */

static void run_backlog(struct mail *m)
{
    struct link_client *lc = container_of(m, struct link_client, backlog_mail);
    struct list *node;

    lc->backlog_posted = false;
    while ((node = list_pop(&lc->backlog))) {
        struct packet *p = list_entry(node, struct packet, node);
        int rc = handle(lc, p);

        packet_close_fds(p);
        free(p);
        if (rc < 0)
            link_broken(lc, rc);
    }
}

/* Waits for the packet of this type and cookie (0: any); all others are handled later, in their
 * order. */
static int wait_answer(struct link_client *lc, uint32_t type, uint64_t cookie, struct packet *ret)
{
    uint64_t end = clock_ms() + ANSWER_MS;

    while (!lc->broken && clock_ms() < end) {
        struct pollfd pfd = {lc->fd, POLLIN, 0};
        struct packet *p;
        int rc;

        if (poll(&pfd, 1, 100) <= 0)
            continue;
        p = calloc(1, sizeof(*p));
        if (!p)
            return -ENOMEM;
        rc = receive(lc, p);
        if (rc <= 0) {
            free(p);
            if (rc < 0)
                return rc;
            continue;
        }
        if (p->msg.type == type && (p->msg.cookie == cookie || cookie == 0)) {
            *ret = *p;
            free(p);
            return 0;
        }
        list_append(&lc->backlog, &p->node);
        if (!lc->backlog_posted) {
            lc->backlog_posted = true;
            lc->backlog_mail.fn = run_backlog;
            reactor_post(lc->control, &lc->backlog_mail);
        }
    }
    return -ETIMEDOUT;
}

/* ---- keepsakes ---- */

static int keep_call_sync(struct link_client *lc, uint32_t type, uint32_t answer, const char *name,
                          uint64_t size_bytes, struct packet *p, struct err *err)
{
    struct link_msg msg = {.type = type, .cookie = ++lc->next_cookie};
    int rc;

    if (strlen(name) >= sizeof(msg.keep.name))
        return err_set(err, -ENAMETOOLONG, "keepsake '%s': the name has more than %zu bytes", name,
                       sizeof(msg.keep.name) - 1);
    msg.keep.size_bytes = size_bytes;
    memcpy(msg.keep.name, name, strlen(name) + 1);
    rc = link_send(lc, &msg, NULL, 0);
    if (rc == 0)
        rc = wait_answer(lc, answer, msg.cookie, p);
    if (rc < 0)
        return err_set(err, rc, "keepsake '%s': snap_emu does not answer: %s", name, strerror(-rc));
    if (p->msg.rc < 0) {
        rc = p->msg.rc;
        p->msg.text[sizeof(p->msg.text) - 1] = '\0';
        packet_close_fds(p);
        return err_set(err, rc, "keepsake '%s': %s", name,
                       p->msg.text[0] ? p->msg.text : strerror(-rc));
    }
    return 0;
}

int link_keep_sync(struct link_client *lc, const char *name, uint64_t size_bytes, struct err *err)
{
    struct packet p = {0};
    int rc = keep_call_sync(lc, LINK_KEEP, LINK_KEPT, name, size_bytes, &p, err);

    if (rc < 0)
        return rc;
    if (p.nfds != 1) {
        packet_close_fds(&p);
        return err_set(err, -EBADMSG, "keepsake '%s': snap_emu sent no memory", name);
    }
    return p.fds[0];
}

int link_drop_sync(struct link_client *lc, const char *name, struct err *err)
{
    struct packet p = {0};
    int rc = keep_call_sync(lc, LINK_DROP, LINK_DROPPED, name, 0, &p, err);

    if (rc == 0)
        packet_close_fds(&p);
    return rc;
}

/* ---- the function table ---- */

unsigned link_function_count(const struct link_client *lc)
{
    return lc->nfunctions;
}

const struct link_function_info *link_function_get(const struct link_client *lc, unsigned index)
{
    return index < lc->nfunctions ? &lc->functions[index] : NULL;
}

int link_function_find_vuid(const struct link_client *lc, const char *vuid)
{
    for (unsigned i = 0; i < lc->nfunctions; i++)
        if (!strcmp(lc->functions[i].vuid, vuid))
            return (int)i;
    return -1;
}

/* ---- connecting ---- */

static int say_hello(struct link_client *lc, const struct link_client_opts *opts, int wake_memfd,
                     struct err *err)
{
    struct link_msg msg = {.type = LINK_HELLO, .cookie = ++lc->next_cookie};
    int fds[LINK_MAX_FDS], pidfd, rc;
    unsigned n = 0;
    struct packet p = {0};

    pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0)
        return err_set(err, -errno, "pidfd_open: %s", strerror(errno));
    fds[n++] = pidfd;
    fds[n++] = opts->fence_read_fd;
    fds[n++] = wake_memfd;
    for (unsigned i = 0; i < opts->nreactors; i++)
        fds[n++] = reactor_wake_fd(opts->reactors[i]);
    msg.hello.version = LINK_VERSION;
    msg.hello.reactors = opts->nreactors;
    msg.hello.pid = (uint32_t)getpid();
    msg.hello.start_time = holder_start_time();
    snprintf(msg.hello.name, sizeof(msg.hello.name), "%s", opts->name);
    rc = link_send(lc, &msg, fds, n);
    close(pidfd);
    if (rc == 0)
        rc = wait_answer(lc, LINK_WELCOME, msg.cookie, &p);
    if (rc < 0)
        return err_set(err, rc, "snap_emu at '%s' does not answer: %s", opts->socket_path,
                       strerror(-rc));
    packet_close_fds(&p);
    p.msg.text[sizeof(p.msg.text) - 1] = '\0';
    if (p.msg.rc < 0)
        return err_set(err, p.msg.rc, "snap_emu at '%s' refuses: %s", opts->socket_path,
                       p.msg.text);
    rc = wait_answer(lc, LINK_READY, 0, &p);
    if (rc < 0)
        return err_set(err, rc, "snap_emu at '%s' sends no function table: %s", opts->socket_path,
                       strerror(-rc));
    lc->ready = true;
    run_backlog(&lc->backlog_mail);
    return 0;
}

static int make_wake_page(struct link_client *lc, const struct link_client_opts *opts, int *ret_fd,
                          struct err *err)
{
    int fd = fd_memfd("snap-wake", sizeof(struct wake_page));

    if (fd < 0)
        return err_set(err, fd, "wake page: %s", strerror(-fd));
    lc->wake = mmap(NULL, sizeof(struct wake_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (lc->wake == MAP_FAILED) {
        lc->wake = NULL;
        close(fd);
        return err_set(err, -errno, "wake page: %s", strerror(errno));
    }
    for (unsigned i = 0; i < opts->nreactors; i++) {
        struct link_reactor *lr = &lc->reactors[i];

        lr->reactor = opts->reactors[i];
        reactor_set_sleep_flag(lr->reactor, &lc->wake->reactor[i].sleeping);
        lr->visits = visits_create(lr->reactor, &lc->wake->reactor[i]);
        if (!lr->visits) {
            close(fd);
            return err_set(err, -ENOMEM, "no memory for the wake page");
        }
    }
    *ret_fd = fd;
    return 0;
}

struct link_client *link_client_connect(const struct link_client_opts *opts, struct err *err)
{
    struct link_client *lc = calloc(1, sizeof(*lc));
    int wake_fd = -1, rc;

    if (!lc || opts->nreactors > WAKE_REACTORS) {
        err_set(err, -EINVAL, "%u reactors: the limit is %d", opts->nreactors, WAKE_REACTORS);
        free(lc);
        return NULL;
    }
    list_init(&lc->leases);
    list_init(&lc->backlog);
    lc->control = opts->control;
    lc->lost = opts->lost;
    lc->lost_arg = opts->arg;
    lc->nreactors = opts->nreactors;
    lc->reactors = calloc(opts->nreactors + 1, sizeof(*lc->reactors));
    lc->fd = fd_unix_connect(opts->socket_path, SOCK_SEQPACKET, err);
    rc = lc->fd;
    if (rc >= 0)
        rc = fd_nonblock(lc->fd);
    if (rc >= 0 && lc->reactors)
        rc = make_wake_page(lc, opts, &wake_fd, err);
    if (rc >= 0)
        rc = say_hello(lc, opts, wake_fd, err);
    fd_close(&wake_fd);
    if (rc >= 0)
        rc = watch_add(lc->control, &lc->watch, lc->fd, EPOLLIN, link_ready);
    if (rc < 0) {
        link_client_destroy(lc);
        return NULL;
    }
    close(opts->fence_read_fd);
    return lc;
}

void link_client_destroy(struct link_client *lc)
{
    struct list *node;

    if (!lc)
        return;
    watch_remove(lc->control, &lc->watch);
    fd_close(&lc->fd);
    while ((node = list_pop(&lc->backlog))) {
        packet_close_fds(list_entry(node, struct packet, node));
        free(list_entry(node, struct packet, node));
    }
    for (unsigned i = 0; lc->reactors && i < lc->nreactors; i++) {
        if (lc->reactors[i].reactor)
            reactor_set_sleep_flag(lc->reactors[i].reactor, NULL);
        visits_destroy(lc->reactors[i].visits);
    }
    if (lc->wake)
        munmap(lc->wake, sizeof(*lc->wake));
    free(lc->reactors);
    free(lc->functions);
    free(lc);
}
