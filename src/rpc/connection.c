/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/connection.h"

#include "base/fd.h"
#include "base/log.h"
#include "rpc/frame.h"
#include "rpc/job.h"
#include "rpc/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
    READ_BYTES = 64 * 1024,
    FRAMES_PER_TURN = 32,
    PAUSE_OUT_BYTES = 1024 * 1024, /* unread answers: no new calls until the client has read some */
    STALL_MS = 60 * 1000,          /* a client that reads nothing for this long is cut off */
    LINGER_MS = 2000,              /* after a framing error: time for the client to read it */
};

struct chunk {
    struct list node;
    char *data; /* from malloc */
    size_t len, off;
};

struct rpc_connection {
    struct list node;
    struct reactor *reactor;
    const struct rpc_env *env;
    void (*gone)(void *arg, struct rpc_connection *c);
    void *arg;
    int fd;
    struct watch watch;
    struct timer more;     /* frames are left over from the last turn */
    struct timer patience; /* output is waiting, or we linger */

    char *in;
    size_t in_off, in_len, in_cap; /* bytes [in_off, in_len) are not consumed yet */
    struct rpc_frame frame;

    struct list out;
    size_t out_bytes;

    struct list jobs;
    unsigned njobs;

    bool busy;   /* inside connection_work(): it alone closes */
    bool eof;    /* the peer sends no more */
    bool failed; /* framing is lost: nothing more is read as requests */
    bool linger; /* all said; waiting for the peer to go */
    bool dead;   /* close as soon as nobody is on the stack */
};

static void connection_work(struct rpc_connection *c);

struct list *rpc_connection_node(struct rpc_connection *c)
{
    return &c->node;
}

struct rpc_connection *rpc_connection_of(struct list *node)
{
    return list_entry(node, struct rpc_connection, node);
}

void rpc_connection_destroy(struct rpc_connection *c)
{
    struct list *n;

    c->gone(c->arg, c);
    if (c->watch.active)
        watch_remove(c->reactor, &c->watch);
    timer_cancel(&c->more);
    timer_cancel(&c->patience);
    fd_close(&c->fd);
    while ((n = list_pop(&c->jobs)))
        rpc_job_orphan(list_entry(n, struct rpc_job, node));
    while ((n = list_pop(&c->out))) {
        struct chunk *chunk = list_entry(n, struct chunk, node);

        free(chunk->data);
        free(chunk);
    }
    free(c->in);
    free(c);
}

static void out_of_patience(struct timer *t)
{
    struct rpc_connection *c = container_of(t, struct rpc_connection, patience);

    if (!c->linger)
        log_line(LOG_WARNING, "rpc",
                 "a client has read nothing of %zu answer bytes for %d s: disconnected",
                 c->out_bytes, STALL_MS / 1000);
    rpc_connection_destroy(c);
}

static void connection_flush(struct rpc_connection *c)
{
    bool progress = false;

    while (!c->dead && !list_empty(&c->out)) {
        struct chunk *chunk = list_entry(c->out.next, struct chunk, node);
        ssize_t n = send(c->fd, chunk->data + chunk->off, chunk->len - chunk->off,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            c->dead = true;
            return;
        }
        progress = true;
        chunk->off += (size_t)n;
        c->out_bytes -= (size_t)n;
        if (chunk->off == chunk->len) {
            list_remove(&chunk->node);
            free(chunk->data);
            free(chunk);
        }
    }
    if (c->linger)
        return;
    if (list_empty(&c->out))
        timer_cancel(&c->patience);
    else if (progress || !c->patience.armed)
        timer_arm(c->reactor, &c->patience, STALL_MS, out_of_patience);
}

/* data is stolen. */
static void connection_send(struct rpc_connection *c, char *data, size_t len)
{
    struct chunk *chunk = malloc(sizeof(*chunk));

    if (!chunk || c->out_bytes + len > RPC_MAX_UNREAD_BYTES) {
        log_line(LOG_WARNING, "rpc", "a client leaves %zu answer bytes unread: disconnected",
                 c->out_bytes + len);
        free(chunk);
        free(data);
        c->dead = true;
        return;
    }
    *chunk = (struct chunk){.data = data, .len = len};
    list_append(&c->out, &chunk->node);
    c->out_bytes += len;
}

static void job_answered(void *arg, struct rpc_job *job, char *text, size_t len)
{
    struct rpc_connection *c = arg;

    list_remove(&job->node);
    c->njobs--;
    if (text)
        connection_send(c, text, len);
    if (!c->busy)
        connection_work(c);
}

/* The stream cannot be trusted after this: answer, then read nothing more as a request. */
static void framing_error(struct rpc_connection *c, const char *why)
{
    size_t len;
    char *text = rpc_job_error_text(RPC_ERR_PARSE, why, &len);

    c->failed = true;
    c->in_off = c->in_len = 0;
    if (text)
        connection_send(c, text, len);
    else
        c->dead = true;
}

static void handle_frame(struct rpc_connection *c, const char *text, size_t len)
{
    json_error_t why;
    json_t *request = json_loadb(text, len, JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &why);
    struct rpc_job *job;

    if (!request) {
        framing_error(c, why.text);
        return;
    }
    job = rpc_job_create(c->env, request, job_answered, c);
    json_decref(request);
    if (!job) {
        c->dead = true;
        return;
    }
    list_append(&c->jobs, &job->node);
    c->njobs++;
    rpc_job_run(job);
}

static bool may_call(const struct rpc_connection *c)
{
    return !c->dead && !c->failed && c->njobs < RPC_MAX_IN_FLIGHT && c->out_bytes < PAUSE_OUT_BYTES;
}

