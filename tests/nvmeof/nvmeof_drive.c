/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Drives the NVMe-oF backend through the bdev door: random I/O with verification on one or more
 * reactors, with detaches and cancels in between. Commands come by stdin, one a line ("state",
 * "stop", "detach", and those of nvmeof_paths.h); what happens is told on stdout: attached Peer0n1
 * 65536 512 <uuid>     failed <message>     changed ...     OK ops=... */
#include "backends/nvme_of/nvme_of.h"
#include "base/log.h"
#include "bdev/bdev.h"
#include "nvmeof_paths.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_DEPTH = 256, MAX_IOV = 12, MAX_WORKERS = 64, UNKNOWN = 0xffffffff };

static struct {
    struct nvme_of_opts attach;
    unsigned depth, max_kib, reactors, seed, detach_percent, cancel_percent, seconds, range_kib;
    const char *ops;
    bool aligned, scribble;
    struct nvme_of_namespace known[16];
} cfg = {.depth = 16,
         .max_kib = 256,
         .reactors = 1,
         .seed = 1,
         .seconds = 3,
         .ops = "rw",
         .range_kib = 4096};

static struct reactor *control;
static struct bdev_set *bdevs;
static struct nvme_of *of;
static struct nvme_of_host *host;
static struct reactor *reactors[16];
static _Atomic unsigned running, failures;
static _Atomic uint64_t total_ops, total_bytes, total_errors, total_canceled, total_detached,
    total_verified;
static _Atomic bool stopping;

struct worker;

struct slot {
    struct bdev_req req;
    struct worker *w;
    bool busy, detached, canceled, poisoned, written_half;
    uint32_t first, blocks, version;
    struct iovec iov[MAX_IOV];
    char *buf;
};

struct worker {
    struct bdev *bd;
    struct reactor *r;
    struct bdev_channel *ch;
    struct mail start_mail, stop_mail;
    struct timer tick;
    uint32_t block_bytes, nblocks, seed;
    uint64_t base; /* first block of our part */
    uint32_t *version;
    bool *busy;
    struct slot slots[MAX_DEPTH];
    unsigned out;
    uint64_t deadline_us;
    uint32_t final_at;
    bool started, final, over;
    uint32_t next_version;
};

static struct worker workers[MAX_WORKERS];
static unsigned nworkers;

