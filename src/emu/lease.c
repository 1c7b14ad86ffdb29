/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Leases: at most one service holds a function. It loses it by giving it back, or by dying, and
 * then only when the fence has passed; who asked meanwhile gets it next. */
#include "base/crash_point.h"
#include "base/log.h"
#include "base/util.h"
#include "emu/emu.h"
#include "guest/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IRQS_PER_MESSAGE = 64 };

/* A LINK_OPEN that waits for the last holder's fence. */
struct waiter {
    struct list node;
    struct link_conn *conn;
    struct link_msg msg;
};

/* ---- talking to the holder ---- */

struct link_conn *lease_conn(const struct emu_function *fn)
{
    return fn->holder ? fn->holder->conn : NULL;
}

void lease_tell(struct emu_function *fn, struct link_msg *msg, const int *fds, unsigned nfds)
{
    struct link_conn *conn = lease_conn(fn);

    if (!conn)
        return;
    msg->function = fn->index;
    link_send(conn, msg, fds, nfds);
}

static struct link_msg memory_msg(enum link_type type, const struct host_memory *mem)
{
    struct link_msg msg = {.type = type, .cookie = mem->id};

    msg.mem.id = mem->id;
    msg.mem.prot = mem->prot;
    msg.mem.gpa = mem->gpa;
    msg.mem.size_bytes = mem->size_bytes;
    msg.mem.fd_offset = mem->fd_offset;
    return msg;
}

void lease_tell_memory(struct emu_function *fn, const struct host_memory *mem)
{
    struct link_msg msg = memory_msg(LINK_MEM_ADD, mem);

    lease_tell(fn, &msg, &mem->fd, 1);
}

bool lease_take_memory(struct emu_function *fn, const struct host_memory *mem)
{
    struct link_msg msg = memory_msg(LINK_MEM_DEL, mem);

    if (!fn->holder)
        return true;
    lease_tell(fn, &msg, NULL, 0);
    return false; /* answered by the holder, or its fence */
}

/* One message for each run of vectors that all have eventfds, or all have none. */
void lease_tell_irqs(struct emu_function *fn, unsigned start, unsigned count)
{
    unsigned end = start + count;

    if (lease_conn(fn) && link_congested(lease_conn(fn))) {
        fn->irqs_stale = true; /* a host could pile up descriptors in front of a stopped service */
        return;
    }
    while (start < end) {
        bool assigned = fn->host->irq_fd(fn, start) >= 0;
        struct link_msg msg = {.type = LINK_IRQ};
        int fds[IRQS_PER_MESSAGE];
        unsigned n = 0;

        while (start + n < end && n < IRQS_PER_MESSAGE &&
               (fn->host->irq_fd(fn, start + n) >= 0) == assigned) {
            fds[n] = fn->host->irq_fd(fn, start + n);
            n++;
        }
        msg.irq.start = start;
        msg.irq.count = n;
        lease_tell(fn, &msg, fds, assigned ? n : 0);
        start += n;
    }
}

void lease_tell_flags(struct emu_function *fn)
{
    struct link_msg msg = {.type = LINK_FLAGS};

    if (lease_conn(fn) && link_congested(lease_conn(fn)))
        fn->flags_stale = true;
    else
        lease_tell(fn, &msg, NULL, 0);
}

void lease_catch_up(struct link_conn *conn)
{
    struct emu *emu = link_emu(conn);

    for (unsigned i = 0; i < emu->nfunctions && !link_congested(conn); i++) {
        struct emu_function *fn = emu->functions[i];

        if (lease_conn(fn) != conn)
            continue;
        if (fn->irqs_stale) {
            fn->irqs_stale = false;
            lease_tell_irqs(fn, 0, fn->info.num_msix);
        }
        queues_catch_up(fn);
        if (fn->flags_stale) {
            fn->flags_stale = false;
            lease_tell_flags(fn);
        }
    }
}

void lease_wake(struct emu_function *fn)
{
    if (lease_conn(fn))
        service_wake(fn->holder, fn->wake_reactor, fn->wake_slot);
}

/* ---- granting ---- */

