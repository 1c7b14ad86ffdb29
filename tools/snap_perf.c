/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_perf - a host in user space: loads an emulated function over its vfio-user socket, measures
 * and verifies. Exit: 0 good, 1 errors found or the run could not finish, 2 wrong usage or no
 * connection. */
#include "base/log.h"
#include "base/util.h"
#include "client/load.h"
#include "perf_options.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ERRORS_SHOWN = 20 };

struct perf {
    struct perf_options o;
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
    json_object_set_new(o, "doorbells", json_string(perf_doorbell_words[p->o.host.doorbells]));
    json_object_set_new(o, "rw", json_string(perf_rw_words[p->o.load.rw]));
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
           perf_doorbell_words[p->o.host.doorbells]);
    printf("  %s %llu bytes: %llu commands in %.2f s: %.0f IOPS, %.1f MiB/s read, %.1f MiB/s "
           "written\n",
           perf_rw_words[p->o.load.rw], (unsigned long long)p->o.bs_bytes, (unsigned long long)ios,
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
        return perf_wrong("--bs and --align must be multiples of the disk's block size%s%s", "",
                          "");
    p->o.load.io_blocks = (uint32_t)(p->o.bs_bytes / info->block_bytes);
    p->o.load.align_blocks = (uint32_t)(p->o.align_bytes / info->block_bytes);
    p->load = load_create(&p->o.load, &err);
    if (!p->load)
        return perf_wrong("%s%s", err.msg, "");
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
    static char path[4096];
    int rc = perf_parse(&p.o, argc, argv);

    if (rc)
        return rc - 1;
    log_set_program("snap_perf");
    if (perf_socket_path(&p.o, path, sizeof(path)))
        return perf_wrong("the socket path is too long%s%s", "", "");
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
