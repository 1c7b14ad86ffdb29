/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_perf - a host in user space: loads an emulated function over its vfio-user socket, measures
 * and verifies. Exit: 0 good, 1 errors found or the run could not finish, 2 wrong usage or no
 * connection. */
#include "base/log.h"
#include "base/util.h"
#include "client/load.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { ERRORS_SHOWN = 20 };

struct options {
    const char *socket, *vuid, *run_dir;
    struct nvme_host_opts host;
    struct load_opts load;
    uint64_t bs_bytes, align_bytes;
    double status_s;
    bool json, quiet;
};

struct perf {
    struct options o;
    struct load *load;
    uint64_t shown, next_status_ms, start_ms, last_ms, last_completed;
    bool tty;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ---- options ---- */

static const char usage_text[] =
    "usage: snap_perf (--socket PATH | --vuid VUID) [options]\n"
    "\n"
    "Loads an emulated NVMe function over vfio-user, as a virtual machine would, and measures it.\n"
    "\n"
    "Which disk:\n"
    "  --socket PATH         the function's vfio-user socket (.../functions/<vuid>/cntrl)\n"
    "  --vuid VUID           the same by name, in the run directory\n"
    "  --run-dir DIR         default: /run/opensnap, or $XDG_RUNTIME_DIR/opensnap when not root\n"
    "  --nsid N              namespace; default: the first active one\n"
    "What to do:\n"
    "  --rw MODE             randread (default), randwrite, randrw, read, write\n"
    "  --rwmix-read PCT      reads in randrw; default 50\n"
    "  --zeroes PCT          so many of the writes as Write Zeroes\n"
    "  --deallocate PCT      so many of the writes as deallocate\n"
    "  --flush PCT           so many of all commands as Flush\n"
    "  --bs BYTES            per command, k/m suffix allowed; default 4k\n"
    "  --align BYTES         random positions are multiples of it; default: the block size\n"
    "  --depth N             commands in flight per queue; default 32\n"
    "  --queues N            I/O queue pairs; default 1\n"
    "  --doorbells MODE      trapped, shadow (default) or mapped\n"
    "  --runtime SECONDS     default 10 when --ios is not given\n"
    "  --ios N               stop after N commands\n"
    "  --rate N              at most N commands per second\n"
    "  --range BLOCKS        size of the part of the disk that is used; default: all\n"
    "  --offset BLOCKS       where it begins\n"
    "  --spin-us N           poll this long before sleeping; default 20\n"
    "Verification (destroys what the range holds):\n"
    "  --verify              every block carries LBA, generation and CRC; anything lost, stale, "
    "torn, duplicated or\n"
    "                        missing is named. Needs --range on a large disk: each block is "
    "written first and read last.\n"
    "  --no-prefill          do not write the range first; blocks count from their first write on\n"
    "  --allow-torn          a read that overlaps a write may see a part of it\n"
    "  --missing-after S     a command without completion for so long is missing; default 60\n"
    "  --stop-on-error       end at the first error\n"
    "  --seed N              repeat a run; default: random\n"
    "Output:\n"
    "  --json                results as one JSON object on stdout\n"
    "  --status SECONDS      a JSON line on stderr so often\n"
    "  --quiet               no progress line\n"
    "  --help                this text\n";

static int wrong(const char *fmt, const char *a, const char *b)
{
    fputs("snap_perf: ", stderr);
    fprintf(stderr, fmt, a, b);
    fputs("\nTry snap_perf --help.\n", stderr);
    return 2;
}

/* Digits with an optional k, m or g. */
static bool parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long v;
    unsigned shift = 0;

    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno || end == text || text[0] == '-')
        return false;
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        break;
    case 'm':
    case 'M':
        shift = 20;
        break;
    case 'g':
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift)
        end++;
    if (*end || v > max >> shift)
        return false;
    *ret = v << shift;
    return true;
}

static bool parse_seconds(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !isfinite(v) || v < 0 || v > 1e7)
        return false;
    *ret = v;
    return true;
}

static bool parse_word(const char *text, const char *const *words, unsigned n, unsigned *ret)
{
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(text, words[i])) {
            *ret = i;
            return true;
        }
    return false;
}