static void refuse(struct link_conn *conn, const struct link_msg *msg, int rc, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void refuse(struct link_conn *conn, const struct link_msg *msg, int rc, const char *fmt, ...)
{
    struct link_msg answer = {
        .type = LINK_OPENED, .function = msg->function, .cookie = msg->cookie, .rc = rc};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(answer.text, sizeof(answer.text), fmt, ap);
    va_end(ap);
    link_send(conn, &answer, NULL, 0);
}

static void grant(struct emu_function *fn, struct link_conn *conn, const struct link_msg *open)
{
    struct link_msg msg = {.type = LINK_OPENED, .cookie = open->cookie};
    struct err err = {0};
    int fds[2];

    if (function_memory(fn, &err) < 0) {
        refuse(conn, open, err.code, "%s", err.msg);
        return;
    }
    fn->holder = link_service(conn);
    fn->holder->nleases++;
    fn->wake_reactor = open->open.reactor;
    fn->wake_slot = open->open.slot;
    memcpy(fn->info.ctrl_id, open->open.ctrl_id, sizeof(fn->info.ctrl_id));
    crash_point(emu_granting);
    function_changed(fn);
    log_line(LOG_INFO, "emu", "function %s: leased to %s (pid %u) for '%s'", fn->info.vuid,
             fn->holder->name, fn->holder->pid, fn->info.ctrl_id);
    fds[0] = fn->state_fd;
    fds[1] = fn->doorbell_fd;
    fn->irqs_stale = fn->flags_stale = false;
    lease_tell(fn, &msg, fds, 2);
    fn->host->memory_for_each(fn, lease_tell_memory);
    lease_tell_irqs(fn, 0, fn->info.num_msix);
    queues_granted(fn);
    crash_point(emu_granted_half);
    msg = (struct link_msg){.type = LINK_SYNCED, .cookie = open->cookie};
    lease_tell(fn, &msg, NULL, 0);
    queues_synced(fn);
    lease_tell_flags(fn);
    crash_point(emu_granted);
}

static void refuse_busy(struct emu_function *fn, struct link_conn *conn, const struct link_msg *msg)
{
    refuse(conn, msg, -EBUSY, "function %s is held by %s (pid %u) for '%s'", fn->info.vuid,
           fn->holder->name, fn->holder->pid, fn->info.ctrl_id);
}

/* The first that waits gets it; the others learn that it is taken. */
static void serve_waiters(struct emu_function *fn)
{
    struct list *node;

    while ((node = list_pop(&fn->waiters))) {
        struct waiter *w = list_entry(node, struct waiter, node);

        if (fn->holder)
            refuse_busy(fn, w->conn, &w->msg);
        else
            grant(fn, w->conn, &w->msg);
        free(w);
    }
}

static void let_go(struct emu_function *fn)
{
    struct service *s = fn->holder;

    log_line(LOG_INFO, "emu", "function %s: free again", fn->info.vuid);
    fn->holder = NULL;
    s->nleases--;
    fn->info.ctrl_id[0] = '\0';
    fn->failed[0] = '\0'; /* whatever was held on to, nobody does any more */
    reset_alone(fn);
    fn->host->memory_detached(fn, 0);
    function_changed(fn);
}

void lease_end(struct emu_function *fn)
{
    if (!fn->holder)
        return;
    let_go(fn);
    crash_point(emu_let_go);
    serve_waiters(fn);
    queues_left(fn);
}

void lease_retry(struct emu *emu)
{
    for (unsigned i = 0; i < emu->nfunctions; i++)
        if (!emu->functions[i]->holder) {
            serve_waiters(emu->functions[i]);
            queues_left(emu->functions[i]);
        }
}

/* ---- messages ---- */

static struct emu_function *function_of(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu *emu = link_emu(conn);

    return msg->function < emu->nfunctions ? emu->functions[msg->function] : NULL;
}

/* The function when the sender holds it, else NULL. */
static struct emu_function *held_function(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = function_of(conn, msg);

    return fn && fn->holder && fn->holder == link_service(conn) ? fn : NULL;
}

int lease_open(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = function_of(conn, msg);
    struct service *s = link_service(conn);
    struct waiter *w;
    uint32_t pid = 0;
    bool former;

    if (!s || !fn || msg->open.reactor >= s->reactors || msg->open.slot >= WAKE_SLOTS ||
        !memchr(msg->open.ctrl_id, '\0', sizeof(msg->open.ctrl_id)))
        return -EBADMSG;
    /* Its end may be in the same batch of events, behind this message. */
    if (fn->holder && fn->holder != s)
        service_check_dead(fn->holder);
    former = holders_wait(link_emu(conn)->holders, &pid);
    if (!fn->holder && !former) {
        grant(fn, conn, msg);
        return 0;
    }
    if (fn->holder && fn->holder->conn) {
        refuse_busy(fn, conn, msg);
        return 0;
    }
    w = malloc(sizeof(*w));
    if (!w) {
        refuse(conn, msg, -ENOMEM, "function %s: no memory", fn->info.vuid);
        return 0;
    }
    w->conn = conn;
    w->msg = *msg;
    list_append(&fn->waiters, &w->node);
    log_line(LOG_INFO, "emu", "function %s: %s (pid %u) waits for the end of pid %u", fn->info.vuid,
             s->name, s->pid, fn->holder ? fn->holder->pid : pid);
    return 0;
}

int lease_cancel(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = function_of(conn, msg);

    if (!fn)
        return -EBADMSG;
    list_for_each_safe(it, &fn->waiters)
    {
        struct waiter *w = list_entry(it, struct waiter, node);

        if (w->conn != conn || w->msg.cookie != msg->cookie)
            continue;
        list_remove(&w->node);
        refuse(conn, &w->msg, -ECANCELED, "cancelled");
        free(w);
    }
    return 0; /* not there: it was answered in the meantime */
}

void lease_forget_waiters(struct emu *emu, const struct link_conn *conn)
{
    for (unsigned i = 0; i < emu->nfunctions; i++) {
        list_for_each_safe(it, &emu->functions[i]->waiters)
        {
            struct waiter *w = list_entry(it, struct waiter, node);

            if (w->conn != conn)
                continue;
            list_remove(&w->node);
            free(w);
        }
    }
}

int lease_start(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);
    struct err err = {0};

    if (!fn || atomic_load(&fn->regs.st->svc.initialized) != 1)
        return -EBADMSG;
    if (fn->started)
        return 0;
    if (fn->host->listen(fn, &err) < 0) {
        function_fail(fn, "socket");
        log_line(LOG_ERROR, "emu", "function %s: %s", fn->info.vuid, err.msg);
        return 0;
    }
    fn->started = true;
    registers_start(&fn->regs);
    function_changed(fn);
    return 0;
}

