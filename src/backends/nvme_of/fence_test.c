/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/fence.h"
#include "base/util.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

enum { S = 1000000 };

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * S + (uint64_t)ts.tv_nsec / 1000;
}

static struct fence fence; /* large */

static int begin(void **state)
{
    fence_init(&fence);
    return 0;
}

static int end(void **state)
{
    fence_fini(&fence);
    return 0;
}

static uint64_t add(uint64_t assoc, uint64_t first, uint64_t blocks, uint64_t guard)
{
    struct fence_loss loss = {.assoc = assoc, .bound_us = FENCE_UNKNOWN, .marked = true};

    fence_add(&fence, &loss, first, first + blocks, &guard);
    return guard;
}

/* Begun before anything was lost. */
static void ready(unsigned path, uint64_t assoc, uint64_t delay_us)
{
    fence_ready(&fence, path, assoc, 0, delay_us);
}

static uint64_t blocked(uint64_t first, uint64_t blocks, uint64_t guard)
{
    return fence_blocks(&fence, now_us(), first, first + blocks, guard);
}

/* ---- which rule ---- */

static void test_rules(void **state)
{
    struct nof_ctrl c = {.kas = 10};

    assert_int_equal(fence_rule_for(NULL, 10000).kind, FENCE_TIME);
    assert_int_equal(fence_rule_for(&c, 10000).kind, FENCE_TIME);
    assert_int_equal(fence_rule_for(&c, 10000).delay_ms, 20000);
    c.traffic_keep_alive = true;
    assert_int_equal(fence_rule_for(&c, 10000).delay_ms, 30000);
    c.cqt_ms = 1;
    assert_int_equal(fence_rule_for(&c, 10000).kind, FENCE_CQT);
    assert_int_equal(fence_rule_for(&c, 10000).delay_ms, 30001);
    c.traffic_keep_alive = false;
    assert_int_equal(fence_rule_for(&c, 1001).delay_ms, 4001); /* rounded up to 1 s units */
    c.kas = 0;
    assert_int_equal(fence_rule_for(&c, 10000).kind, FENCE_NONE);
    assert_true(fence_rule_for(&c, 10000).delay_ms >= 30000);
    c.kas = 1;
    assert_int_equal(fence_rule_for(&c, 0).kind, FENCE_NONE);
    c.fence_mark = true;
    assert_int_equal(fence_rule_for(&c, 10000).kind, FENCE_CONFIRMED);
    assert_int_equal(fence_rule_for(&c, 10000).delay_ms, 0);
}

/* ---- who waits, and until when ---- */

static void test_nothing_lost_nothing_waits(void **state)
{
    ready(0, 1, 10 * S);
    assert_int_equal(blocked(0, UINT32_MAX, 0), FENCE_OVER);
    assert_int_equal(fence_ranges(&fence), 0);
}

static void test_what_overlaps_waits_and_the_one_sent_again_does_not(void **state)
{
    uint64_t guard, before = now_us(), until;

    ready(0, 1, 10 * S);
    guard = add(1, 8, 8, 0);
    assert_true(guard);
    assert_int_equal(blocked(8, 8, guard), FENCE_OVER);
    assert_true(blocked(8, 8, 0) == FENCE_UNKNOWN);
    assert_true(blocked(15, 1, 0) == FENCE_UNKNOWN);
    assert_true(blocked(0, 100, 0) == FENCE_UNKNOWN);
    assert_int_equal(blocked(0, 8, 0), FENCE_OVER);
    assert_int_equal(blocked(16, 8, 0), FENCE_OVER);
    ready(0, 1, 10 * S); /* told again: nothing has ended */
    assert_true(blocked(8, 8, 0) == FENCE_UNKNOWN);
    ready(0, 2, 10 * S);
    until = blocked(8, 8, 0);
    assert_true(until >= before + 10 * S && until <= now_us() + 10 * S);
    assert_int_equal(blocked(8, 8, guard), FENCE_OVER);
}

