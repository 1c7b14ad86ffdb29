/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The life of a lease on one function. snap_emu's packets arrive on the control thread; all that
 * touches the function itself is mailed to its reactor, in order. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "link/lease_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct errand *lease_errand(struct lease *l, void (*fn)(struct mail *m))
{
    struct errand *e = calloc(1, sizeof(*e));

    if (!e) {
        log_line(LOG_CRITICAL, "link", "out of memory");
        abort(); /* our own memory, not the guest's doing; state memory survives this */
    }
    e->mail.fn = fn;
    e->lease = l;
    e->fd = -1;
    return e;
}

void lease_errand_back(struct errand *e, void (*fn)(struct mail *m))
{
    e->mail.fn = fn;
    reactor_post(e->lease->lc->control, &e->mail);
}

static struct lease *lease_by_function(struct link_client *lc, uint32_t index)
{
    list_for_each(it, &lc->leases)
    {
        struct lease *l = list_entry(it, struct lease, node);

        if (l->index == index)
            return l;
    }
    return NULL;
}

/* ---- the end of a lease ---- */

static void lease_free(struct lease *l)
{
    list_remove(&l->node);
    l->lc->reactors[l->reactor_index].slot_used[l->slot] = false;
    free(l);
}

static void lease_ended(struct lease *l)
{
    void (*opened)(void *arg, int rc, const struct err *err) = l->opened;
    void (*closed)(void *arg) = l->closed;
    void *opened_arg = l->opened_arg, *closed_arg = l->closed_arg;
    struct err failure = l->failure;

    lease_free(l);
    if (opened)
        opened(opened_arg, failure.code, &failure);
    if (closed)
        closed(closed_arg);
}

static void send_release(struct lease *l)
{
    struct link_msg msg = {
        .type = LINK_RELEASE, .function = l->index, .cookie = ++l->lc->next_cookie};

    /* A send that fails ends all leases that wait for an answer: this one does not yet. */
    l->state = LEASE_CLOSING;
    crash_point(link_releasing);
    if (link_send(l->lc, &msg, NULL, 0) < 0)
        lease_ended(l);
    else
        l->state = LEASE_RELEASING;
}

static void function_gone(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;

    free(e);
    function_destroy(l->f);
    l->f = NULL;
    send_release(l);
}

static void take_off_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    visits_remove(e->lease->f);
    function_ignore_kicks(e->lease->f);
    lease_errand_back(e, function_gone);
}

static void lease_shut(struct lease *l)
{
    l->state = LEASE_CLOSING;
    reactor_post(l->reactor, &lease_errand(l, take_off_reactor)->mail);
}

void lease_close(struct lease *l, void (*closed)(void *arg), void *arg)
{
    l->closed = closed;
    l->closed_arg = arg;
    l->opened = NULL;
    if (l->state == LEASE_WAITING) {
        struct link_msg msg = {.type = LINK_CANCEL_OPEN, .function = l->index, .cookie = l->cookie};

        link_send(l->lc, &msg, NULL, 0); /* if it fails, the lease has ended */
        return; /* LINK_OPENED tells: cancelled, or granted in the meantime */
    }
    if (l->state == LEASE_OPEN)
        lease_shut(l);
    /* Syncing or adopting: the end of that step sees closed and goes on to shut. */
}

/* ---- opening ---- */

static void adopted(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_START, .function = l->index};
    void (*opened)(void *arg, int rc, const struct err *err);

    l->state = LEASE_OPEN;
    if (e->rc < 0)
        l->failure = e->err;
    free(e);
    if (l->failure.code < 0 || l->closed) {
        lease_shut(l);
        return;
    }
    crash_point(link_adopted);
    link_send(l->lc, &msg, NULL, 0);
    crash_point(link_started);
    opened = l->opened;
    l->opened = NULL;
    if (opened)
        opened(l->opened_arg, 0, NULL);
}

static void adopt(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;

    visits_add(l->lc->reactors[l->reactor_index].visits, l->f, l->slot);
    e->rc = function_adopt(l->f, &e->err);
    if (e->rc < 0 && e->err.code == 0)
        err_set(&e->err, e->rc, "function %s: %s", function_info(l->f)->vuid, strerror(-e->rc));
    lease_errand_back(e, adopted);
}

static int map_shared(int fd, uint64_t min_bytes, void **ret, uint64_t *ret_bytes)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -EBADF;
    if ((uint64_t)st.st_size < min_bytes)
        return -EBADMSG;
    *ret =
        mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (*ret == MAP_FAILED)
        return -ENOMEM;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

/* The file is an image of BAR0: the doorbell page alone is mapped. */
static int map_doorbells(int fd, void **ret)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < STATE_DOORBELL_OFFSET + STATE_DOORBELL_BYTES)
        return -EBADMSG;
    *ret = mmap(NULL, STATE_DOORBELL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                STATE_DOORBELL_OFFSET);
    return *ret == MAP_FAILED ? -ENOMEM : 0;
}

static int check_state(const struct state_memory *st, uint64_t bytes, struct err *err)
{
    if (st->head.magic != STATE_MAGIC || st->head.version != STATE_VERSION)
        return err_set(
            err, -EPROTO,
            "state memory of function %.63s has version %u, this service knows %d: use the service "
            "that fits snap_emu",
            st->head.vuid, st->head.version, STATE_VERSION);
    if (st->head.device_offset != STATE_DEVICE_OFFSET || st->head.total_bytes != bytes ||
        st->head.reg_bytes != STATE_REG_BYTES || st->head.log_entries != STATE_LOG_ENTRIES)
        return err_set(err, -EPROTO, "state memory of function %.63s has another layout",
                       st->head.vuid);
    return 0;
}

