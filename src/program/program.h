/* SPDX-License-Identifier: BSD-3-Clause
 *
 * program/program.h - the life that snap_service and snap_target have in common: signals, journal,
 * I/O reactors with their rings, replay, RPC socket, orderly stop. The order is program_open(),
 * program_make_reactors(), what the program adds of its own, program_spawn_reactors(),
 * program_run(). Thread: control, which is the one that calls all this. Owner: nothing is given
 * back: threads, channels and mappings end with the process. */
#ifndef PROGRAM_PROGRAM_H
#define PROGRAM_PROGRAM_H

#include "control/control.h"
#include "journal/journal.h"
#include "program/options.h"
#include "rpc/server.h"

enum { PROGRAM_REACTORS = 64 };

struct program {
    /* the program's, before program_open() */
    const char *room; /* of log lines: "service" */
    const struct program_options *opts;
    const struct rpc_method_set *methods;
    void (*ready)(struct program *p); /* the configuration is restored, RPCs are served */
    /* An orderly stop; no more RPCs come. Ends what it serves, then calls program_stopped(). */
    void (*stop)(struct program *p);

    /* made here */
    struct reactor *control;
    struct reactor *reactors[PROGRAM_REACTORS];
    unsigned nreactors;
    struct journal *journal;
    struct control_ctx ctx; /* bdevs, controllers and NVMe-oF hosts; the program adds the rest */
    struct rpc_env env;     /* ctx is its ctx */

    /* inside */
    struct rpc_server *server;
    struct watch signals;
    struct timer start;
    int signal_fd;
    bool stopping, failed;
};

/* p is zeroed but for its first part; the state directory exists. Takes possession of it. */
int program_open(struct program *p, struct err *err);
/* held: nheld descriptors that every ring keeps open until the kernel has let go of its requests,
 * also when the process is dead; they stay the caller's to close. */
int program_make_reactors(struct program *p, const int *held, unsigned nheld, struct err *err);
int program_spawn_reactors(struct program *p, struct err *err);

/* Restores the saved configuration inside the loop, serves, and returns the exit code after an
 * orderly stop (SIGTERM, SIGINT) or program_fail(). */
int program_run(struct program *p);
/* Answers stop(). A second signal does not wait for it. */
void program_stopped(struct program *p);
/* Ends the loop at once; the exit code says that something is wrong. */
void program_fail(struct program *p);

#endif
