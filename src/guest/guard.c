/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/guard.h"

#include "base/undumped.h"
#include "guest/memory.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

/* The handler may run on any thread while another one changes the table, so entries are published
 * by a release store of start and never move; a full table leaves further regions unguarded. */
enum { GUARD_ENTRIES = 16384 };

struct guard {
    _Atomic uintptr_t start; /* 0: free */
    _Atomic size_t len;
    atomic_bool poisoned;
};

static struct guard guards[GUARD_ENTRIES];
static _Atomic unsigned used; /* entries ever touched */
static atomic_bool any_poisoned;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;

static struct guard *find(uintptr_t start)
{
    unsigned n = atomic_load(&used);

    for (unsigned i = 0; i < n; i++)
        if (atomic_load(&guards[i].start) == start)
            return &guards[i];
    return NULL;
}

void guard_add(void *start, size_t len)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < GUARD_ENTRIES; i++) {
        struct guard *g = &guards[i];

        if (atomic_load(&g->start))
            continue;
        atomic_store(&g->poisoned, false);
        atomic_store(&g->len, len);
        atomic_store(&g->start, (uintptr_t)start);
        if (i >= atomic_load(&used))
            atomic_store(&used, i + 1);
        break;
    }
    pthread_mutex_unlock(&lock);
}

void guard_remove(void *start)
{
    struct guard *g;

    pthread_mutex_lock(&lock);
    g = find((uintptr_t)start);
    if (g)
        atomic_store(&g->start, 0);
    pthread_mutex_unlock(&lock);
}

bool guard_poisoned(const void *start)
{
    const struct guard *g;

    if (!atomic_load_explicit(&any_poisoned, memory_order_relaxed))
        return false;
    g = find((uintptr_t)start);
    return g && atomic_load(&g->poisoned);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    uintptr_t addr = (uintptr_t)info->si_addr;
    unsigned n = atomic_load(&used);
    int saved = errno;

    for (unsigned i = 0; i < n; i++) {
        struct guard *g = &guards[i];
        uintptr_t start = atomic_load(&g->start);
        size_t len = atomic_load(&g->len);

        if (!start || addr - start >= len)
            continue;
        /* mmap is a bare system call, fine in a handler. The whole region goes: one truncation
         * poisons it all. */
        if (mmap((void *)start, len, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            break;
        undumped_mark((void *)start, len); /* it still takes data of the disk */
        atomic_store(&g->poisoned, true);
        atomic_store(&any_poisoned, true);
        errno = saved;
        return;
    }
    /* Not ours: die as without a handler. */
    (void)context;
    sigaction(sig, &previous, NULL);
    raise(sig);
}

int guest_memory_guard(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    return sigaction(SIGBUS, &sa, &previous) < 0 ? -errno : 0;
}
