/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev/channel.h"

void bdev_counters_sum(const struct bdev_counters *counters, struct bdev_stats *sum)
{
    for (unsigned op = 0; op < BDEV_OPS; op++) {
        sum->ops[op] += atomic_load_explicit(&counters->ops[op], memory_order_relaxed);
        sum->bytes[op] += atomic_load_explicit(&counters->bytes[op], memory_order_relaxed);
        sum->errors[op] += atomic_load_explicit(&counters->errors[op], memory_order_relaxed);
    }
    sum->bounce_bytes += atomic_load_explicit(&counters->bounce_bytes, memory_order_relaxed);
}

void bdev_get_stats(struct bdev *bd, struct bdev_stats *ret)
{
    pthread_mutex_lock(&bd->lock);
    *ret = bd->closed;
    list_for_each(it, &bd->channels)
    {
        bdev_counters_sum(&list_entry(it, struct bdev_channel, node)->counters, ret);
    }
    pthread_mutex_unlock(&bd->lock);
}

void bdev_count_bounce(struct bdev_req *req, uint64_t bytes)
{
    counter_add(&req->channel->counters.bounce_bytes, bytes);
}
