/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Services that die by SIGKILL, at chosen points and at random ones, under a driver that checks
 * every completion. The service is a child; guest memory, state memory and the in-flight area are
 * shared and outlive it, except when the state memory is lost too and only the area is left. Linked
 * with builds that leave out a step of the recovery, this test must fail. */
#include "virtio/test_driver.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { SIZE = 32, HELD = 24, STUCK_MS = 4000 };

enum lost { NOTHING, STATE, SOMETIMES_STATE };

struct shared_page {
    struct virtq_found sum;
    _Atomic uint32_t services, stop, parked;
};

struct world {
    struct machine m;
    struct driver d;
    struct shared_page *page;
    pid_t service;
    enum lost lost;
    bool area;
    unsigned deaths;
    const char *second; /* where the second service dies; the state memory is lost only then */
    uint64_t finished, progress_ms;
    bool seen[1 << 16]; /* serial numbers that were completed */
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the service's life, in the child ---- */

struct service {
    struct virtq *vq;
    uint16_t held[SIZE];
    uint64_t serial[SIZE], last;
    unsigned nheld;
};

static void start(struct service *s, uint16_t slot)
{
    uint64_t serial;

    if (serial_execute(s->vq, slot, &serial) < 0)
        _exit(4);
    if (serial <= s->last) /* the driver offers them in the order of their numbers */
        _exit(6);
    s->last = s->serial[s->nheld] = serial;
    s->held[s->nheld++] = slot;
}

static void finish(struct service *s, unsigned i)
{
    virtq_done(s->vq, s->held[i], used_len(s->serial[i]));
    s->held[i] = s->held[--s->nheld];
    s->serial[i] = s->serial[s->nheld];
}

static void add_found(struct shared_page *page, struct virtq_found f)
{
    page->sum.records += f.records;
    page->sum.live += f.live;
    page->sum.intent_stored += f.intent_stored;
    page->sum.posted += f.posted;
    page->sum.unpublished += f.unpublished;
    page->sum.from_area += f.from_area;
    atomic_fetch_add(&page->services, 1);
}

static void serve(struct world *w, const char *crash_point, unsigned seed)
{
    struct service s = {0};
    struct virtq_opts o = driver_opts(&w->d, machine_map(&w->m), w->area);
    uint16_t slots[SIZE];
    struct err err = {0};
    unsigned idle = 0, n;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    srand(seed);
    unsetenv("SNAP_CRASH_POINT");
    if (crash_point)
        setenv("SNAP_CRASH_POINT", crash_point, 1);
    if (virtq_open(&o, &s.vq, &err) < 0) {
        fprintf(stderr, "service: %s\n", err.msg);
        _exit(3);
    }
    add_found(w->page, virtq_get_found(s.vq));
    n = virtq_live(s.vq, slots, SIZE);
    for (unsigned i = 0; i < n; i++)
        start(&s, slots[i]);
    while (!atomic_load(&w->page->stop)) {
        unsigned keep = idle > 20 ? 0 : HELD;

        n = virtq_fetch(s.vq, slots, 1 + (unsigned)rand() % SIZE);
        for (unsigned i = 0; i < n; i++)
            start(&s, slots[i]);
        idle = n ? 0 : idle + 1;
        while (s.nheld > keep || (s.nheld && rand() % 3))
            finish(&s, (unsigned)rand() % s.nheld);
        virtq_post(s.vq);
        if (virtq_broken(s.vq)) {
            fprintf(stderr, "service: %s\n", virtq_broken(s.vq));
            _exit(5);
        }
        if (n == 0)
            usleep(10);
    }
    _exit(0);
}

static void spawn(struct world *w, const char *crash_point)
{
    unsigned seed = (unsigned)rand();

    fflush(NULL);
    w->service = fork();
    assert_true(w->service >= 0);
    if (w->service == 0)
        serve(w, crash_point, seed);
}

static void died(struct world *w)
{
    const char *crash_point = w->deaths == 0 ? w->second : NULL;

    w->deaths++;
    if (crash_point) {
        spawn(w, crash_point);
        return;
    }
    if (w->lost == STATE || (w->lost == SOMETIMES_STATE && rand() % 2)) {
        machine_wipe(&w->m);
        w->d.cfg.start++;
    }
    spawn(w, NULL);
}

static void reap(struct world *w)
{
    int status;

    if (waitpid(w->service, &status, WNOHANG) == 0)
        return;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the service ended by itself, status %x", status);
    died(w);
}

static void kill_service(struct world *w)
{
    kill(w->service, SIGKILL);
    waitpid(w->service, NULL, 0);
    died(w);
}

/* ---- the driver ---- */

static unsigned take_all(struct world *w)
{
    uint64_t serial;
    unsigned n = 0;

    for (; serial_take(&w->d, &serial); n++) {
        if (w->seen[serial])
            fail_msg("duplicate: chain %llu", (unsigned long long)serial);
        w->seen[serial] = true;
        w->progress_ms = now_ms();
    }
    w->finished += n;
    return n;
}

static void drive(struct world *w, uint64_t chains, unsigned kill_every)
{
    uint64_t next_kill = kill_every;

    w->progress_ms = now_ms();
    assert_true(chains < ARRAY_SIZE(w->seen));
    while (w->finished < chains) {
        unsigned n = take_all(w);

        while (w->d.next_serial <= chains && rand() % 8 &&
               serial_add(&w->d, (unsigned)rand() % 5) >= 0)
            n++;
        if (kill_every && w->finished > next_kill && w->d.outstanding > 2) {
            usleep((unsigned)rand() % 100);
            kill_service(w);
            next_kill = w->finished + kill_every;
        }
        if (n)
            continue;
        reap(w);
        if (now_ms() - w->progress_ms > STUCK_MS)
            fail_msg("lost: %u chains were never completed", w->d.outstanding);
        usleep(10);
    }
    for (unsigned i = 0; i < 10; i++, usleep(200)) /* what would come a second time comes now */
        if (take_all(w))
            fail_msg("duplicate: a completion too many");
    assert_int_equal(w->d.outstanding, 0);
}

/* ---- the tests ---- */

static void world_make(struct world *w, uint64_t features, enum lost lost, bool area,
                       const char *crash_point)
{
    memset(w, 0, sizeof(*w));
    machine_make(&w->m);
    w->page = shared(sizeof(*w->page));
    w->lost = lost;
    w->area = area;
    /* Near the end of the indexes (split) or of a lap (packed). */
    driver_init(&w->d, &w->m, SIZE, features | VIRTIO_F_RING_INDIRECT_DESC,
                features & VIRTIO_F_RING_PACKED ? SIZE - 3 : 0xfff0);
    spawn(w, crash_point);
}

static void world_end(struct world *w)
{
    int status;

    atomic_store(&w->page->stop, 1);
    waitpid(w->service, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    munmap(w->page, sizeof(*w->page));
    machine_free(&w->m);
}

static struct world *world(void)
{
    static struct world w;

    return &w;
}

static struct virtq_found die_at(const char *point, const char *second, enum lost lost, bool area)
{
    struct virtq_found sum = {0};
    struct world *w = world();

    for (unsigned round = 0; round < 16; round++) {
        char spec[64];

        snprintf(spec, sizeof(spec), "%s:%u", point, 2 + round / 2 * 3);
        world_make(w, round % 2 ? VIRTIO_F_RING_PACKED : 0, lost, area, spec);
        w->second = second;
        drive(w, 600, 0);
        assert_int_equal(w->deaths, second ? 2 : 1);
        sum.records += w->page->sum.records;
        sum.live += w->page->sum.live;
        sum.intent_stored += w->page->sum.intent_stored;
        sum.posted += w->page->sum.posted;
        sum.unpublished += w->page->sum.unpublished;
        sum.from_area += w->page->sum.from_area;
        world_end(w);
    }
    return sum;
}

static struct virtq_found dies_at(const char *point, enum lost lost, bool area)
{
    return die_at(point, NULL, lost, area);
}

static void dying_before_a_batch_is_published(void **state)
{
    assert_true(dies_at("vq_fetch_copied", NOTHING, false).unpublished > 0);
}

static void dying_before_execution(void **state)
{
    assert_true(dies_at("vq_fetch_published", NOTHING, false).live > 0);
}

static void dying_before_completions_are_written(void **state)
{
    assert_true(dies_at("vq_intents_stored", NOTHING, true).intent_stored > 0);
}

static void dying_before_completions_are_published(void **state)
{
    assert_true(dies_at("vq_used_written", NOTHING, true).intent_stored > 0);
}

static void dying_before_the_cursor_is_stored(void **state)
{
    assert_true(dies_at("vq_used_published", NOTHING, true).intent_stored > 0);
}

static void dying_before_the_slots_are_freed(void **state)
{
    assert_true(dies_at("vq_tail_stored", NOTHING, false).posted > 0);
}

static void dying_after_the_slots_are_freed(void **state)
{
    dies_at("vq_batch_freed", NOTHING, false);
}

static void dying_with_the_state_memory(void **state)
{
    static const char *const points[] = {
        "vq_fetch_copied",   "vq_fetch_published", "vq_intents_stored", "vq_used_written",
        "vq_used_published", "vq_tail_stored",     "vq_batch_freed"};

    for (unsigned i = 0; i < ARRAY_SIZE(points); i++)
        assert_true(dies_at(points[i], STATE, true).from_area > 0);
}

/* The second service has written the area anew, and completions that are to be posted again may
 * have been published. */
static void dying_again_before_posting(void **state)
{
    static const char *const points[] = {"vq_intents_stored", "vq_used_written",
                                         "vq_used_published", "vq_tail_stored"};

    for (unsigned i = 0; i < ARRAY_SIZE(points); i++)
        assert_true(die_at(points[i], "vq_opened:1", STATE, true).from_area > 0);
}

static void dies_at_random(uint64_t features, enum lost lost, bool area)
{
    struct world *w = world();

    world_make(w, features, lost, area, NULL);
    drive(w, 30000, 150);
    print_message("%u deaths: %u records: %u live, %u intent stored, %u posted, %u unpublished; %u "
                  "from the area\n",
                  w->deaths, w->page->sum.records, w->page->sum.live, w->page->sum.intent_stored,
                  w->page->sum.posted, w->page->sum.unpublished, w->page->sum.from_area);
    assert_true(w->deaths >= 100);
    assert_true(w->page->sum.live > 0);
    assert_true(lost == NOTHING || w->page->sum.from_area > 0);
    world_end(w);
}

static void split_dies_at_random(void **state)
{
    dies_at_random(0, NOTHING, false);
}

static void packed_dies_at_random(void **state)
{
    dies_at_random(VIRTIO_F_RING_PACKED, NOTHING, false);
}

static void split_dies_with_its_state(void **state)
{
    dies_at_random(0, SOMETIMES_STATE, true);
}

static void packed_dies_with_its_state(void **state)
{
    dies_at_random(VIRTIO_F_RING_PACKED, SOMETIMES_STATE, true);
}

/* With an argument only one test at random moments: enough for a build that must fail. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dying_before_a_batch_is_published),
        cmocka_unit_test(dying_before_execution),
        cmocka_unit_test(dying_before_completions_are_written),
        cmocka_unit_test(dying_before_completions_are_published),
        cmocka_unit_test(dying_before_the_cursor_is_stored),
        cmocka_unit_test(dying_before_the_slots_are_freed),
        cmocka_unit_test(dying_after_the_slots_are_freed),
        cmocka_unit_test(dying_with_the_state_memory),
        cmocka_unit_test(dying_again_before_posting),
        cmocka_unit_test(split_dies_at_random),
        cmocka_unit_test(packed_dies_at_random),
        cmocka_unit_test(split_dies_with_its_state),
        cmocka_unit_test(packed_dies_with_its_state),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    srand(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
