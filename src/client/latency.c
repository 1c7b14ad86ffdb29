/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/latency.h"

/* Values below LATENCY_SUB have a bucket each; above, the five bits below the leading one choose
 * it. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < LATENCY_SUB)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - 5;
    return (shift + 1) * LATENCY_SUB + (unsigned)((ns >> shift) & (LATENCY_SUB - 1));
}

static uint64_t bucket_top(unsigned b)
{
    unsigned shift;

    if (b < LATENCY_SUB)
        return b;
    shift = b / LATENCY_SUB - 1;
    return ((uint64_t)(LATENCY_SUB + b % LATENCY_SUB + 1) << shift) - 1;
}

void latency_add(struct latency *l, uint64_t ns)
{
    unsigned b = bucket_of(ns);

    l->bucket[b < LATENCY_BUCKETS ? b : LATENCY_BUCKETS - 1]++;
    if (!l->count || ns < l->min_ns)
        l->min_ns = ns;
    if (ns > l->max_ns)
        l->max_ns = ns;
    l->count++;
    l->sum_ns += ns;
}

void latency_merge(struct latency *l, const struct latency *more)
{
    if (!more->count)
        return;
    if (!l->count || more->min_ns < l->min_ns)
        l->min_ns = more->min_ns;
    if (more->max_ns > l->max_ns)
        l->max_ns = more->max_ns;
    l->count += more->count;
    l->sum_ns += more->sum_ns;
    for (unsigned b = 0; b < LATENCY_BUCKETS; b++)
        l->bucket[b] += more->bucket[b];
}

uint64_t latency_percentile(const struct latency *l, double share)
{
    uint64_t want = (uint64_t)((double)l->count * share), seen = 0;

    if (!l->count)
        return 0;
    for (unsigned b = 0; b < LATENCY_BUCKETS; b++) {
        seen += l->bucket[b];
        if (seen > want || seen == l->count) {
            uint64_t top = bucket_top(b);

            return top < l->max_ns ? top : l->max_ns;
        }
    }
    return l->max_ns;
}

uint64_t latency_mean(const struct latency *l)
{
    return l->count ? l->sum_ns / l->count : 0;
}