enum {
    OPT_SOCKET = 1,
    OPT_VUID,
    OPT_RUN_DIR,
    OPT_NSID,
    OPT_RW,
    OPT_MIX,
    OPT_ZEROES,
    OPT_DEALLOCATE,
    OPT_FLUSH,
    OPT_BS,
    OPT_ALIGN,
    OPT_DEPTH,
    OPT_QUEUES,
    OPT_DOORBELLS,
    OPT_RUNTIME,
    OPT_IOS,
    OPT_RATE,
    OPT_RANGE,
    OPT_OFFSET,
    OPT_SPIN,
    OPT_VERIFY,
    OPT_NO_PREFILL,
    OPT_ALLOW_TORN,
    OPT_MISSING,
    OPT_STOP,
    OPT_SEED,
    OPT_JSON,
    OPT_STATUS,
    OPT_QUIET,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"vuid", required_argument, NULL, OPT_VUID},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"nsid", required_argument, NULL, OPT_NSID},
    {"rw", required_argument, NULL, OPT_RW},
    {"rwmix-read", required_argument, NULL, OPT_MIX},
    {"zeroes", required_argument, NULL, OPT_ZEROES},
    {"deallocate", required_argument, NULL, OPT_DEALLOCATE},
    {"flush", required_argument, NULL, OPT_FLUSH},
    {"bs", required_argument, NULL, OPT_BS},
    {"align", required_argument, NULL, OPT_ALIGN},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"doorbells", required_argument, NULL, OPT_DOORBELLS},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"ios", required_argument, NULL, OPT_IOS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"range", required_argument, NULL, OPT_RANGE},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"spin-us", required_argument, NULL, OPT_SPIN},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"no-prefill", no_argument, NULL, OPT_NO_PREFILL},
    {"allow-torn", no_argument, NULL, OPT_ALLOW_TORN},
    {"missing-after", required_argument, NULL, OPT_MISSING},
    {"stop-on-error", no_argument, NULL, OPT_STOP},
    {"seed", required_argument, NULL, OPT_SEED},
    {"json", no_argument, NULL, OPT_JSON},
    {"status", required_argument, NULL, OPT_STATUS},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static const char *const rw_words[] = {"randread", "randwrite", "randrw", "read", "write"};
static const char *const doorbell_words[] = {"trapped", "shadow", "mapped"};

/* One option; false: its argument is wrong. */
static bool set_option(struct options *o, int opt, const char *arg)
{
    uint64_t n = 0;
    unsigned word = 0;
    double s = 0;
    bool ok = true;

    switch (opt) {
    case OPT_SOCKET:
        o->socket = arg;
        break;
    case OPT_VUID:
        o->vuid = arg;
        break;
    case OPT_RUN_DIR:
        o->run_dir = arg;
        break;
    case OPT_NSID:
        ok = parse_u64(arg, UINT32_MAX - 1, &n);
        o->host.nsid = (uint32_t)n;
        break;
    case OPT_RW:
        ok = parse_word(arg, rw_words, ARRAY_SIZE(rw_words), &word);
        o->load.rw = (enum load_rw)word;
        break;
    case OPT_MIX:
    case OPT_ZEROES:
    case OPT_DEALLOCATE:
    case OPT_FLUSH:
        ok = parse_u64(arg, 100, &n);
        *(opt == OPT_MIX          ? &o->load.read_percent
          : opt == OPT_ZEROES     ? &o->load.zeroes_percent
          : opt == OPT_DEALLOCATE ? &o->load.deallocate_percent
                                  : &o->load.flush_percent) = (unsigned)n;
        break;
    case OPT_BS:
        ok = parse_u64(arg, 64 << 20, &o->bs_bytes) && o->bs_bytes;
        break;
    case OPT_ALIGN:
        ok = parse_u64(arg, 64 << 20, &o->align_bytes) && o->align_bytes;
        break;
    case OPT_DEPTH:
        ok = parse_u64(arg, 1024, &n) && n;
        o->host.depth = (unsigned)n;
        break;
    case OPT_QUEUES:
        ok = parse_u64(arg, 64, &n) && n;
        o->host.queues = (unsigned)n;
        break;
    case OPT_DOORBELLS:
        ok = parse_word(arg, doorbell_words, ARRAY_SIZE(doorbell_words), &word);
        o->host.doorbells = (enum nvme_doorbells)word;
        break;
    case OPT_RUNTIME:
        ok = parse_seconds(arg, &s);
        o->load.runtime_ms = (uint64_t)(s * 1000);
        break;
    case OPT_IOS:
        ok = parse_u64(arg, UINT64_MAX, &o->load.ios) && o->load.ios;
        break;
    case OPT_RATE:
        ok = parse_u64(arg, 1000000000, &o->load.rate) && o->load.rate;
        break;
    case OPT_RANGE:
        ok = parse_u64(arg, UINT64_MAX, &o->load.nblocks) && o->load.nblocks;
        break;
    case OPT_OFFSET:
        ok = parse_u64(arg, UINT64_MAX, &o->load.first_lba);
        break;
    case OPT_SPIN:
        ok = parse_u64(arg, 1000000, &n);
        o->load.spin_us = (uint32_t)n;
        break;
    case OPT_VERIFY:
        o->load.verify = true;
        break;
    case OPT_NO_PREFILL:
        o->load.prefill = false;
        break;
    case OPT_ALLOW_TORN:
        o->load.allow_torn = true;
        break;
    case OPT_MISSING:
        ok = parse_seconds(arg, &s) && s > 0 && s < 4e6;
        o->load.missing_ms = (uint32_t)(s * 1000);
        break;
    case OPT_STOP:
        o->load.stop_on_error = true;
        break;
    case OPT_SEED:
        ok = parse_u64(arg, UINT64_MAX, &o->load.seed) && o->load.seed;
        break;
    case OPT_JSON:
        o->json = true;
        break;
    case OPT_STATUS:
        ok = parse_seconds(arg, &o->status_s) && o->status_s > 0;
        break;
    case OPT_QUIET:
        o->quiet = true;
        break;
    default:
        ok = false;
    }
    return ok;
}

