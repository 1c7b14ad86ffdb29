/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/stream/inside.h - what session.c gives to listener.c. */
#ifndef STREAM_INSIDE_H
#define STREAM_INSIDE_H

#include "transports/stream/stream.h"

/* fd is taken over: the client that has come in, or closed. */
void stream_session_open(struct stream *s, int fd);
/* Closes it and forgets what was under way; tells nobody. */
void stream_session_shut(struct stream *s);

#endif
