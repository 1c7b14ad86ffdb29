/* SPDX-License-Identifier: BSD-3-Clause
 *
 * controller/controller.h - the life of a controller on a function, whatever device it is: the
 * lease is waited for, the device adopts or initialises, runs, is suspended, resumed, and at the
 * end quits and gives the lease back. Knows no device: a kind is a table. Device rooms embed struct
 * controller. Thread: control; what it asks of a device runs on the device's reactor. */
#ifndef CONTROLLER_CONTROLLER_H
#define CONTROLLER_CONTROLLER_H

#include "controller/device.h"
#include "link/client.h"

struct controller;

/* What makes a device a controller. Every slot is filled. */
struct controller_kind {
    const char *word; /* for people: "NVMe", "virtio-blk" */
    uint32_t function_kind;
    const struct function_ops *ops; /* they get the struct device */
    /* Control, the last thing that happens to it: frees the controller and its device. */
    void (*free)(struct controller *c);
};

enum controller_state {
    CONTROLLER_WAITING, /* for the lease */
    CONTROLLER_SUSPENDED,
    CONTROLLER_STARTED,
    CONTROLLER_SUSPENDING,
    CONTROLLER_LEAVING,
};

struct controllers { /* all of a service; names are unique */
    struct list list;
};
void controllers_init(struct controllers *set);

struct errand;

struct controller {
    struct list node;
    const struct controller_kind *kind;
    struct device *dev;
    struct link_client *link;
    unsigned function; /* index in the link's table */
    struct reactor *control, *reactor;
    char ctrl_id[LINK_NAME_BYTES];
    enum controller_state state;
    /* Private to this room. */
    bool auto_resume, quit_done;
    char state_text[128], failure[300];
    struct link_function_info info; /* a copy, refreshed by controller_function() */
    struct lease *lease;
    controller_cb created, destroyed;
    void *created_arg, *destroyed_arg;
    struct errand *resume_when_open; /* asked for while the lease was waited for */
};

/* What the makers of all kinds are told. */
struct controller_opts {
    struct controllers *set;
    const char *ctrl_id; /* copied; not NULL: the caller has chosen one */
    struct link_client *link;
    unsigned function; /* index in the link's table */
    struct reactor *reactor;
    bool suspended;
};

/* The function exists and is of the kind: 0 or -ENODEV, -EINVAL. */
int controller_check_function(struct link_client *link, unsigned function,
                              const struct controller_kind *kind, struct err *err);
/* Fills c, which the caller has zeroed, and opens the lease. From here on c belongs to this room
 * until kind->free(); on error it does not (and is in no set). created runs once, never inside:
 * with success when it is suspended or, without opts->suspended, runs; with an error when it is
 * gone again. */
int controller_open(struct controller *c, const struct controller_kind *kind, struct device *dev,
                    const struct controller_opts *opts, controller_cb created, void *arg,
                    struct err *err);
/* Stops fetching, drains or cancels what is in flight, releases the lease, frees. -EALREADY. */
void controller_destroy(struct controller *c, controller_cb destroyed, void *arg);
void controller_suspend(struct controller *c, enum controller_part part, uint64_t timeout_ms,
                        controller_cb done, void *arg);
void controller_resume(struct controller *c, controller_cb done, void *arg);

struct controller *controller_find(struct controllers *set, const char *ctrl_id);
/* The one that serves a function, or NULL. */
struct controller *controller_of_function(struct controllers *set, const char *vuid);
void controller_for_each(struct controllers *set, void (*fn)(struct controller *c, void *arg),
                         void *arg);

/* "STARTED", "SUSPENDED", "SUSPENDING", "WAITING" (lease), "FAILED: reason". Both texts are valid
 * until the next call on this controller. */
const char *controller_state_text(struct controller *c);
const struct link_function_info *controller_function(struct controller *c);

/* ---- errands: go to the reactor, act, come back and call back ---- */
/* A kind's own errands begin with this struct: errand_new() gives bytes of zeroes. */
struct errand {
    struct mail mail;
    struct controller *ctrl;
    controller_cb done; /* may be NULL */
    void *arg;
    int rc;
    struct err err;
    enum controller_part part;
    uint64_t timeout_ms;
    void (*back)(struct errand *e); /* on control, before done; may be NULL */
};
#define errand_of(m) container_of(m, struct errand, mail)

/* Freed after done; out of memory ends the service. */
struct errand *errand_new(struct controller *c, size_t bytes, controller_cb done, void *arg);
void errand_go(struct errand *e, void (*fn)(struct mail *m)); /* fn runs on the reactor */
void errand_back(struct errand *e, int rc);                   /* there: back, with this result */
void errand_answer(void *arg, int rc, const struct err *err); /* the same, as a device's callback */
/* On control: an answer that needs no reactor, but must not come inside the call. */
void errand_now(struct errand *e, int rc);

#endif
