/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the control thread asks a device on its reactor, and the answer's way back. */
#include "controller/controller.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

struct errand *errand_new(struct controller *c, size_t bytes, controller_cb done, void *arg)
{
    struct errand *e = calloc(1, bytes);

    if (!e) {
        log_line(LOG_CRITICAL, "controller", "out of memory");
        abort(); /* our own memory; the state memory survives this */
    }
    e->ctrl = c;
    e->done = done;
    e->arg = arg;
    return e;
}

void errand_go(struct errand *e, void (*fn)(struct mail *m))
{
    e->mail.fn = fn;
    reactor_post(e->ctrl->reactor, &e->mail);
}

static void errand_came_back(struct mail *m)
{
    struct errand *e = errand_of(m);

    if (e->rc < 0 && e->err.code == 0)
        err_set(&e->err, e->rc, "controller %s: %s", e->ctrl->ctrl_id, strerror(-e->rc));
    if (e->back)
        e->back(e);
    if (e->done)
        e->done(e->arg, e->rc, e->rc < 0 ? &e->err : NULL);
    free(e);
}

void errand_back(struct errand *e, int rc)
{
    e->rc = rc;
    e->mail.fn = errand_came_back;
    reactor_post(e->ctrl->control, &e->mail);
}

void errand_answer(void *arg, int rc, const struct err *err)
{
    struct errand *e = arg;

    if (err)
        e->err = *err;
    errand_back(e, rc);
}

void errand_now(struct errand *e, int rc)
{
    errand_back(e, rc);
}
