/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/latency.h - a histogram of times: buckets within 1/32 of the value, from 1 ns to hours.
 * Thread: one. */
#ifndef CLIENT_LATENCY_H
#define CLIENT_LATENCY_H

#include <stdint.h>

enum { LATENCY_SUB = 32, LATENCY_BUCKETS = 60 * LATENCY_SUB };

struct latency {
    uint64_t count, sum_ns, min_ns, max_ns;
    uint64_t bucket[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t ns);
void latency_merge(struct latency *l, const struct latency *more);
/* The time below which the given share (0..1) of the samples lies; 0 without samples. */
uint64_t latency_percentile(const struct latency *l, double share);
uint64_t latency_mean(const struct latency *l);

#endif
