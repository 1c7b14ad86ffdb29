/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/latency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
/* cmocka needs the four above */
#include <cmocka.h>

static struct latency l;

static int clear(void **state)
{
    (void)state;
    memset(&l, 0, sizeof(l));
    return 0;
}

static void nothing_measured_is_zero(void **state)
{
    (void)state;
    assert_int_equal(latency_percentile(&l, 0.5), 0);
    assert_int_equal(latency_mean(&l), 0);
}

static void percentiles_are_within_one_thirtysecond(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 100000; i++)
        latency_add(&l, i * 10);
    for (unsigned p = 1; p < 100; p++) {
        uint64_t want = p * 10000, got = latency_percentile(&l, p / 100.0);

        assert_in_range(got, want - want / 32 - 10, want + want / 32 + 10);
    }
    assert_int_equal(latency_percentile(&l, 1.0), 1000000);
    assert_int_equal(l.min_ns, 10);
    assert_int_equal(latency_mean(&l), 500005);
}

static void extremes_have_a_bucket(void **state)
{
    (void)state;
    latency_add(&l, 0);
    latency_add(&l, UINT64_MAX);
    assert_int_equal(latency_percentile(&l, 0.0), 0);
    assert_int_equal(latency_percentile(&l, 1.0), UINT64_MAX);
}

static void merging_is_adding_to_one(void **state)
{
    struct latency both = {0}, other = {0};

    (void)state;
    latency_merge(&both, &l); /* nothing */
    for (uint64_t i = 0; i < 1000; i++) {
        latency_add(i % 3 ? &l : &other, i * i);
        latency_add(&both, i * i);
    }
    latency_merge(&l, &other);
    assert_memory_equal(&l, &both, sizeof(l));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_measured_is_zero, clear),
        cmocka_unit_test_setup(percentiles_are_within_one_thirtysecond, clear),
        cmocka_unit_test_setup(extremes_have_a_bucket, clear),
        cmocka_unit_test_setup(merging_is_adding_to_one, clear),
    };

    return cmocka_run_group_tests_name("latency", tests, NULL, NULL);
}
