/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf_report.h"

#include "base/util.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    double share;
} percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99_9", 0.999}, {"p99_99", 0.9999}};

void perf_outcome_add(struct perf_outcome *sum, const struct perf_outcome *one)
{
    struct load_result *s = &sum->result;
    const struct load_result *r = &one->result;

    s->seconds = MAX(s->seconds, r->seconds);
    s->reads += r->reads;
    s->writes += r->writes;
    s->zeroes += r->zeroes;
    s->deallocates += r->deallocates;
    s->flushes += r->flushes;
    s->bytes_read += r->bytes_read;
    s->bytes_written += r->bytes_written;
    s->completed += r->completed;
    s->unfinished += r->unfinished;
    s->resets += r->resets;
    s->forgotten += r->forgotten;
    s->longest_gap_ns = MAX(s->longest_gap_ns, r->longest_gap_ns);
    latency_merge(&s->read_latency, &r->read_latency);
    latency_merge(&s->write_latency, &r->write_latency);
    s->stats.kicks += r->stats.kicks;
    s->stats.interrupts += r->stats.interrupts;
    s->stats.messages += r->stats.messages;
    s->stats.reconnects += r->stats.reconnects;
    s->stats.config_changes += r->stats.config_changes;
    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        sum->errors[k] += one->errors[k];
    sum->nerrors += one->nerrors;
    sum->blocks_verified += one->blocks_verified;
    sum->ok = sum->ok && one->ok;
    if (!sum->message[0])
        memcpy(sum->message, one->message, sizeof(sum->message));
}

static uint64_t all_ios(const struct load_result *r)
{
    return r->reads + r->writes + r->zeroes + r->deallocates + r->flushes;
}

/* ---- JSON ---- */

static void put_int(json_t *o, const char *name, uint64_t v)
{
    json_object_set_new(o, name, json_integer((json_int_t)v));
}

static json_t *latency_json(const struct latency *l)
{
    json_t *o = json_object();

    put_int(o, "count", l->count);
    json_object_set_new(o, "min_us", json_real((double)l->min_ns / 1e3));
    json_object_set_new(o, "mean_us", json_real((double)latency_mean(l) / 1e3));
    json_object_set_new(o, "max_us", json_real((double)l->max_ns / 1e3));
    for (unsigned i = 0; i < ARRAY_SIZE(percentiles); i++) {
        char name[32];

        snprintf(name, sizeof(name), "%s_us", percentiles[i].name);
        json_object_set_new(o, name,
                            json_real((double)latency_percentile(l, percentiles[i].share) / 1e3));
    }
    return o;
}

/* What a disk and a sum have in common. */
static json_t *outcome_json(const struct perf_outcome *c)
{
    const struct load_result *r = &c->result;
    json_t *o = json_object(), *errors = json_object();

    json_object_set_new(o, "ok", json_boolean(c->ok));
    json_object_set_new(o, "message", json_string(c->message));
    put_int(o, "ios", all_ios(r));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "iops",
                        json_real((double)all_ios(r) / (r->seconds > 0 ? r->seconds : 1e-9)));
    put_int(o, "reads", r->reads);
    put_int(o, "writes", r->writes);
    put_int(o, "write_zeroes", r->zeroes);
    put_int(o, "deallocates", r->deallocates);
    put_int(o, "flushes", r->flushes);
    put_int(o, "bytes_read", r->bytes_read);
    put_int(o, "bytes_written", r->bytes_written);
    json_object_set_new(o, "read_latency", latency_json(&r->read_latency));
    json_object_set_new(o, "write_latency", latency_json(&r->write_latency));
    json_object_set_new(o, "longest_gap_ms", json_real((double)r->longest_gap_ns / 1e6));
    put_int(o, "kicks", r->stats.kicks);
    put_int(o, "interrupts", r->stats.interrupts);
    put_int(o, "messages", r->stats.messages);
    put_int(o, "reconnects", r->stats.reconnects);
    put_int(o, "config_changes", r->stats.config_changes);
    put_int(o, "resets", r->resets);
    put_int(o, "forgotten", r->forgotten);
    put_int(o, "unfinished", r->unfinished);
    put_int(o, "errors", c->nerrors);
    put_int(o, "blocks_verified", c->blocks_verified);
    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        put_int(errors, verify_kind_name(k), c->errors[k]);
    json_object_set_new(o, "errors_by_kind", errors);
    return o;
}

