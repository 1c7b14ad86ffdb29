/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/stream/stream.h - the socket of a function: one listener, at most one client, whose
 * messages (a header, its payload, descriptors) are read and handled one at a time, strictly in
 * order. One may be answered later; until then, and while a reply is not out, nothing is read. What
 * messages mean is behind stream_protocol.
 * Thread: the reactor's, all of it, callbacks too.
 * Owner: struct stream is part of the protocol's own object, which callbacks find by
 * container_of(). The protocol reads what it likes, and writes what is said to be its own. */
#ifndef TRANSPORTS_STREAM_H
#define TRANSPORTS_STREAM_H

#include "base/err.h"
#include "base/log.h"
#include "runtime/reactor.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    STREAM_FDS = 253, /* what one sendmsg can carry; all are taken so that all can be closed */
    STREAM_LATER = 1, /* of handle() */
};

struct stream;

/* The lines about clients, who come and go as often as they like. One for each protocol, zeroed but
 * for room. */
struct stream_log {
    const char *room;
    struct log_limit life, surplus;
};

/* What a protocol has of its own. Every slot is filled. */
struct stream_protocol {
    struct stream_log *log;
    uint32_t header_bytes, payload_bytes; /* of stream_opts.in */
    bool closes_fd;           /* of a reply, when it is out; else it stays the protocol's */
    const char *silent;       /* why a client is closed that has not agreed in time */
    const char *closing;      /* .. and one for which stream.closing was set */
    const char *const *waits; /* names of what a message waits for, by stream.wait */
    /* The header is there. How many bytes of payload follow: when there is no room for them they
     * are dropped, and the message is handled without. -errno ends the client. */
    int (*payload)(struct stream *s);
    /* The message is there. 0: answered, or no answer is wanted; STREAM_LATER: stream.wait says for
     * what it waits, stream_finish() ends it; -errno ends the client. */
    int (*handle)(struct stream *s);
    /* Nobody has finished the message within 3 s: finishes it with an error, closes, or
     * stream_wait_on(). */
    void (*expired)(struct stream *s);
    /* A client that had agreed is gone: begins to take its things away. */
    void (*closed)(struct stream *s);
    /* Whether that is still going on: no new client comes before its end (stream_drain()). */
    bool (*draining)(const struct stream *s);
    /* A second client, to be sent away; fd is the protocol's now. */
    void (*surplus)(struct stream *s, int fd);
};

struct stream {
    const struct stream_protocol *protocol;
    struct reactor *reactor;
    char *name, *path;
    int listen_fd;
    struct watch listen_watch;
    bool listening;
    bool draining; /* the last client's things are being taken away */
    /* the client */
    int fd; /* -1: none */
    struct watch watch;
    bool agreed;  /* the protocol's: the client has made itself known; false when there is none */
    bool closing; /* the protocol's: close when the reply is out, read no more */
    /* input */
    uint8_t *in;         /* the protocol's buffer */
    uint32_t have, size; /* bytes read, bytes of the whole message */
    uint32_t drop;       /* bytes of payload still to be dropped */
    int fds[STREAM_FDS]; /* of the message; the protocol's: one that is kept is set to -1 */
    unsigned nfds;
    struct timer stall;
    /* a message that is answered later; in and fds hold it */
    unsigned wait; /* the protocol's: for what; 0: there is none */
    struct timer wait_timer;
    /* output: at most one reply that did not fit the socket */
    const uint8_t *out; /* the protocol's buffer */
    uint32_t out_from, out_to;
    int out_fd; /* rides with the first byte; -1: none, or sent */
    struct timer out_timer;
};

struct stream_opts {
    const struct stream_protocol *protocol;
    struct reactor *reactor;
    const char *name; /* for logs; copied */
    const char *path; /* of the socket; copied */
    void *in;         /* header_bytes + payload_bytes; stays the caller's */
};

/* Binds the socket but does not listen: clients get ECONNREFUSED. s must have been zeroed. 0, or
 * -errno with err filled; stream_destroy() is due in either case. */
int stream_create(struct stream *s, const struct stream_opts *opts, struct err *err);
/* Removes the socket. A client's end is not told. */
void stream_destroy(struct stream *s);
/* From now on clients are accepted. Calling it again is harmless. 0, or -errno with err filled. */
int stream_listen(struct stream *s, struct err *err);

/* Sends the message's only reply, and closes what descriptors of it were not kept. buf stays the
 * caller's, and as it is until the next message is handled; fd goes with it (-1: none; closes_fd
 * tells whose it is). 0, or -errno, which is to end the client. */
int stream_reply(struct stream *s, const void *buf, uint32_t bytes, int fd);
/* The message that waited has been answered; rc: of stream_reply(), or 0. May close. */
void stream_finish(struct stream *s, int rc);
/* The message waits for another 3 s. */
void stream_wait_on(struct stream *s);
/* Ends the client. why: for the log. */
void stream_close(struct stream *s, const char *why);
/* Goes on with taking the last client's things away; when all is over, the next one may come. */
void stream_drain(struct stream *s);

#endif