static int build_function(struct lease *l, struct packet *p, struct err *err)
{
    struct function_parts parts = {
        .reactor = l->reactor, .ops = l->ops, .dev = l->dev, .owned = true};
    void *state = NULL, *doorbells = NULL;
    int rc;

    if (p->nfds != 2)
        return err_set(err, -EBADMSG, "snap_emu sent %u descriptors with a lease, 2 are needed",
                       p->nfds);
    parts.info = l->lc->functions[l->index];
    rc = map_shared(p->fds[0], STATE_DEVICE_OFFSET + 4096, &state, &parts.state_bytes);
    if (rc < 0)
        return err_set(err, rc, "state memory: %s", strerror(-rc));
    parts.state = state;
    rc = check_state(parts.state, parts.state_bytes, err);
    if (rc == 0) {
        rc = map_doorbells(p->fds[1], &doorbells);
        if (rc < 0)
            err_set(err, rc, "doorbell page: %s", strerror(-rc));
    }
    if (rc < 0) {
        munmap(state, parts.state_bytes);
        return rc;
    }
    parts.doorbells = doorbells;
    l->f = function_create(&parts);
    if (!l->f) {
        munmap(state, parts.state_bytes);
        munmap(doorbells, STATE_DOORBELL_BYTES);
        return err_set(err, -ENOMEM, "no memory for function %s", parts.info.vuid);
    }
    l->f->config_cb = lease_config_changed;
    l->f->config_arg = l;
    return 0;
}

static void on_opened(struct lease *l, struct packet *p)
{
    p->msg.text[sizeof(p->msg.text) - 1] = '\0';
    if (p->msg.rc < 0) {
        err_set(&l->failure, p->msg.rc, "%s", p->msg.text[0] ? p->msg.text : strerror(-p->msg.rc));
        lease_ended(l);
        return;
    }
    if (build_function(l, p, &l->failure) < 0) {
        send_release(l);
        return;
    }
    crash_point(link_leased);
    l->state = LEASE_SYNCING;
}

/* ---- packets ---- */

void lease_packet(struct link_client *lc, struct packet *p)
{
    struct lease *l = lease_by_function(lc, p->msg.function);

    if (!l)
        return;
    if (p->msg.type == LINK_OPENED && l->state == LEASE_WAITING) {
        on_opened(l, p);
        return;
    }
    if (p->msg.type == LINK_RELEASED && l->state == LEASE_RELEASING) {
        crash_point(link_released);
        lease_ended(l);
        return;
    }
    /* Given back or not ours yet: snap_emu takes our LINK_RELEASE as the answer to all it has
     * asked. */
    if (!l->f || l->state == LEASE_CLOSING || l->state == LEASE_RELEASING)
        return;
    if (p->msg.type != LINK_SYNCED) {
        lease_event(l, p);
    } else if (l->state == LEASE_SYNCING) {
        l->state = LEASE_ADOPTING;
        crash_point(link_synced);
        reactor_post(l->reactor, &lease_errand(l, adopt)->mail);
    }
}

void leases_lost(struct link_client *lc)
{
    list_for_each_safe(it, &lc->leases)
    {
        struct lease *l = list_entry(it, struct lease, node);

        if (l->state == LEASE_WAITING || l->state == LEASE_RELEASING) {
            err_set(&l->failure, -ENOTCONN, "connection to snap_emu is lost");
            lease_ended(l);
        }
    }
}

/* ---- the door ---- */

struct lease *lease_open(struct link_client *lc, unsigned index, const char *ctrl_id,
                         struct reactor *r, const struct function_ops *ops, void *dev,
                         void (*opened)(void *arg, int rc, const struct err *err), void *arg)
{
    struct link_msg msg = {.type = LINK_OPEN, .function = index, .cookie = ++lc->next_cookie};
    struct lease *l = calloc(1, sizeof(*l));
    unsigned ri = 0, slot = 0;

    while (ri < lc->nreactors && lc->reactors[ri].reactor != r)
        ri++;
    while (ri < lc->nreactors && slot < WAKE_SLOTS && lc->reactors[ri].slot_used[slot])
        slot++;
    if (!l || ri == lc->nreactors || slot == WAKE_SLOTS || index >= lc->nfunctions) {
        free(l);
        return NULL;
    }
    *l = (struct lease){.lc = lc,
                        .index = index,
                        .reactor_index = ri,
                        .slot = slot,
                        .cookie = msg.cookie,
                        .reactor = r,
                        .ops = ops,
                        .dev = dev,
                        .opened = opened,
                        .opened_arg = arg};
    lc->reactors[ri].slot_used[slot] = true;
    list_init(&l->node);
    msg.open.reactor = ri;
    msg.open.slot = slot;
    snprintf(msg.open.ctrl_id, sizeof(msg.open.ctrl_id), "%s", ctrl_id);
    if (link_send(lc, &msg, NULL, 0) < 0) {
        lease_free(l);
        return NULL;
    }
    list_append(&lc->leases, &l->node); /* not earlier: a send that fails ends those that wait */
    return l;
}

bool lease_waiting(const struct lease *l)
{
    return l->state == LEASE_WAITING;
}

struct function *lease_function(struct lease *l)
{
    return l->f;
}
