/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Single requests through the bdev door of the NVMe-oF backend, as a test wants them. Commands by
 * stdin, one a line; REACTOR is a number, BYTE what the data are filled with:
 *     write ID REACTOR LBA BLOCKS BYTE [resent]    zeroes/unmap ID REACTOR LBA BLOCKS [resent]
 *     read ID REACTOR LBA BLOCKS    flush ID REACTOR    detach ID    cancel ID    state    stop
 * and those of nvmeof_paths.h. On stdout: ready; "done ID rc BYTE" (of a read: its first byte, -1
 * when they differ); "detached ID rc"; bdev {...} (state). Of the first namespace. */
#include "backends/nvme_of/nvme_of.h"
#include "base/log.h"
#include "base/util.h"
#include "bdev/bdev.h"
#include "nvmeof_paths.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_REACTORS = 4, MAX_REQUESTS = 1000, MAX_BYTES = 1 << 20 };

enum action { SUBMIT, DETACH, CANCEL };

struct request {
    struct bdev_req req;
    struct mail mail;
    unsigned id, reactor;
    enum action action;
    int byte;
    struct iovec iov;
    char *buf;
    bool over;
};

static struct reactor *control, *reactors[MAX_REACTORS];
static struct bdev_channel *channels[MAX_REACTORS];
static struct mail close_mail[MAX_REACTORS], closed_mail;
static struct request requests[MAX_REQUESTS];
static unsigned nreactors = 1;
static struct bdev_set *bdevs;
static struct bdev *disk;
static struct nvme_of *of;
static struct nvme_of_host *host;
static struct nvme_of_opts opts = {
    .name = "Peer0", .traddr = "127.0.0.1", .subnqn = "nqn.2024-01.io.opensnap:peer"};

static void say_done(struct request *r, int rc)
{
    int byte = r->req.op == BDEV_READ && rc == 0 ? (unsigned char)r->buf[0] : 0;

    for (size_t i = 0; r->req.op == BDEV_READ && rc == 0 && i < r->iov.iov_len; i++)
        if ((unsigned char)r->buf[i] != byte)
            byte = -1;
    r->over = true;
    printf("done %u %d %d\n", r->id, rc, byte);
    fflush(stdout);
}

static void done(struct bdev_req *req, int rc)
{
    say_done((struct request *)(void *)req, rc);
}

static void submit(struct request *r)
{
    size_t bytes = r->req.nblocks * (size_t)bdev_get_info(disk).block_bytes;
    int rc;

    if (r->req.op == BDEV_READ || r->req.op == BDEV_WRITE) {
        r->buf = malloc(bytes);
        if (!r->buf)
            abort();
        memset(r->buf, r->byte, bytes);
        r->iov = (struct iovec){r->buf, bytes};
        r->req.iov = &r->iov;
        r->req.iovcnt = 1;
    }
    r->req.done = done;
    rc = bdev_submit(channels[r->reactor], &r->req);
    if (rc != BDEV_PENDING)
        say_done(r, rc);
    bdev_flush_batch(channels[r->reactor]);
}

/* On the request's reactor. */
static void act(struct mail *m)
{
    struct request *r = container_of(m, struct request, mail);
    struct err err;
    int rc;

    if (!channels[r->reactor]) {
        channels[r->reactor] = bdev_channel_get(disk, reactors[r->reactor], &err);
    }
    if (r->action == SUBMIT) {
        submit(r);
    } else if (r->over) {
        printf("error request %u is over\n", r->id);
        fflush(stdout);
    } else if (r->action == CANCEL) {
        bdev_cancel(channels[r->reactor], &r->req);
    } else {
        rc = bdev_detach(channels[r->reactor], &r->req);
        printf("detached %u %d\n", r->id, rc);
        fflush(stdout);
        if (rc == 0 && r->buf)
            memset(r->buf, 0xdb, r->iov.iov_len);
    }
}

static void describe(void)
{
    json_t *o = json_object();
    char *text;

    bdev_ops_of(disk)->describe(bdev_dev(disk), o);
    text = json_dumps(o, JSON_COMPACT);
    printf("bdev %s\n", text);
    fflush(stdout);
    free(text);
    json_decref(o);
}

static void host_gone(void *arg)
{
    (void)arg;
    printf("stopped\n");
    reactor_stop(control);
}

static void channels_closed(struct mail *m)
{
    struct err err;

    (void)m;
    if (nvme_of_detach(host, host_gone, NULL, &err)) {
        printf("error %s\n", err.msg);
        reactor_stop(control);
    }
}

