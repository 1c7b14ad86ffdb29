/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Services that die by SIGKILL, at chosen points and at random ones, under a host that checks every
 * completion and every block. The service is a child; state memory, doorbells, guest memory and
 * disk are shared and outlive it. Linked with builds that leave out a step of the recovery, this
 * test must fail. */
#include "devices/nvme/test_host.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum {
    QUEUES = 2,
    QUEUE_SIZE = 32,
    CIDS = 12, /* per queue */
    BLOCKS = 4,
    STUCK_MS = 4000,
};

struct counts {
    uint64_t adoptions, records, live, intent_stored, posted, unpublished;
};

struct shared_page {
    struct counts counts;
    _Atomic uint32_t stop;
};

enum op { OP_IDLE, OP_WRITE, OP_READ };

/* One CID: writes its blocks with a new generation, reads them back, and again. */
struct job {
    enum op op;
    uint32_t generation;
};

struct world {
    struct machine m;
    struct host h;
    struct shared_page *page;
    pid_t service;
    struct job jobs[QUEUES + 1][CIDS];
    unsigned finished, outstanding, deaths;
    uint64_t progress_ms;
    const char *crash_point; /* of the first service */
    unsigned seed;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the service's life, in the child ---- */

static void serve(struct world *w, const char *crash_point)
{
    struct service s;
    struct service_opts o = {.no_resume = true};
    struct err err = {0};
    unsigned idle = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    srand(w->seed++);
    unsetenv("SNAP_CRASH_POINT");
    if (crash_point)
        setenv("SNAP_CRASH_POINT", crash_point, 1);
    if (service_try(&s, &w->m, &o, &err) < 0 || device_resume(&s.dev->base, &err) < 0) {
        fprintf(stderr, "service: %s\n", err.msg);
        _exit(3);
    }
    w->page->counts.adoptions += atomic_load(&s.dev->base.counts.adopted);
    w->page->counts.records += atomic_load(&s.dev->base.counts.records);
    w->page->counts.live += atomic_load(&s.dev->base.counts.live);
    w->page->counts.intent_stored += atomic_load(&s.dev->base.counts.intent_stored);
    w->page->counts.posted += atomic_load(&s.dev->base.counts.posted);
    w->page->counts.unpublished += atomic_load(&s.dev->base.counts.unpublished);
    while (!atomic_load(&w->page->stop)) {
        unsigned work = function_poll(s.f), keep = idle > 50 ? 0 : CIDS;

        /* Some answers at once, most later and in another order: there is always something in
         * flight. */
        disk.hold = rand() % 8 != 0;
        for (; disk.nwaiting > keep && rand() % 8; work++)
            disk_release((unsigned)rand() % disk.nwaiting);
        idle = work ? 0 : idle + 1;
        function_flush(s.f);
        if (work == 0)
            usleep(20);
    }
    _exit(0);
}

static void spawn(struct world *w, const char *crash_point)
{
    w->seed = (unsigned)rand();
    fflush(NULL);
    w->service = fork();
    assert_true(w->service >= 0);
    if (w->service == 0)
        serve(w, crash_point);
}

static void reap(struct world *w, const char *next_crash_point)
{
    int status;

    if (waitpid(w->service, &status, WNOHANG) == 0)
        return;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("the service ended by itself, status %x", status);
    w->deaths++;
    spawn(w, next_crash_point);
}

static void kill_service(struct world *w)
{
    kill(w->service, SIGKILL);
    waitpid(w->service, NULL, 0);
    w->deaths++;
}

/* ---- the host ---- */

static void moment(struct world *w)
{
    reap(w, NULL);
    if (now_ms() - w->progress_ms > STUCK_MS)
        fail_msg("lost: %u commands were never completed", w->outstanding);
    usleep(20);
}

static void admin(struct world *w, struct nvme_sqe sqe)
{
    struct nvme_cqe cqe;

    host_submit(&w->h, 0, &sqe);
    w->progress_ms = now_ms();
    while (!host_take(&w->h, 0, &cqe))
        moment(w);
    assert_int_equal(le16_get(cqe.cid), le16_get(sqe.cid));
    if (cqe_status(&cqe))
        fail_msg("admin command %u: status %x", le16_get(sqe.cid), cqe_status(&cqe));
}

static uint64_t lba_of(unsigned q, unsigned cid)
{
    return (q * CIDS + cid) * BLOCKS;
}

static uint64_t gpa_of(unsigned q, unsigned cid)
{
    return GPA_DATA + (uint64_t)(q * CIDS + cid) * BLOCKS * BLOCK;
}

static uint32_t *buffer_of(struct world *w, unsigned q, unsigned cid)
{
    return (uint32_t *)(void *)(w->m.ram + gpa_of(q, cid));
}

static uint32_t word(const struct job *j, unsigned q, unsigned cid, unsigned i)
{
    return j->generation * 2654435761U + (q * CIDS + cid) * 4096 + i;
}

static void submit(struct world *w, unsigned q, unsigned cid)
{
    struct job *j = &w->jobs[q][cid];
    uint32_t *b = buffer_of(w, q, cid);
    struct nvme_sqe sqe;

    if (j->op == OP_WRITE) {
        j->op = OP_READ;
        memset(b, 0xee, BLOCKS * BLOCK);
    } else {
        j->op = OP_WRITE;
        j->generation++;
        for (unsigned i = 0; i < BLOCKS * BLOCK / 4; i++)
            b[i] = word(j, q, cid, i);
    }
    sqe = rw_sqe(j->op == OP_WRITE ? NVME_CMD_WRITE : NVME_CMD_READ, (uint16_t)cid, lba_of(q, cid),
                 BLOCKS, gpa_of(q, cid));
    host_put(&w->h, q, &sqe);
    w->outstanding++;
}

static void completed(struct world *w, unsigned q, const struct nvme_cqe *cqe, bool *busy)
{
    unsigned cid = le16_get(cqe->cid);

    if (cid >= CIDS || !busy[cid])
        fail_msg("duplicate: queue %u, CID %u is not in flight", q, cid);
    if (cqe_status(cqe))
        fail_msg("queue %u, CID %u: status %x", q, cid, cqe_status(cqe));
    if (w->jobs[q][cid].op == OP_READ)
        for (unsigned i = 0; i < BLOCKS * BLOCK / 4; i++)
            if (buffer_of(w, q, cid)[i] != word(&w->jobs[q][cid], q, cid, i))
                fail_msg("stale: queue %u, CID %u, word %u", q, cid, i);
    busy[cid] = false;
    w->outstanding--;
    w->finished++;
    w->progress_ms = now_ms();
}

static void set_up_queues(struct world *w)
{
    host_enable(&w->h);
    w->progress_ms = now_ms();
    while (!(host_read(&w->h, NVME_REG_CSTS) & NVME_CSTS_RDY))
        moment(w);
    for (unsigned q = 1; q <= QUEUES; q++) {
        host_queue_init(&w->h, q, QUEUE_SIZE, GPA_SQ + q * 0x1000, GPA_CQ + q * 0x1000);
        admin(w, create_cq_sqe((uint16_t)(10 + q), q, QUEUE_SIZE));
        admin(w, create_sq_sqe((uint16_t)(20 + q), q, QUEUE_SIZE));
    }
}

static void drive(struct world *w, unsigned commands, unsigned kill_every)
{
    bool busy[QUEUES + 1][CIDS] = {{false}};
    unsigned next_kill = kill_every;

    w->progress_ms = now_ms();
    while (w->finished < commands || w->outstanding) {
        bool any = false;

        for (unsigned q = 1; q <= QUEUES; q++) {
            uint32_t tail = w->h.q[q].tail;
            struct nvme_cqe cqe;

            while (host_take(&w->h, q, &cqe)) {
                completed(w, q, &cqe, busy[q]);
                any = true;
            }
            for (unsigned cid = 0; cid < CIDS && w->finished < commands; cid++)
                if (!busy[q][cid]) {
                    submit(w, q, cid);
                    busy[q][cid] = true;
                }
            if (w->h.q[q].tail != tail)
                host_ring(&w->h, 2 * q, w->h.q[q].tail);
        }
        if (kill_every && w->finished > next_kill && w->outstanding > CIDS) {
            usleep((unsigned)rand() % 200);
            kill_service(w);
            spawn(w, NULL);
            next_kill = w->finished + kill_every;
        }
        if (!any)
            moment(w);
    }
    /* What would come a second time comes now. */
    for (unsigned i = 0; i < 20; i++, usleep(200))
        for (unsigned q = 1; q <= QUEUES; q++) {
            struct nvme_cqe cqe;

            if (host_take(&w->h, q, &cqe))
                fail_msg("duplicate: queue %u, CID %u came twice", q, le16_get(cqe.cid));
        }
}

/* ---- the tests ---- */

static void world_make(struct world *w, const char *crash_point)
{
    memset(w, 0, sizeof(*w));
    machine_make(&w->m);
    w->page = shared(sizeof(*w->page));
    w->h.m = &w->m;
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

static struct counts dies_at(const char *point, unsigned first, unsigned step, unsigned rounds,
                             bool shadow)
{
    struct counts sum = {0};

    for (unsigned i = 0; i < rounds; i++) {
        struct world w;
        char spec[64];

        snprintf(spec, sizeof(spec), "%s:%u", point, first + i * step);
        world_make(&w, spec);
        set_up_queues(&w);
        if (shadow) {
            admin(&w, (struct nvme_sqe){.opc = NVME_ADMIN_DOORBELL_BUFFER_CONFIG,
                                        .cid = le16_of(50),
                                        .prp1 = le64_of(GPA_SHADOW),
                                        .prp2 = le64_of(GPA_EVENTIDX)});
            w.h.shadow = true;
        }
        drive(&w, 300, 0);
        assert_int_equal(w.deaths, 1);
        sum.adoptions += w.page->counts.adoptions;
        sum.live += w.page->counts.live;
        sum.intent_stored += w.page->counts.intent_stored;
        sum.posted += w.page->counts.posted;
        sum.unpublished += w.page->counts.unpublished;
        world_end(&w);
    }
    return sum;
}

static void dying_before_the_head_is_stored(void **state)
{
    struct counts c = dies_at("nvme_fetch_copied", 3, 5, 6, false);

    assert_true(c.unpublished > 0);
}

static void dying_before_execution(void **state)
{
    struct counts c = dies_at("nvme_fetch_published", 3, 5, 6, true);

    assert_true(c.live > 0);
}

static void dying_before_the_completions_are_written(void **state)
{
    struct counts c = dies_at("nvme_intents_stored", 5, 7, 6, false);

    assert_true(c.intent_stored > 0);
}

static void dying_before_the_tail_is_stored(void **state)
{
    struct counts c = dies_at("nvme_cqes_written", 5, 7, 6, true);

    assert_true(c.intent_stored > 0);
}

static void dying_before_the_slots_are_freed(void **state)
{
    struct counts c = dies_at("nvme_tail_stored", 5, 7, 6, false);

    assert_true(c.posted > 0);
}

static void dying_after_the_slots_are_freed(void **state)
{
    dies_at("nvme_batch_freed", 5, 7, 4, false);
}

static void dying_between_an_admin_effect_and_its_completion(void **state)
{
    struct counts c = dies_at("nvme_create_sq_done", 1, 1, QUEUES, false);

    assert_int_equal(c.adoptions, QUEUES);
}

static void dying_at_random_moments(void **state)
{
    struct world w;

    world_make(&w, NULL);
    set_up_queues(&w);
    drive(&w, 6000, 150);
    print_message(
        "%u deaths: %llu records: %llu live, %llu intent stored, %llu posted, %llu unpublished\n",
        w.deaths, (unsigned long long)w.page->counts.records,
        (unsigned long long)w.page->counts.live, (unsigned long long)w.page->counts.intent_stored,
        (unsigned long long)w.page->counts.posted, (unsigned long long)w.page->counts.unpublished);
    assert_true(w.deaths >= 20);
    assert_true(w.page->counts.live > 0);
    world_end(&w);
}

/* With an argument only the test at random moments: enough for a build that must fail. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dying_before_the_head_is_stored),
        cmocka_unit_test(dying_before_execution),
        cmocka_unit_test(dying_before_the_completions_are_written),
        cmocka_unit_test(dying_before_the_tail_is_stored),
        cmocka_unit_test(dying_before_the_slots_are_freed),
        cmocka_unit_test(dying_after_the_slots_are_freed),
        cmocka_unit_test(dying_between_an_admin_effect_and_its_completion),
        cmocka_unit_test(dying_at_random_moments),
    };

    if (argc > 1)
        cmocka_set_test_filter("*random*");
    srand(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
