/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Interrupts: one per vector and batch, or less with Interrupt Coalescing (features 08h, 09h). */
#include "devices/nvme/inside.h"

enum { COALESCING_UNIT_US = 100 };

void nvme_irq_add(struct nvme_dev *dev, const struct nvme_cq *cq, uint32_t completions)
{
    struct nvme_vector *v;

    if (!cq->ien || cq->iv >= dev->nvectors)
        return;
    v = &dev->vectors[cq->iv];
    if (v->pending == 0)
        v->since_us = reactor_now_us(dev->base.reactor);
    v->pending += completions;
    if (!v->queued) {
        v->queued = true;
        dev->pending_vectors[dev->npending_vectors++] = cq->iv;
    }
}

static void irq_due(struct timer *t)
{
    struct nvme_dev *dev = container_of(t, struct nvme_dev, irq_timer);

    nvme_irq_flush(dev);
}

/* The admin queue's completions are not coalesced (Base 2.0, feature 08h); it shares its vector at
 * most with one I/O queue, which then is not either. */
static bool may_wait(const struct nvme_dev *dev, unsigned vector, uint64_t now)
{
    const struct nvme_state_features *f = &dev->st->life.features;
    uint32_t threshold = (f->coalescing & 0xff) + 1, time = f->coalescing >> 8 & 0xff;
    const struct nvme_vector *v = &dev->vectors[vector];

    if (likely(time == 0) || vector == 0)
        return false;
    if (f->vector_plain[vector / 32] & 1U << vector % 32)
        return false;
    return v->pending < threshold && now - v->since_us < time * COALESCING_UNIT_US;
}

void nvme_irq_flush(struct nvme_dev *dev)
{
    uint64_t now;
    unsigned left = 0;

    if (dev->npending_vectors == 0)
        return;
    now = reactor_now_us(dev->base.reactor);
    for (unsigned i = 0; i < dev->npending_vectors; i++) {
        unsigned vector = dev->pending_vectors[i];

        if (may_wait(dev, vector, now)) {
            dev->pending_vectors[left++] = (uint16_t)vector;
            continue;
        }
        dev->vectors[vector].pending = 0;
        dev->vectors[vector].queued = false;
        function_irq(dev->base.f, vector);
        counter_add(&dev->base.counts.interrupts, 1);
    }
    dev->npending_vectors = left;
    if (left > 0 && !dev->irq_timer.armed)
        timer_arm(dev->base.reactor, &dev->irq_timer, 1, irq_due);
}

void nvme_irq_signal_all(struct nvme_dev *dev)
{
    function_signal_all(dev->base.f);
    dev->npending_vectors = 0;
    for (unsigned i = 0; i < dev->nvectors; i++)
        dev->vectors[i] = (struct nvme_vector){0};
}