static void close_one(struct mail *m)
{
    unsigned i = (unsigned)(m - close_mail);

    if (channels[i])
        bdev_channel_put(channels[i]);
    if (i + 1 < nreactors)
        reactor_post(reactors[i + 1], &close_mail[i + 1]);
    else
        reactor_post(control, &closed_mail);
}

static void submit_line(const char *word, char *rest)
{
    static const struct {
        const char *name;
        enum bdev_op op;
    } ops[] = {{"write", BDEV_WRITE},
               {"zeroes", BDEV_WRITE_ZEROES},
               {"unmap", BDEV_UNMAP},
               {"read", BDEV_READ},
               {"flush", BDEV_FLUSH}};
    unsigned id = 0, reactor = 0, blocks = 0, byte = 0;
    unsigned long long lba = 0;
    struct request *r;

    sscanf(rest, "%u %u %llu %u %u", &id, &reactor, &lba, &blocks, &byte);
    if (id >= MAX_REQUESTS || reactor >= nreactors || requests[id].mail.fn) {
        printf("error no such request or reactor: %s\n", rest);
        fflush(stdout);
        return;
    }
    r = &requests[id];
    r->id = id;
    r->reactor = reactor;
    r->byte = (int)byte;
    r->req.lba = lba;
    r->req.nblocks = blocks;
    r->req.flags = strstr(rest, "resent") ? BDEV_RESENT : 0;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        if (strcmp(ops[i].name, word) == 0)
            r->req.op = ops[i].op;
    r->mail.fn = act;
    reactor_post(reactors[reactor], &r->mail);
}

static void line(char *text)
{
    char word[32] = "";
    int used = 0;
    unsigned id;

    sscanf(text, "%31s %n", word, &used);
    if (path_command(text, of, host, bdevs, &opts))
        return;
    if (strcmp(word, "state") == 0) {
        describe();
    } else if (strcmp(word, "stop") == 0) {
        reactor_post(reactors[0], &close_mail[0]);
    } else if (strcmp(word, "detach") == 0 || strcmp(word, "cancel") == 0) {
        id = (unsigned)strtoul(text + used, NULL, 10) % MAX_REQUESTS;
        requests[id].action = word[0] == 'd' ? DETACH : CANCEL;
        reactor_post(reactors[requests[id].reactor], &requests[id].mail);
    } else {
        submit_line(word, text + used);
    }
}

static void input(struct watch *w, uint32_t events)
{
    static char text[8192];
    static size_t have;
    ssize_t n = read(w->fd, text + have, sizeof(text) - 1 - have);
    char *at = text, *end;

    (void)events;
    if (n <= 0) {
        watch_remove(control, w);
        reactor_stop(control);
        return;
    }
    have += (size_t)n;
    text[have] = '\0';
    while ((end = strchr(at, '\n'))) {
        *end = '\0';
        line(at);
        at = end + 1;
    }
    have -= (size_t)(at - text);
    memmove(text, at, have);
}

static void first_bdev(struct bdev *bd, void *arg)
{
    (void)arg;
    if (!disk)
        disk = bd;
}

static void attached(void *arg, struct nvme_of_host *h, const struct err *err)
{
    (void)arg;
    if (err) {
        printf("failed %s\n", err->msg);
        reactor_stop(control);
        return;
    }
    host = h;
    bdev_for_each(bdevs, first_bdev, NULL);
    printf("ready\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"port", 1, 0, 'p'}, {"keep-alive-ms", 1, 0, 'K'}, {"reactors", 1, 0, 'r'}, {0}};
    static struct watch in;
    struct bdev_uuid hostid;
    struct err err;
    int c;

    log_set_program("nvmeof_steps");
    while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
        if (c == 'p')
            opts.trsvcid = optarg;
        else if (c == 'K')
            opts.keep_alive_ms = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'r')
            nreactors = MIN((unsigned)strtoul(optarg, NULL, 10), (unsigned)MAX_REACTORS);
        else
            return 2;
    }
    control = reactor_create("control", &err);
    bdevs = bdev_set_create();
    for (unsigned i = 0; i < nreactors; i++) {
        reactors[i] = reactor_create("io", &err);
        reactor_spawn(reactors[i], -1, &err);
        close_mail[i].fn = close_one;
    }
    closed_mail.fn = channels_closed;
    bdev_uuid_random(&hostid);
    of = nvme_of_create(control, bdevs, &hostid);
    watch_add(control, &in, 0, EPOLLIN, input);
    if (nvme_of_attach(of, &opts, attached, NULL, &err)) {
        printf("failed %s\n", err.msg);
        return 1;
    }
    reactor_run(control);
    return host ? 0 : 1;
}
