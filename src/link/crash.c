/* SPDX-License-Identifier: BSD-3-Clause */
#include "link/crash.h"

#include "base/util.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

enum { MARKS = 16384 };

static _Atomic(struct state_memory *) marks[MARKS];
static _Atomic unsigned used;
static _Thread_local struct state_memory *suspect;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const int fatal[] = {SIGSEGV, SIGABRT, SIGILL, SIGFPE, SIGBUS};
static struct sigaction previous[ARRAY_SIZE(fatal)];

void crash_mark_add(struct state_memory *st)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < MARKS; i++) {
        if (atomic_load(&marks[i]))
            continue;
        atomic_store(&marks[i], st);
        if (i >= atomic_load(&used))
            atomic_store(&used, i + 1);
        break;
    }
    pthread_mutex_unlock(&lock);
}

void crash_mark_remove(struct state_memory *st)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < atomic_load(&used); i++)
        if (atomic_load(&marks[i]) == st)
            atomic_store(&marks[i], NULL);
    pthread_mutex_unlock(&lock);
}

bool crash_mark_take(struct state_memory *st)
{
    return atomic_exchange(&st->svc.crashed, 0) != 0;
}

struct state_memory *crash_suspect(struct state_memory *st)
{
    struct state_memory *before = suspect;

    suspect = st;
    return before;
}

static void on_fault(int sig)
{
    unsigned n = atomic_load(&used);

    for (unsigned i = 0; i < n; i++) {
        struct state_memory *st = atomic_load(&marks[i]);

        if (st && (!suspect || st == suspect))
            atomic_store(&st->svc.crashed, 1);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
        if (fatal[i] == sig)
            sigaction(sig, &previous[i], NULL);
    raise(sig);
}

int crash_guard(void)
{
    struct sigaction sa = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
        if (sigaction(fatal[i], &sa, &previous[i]) < 0)
            return -errno;
    return 0;
}