/* 0: go on; else the exit code + 1. */
static int parse(struct options *o, int argc, char **argv)
{
    int opt, index = 0;

    *o = (struct options){
        .host = {.queues = 1, .depth = 32, .doorbells = NVME_DOORBELLS_SHADOW},
        .load = {.read_percent = 50, .spin_us = 20, .missing_ms = 60000, .prefill = true},
        .bs_bytes = 4096,
    };
    while ((opt = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (opt == OPT_HELP || opt == 'h') {
            fputs(usage_text, stdout);
            return 1;
        }
        if (opt == '?')
            return wrong("unknown option%s%s", "", "") + 1;
        if (!set_option(o, opt, optarg))
            return wrong("--%s: '%s' is not a good value", long_options[index].name,
                         optarg ? optarg : "") +
                   1;
    }
    if (optind < argc)
        return wrong("'%s' is not an option%s", argv[optind], "") + 1;
    if (!o->socket == !o->vuid)
        return wrong("give either --socket or --vuid%s%s", "", "") + 1;
    if (!o->load.ios && !o->load.runtime_ms)
        o->load.runtime_ms = 10000;
    if (!o->load.seed && getrandom(&o->load.seed, sizeof(o->load.seed), 0) != sizeof(o->load.seed))
        o->load.seed = (uint64_t)time(NULL);
    o->load.seed &= INT64_MAX; /* JSON integers */
    o->load.seed |= !o->load.seed;
    return 0;
}

static int socket_path(const struct options *o, char *out, size_t size)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    int n;

    if (o->socket)
        n = snprintf(out, size, "%s", o->socket);
    else if (o->run_dir)
        n = snprintf(out, size, "%s/functions/%s/cntrl", o->run_dir, o->vuid);
    else if (geteuid() == 0 || !xdg)
        n = snprintf(out, size, "/run/opensnap/functions/%s/cntrl", o->vuid);
    else
        n = snprintf(out, size, "%s/opensnap/functions/%s/cntrl", xdg, o->vuid);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* ---- while it runs ---- */

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static const char *const phase_names[] = {"prefill", "main", "drain", "sweep", "done"};

static void clear_progress(const struct perf *p)
{
    if (p->tty)
        fputs("\r\033[K", stderr);
}

static void report(void *arg, const struct verify_error *e)
{
    struct perf *p = arg;

    if (p->shown++ >= ERRORS_SHOWN)
        return;
    clear_progress(p);
    fprintf(stderr, "snap_perf: ERROR %s: LBA %llu: %s\n", verify_kind_name(e->kind),
            (unsigned long long)e->lba, e->text);
    if (p->shown == ERRORS_SHOWN)
        fputs("snap_perf: more errors are counted but not shown\n", stderr);
}

static bool tick(void *arg)
{
    struct perf *p = arg;
    uint64_t now = now_ms(), every = p->o.status_s > 0 ? (uint64_t)(p->o.status_s * 1000) : 500;
    const struct load_result *r;
    double iops;

    if (interrupted)
        return false;
    if (now < p->next_status_ms || !(p->tty || p->o.status_s > 0))
        return true;
    p->next_status_ms = now + MAX(every, 1);
    r = load_get_result(p->load);
    iops = now > p->last_ms
               ? (double)(r->completed - p->last_completed) * 1000.0 / (double)(now - p->last_ms)
               : 0;
    p->last_ms = now;
    p->last_completed = r->completed;
    if (p->o.status_s > 0)
        fprintf(
            stderr,
            "{\"status\": \"%s\", \"completed\": %llu, \"outstanding\": %llu, \"errors\": %llu, "
            "\"longest_gap_ms\": %.3f}\n",
            phase_names[r->phase], (unsigned long long)r->completed,
            (unsigned long long)r->outstanding,
            (unsigned long long)verify_errors(load_verify(p->load)),
            (double)r->longest_gap_ns / 1e6);
    else
        fprintf(
            stderr,
            "\r\033[K%-7s %6.1f s  %9.0f IOPS  %llu in flight  longest gap %.1f ms  errors %llu",
            phase_names[r->phase], (double)(now - p->start_ms) / 1000, iops,
            (unsigned long long)r->outstanding, (double)r->longest_gap_ns / 1e6,
            (unsigned long long)verify_errors(load_verify(p->load)));
    fflush(stderr);
    return true;
}

/* ---- results ---- */

static const struct {
    const char *name;
    double share;
} percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99_9", 0.999}, {"p99_99", 0.9999}};

static json_t *latency_json(const struct latency *l)
{
    json_t *o = json_pack("{s:I, s:f, s:f, s:f}", "count", (json_int_t)l->count, "min_us",
                          (double)l->min_ns / 1e3, "mean_us", (double)latency_mean(l) / 1e3,
                          "max_us", (double)l->max_ns / 1e3);

    for (unsigned i = 0; i < ARRAY_SIZE(percentiles); i++) {
        char name[32];

        snprintf(name, sizeof(name), "%s_us", percentiles[i].name);
        json_object_set_new(o, name,
                            json_real((double)latency_percentile(l, percentiles[i].share) / 1e3));
    }
    return o;
}

static uint64_t all_ios(const struct load_result *r)
{
    return r->reads + r->writes + r->zeroes + r->deallocates + r->flushes;
}

static void print_json(const struct perf *p, const struct load_result *r,
                       const struct nvme_host_info *info, int rc, const struct err *err)
{
    struct verify *v = load_verify(p->load);
    double seconds = r->seconds > 0 ? r->seconds : 1e-9;
    json_t *errors = json_object();
    json_t *o;

    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        json_object_set_new(errors, verify_kind_name(k),
                            json_integer((json_int_t)verify_errors_of(v, k)));
    o = json_pack(
        "{s:b, s:s, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:I, s:I, "
        "s:I, s:I, s:I, "
        "s:I, s:o}",
        "ok", rc == 0 && verify_errors(v) == 0, "message", rc ? err->msg : "", "ios",
        (json_int_t)all_ios(r), "seconds", r->seconds, "iops", (double)all_ios(r) / seconds,
        "reads", (json_int_t)r->reads, "writes", (json_int_t)r->writes, "write_zeroes",
        (json_int_t)r->zeroes, "deallocates", (json_int_t)r->deallocates, "flushes",
        (json_int_t)r->flushes, "bytes_read", (json_int_t)r->bytes_read, "bytes_written",
        (json_int_t)r->bytes_written, "read_latency", latency_json(&r->read_latency),
        "write_latency", latency_json(&r->write_latency), "longest_gap_ms",
        (double)r->longest_gap_ns / 1e6, "kicks", (json_int_t)r->stats.kicks, "interrupts",
        (json_int_t)r->stats.interrupts, "messages", (json_int_t)r->stats.messages, "unfinished",
        (json_int_t)r->unfinished, "errors", (json_int_t)verify_errors(v), "blocks_verified",
        (json_int_t)verify_blocks_checked(v), "errors_by_kind", errors);
    json_object_set_new(o, "depth", json_integer(info->depth));
    json_object_set_new(o, "queues", json_integer(info->queues));
    json_object_set_new(o, "block_bytes", json_integer(info->block_bytes));
    json_object_set_new(o, "bs_bytes", json_integer((json_int_t)p->o.bs_bytes));
    json_object_set_new(o, "doorbells", json_string(doorbell_words[p->o.host.doorbells]));
    json_object_set_new(o, "rw", json_string(rw_words[p->o.load.rw]));
    json_object_set_new(o, "seed", json_integer((json_int_t)p->o.load.seed));
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}

static void print_latency(const char *what, const struct latency *l)
{
    if (!l->count)
        return;
    printf("  %-6s latency us: mean %.1f", what, (double)latency_mean(l) / 1e3);
    for (unsigned i = 0; i < ARRAY_SIZE(percentiles); i++)
        printf("  p%g %.1f", percentiles[i].share * 100,
               (double)latency_percentile(l, percentiles[i].share) / 1e3);
    printf("  max %.1f\n", (double)l->max_ns / 1e3);
}

static void print_text(const struct perf *p, const struct load_result *r,
                       const struct nvme_host_info *info)
{
    struct verify *v = load_verify(p->load);
    double seconds = r->seconds > 0 ? r->seconds : 1e-9;
    uint64_t ios = all_ios(r);

    printf("%s, namespace %u (%llu blocks of %u bytes), %u queue%s, depth %u, %s doorbells\n",
           info->subnqn, info->nsid, (unsigned long long)info->nblocks, info->block_bytes,
           info->queues, info->queues == 1 ? "" : "s", info->depth,
           doorbell_words[p->o.host.doorbells]);
    printf("  %s %llu bytes: %llu commands in %.2f s: %.0f IOPS, %.1f MiB/s read, %.1f MiB/s "
           "written\n",
           rw_words[p->o.load.rw], (unsigned long long)p->o.bs_bytes, (unsigned long long)ios,
           r->seconds, (double)ios / seconds, (double)r->bytes_read / seconds / 1048576,
           (double)r->bytes_written / seconds / 1048576);
    print_latency("read", &r->read_latency);
    print_latency("write", &r->write_latency);
    printf("  longest gap between completions %.3f ms; %.4f doorbell messages and %.4f interrupts "
           "per command\n",
           (double)r->longest_gap_ns / 1e6, ios ? (double)r->stats.kicks / (double)ios : 0,
           ios ? (double)r->stats.interrupts / (double)ios : 0);
    if (p->o.load.verify)
        printf("  verified %llu blocks: %llu errors\n",
               (unsigned long long)verify_blocks_checked(v), (unsigned long long)verify_errors(v));
    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        if (verify_errors_of(v, k))
            printf("  ERROR %s: %llu\n", verify_kind_name(k),
                   (unsigned long long)verify_errors_of(v, k));
}

static int run(struct perf *p, const struct nvme_host_info *info)
{
    struct err err = {0};
    const struct load_result *r;
    int rc;

    if (p->o.bs_bytes % info->block_bytes || p->o.align_bytes % info->block_bytes)
        return wrong("--bs and --align must be multiples of the disk's block size%s%s", "", "");
    p->o.load.io_blocks = (uint32_t)(p->o.bs_bytes / info->block_bytes);
    p->o.load.align_blocks = (uint32_t)(p->o.align_bytes / info->block_bytes);
    p->load = load_create(&p->o.load, &err);
    if (!p->load)
        return wrong("%s%s", err.msg, "");
    p->start_ms = p->last_ms = now_ms();
    rc = load_run(p->load, &err);
    clear_progress(p);
    r = load_get_result(p->load);
    if (rc)
        fprintf(stderr, "snap_perf: %s\n", err.msg);
    if (p->o.json)
        print_json(p, r, info, rc, &err);
    else
        print_text(p, r, info);
    return rc || verify_errors(load_verify(p->load)) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static struct perf p;
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    struct nvme_host_info info;
    struct nvme_host *h;
    struct err err = {0};
    char path[4096];
    int rc = parse(&p.o, argc, argv);

    if (rc)
        return rc - 1;
    log_set_program("snap_perf");
    if (socket_path(&p.o, path, sizeof(path)))
        return wrong("the socket path is too long%s%s", "", "");
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    p.tty = !p.o.quiet && !(p.o.status_s > 0) && isatty(STDERR_FILENO);
    p.o.host.path = path;
    p.o.host.data_bytes = load_data_bytes(p.o.host.queues, p.o.host.depth, (uint32_t)p.o.bs_bytes);
    h = nvme_host_open(&p.o.host, &err);
    if (!h) {
        fprintf(stderr, "snap_perf: %s\n", err.msg);
        return 2;
    }
    info = nvme_host_get_info(h);
    p.o.load.host = h;
    p.o.load.report = report;
    p.o.load.tick = tick;
    p.o.load.arg = &p;
    rc = run(&p, &info);
    load_destroy(p.load);
    nvme_host_close(h);
    return rc;
}
