/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Commands of nvmeof_drive and nvmeof_steps about the paths of their controller, one a line:
 *     path PORT [other-subsystem]    leave PORT    prefer CNTLID
 *     policy active_passive | active_active [queue_depth | RR_MIN_IO]
 * Answers on stdout: "path added", "path failed MESSAGE", "path left". */
#ifndef NVMEOF_PATHS_H
#define NVMEOF_PATHS_H

#include "backends/nvme_of/nvme_of.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void path_said(const char *what, const char *more)
{
    printf("path %s%s%s\n", what, more[0] ? " " : "", more);
    fflush(stdout);
}

static void path_added(void *arg, struct nvme_of_host *h, const struct err *err)
{
    (void)arg;
    path_said(h ? "added" : "failed", h ? "" : err->msg);
}

static void path_left(void *arg)
{
    (void)arg;
    path_said("left", "");
}

struct path_policy {
    bool active_active, queue_depth;
    uint32_t rr_min_io;
};

static void path_set_policy(struct bdev *bd, void *arg)
{
    const struct path_policy *p = arg;

    nvme_of_set_policy(bd, p->active_active, p->queue_depth, p->rr_min_io);
}

static void path_prefer(struct bdev *bd, void *arg)
{
    struct err err;

    if (nvme_of_set_preferred(bd, *(uint16_t *)arg, &err))
        path_said("failed", err.msg);
}

/* True: the line was one of these. first: the options of the attach call. */
static bool path_command(char *line, struct nvme_of *of, struct nvme_of_host *host,
                         struct bdev_set *bdevs, const struct nvme_of_opts *first)
{
    char word[32] = "", arg[32] = "", more[32] = "";
    struct err err;

    sscanf(line, "%31s %31s %31s", word, arg, more);
    if (strcmp(word, "path") == 0) {
        struct nvme_of_opts opts = *first;

        opts.known = NULL;
        opts.trsvcid = arg;
        if (more[0])
            opts.subnqn = more;
        if (nvme_of_attach(of, &opts, path_added, NULL, &err))
            path_said("failed", err.msg);
    } else if (strcmp(word, "leave") == 0) {
        struct nvme_of_address address = {.trsvcid = arg};

        if (nvme_of_detach_path(host, &address, path_left, NULL, &err))
            path_said("failed", err.msg);
    } else if (strcmp(word, "policy") == 0) {
        struct path_policy policy = {strcmp(arg, "active_active") == 0,
                                     strcmp(more, "queue_depth") == 0,
                                     (uint32_t)strtoul(more, NULL, 10)};

        bdev_for_each(bdevs, path_set_policy, &policy);
    } else if (strcmp(word, "prefer") == 0) {
        uint16_t cntlid = (uint16_t)strtoul(arg, NULL, 10);

        bdev_for_each(bdevs, path_prefer, &cntlid);
    } else {
        return false;
    }
    return true;
}

#endif