static void test_a_confirmed_end_ends_all(void **state)
{
    add(1, 0, 8, 0);
    add(0, 100, 8, 0);
    ready(0, 2, 0);
    assert_int_equal(blocked(0, 200, 0), FENCE_OVER);
    assert_int_equal(fence_ranges(&fence), 0);
    /* What a queue hears of too late, and what a service before us had sent. */
    assert_int_equal(add(1, 0, 8, 0), 0);
    assert_int_equal(add(0, 0, 8, 0), 0);
    assert_int_equal(fence_ranges(&fence), 0);
    add(2, 0, 8, 0);
    assert_int_equal(fence_ranges(&fence), 1);
}

static void test_time_ends_it(void **state)
{
    uint64_t guard = add(1, 0, 8, 0);
    struct timespec ms = {.tv_nsec = 60 * 1000 * 1000};

    ready(0, 2, 50 * 1000);
    nanosleep(&ms, NULL);
    assert_int_equal(blocked(0, 8, 0), FENCE_OVER);
    assert_int_equal(atomic_load(&fence.active), 0);
    /* Its number is worth nothing any more: another guard may be there by now. */
    add(2, 0, 8, 0);
    assert_true(blocked(0, 8, guard) == FENCE_UNKNOWN);
}

static void test_the_second_of_two_that_overlap_waits_for_both(void **state)
{
    uint64_t first = add(1, 0, 8, 0), second = add(1, 4, 8, 0), third = add(1, 8, 2, 0);

    assert_true(first);
    assert_int_equal(second, 0);
    assert_int_equal(third, 0);
    ready(0, 2, 10 * S);
    assert_int_equal(blocked(0, 8, first), FENCE_OVER);
    assert_true(blocked(4, 8, second) == blocked(0, 1, 0)); /* one end for both */
}

static void test_lost_twice_keeps_its_right(void **state)
{
    uint64_t guard = add(1, 0, 8, 0), until;

    ready(0, 2, 10 * S);
    until = blocked(0, 8, 0);
    guard = add(2, 0, 8, guard);
    assert_true(guard);
    assert_int_equal(fence_ranges(&fence), 1);
    assert_true(blocked(0, 8, 0) == FENCE_UNKNOWN);
    ready(0, 3, 10 * S);
    assert_int_equal(blocked(0, 8, guard), FENCE_OVER);
    assert_true(blocked(0, 8, 0) >= until);
}

/* Others may have sent on the new association what overlaps it. */
static void test_lost_after_the_next_association_began_waits_for_itself(void **state)
{
    uint64_t guard;

    ready(0, 2, 10 * S);
    guard = add(1, 0, 8, 0);
    assert_int_equal(guard, 0);
    assert_true(blocked(0, 8, guard) > now_us());
    assert_true(blocked(0, 8, guard) != FENCE_UNKNOWN);
}

static void test_a_former_process_counts_from_the_connection(void **state)
{
    uint64_t guard = add(0, 0, 8, 0), connected;
    struct timespec ms = {.tv_nsec = 20 * 1000 * 1000};

    assert_true(guard);
    nanosleep(&ms, NULL);
    connected = now_us();
    ready(0, 1, 10 * S);
    assert_int_equal(blocked(0, 8, guard), FENCE_OVER);
    assert_true(blocked(0, 8, 0) >= connected + 10 * S);
    /* Taken over later: from then. */
    connected = now_us();
    guard = add(0, 100, 8, 0);
    assert_true(guard);
    assert_true(blocked(100, 8, 0) >= connected + 10 * S);
}

/* ---- several paths ---- */

enum { A = 1, B = 2 };

static uint64_t lost_by(unsigned path, uint64_t assoc, uint64_t first, bool marked, bool crossed)
{
    struct fence_loss loss = {assoc, 10 * S, path, marked, crossed};
    uint64_t guard = 0;

    fence_add(&fence, &loss, first, first + 8, &guard);
    return guard;
}

static void test_time_bounds_a_path_that_stays_away(void **state)
{
    uint64_t guard, before = now_us(), until;

    ready(A, 1, 0);
    ready(B, 2, 0);
    guard = lost_by(A, 1, 0, true, false);
    assert_true(guard);
    assert_int_equal(blocked(0, 8, guard), FENCE_OVER);
    until = blocked(0, 8, 0);
    assert_true(until >= before + 10 * S && until <= now_us() + 10 * S);
    ready(B, 2, 0); /* told again: it was there before the loss */
    assert_true(blocked(0, 8, 0) == until);
}

