/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What snap_emu tells about a leased function: memory, interrupts, virtqueues, resets. Memory is
 * mapped and unmapped on the control thread; the rest is mailed to the function's reactor, in
 * order. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "link/lease_inside.h"

#include <errno.h>
#include <stdlib.h>

/* ---- memory ---- */

static void add_region(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_add_region(e->lease->f, e->region);
    free(e);
}

static void on_mem_add(struct lease *l, struct packet *p)
{
    struct guest_region *region;
    struct errand *e;
    struct err err;

    if (p->nfds != 1)
        return;
    region = guest_region_open(p->msg.mem.id, p->msg.mem.gpa, p->msg.mem.size_bytes, p->fds[0],
                               p->msg.mem.fd_offset, p->msg.mem.prot, &err);
    if (!region) {
        log_line(LOG_ERROR, "link", "function %s: %s", function_info(l->f)->vuid, err.msg);
        return;
    }
    e = lease_errand(l, add_region);
    e->region = region;
    reactor_post(l->reactor, &e->mail);
}

static void region_closed(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_MEM_DETACHED, .function = l->index, .cookie = e->cookie};

    guest_region_close(e->region);
    free(e);
    crash_point(link_memory_closed);
    if (l->state == LEASE_OPEN || l->state == LEASE_ADOPTING || l->state == LEASE_SYNCING)
        link_send(l->lc, &msg, NULL, 0);
}

static void region_detached(void *arg, struct guest_region *region)
{
    struct errand *e = arg;

    e->region = region;
    lease_errand_back(e, region_closed);
}

static void detach_region(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_detach_region(e->lease->f, e->id, region_detached, e);
}

static void on_mem_del(struct lease *l, const struct packet *p)
{
    struct errand *e = lease_errand(l, detach_region);

    e->cookie = p->msg.cookie;
    e->id = p->msg.mem.id;
    reactor_post(l->reactor, &e->mail);
}

/* ---- interrupts, reset, flags ---- */

static void set_irq(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_set_irq(e->lease->f, e->id, e->fd);
    free(e);
}

static void on_irq(struct lease *l, struct packet *p)
{
    for (uint32_t i = 0; i < p->msg.irq.count && i < FUNCTION_MAX_VECTORS; i++) {
        struct errand *e = lease_errand(l, set_irq);

        e->id = p->msg.irq.start + i;
        if (i < p->nfds) {
            e->fd = p->fds[i];
            p->fds[i] = -1;
        }
        reactor_post(l->reactor, &e->mail);
    }
}

static void reset_answer(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_RESET_DONE, .function = l->index, .cookie = e->cookie};

    msg.reset.epoch = e->epoch;
    free(e);
    crash_point(link_reset_done);
    if (l->state == LEASE_OPEN || l->state == LEASE_ADOPTING)
        link_send(l->lc, &msg, NULL, 0);
}

static void reset_done(void *arg)
{
    lease_errand_back(arg, reset_answer);
}

static void reset(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_reset(e->lease->f, e->why, e->epoch, reset_done, e);
}

static void on_reset(struct lease *l, const struct packet *p)
{
    struct errand *e = lease_errand(l, reset);

    e->cookie = p->msg.cookie;
    e->epoch = p->msg.reset.epoch;
    e->why = p->msg.reset.why;
    reactor_post(l->reactor, &e->mail);
}

static void flags(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_flags_changed(e->lease->f);
    free(e);
}

/* ---- virtqueues ---- */

static void queue_stopped_answer(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_QUEUE_STOPPED, .function = l->index, .cookie = e->cookie};

    msg.queue.index = e->queue.index;
    msg.queue.base = e->queue.base;
    free(e);
    crash_point(link_queue_stopped);
    if (msg.queue.base != FUNCTION_NOT_STOPPED &&
        (l->state == LEASE_OPEN || l->state == LEASE_ADOPTING))
        link_send(l->lc, &msg, NULL, 0);
}