static void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *fmt, ...)
{
    va_list ap;

    if (atomic_fetch_add(&failures, 1) > 20)
        return;
    va_start(ap, fmt);
    printf("error ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    fflush(stdout);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static void fill(char *buf, uint32_t block_bytes, uint64_t lba, uint32_t version)
{
    uint64_t seed = mix(lba << 20 ^ version ^ (uint64_t)cfg.seed << 50);

    if (version == 0) {
        memset(buf, 0, block_bytes);
        return;
    }
    for (uint32_t i = 0; i < block_bytes / 8; i++) {
        uint64_t word = seed + i * 0x9e3779b97f4a7c15ULL;

        memcpy(buf + i * 8, &word, 8);
    }
}

static void verify(struct slot *s, const char *when)
{
    struct worker *w = s->w;
    char want[65536];

    for (uint32_t i = 0; i < s->blocks; i++) {
        uint32_t block = s->first + i;
        uint64_t got, expected;

        if (w->version[block] == UNKNOWN)
            continue;
        atomic_fetch_add_explicit(&total_verified, 1, memory_order_relaxed);
        fill(want, w->block_bytes, w->base + block, w->version[block]);
        if (memcmp(want, s->buf + (size_t)i * w->block_bytes, w->block_bytes) == 0)
            continue;
        memcpy(&got, s->buf + (size_t)i * w->block_bytes, sizeof(got));
        memcpy(&expected, want, sizeof(expected));
        complain("%s: bdev %s block %llu version %u: wrong data (%016llx, expected %016llx)", when,
                 bdev_name(w->bd), (unsigned long long)w->base + block, w->version[block],
                 (unsigned long long)got, (unsigned long long)expected);
    }
}

static unsigned rnd(struct worker *w, unsigned n)
{
    return (unsigned)rand_r(&w->seed) % n;
}

static void go_on(struct worker *w);

static void set_versions(struct slot *s, uint32_t version)
{
    for (uint32_t i = 0; i < s->blocks; i++)
        s->w->version[s->first + i] = version;
}

static bool poison_left(const struct slot *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (s->buf[i] != (char)0xdb)
            return false;
    return true;
}

static void account(struct slot *s, int rc)
{
    struct worker *w = s->w;
    size_t bytes = (size_t)s->blocks * w->block_bytes;

    if (!s->busy)
        complain("a request completed twice");
    s->busy = false;
    for (uint32_t i = 0; i < s->blocks; i++)
        w->busy[s->first + i] = false;
    atomic_fetch_add(&total_ops, 1);
    if (rc == -ECANCELED && (s->canceled || (s->detached && s->req.op == BDEV_READ))) {
        atomic_fetch_add(&total_canceled, 1);
        if (s->poisoned && !poison_left(s, bytes))
            complain("late data reached the buffer of a detached read");
        if (s->req.op != BDEV_READ && s->req.op != BDEV_FLUSH)
            set_versions(s, UNKNOWN); /* some of it may have been written before */
        return;
    }
    if (rc) {
        atomic_fetch_add(&total_errors, 1);
        complain("%s op %d lba %llu+%u: %s", bdev_name(w->bd), s->req.op,
                 (unsigned long long)s->req.lba, s->req.nblocks, strerror(-rc));
        return;
    }
    switch (s->req.op) {
    case BDEV_READ:
        atomic_fetch_add(&total_bytes, bytes);
        if (!s->detached)
            verify(s, w->final ? "at the end" : "read");
        else
            complain("a detached read succeeded");
        break;
    case BDEV_WRITE:
        atomic_fetch_add(&total_bytes, bytes);
        set_versions(s, cfg.scribble ? (uint32_t)UNKNOWN : s->version);
        break;
    case BDEV_WRITE_ZEROES:
        set_versions(s, 0);
        break;
    case BDEV_UNMAP:
        set_versions(s, UNKNOWN);
        break;
    default:
        break;
    }
}

static void done(struct bdev_req *req, int rc)
{
    struct slot *s = (struct slot *)(void *)req;
    struct worker *w = s->w;

    if (reactor_current() != w->r)
        complain("done() on a foreign thread");
    account(s, rc);
    w->out--;
    go_on(w);
}

static void shape_iov(struct slot *s, size_t bytes)
{
    struct worker *w = s->w;
    size_t at = 0;
    int n = 0;

    while (at < bytes) {
        size_t left = bytes - at, len = left;

        if (cfg.aligned)
            len = MIN(left, (size_t)65536);
        else if (n < (int)MAX_IOV - 1 && left > 1)
            len = 1 + rnd(w, (unsigned)left);
        if (n == (int)MAX_IOV - 1)
            len = left;
        s->iov[n++] = (struct iovec){s->buf + at, len};
        at += len;
    }
    s->req.iov = s->iov;
    s->req.iovcnt = n;
}

static bool choose(struct slot *s, char op)
{
    struct worker *w = s->w;
    uint32_t max = MAX(cfg.max_kib * 1024 / w->block_bytes, 1U);

    s->blocks = 1 + rnd(w, rnd(w, 2) ? MIN(max, 16U) : max);
    if (s->blocks > w->nblocks)
        s->blocks = w->nblocks;
    s->first = rnd(w, w->nblocks - s->blocks + 1);
    for (uint32_t i = 0; op != 'f' && i < s->blocks; i++)
        if (w->busy[s->first + i])
            return false;
    return true;
}

static void harass(struct slot *s)
{
    struct worker *w = s->w;
    size_t bytes = (size_t)s->blocks * w->block_bytes;

    if (rnd(w, 100) < cfg.detach_percent) {
        if (bdev_detach(w->ch, &s->req) != 0) {
            complain("detach would not let go");
            return;
        }
        s->detached = s->poisoned = true;
        atomic_fetch_add(&total_detached, 1);
        memset(s->buf, 0xdb, bytes);
        memset(s->iov, 0xdb, sizeof(s->iov));
    }
    if (s->busy && rnd(w, 100) < cfg.cancel_percent) {
        s->canceled = true;
        bdev_cancel(w->ch, &s->req);
    }
}

static bool submit(struct slot *s, char op)
{
    static const enum bdev_op ops[128] = {
        ['r'] = BDEV_READ,  ['w'] = BDEV_WRITE, ['W'] = BDEV_WRITE,
        ['f'] = BDEV_FLUSH, ['u'] = BDEV_UNMAP, ['z'] = BDEV_WRITE_ZEROES};
    struct worker *w = s->w;
    size_t bytes = (size_t)s->blocks * w->block_bytes;
    int rc;

    s->req = (struct bdev_req){.op = ops[(unsigned char)op],
                               .flags = op == 'W' ? BDEV_FUA : 0,
                               .lba = w->base + s->first,
                               .nblocks = s->blocks,
                               .done = done};
    if (op == 'f') {
        s->blocks = 0;
        s->req.nblocks = 0;
    }
    s->detached = s->canceled = s->poisoned = false;
    if (s->req.op == BDEV_WRITE) {
        s->version = w->next_version++;
        for (uint32_t i = 0; i < s->blocks; i++)
            fill(s->buf + (size_t)i * w->block_bytes, w->block_bytes, w->base + s->first + i,
                 s->version);
    }
    if (s->req.op == BDEV_READ)
        memset(s->buf, 0x11, bytes);
    if (s->req.op == BDEV_WRITE || s->req.op == BDEV_READ)
        shape_iov(s, bytes);
    for (uint32_t i = 0; i < s->blocks; i++)
        w->busy[s->first + i] = true;
    s->busy = true;
    rc = bdev_submit(w->ch, &s->req);
    if (rc == BDEV_PENDING) {
        w->out++;
        return true;
    }
    account(s, rc);
    return true;
}

static void detached(void *arg)
{
    (void)arg;
    printf("detached\n");
    reactor_stop(control);
}

/* All workers are done: leave in good order. Their channels may still be closing. */
static void all_over(struct mail *m)
{
    struct err err;

    (void)m;
    printf("quiet\n");
    fflush(stdout);
    if (nvme_of_detach(host, detached, NULL, &err)) {
        complain("detach: %s", err.msg);
        reactor_stop(control);
    }
}

static struct mail over_mail = {.fn = all_over};

static void worker_over(struct worker *w)
{
    w->over = true;
    timer_cancel(&w->tick);
    bdev_channel_put(w->ch);
    if (atomic_fetch_sub(&running, 1) == 1)
        reactor_post(control, &over_mail);
}

static void read_all(struct worker *w)
{
    for (unsigned i = 0; i < cfg.depth && w->final_at < w->nblocks; i++) {
        struct slot *s = &w->slots[i];

        if (s->busy)
            continue;
        s->first = w->final_at;
        s->blocks = MIN(w->nblocks - w->final_at, MAX(cfg.max_kib * 1024 / w->block_bytes, 1U));
        w->final_at += s->blocks;
        submit(s, 'r');
    }
    if (w->out == 0 && w->final_at == w->nblocks && !w->over)
        worker_over(w);
}

/* Keeps the depth full until the time is up, then reads everything once. */
static void go_on(struct worker *w)
{
    if (w->over)
        return;
    if (!w->final && atomic_load(&stopping)) {
        if (w->out > 0)
            return;
        w->final = true;
    }
    if (w->final) {
        read_all(w);
        bdev_flush_batch(w->ch);
        return;
    }
    for (unsigned i = 0; i < cfg.depth; i++) {
        struct slot *s = &w->slots[i];
        char op = cfg.ops[rnd(w, (unsigned)strlen(cfg.ops))];

        if (!s->busy && choose(s, op))
            submit(s, op);
    }
    bdev_flush_batch(w->ch);
}

static void worker_tick(struct timer *t)
{
    struct worker *w = container_of(t, struct worker, tick);

    timer_arm(w->r, &w->tick, 5, worker_tick);
    if ((cfg.detach_percent || cfg.cancel_percent) && !w->final)
        for (unsigned i = 0; i < cfg.depth; i++)
            if (w->slots[i].busy && !w->slots[i].detached && !w->slots[i].canceled)
                harass(&w->slots[i]);
    go_on(w);
}

/* A guest that changes its buffers while they are being sent. */
static void *scribble(void *arg)
{
    struct worker *w = arg;

    while (!atomic_load(&stopping)) {
        for (unsigned i = 0; i < cfg.depth; i++)
            for (size_t at = 0; at < cfg.max_kib * 1024UL; at += 512)
                *(volatile char *)(w->slots[i].buf + at) += 1;
    }
    return NULL;
}

static void worker_start(struct mail *m)
{
    struct worker *w = container_of(m, struct worker, start_mail);
    struct err err;

    w->ch = bdev_channel_get(w->bd, w->r, &err);
    if (!w->ch) {
        complain("channel: %s", err.msg);
        if (atomic_fetch_sub(&running, 1) == 1)
            reactor_post(control, &over_mail);
        return;
    }
    w->started = true;
    if (cfg.scribble) {
        pthread_t thread;

        pthread_create(&thread, NULL, scribble, w);
        pthread_detach(thread);
    }
    timer_arm(w->r, &w->tick, 5, worker_tick);
    go_on(w);
}

static void make_worker(struct bdev *bd, void *arg)
{
    struct bdev_info info = bdev_get_info(bd);
    uint32_t blocks = cfg.range_kib * 1024 / info.block_bytes;

    for (unsigned i = 0; i < cfg.reactors; i++) {
        struct worker *w = &workers[nworkers++];

        w->bd = bd;
        w->r = reactors[i];
        w->block_bytes = info.block_bytes;
        w->nblocks = (uint32_t)MIN(info.nblocks / cfg.reactors, (uint64_t)blocks);
        w->base = (uint64_t)i * (info.nblocks / cfg.reactors);
        w->seed = cfg.seed * 1000 + nworkers;
        w->next_version = 1;
        w->version = malloc(w->nblocks * sizeof(*w->version));
        w->busy = calloc(w->nblocks, sizeof(*w->busy));
        for (uint32_t b = 0; b < w->nblocks; b++)
            w->version[b] = UNKNOWN; /* of an earlier run */
        for (unsigned d = 0; d < cfg.depth; d++) {
            w->slots[d].w = w;
            w->slots[d].buf = aligned_alloc(4096, MAX(cfg.max_kib * 1024UL, 65536UL));
        }
        w->start_mail.fn = worker_start;
        atomic_fetch_add(&running, 1);
        reactor_post(w->r, &w->start_mail);
    }
    (void)arg;
}

static void print_bdev(struct bdev *bd, void *arg)
{
    struct bdev_info info = bdev_get_info(bd);
    char uuid[37];

    bdev_uuid_format(&info.uuid, uuid);
    printf("%s %s %llu %u %s cache=%d ro=%d unmap=%d\n", (const char *)arg, bdev_name(bd),
           (unsigned long long)info.nblocks, info.block_bytes, uuid, info.write_cache,
           info.read_only, info.can_unmap);
    fflush(stdout);
}

static struct timer end_timer;

static void time_is_up(struct timer *t)
{
    (void)t;
    atomic_store(&stopping, true);
}

static void attached(void *arg, struct nvme_of_host *h, const struct err *err)
{
    (void)arg;
    if (err) {
        printf("failed %s\n", err->msg);
        fflush(stdout);
        reactor_stop(control);
        return;
    }
    host = h;
    bdev_for_each(bdevs, print_bdev, (void *)(uintptr_t) "attached");
    printf("ready\n");
    fflush(stdout);
    if (cfg.seconds == 0)
        atomic_store(&stopping, true);
    bdev_for_each(bdevs, make_worker, NULL);
    if (nworkers == 0)
        reactor_post(control, &over_mail);
    if (nworkers == 0 || cfg.seconds == 0)
        return;
    timer_arm(control, &end_timer, cfg.seconds * 1000UL, time_is_up);
}

static void changed(void *arg, struct nvme_of_host *h)
{
    (void)arg;
    (void)h;
    bdev_for_each(bdevs, print_bdev, (void *)(uintptr_t) "changed");
}

static void describe_bdev(struct bdev *bd, void *arg)
{
    json_t *o = json_object();
    char *text;

    bdev_ops_of(bd)->describe(bdev_dev(bd), o);
    text = json_dumps(o, JSON_COMPACT);
    printf("bdev %s %s\n", bdev_name(bd), text);
    free(text);
    json_decref(o);
    (void)arg;
}

static void describe(void)
{
    json_t *o = host ? nvme_of_describe(host) : json_null();
    char *text = json_dumps(o, JSON_COMPACT);

    printf("state %s\n", text);
    bdev_for_each(bdevs, describe_bdev, NULL);
    printf("ops %llu\n", (unsigned long long)atomic_load(&total_ops));
    fflush(stdout);
    free(text);
    json_decref(o);
}

static void command(struct watch *w, uint32_t events)
{
    char line[200];
    ssize_t n = read(w->fd, line, sizeof(line) - 1);

    (void)events;
    if (n <= 0) {
        watch_remove(control, w);
        atomic_store(&stopping, true);
        return;
    }
    line[n] = '\0';
    for (char *save, *word = strtok_r(line, "\n", &save); word;
         word = strtok_r(NULL, "\n", &save)) {
        if (strcmp(word, "state") == 0)
            describe();
        else if (strcmp(word, "stop") == 0)
            atomic_store(&stopping, true);
        else if (!path_command(word, of, host, bdevs, &cfg.attach))
            printf("error unknown command %s\n", word);
    }
}

static void parse_known(char *text)
{
    struct nvme_of_namespace *ns = &cfg.known[cfg.attach.nknown++];
    char uuid[64];
    unsigned long long blocks;

    if (sscanf(text, "%u,%63[^,],%u,%llu", &ns->nsid, uuid, &ns->block_bytes, &blocks) != 4 ||
        bdev_uuid_parse(uuid, &ns->uuid)) {
        fprintf(stderr, "--known nsid,uuid,block bytes,blocks\n");
        exit(2);
    }
    ns->nblocks = blocks;
    cfg.attach.known = cfg.known;
}

static void options(int argc, char **argv)
{
    static const struct option longs[] = {
        {"addr", 1, 0, 'a'},          {"port", 1, 0, 'p'},
        {"nqn", 1, 0, 'n'},           {"hdgst", 0, 0, 'h'},
        {"ddgst", 0, 0, 'd'},         {"no-sqflow", 0, 0, 'F'},
        {"seconds", 1, 0, 's'},       {"depth", 1, 0, 'q'},
        {"max-kib", 1, 0, 'k'},       {"reactors", 1, 0, 'r'},
        {"ops", 1, 0, 'o'},           {"seed", 1, 0, 'S'},
        {"detach", 1, 0, 'D'},        {"cancel", 1, 0, 'C'},
        {"timeout-ms", 1, 0, 't'},    {"io-timeout-ms", 1, 0, 'T'},
        {"keep-alive-ms", 1, 0, 'K'}, {"range-kib", 1, 0, 'R'},
        {"known", 1, 0, 'N'},         {"max-bdevs", 1, 0, 'b'},
        {"queues", 1, 0, 'Q'},        {"hostnqn", 1, 0, 'H'},
        {"aligned", 0, 0, 'A'},       {"adrfam", 1, 0, 'f'},
        {"scribble", 0, 0, 'X'},      {0},
    };
    int c;

    cfg.attach.name = "Peer0";
    cfg.attach.traddr = "127.0.0.1";
    cfg.attach.subnqn = "nqn.2024-01.io.opensnap:peer";
    cfg.attach.changed = changed;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
        unsigned long n = optarg ? strtoul(optarg, NULL, 10) : 0;

        switch (c) {
        case 'a':
            cfg.attach.traddr = optarg;
            break;
        case 'p':
            cfg.attach.trsvcid = optarg;
            break;
        case 'n':
            cfg.attach.subnqn = optarg;
            break;
        case 'h':
            cfg.attach.hdgst = true;
            break;
        case 'd':
            cfg.attach.ddgst = true;
            break;
        case 'F':
            cfg.attach.disable_sq_flow = true;
            break;
        case 's':
            cfg.seconds = (unsigned)n;
            break;
        case 'q':
            cfg.depth = MIN((unsigned)n, (unsigned)MAX_DEPTH);
            break;
        case 'k':
            cfg.max_kib = (unsigned)n;
            break;
        case 'r':
            cfg.reactors = (unsigned)n;
            break;
        case 'o':
            cfg.ops = optarg;
            break;
        case 'S':
            cfg.seed = (unsigned)n;
            break;
        case 'D':
            cfg.detach_percent = (unsigned)n;
            break;
        case 'C':
            cfg.cancel_percent = (unsigned)n;
            break;
        case 't':
            cfg.attach.connect_timeout_us = n * 1000;
            break;
        case 'T':
            cfg.attach.io_timeout_ms = (uint32_t)n;
            break;
        case 'K':
            cfg.attach.keep_alive_ms = (uint32_t)n;
            break;
        case 'R':
            cfg.range_kib = (unsigned)n;
            break;
        case 'N':
            parse_known(optarg);
            break;
        case 'b':
            cfg.attach.max_bdevs = (unsigned)n;
            break;
        case 'Q':
            cfg.attach.num_io_queues = (unsigned)n;
            break;
        case 'H':
            cfg.attach.hostnqn = optarg;
            break;
        case 'X':
            cfg.scribble = true;
            break;
        case 'A':
            cfg.aligned = true;
            break;
        case 'f':
            cfg.attach.adrfam = optarg;
            break;
        default:
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    static struct watch in;
    struct bdev_uuid hostid;
    struct err err;

    log_set_program("nvmeof_drive");
    options(argc, argv);
    control = reactor_create("control", &err);
    bdevs = bdev_set_create();
    for (unsigned i = 0; i < cfg.reactors; i++) {
        reactors[i] = reactor_create("io", &err);
        reactor_spawn(reactors[i], -1, &err);
    }
    bdev_uuid_random(&hostid);
    of = nvme_of_create(control, bdevs, &hostid);
    watch_add(control, &in, 0, EPOLLIN, command);
    if (nvme_of_attach(of, &cfg.attach, attached, NULL, &err)) {
        printf("failed %s\n", err.msg);
        return 1;
    }
    reactor_run(control);
    if (!host)
        return 1;
    nvme_of_destroy(of);
    for (unsigned i = 0; i < cfg.reactors; i++) {
        reactor_stop(reactors[i]);
        reactor_join(reactors[i]);
        reactor_destroy(reactors[i]);
    }
    printf("%s ops=%llu bytes=%llu errors=%llu canceled=%llu detached=%llu verified=%llu\n",
           atomic_load(&failures) ? "FAILED" : "OK", (unsigned long long)atomic_load(&total_ops),
           (unsigned long long)atomic_load(&total_bytes),
           (unsigned long long)atomic_load(&total_errors),
           (unsigned long long)atomic_load(&total_canceled),
           (unsigned long long)atomic_load(&total_detached),
           (unsigned long long)atomic_load(&total_verified));
    return atomic_load(&failures) ? 1 : 0;
}