static void test_an_association_begun_after_the_loss_confirms_for_all_paths(void **state)
{
    uint64_t later;

    ready(A, 1, 0);
    ready(B, 2, 0);
    lost_by(A, 1, 0, true, false);
    lost_by(A, 1, 100, false, false); /* its target had no mark then */
    later = now_us() + FENCE_CLOSED_US;
    fence_ready(&fence, B, 3, later - 2 * FENCE_CLOSED_US, 0);
    assert_true(blocked(0, 8, 0) > now_us());
    fence_ready(&fence, B, 4, later - FENCE_CLOSED_US / 2, 0); /* it is not all closed by then */
    assert_true(blocked(0, 8, 0) > now_us());
    fence_ready(&fence, B, 5, later, 10 * S); /* the target has no mark now */
    assert_true(blocked(0, 8, 0) > now_us());
    fence_ready(&fence, B, 6, later, 0);
    assert_int_equal(blocked(0, 8, 0), FENCE_OVER);
    assert_true(blocked(100, 8, 0) > now_us());
}

/* The same path: its next association was begun after the end of the one before, whenever a queue
 * notices. */
static void test_the_next_association_of_the_path_confirms(void **state)
{
    ready(A, 1, 0);
    lost_by(A, 1, 0, true, false);
    ready(A, 7, 0);
    assert_int_equal(blocked(0, 8, 0), FENCE_OVER);
    assert_int_equal(lost_by(A, 1, 0, true, false), 0);
    assert_int_equal(fence_ranges(&fence), 0);
}

static void test_a_longer_time_of_the_next_association_counts(void **state)
{
    uint64_t before = now_us();

    lost_by(A, 1, 0, false, false);
    ready(B, 2, 60 * S); /* of another path: says nothing of this one */
    assert_true(blocked(0, 8, 0) < before + 11 * S);
    ready(A, 3, 30 * S);
    assert_true(blocked(0, 8, 0) >= before + 30 * S);
}

static void test_what_crosses_another_path_waits(void **state)
{
    uint64_t guard = lost_by(A, 1, 0, true, true);

    assert_int_equal(guard, 0);
    assert_true(blocked(0, 8, guard) > now_us());
}

static void test_a_former_process_waits_for_the_slowest_path(void **state)
{
    uint64_t before = now_us();

    ready(A, 1, 10 * S);
    ready(B, 2, 0);
    assert_true(add(0, 0, 8, 0));
    assert_true(blocked(0, 8, 0) >= before + 10 * S);
    fence_path_gone(&fence, A);
    assert_int_equal(add(0, 100, 8, 0), 0);
    assert_int_equal(blocked(100, 8, 0), FENCE_OVER);
}

static void test_merged_ranges_of_several_paths_end(void **state)
{
    for (unsigned i = 0; i < 3 * FENCE_RANGES; i++) {
        if (i % 3 == 0)
            add(0, i * 100ULL, 8, 0);
        else
            lost_by(i % 3, 5, i * 100ULL, true, false);
    }
    assert_true(blocked(0, 300 * FENCE_RANGES, 0) == FENCE_UNKNOWN);
    ready(B, 2, 50000);
    for (unsigned i = 0; i < 3 * FENCE_RANGES; i++) {
        assert_true(blocked(i * 100ULL, 8, 0) > now_us());
        assert_true(blocked(i * 100ULL, 8, 0) != FENCE_UNKNOWN);
    }
    fence_ready(&fence, A, 7, now_us() + FENCE_CLOSED_US, 0);
    assert_int_equal(blocked(0, 300 * FENCE_RANGES, 0), FENCE_OVER);
}

/* ---- a full table ---- */

static void test_a_full_table_forgets_nothing(void **state)
{
    enum { N = 3 * FENCE_RANGES };
    uint64_t guards[N];

    for (unsigned i = 0; i < N; i++) /* in no order */
        guards[i] = add(1, (i * 211 % N) * 100ULL, 8, 0);
    assert_int_equal(fence_ranges(&fence), FENCE_RANGES);
    ready(0, 2, 10 * S);
    for (unsigned i = 0; i < N; i++) {
        uint64_t first = (i * 211 % N) * 100ULL;

        for (unsigned block = 0; block < 8; block++)
            assert_true(blocked(first + block, 1, 0) > now_us());
        if (guards[i])
            assert_int_equal(blocked(first, 8, guards[i]), FENCE_OVER);
    }
    assert_true(guards[0] && guards[1]);
    ready(0, 3, 0);
    assert_int_equal(fence_ranges(&fence), 0);
}