static bool is_space(char ch)
{
    return ch == ' ' || ch == '\n' || ch == '\r' || ch == '\t';
}

/* Serves one request of the input buffer; false: no whole one is there. */
static bool serve_one(struct rpc_connection *c)
{
    const char *why = NULL;
    size_t start, len;

    if (c->frame.pos == 0)
        while (c->in_off < c->in_len && is_space(c->in[c->in_off]))
            c->in_off++;
    start = c->in_off;
    if (start == c->in_len) {
        c->in_off = c->in_len = 0;
        return false;
    }
    switch (rpc_frame_scan(&c->frame, c->in + start, c->in_len - start, &why)) {
    case RPC_FRAME_MORE:
        if (c->eof)
            framing_error(c, "the input ends inside a request");
        return false;
    case RPC_FRAME_BAD:
        framing_error(c, why);
        return false;
    default:
        len = c->frame.pos;
        c->frame = (struct rpc_frame){0};
        c->in_off += len;
        handle_frame(c, c->in + start, len);
        return true;
    }
}

static void more_frames(struct timer *t)
{
    connection_work(container_of(t, struct rpc_connection, more));
}

static bool in_has_room(const struct rpc_connection *c)
{
    return c->in_len - c->in_off < RPC_FRAME_BYTES;
}

static void update_watch(struct rpc_connection *c)
{
    uint32_t events = 0;

    if (!c->eof && (c->failed || (may_call(c) && in_has_room(c))))
        events |= EPOLLIN;
    if (!list_empty(&c->out))
        events |= EPOLLOUT;
    if (events != c->watch.events)
        watch_modify(c->reactor, &c->watch, events);
}

static void connection_work(struct rpc_connection *c)
{
    unsigned budget = FRAMES_PER_TURN;

    c->busy = true;
    connection_flush(c);
    while (budget > 0 && may_call(c) && serve_one(c))
        budget--;
    connection_flush(c);
    if (budget == 0)
        timer_arm(c->reactor, &c->more, 0, more_frames);
    if (!c->dead && c->njobs == 0 && list_empty(&c->out)) {
        if (c->eof && (c->failed || c->in_off == c->in_len)) {
            c->dead = true;
        } else if (c->failed && !c->linger) {
            /* Closing with unread input would reset the connection under the answer. */
            c->linger = true;
            shutdown(c->fd, SHUT_WR);
            timer_arm(c->reactor, &c->patience, LINGER_MS, out_of_patience);
        }
    }
    c->busy = false;
    if (c->dead)
        rpc_connection_destroy(c);
    else
        update_watch(c);
}

/* Room for READ_BYTES more behind in_len, as far as the limit of one request goes. */
static size_t make_room(struct rpc_connection *c)
{
    size_t want;
    char *more;

    if (c->in_off > 0) {
        memmove(c->in, c->in + c->in_off, c->in_len - c->in_off);
        c->in_len -= c->in_off;
        c->in_off = 0;
    }
    want = MIN(c->in_len + READ_BYTES, (size_t)RPC_FRAME_BYTES);
    if (want > c->in_cap) {
        more = realloc(c->in, want);
        if (!more)
            return 0;
        c->in = more;
        c->in_cap = want;
    }
    return want - c->in_len;
}

static void read_input(struct rpc_connection *c)
{
    char discarded[4096];
    size_t room = 0;
    ssize_t n;

    if (!c->failed) {
        if (!in_has_room(c))
            return;
        room = make_room(c);
        if (room == 0) {
            c->dead = true;
            return;
        }
    }
    n = c->failed ? recv(c->fd, discarded, sizeof(discarded), MSG_DONTWAIT)
                  : recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
    if (n > 0) {
        if (!c->failed)
            c->in_len += (size_t)n;
    } else if (n == 0) {
        c->eof = true;
    } else if (errno != EAGAIN && errno != EINTR) {
        c->dead = true;
    }
}

static void connection_ready(struct watch *w, uint32_t events)
{
    struct rpc_connection *c = container_of(w, struct rpc_connection, watch);
    bool hangup = events & (EPOLLHUP | EPOLLERR);

    if (events & EPOLLIN && !c->eof)
        read_input(c);
    /* Both directions are closed: nobody reads answers. What came whole is still carried out; input
     * that may not be served now (too much in flight) is not waited for, since the hang-up would be
     * reported for ever. */
    if (hangup && !(events & EPOLLIN && !c->eof && !c->dead && may_call(c))) {
        c->busy = true;
        while (may_call(c) && serve_one(c))
            continue;
        c->dead = true;
    }
    connection_work(c);
}

static void log_peer(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
        log_line(LOG_DEBUG, "rpc", "connection from pid %d, uid %u", (int)cred.pid,
                 (unsigned)cred.uid);
}

struct rpc_connection *rpc_connection_create(struct reactor *r, int fd, const struct rpc_env *env,
                                             void (*gone)(void *arg, struct rpc_connection *c),
                                             void *arg)
{
    struct rpc_connection *c = calloc(1, sizeof(*c));

    if (!c) {
        fd_close(&fd);
        return NULL;
    }
    *c = (struct rpc_connection){.reactor = r, .env = env, .gone = gone, .arg = arg, .fd = fd};
    list_init(&c->node);
    list_init(&c->out);
    list_init(&c->jobs);
    log_peer(fd);
    if (watch_add(r, &c->watch, fd, EPOLLIN, connection_ready) < 0) {
        fd_close(&c->fd);
        free(c);
        return NULL;
    }
    return c;
}