static void queue_stopped(void *arg, uint32_t base)
{
    struct errand *e = arg;

    e->queue.base = base;
    lease_errand_back(e, queue_stopped_answer);
}

static void queue_paused_answer(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_QUEUE_PAUSED, .function = l->index, .cookie = e->cookie};

    msg.queue.index = e->queue.index;
    free(e);
    if (l->state == LEASE_OPEN || l->state == LEASE_ADOPTING)
        link_send(l->lc, &msg, NULL, 0);
}

static void set_queue(struct mail *m)
{
    struct errand *e = errand_of(m);

    if (e->stop) {
        function_set_queue(e->lease->f, &e->queue, e->fd, queue_stopped, e);
        return;
    }
    function_set_queue(e->lease->f, &e->queue, e->fd, NULL, NULL);
    if (e->pause)
        lease_errand_back(e, queue_paused_answer);
    else
        free(e);
}

static void on_queue(struct lease *l, struct packet *p)
{
    struct errand *e = lease_errand(l, set_queue);

    e->cookie = p->msg.cookie;
    e->stop = p->msg.queue.flags & LINK_QUEUE_STOP;
    e->pause = p->msg.queue.flags & LINK_QUEUE_PAUSE;
    e->queue = (struct function_queue){
        .index = p->msg.queue.index,
        .size = p->msg.queue.size,
        .base = p->msg.queue.base,
        .start = p->msg.queue.start,
        .features = p->msg.queue.features,
        .desc_gpa = p->msg.queue.desc_gpa,
        .driver_gpa = p->msg.queue.driver_gpa,
        .device_gpa = p->msg.queue.device_gpa,
        .run = (p->msg.queue.flags & LINK_QUEUE_RUN) && !e->stop,
    };
    if (p->nfds > 0) {
        e->fd = p->fds[0];
        p->fds[0] = -1;
    }
    reactor_post(l->reactor, &e->mail);
}

static void set_inflight(struct mail *m)
{
    struct errand *e = errand_of(m);

    function_set_inflight(e->lease->f, e->region, e->queues, e->queue_size);
    free(e);
}

static void on_inflight(struct lease *l, struct packet *p)
{
    struct guest_region *region;
    struct errand *e;
    struct err err;

    if (p->nfds != 1)
        return;
    region = guest_region_open(0, 0, p->msg.inflight.size_bytes, p->fds[0],
                               p->msg.inflight.fd_offset, GUEST_READ | GUEST_WRITE, &err);
    if (!region) {
        log_line(LOG_ERROR, "link", "function %s: in-flight area: %s", function_info(l->f)->vuid,
                 err.msg);
        return;
    }
    e = lease_errand(l, set_inflight);
    e->region = region;
    e->queues = p->msg.inflight.queues;
    e->queue_size = p->msg.inflight.queue_size;
    reactor_post(l->reactor, &e->mail);
}

static void config_changed(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct lease *l = e->lease;
    struct link_msg msg = {.type = LINK_CONFIG_CHANGED, .function = l->index};

    free(e);
    if (l->state == LEASE_OPEN || l->state == LEASE_ADOPTING)
        link_send(l->lc, &msg, NULL, 0);
}

void lease_config_changed(void *arg)
{
    lease_errand_back(lease_errand(arg, NULL), config_changed);
}

/* ---- packets ---- */

void lease_event(struct lease *l, struct packet *p)
{
    switch (p->msg.type) {
    case LINK_MEM_ADD:
        on_mem_add(l, p);
        break;
    case LINK_MEM_DEL:
        on_mem_del(l, p);
        break;
    case LINK_IRQ:
        on_irq(l, p);
        break;
    case LINK_RESET:
        on_reset(l, p);
        break;
    case LINK_FLAGS:
        reactor_post(l->reactor, &lease_errand(l, flags)->mail);
        break;
    case LINK_QUEUE:
        on_queue(l, p);
        break;
    case LINK_INFLIGHT:
        on_inflight(l, p);
        break;
    default:
        break;
    }
}