static void test_neighbours_are_merged_first(void **state)
{
    struct fence_table t = {0};

    for (uint64_t i = 0; i < FENCE_RANGES; i++)
        fence_table_add(&t, &(struct fence_range){.first = i * 100,
                                                  .end = i * 100 + 8,
                                                  .until_us = i + 1,
                                                  .low = i + 1,
                                                  .high = i + 1});
    fence_table_add(&t, &(struct fence_range){
                            .first = 208, .end = 216, .until_us = 500, .low = 999, .high = 999});
    assert_int_equal(t.n, FENCE_RANGES);
    assert_int_equal(t.r[2].first, 200);
    assert_int_equal(t.r[2].end, 216);
    assert_int_equal(t.r[2].until_us, 500);
    assert_int_equal(t.r[2].low, 3);
    assert_int_equal(t.r[2].high, 999);
    assert_int_equal(t.r[3].first, 300);
    assert_true(fence_table_prune(&t, 100));
    assert_int_equal(t.n, 29); /* 101..128, and 500 */
}

/* ---- readers beside a writer ---- */

static _Atomic bool stop;
static _Atomic unsigned torn;

static void *read_on(void *arg)
{
    while (!atomic_load(&stop)) {
        /* Block 5 is guarded all the time, whatever comes and goes before it in the table. */
        if (blocked(5000, 1, 0) != FENCE_UNKNOWN)
            atomic_fetch_add(&torn, 1);
        if (blocked(9000, 1, 0) != FENCE_OVER)
            atomic_fetch_add(&torn, 1);
    }
    return NULL;
}

static void test_readers_see_a_whole_table(void **state)
{
    pthread_t threads[2];

    ready(0, 1, 1);
    add(2, 5000, 1, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, NULL), 0);
    for (unsigned i = 0; i < 20000; i++) {
        if (i % 2)
            ready(0, 2, 0); /* ends those of 1 */
        else
            ready(0, 1, 1);
        add(1, i % 50 * 10, 1, 0);
        add(1, 6000 + i % 50 * 10, 1, 0);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&torn), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test_setup_teardown(test_nothing_lost_nothing_waits, begin, end),
        cmocka_unit_test_setup_teardown(test_what_overlaps_waits_and_the_one_sent_again_does_not,
                                        begin, end),
        cmocka_unit_test_setup_teardown(test_a_confirmed_end_ends_all, begin, end),
        cmocka_unit_test_setup_teardown(test_time_ends_it, begin, end),
        cmocka_unit_test_setup_teardown(test_the_second_of_two_that_overlap_waits_for_both, begin,
                                        end),
        cmocka_unit_test_setup_teardown(test_lost_twice_keeps_its_right, begin, end),
        cmocka_unit_test_setup_teardown(test_lost_after_the_next_association_began_waits_for_itself,
                                        begin, end),
        cmocka_unit_test_setup_teardown(test_a_former_process_counts_from_the_connection, begin,
                                        end),
        cmocka_unit_test_setup_teardown(test_a_full_table_forgets_nothing, begin, end),
        cmocka_unit_test_setup_teardown(test_time_bounds_a_path_that_stays_away, begin, end),
        cmocka_unit_test_setup_teardown(
            test_an_association_begun_after_the_loss_confirms_for_all_paths, begin, end),
        cmocka_unit_test_setup_teardown(test_the_next_association_of_the_path_confirms, begin, end),
        cmocka_unit_test_setup_teardown(test_a_longer_time_of_the_next_association_counts, begin,
                                        end),
        cmocka_unit_test_setup_teardown(test_what_crosses_another_path_waits, begin, end),
        cmocka_unit_test_setup_teardown(test_a_former_process_waits_for_the_slowest_path, begin,
                                        end),
        cmocka_unit_test_setup_teardown(test_merged_ranges_of_several_paths_end, begin, end),
        cmocka_unit_test(test_neighbours_are_merged_first),
        cmocka_unit_test_setup_teardown(test_readers_see_a_whole_table, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