static json_t *disk_json(const struct perf_outcome *c)
{
    const struct perf_disk *d = c->disk;
    json_t *o = outcome_json(c);

    json_object_set_new(o, "socket", json_string(d->path));
    json_object_set_new(o, "kind", json_string(c->info.kind));
    json_object_set_new(o, "how", json_string(c->info.how));
    put_int(o, "depth", c->info.depth);
    put_int(o, "queues", c->info.queues);
    put_int(o, "block_bytes", c->info.block_bytes);
    put_int(o, "blocks", c->info.nblocks);
    put_int(o, "bs_bytes", d->bs_bytes);
    if (d->kind == PERF_KIND_NVME)
        json_object_set_new(o, "doorbells", json_string(perf_doorbell_words[d->nvme.doorbells]));
    else
        json_object_set_new(o, "ring", json_string(d->blk.packed ? "packed" : "split"));
    json_object_set_new(o, "rw", json_string(perf_rw_words[d->load.rw]));
    put_int(o, "seed", d->load.seed);
    return o;
}

void perf_print_json(const struct perf_options *o, const struct perf_outcome *disks,
                     const struct perf_outcome *sum)
{
    json_t *out;

    if (o->ndisks == 1) {
        out = disk_json(&disks[0]);
    } else {
        json_t *list = json_array();

        out = outcome_json(sum);
        for (unsigned i = 0; i < o->ndisks; i++)
            json_array_append_new(list, disk_json(&disks[i]));
        json_object_set_new(out, "disks", list);
    }
    json_dumpf(out, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(out);
}

/* ---- text ---- */

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

static void print_results(const struct perf_outcome *c, bool verify)
{
    const struct load_result *r = &c->result;
    double seconds = r->seconds > 0 ? r->seconds : 1e-9;
    uint64_t ios = all_ios(r);

    printf("%llu commands in %.2f s: %.0f IOPS, %.1f MiB/s read, %.1f MiB/s written\n",
           (unsigned long long)ios, r->seconds, (double)ios / seconds,
           (double)r->bytes_read / seconds / 1048576, (double)r->bytes_written / seconds / 1048576);
    print_latency("read", &r->read_latency);
    print_latency("write", &r->write_latency);
    printf(
        "  longest gap between completions %.3f ms; %.4f kicks and %.4f interrupts per command\n",
        (double)r->longest_gap_ns / 1e6, ios ? (double)r->stats.kicks / (double)ios : 0,
        ios ? (double)r->stats.interrupts / (double)ios : 0);
    if (r->stats.reconnects || r->stats.config_changes || r->resets)
        printf("  %llu reconnects, %llu changes told by the device, %llu resets\n",
               (unsigned long long)r->stats.reconnects, (unsigned long long)r->stats.config_changes,
               (unsigned long long)r->resets);
    if (verify)
        printf("  verified %llu blocks: %llu errors\n", (unsigned long long)c->blocks_verified,
               (unsigned long long)c->nerrors);
    for (unsigned k = 0; k < VERIFY_KINDS; k++)
        if (c->errors[k])
            printf("  ERROR %s: %llu\n", verify_kind_name(k), (unsigned long long)c->errors[k]);
}

void perf_print_text(const struct perf_options *o, const struct perf_outcome *disks,
                     const struct perf_outcome *sum)
{
    bool verify = false;

    for (unsigned i = 0; i < o->ndisks; i++) {
        const struct disk_info *info = &disks[i].info;
        const struct perf_disk *d = disks[i].disk;

        printf("%s (%llu blocks of %u bytes), %u queue%s, depth %u, %s\n", info->name,
               (unsigned long long)info->nblocks, info->block_bytes, info->queues,
               info->queues == 1 ? "" : "s", info->depth, info->how);
        printf("  %s %llu bytes: ", perf_rw_words[d->load.rw], (unsigned long long)d->bs_bytes);
        print_results(&disks[i], d->load.verify);
        verify |= d->load.verify;
    }
    if (o->ndisks > 1) {
        printf("All %u disks: ", o->ndisks);
        print_results(sum, verify);
    }
}