int lease_release(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);
    struct link_msg answer = {
        .type = LINK_RELEASED, .function = msg->function, .cookie = msg->cookie};

    if (!fn)
        return -EBADMSG;
    /* The answer comes after the function's news, so that who has it finds no old ones, and before
     * anything a next lease of the same service brings. */
    let_go(fn);
    crash_point(emu_released);
    link_send(conn, &answer, NULL, 0);
    serve_waiters(fn);
    return 0;
}

int lease_detached(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);

    if (msg->cookie == 0 || msg->cookie > UINT32_MAX) /* 0 would mean all */
        return -EBADMSG;
    if (fn) /* else it was given back in the meantime, and that was the answer */
        fn->host->memory_detached(fn, (uint32_t)msg->cookie);
    return 0;
}

int lease_reset_done(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);

    return fn ? reset_answered(fn, msg->cookie, msg->reset.epoch) : 0;
}

int lease_queue_stopped(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);

    if (fn)
        queues_stopped(fn, msg);
    return 0;
}

int lease_queue_paused(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);

    if (fn)
        queues_paused(fn, msg);
    return 0;
}

int lease_config_changed(struct link_conn *conn, const struct link_msg *msg)
{
    struct emu_function *fn = held_function(conn, msg);

    if (fn)
        fn->host->config_changed(fn);
    return 0;
}
