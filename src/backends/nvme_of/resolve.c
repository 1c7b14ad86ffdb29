/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
    struct reactor *r;
    struct mail mail;
    char host[256], port[16];
    int family;
    void (*done)(void *arg, const struct sockaddr_storage *addrs, unsigned n,
                 const struct err *why);
    void *arg;

    pthread_mutex_t lock;
    bool abandoned; /* the lock's, until it is posted; then the reactor's */

    struct sockaddr_storage addrs[RESOLVE_MAX];
    unsigned n;
    struct err why;
};

static void job_free(struct resolve *job)
{
    pthread_mutex_destroy(&job->lock);
    free(job);
}

static void arrived(struct mail *m)
{
    struct resolve *job = (struct resolve *)(void *)((char *)m - offsetof(struct resolve, mail));

    if (!job->abandoned)
        job->done(job->arg, job->addrs, job->n, &job->why);
    job_free(job);
}

/* Hands the result over, or ends an abandoned job. */
static void finish(struct resolve *job)
{
    bool abandoned;

    pthread_mutex_lock(&job->lock);
    abandoned = job->abandoned;
    pthread_mutex_unlock(&job->lock);
    if (abandoned)
        job_free(job);
    else
        reactor_post(job->r, &job->mail); /* abandoned only now: arrived() sees it */
}

static int look_up(struct resolve *job, int flags)
{
    struct addrinfo hints = {
        .ai_family = job->family, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(job->host, job->port, &hints, &list);

    if (rc) {
        err_set(&job->why, -EHOSTUNREACH, "cannot resolve '%s': %s", job->host,
                rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
        return rc;
    }
    for (struct addrinfo *ai = list; ai && job->n < RESOLVE_MAX; ai = ai->ai_next)
        if (ai->ai_family == AF_INET || ai->ai_family == AF_INET6)
            memcpy(&job->addrs[job->n++], ai->ai_addr, ai->ai_addrlen);
    freeaddrinfo(list);
    if (job->n == 0)
        err_set(&job->why, -EHOSTUNREACH, "'%s' has no IP address", job->host);
    return 0;
}

static void *thread_main(void *arg)
{
    look_up(arg, 0);
    finish(arg);
    return NULL;
}

struct resolve *resolve_start(struct reactor *r, const char *host, const char *port, int family,
                              void (*done)(void *arg, const struct sockaddr_storage *addrs,
                                           unsigned n, const struct err *why),
                              void *arg)
{
    struct resolve *job = calloc(1, sizeof(*job));
    pthread_t thread;

    if (!job)
        return NULL;
    job->r = r;
    job->mail.fn = arrived;
    job->family = family;
    job->done = done;
    job->arg = arg;
    snprintf(job->host, sizeof(job->host), "%s", host);
    snprintf(job->port, sizeof(job->port), "%s", port);
    pthread_mutex_init(&job->lock, NULL);
    if (look_up(job, AI_NUMERICHOST) != EAI_NONAME) {
        finish(job);
        return job;
    }
    if (pthread_create(&thread, NULL, thread_main, job)) {
        job_free(job);
        return NULL;
    }
    pthread_detach(thread);
    return job;
}

void resolve_abandon(struct resolve *job)
{
    if (!job)
        return;
    pthread_mutex_lock(&job->lock);
    job->abandoned = true; /* arrived() or the thread frees it */
    pthread_mutex_unlock(&job->lock);
}
