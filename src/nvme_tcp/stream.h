/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_tcp/stream.h - the two byte streams of an NVMe/TCP connection, host or controller side: PDUs
 * that come in are cut out, checked and their data put where the owner says, without a copy; PDUs
 * that go out are sent many at a time. Knows no command.
 *
 * Thread: the connection's reactor. Owner: the owner embeds struct nvme_tcp_stream and the struct
 * nvme_tcp_out of each PDU, which is the stream's while it is in line. */
#ifndef NVME_TCP_STREAM_H
#define NVME_TCP_STREAM_H

#include "base/list.h"
#include "nvme_tcp/cursor.h"
#include "nvme_tcp/pdu.h"

struct nvme_tcp_stream;

/* A PDU on its way out. The owner fills the header but for what nvme_tcp_line_up() seals. */
struct nvme_tcp_out {
    struct list node; /* in line; else linked to itself */
    bool started;     /* bytes have left */
    uint32_t header_bytes, header_done;
    uint32_t data_bytes, data_done;
    uint32_t digest_bytes, digest_done;
    struct cursor cursor; /* the rest of its data */
    le32 digest;
    _Alignas(8) char header[NVME_TCP_HEADER_MAX];
};

struct nvme_tcp_stream_ops {
    /* A header is here, whole and checked. When data follow, the owner sets in_cursor to their
     * place, or in_drop. 0; -EPROTO with *fault filled; another -errno when it has closed the
     * connection itself. */
    int (*header)(struct nvme_tcp_stream *s, const void *header, struct nvme_tcp_fault *fault);
    /* The data that belong to the last header are all here. intact: their digest is right, or there
     * is none. Return values as above. */
    int (*data)(struct nvme_tcp_stream *s, bool intact, struct nvme_tcp_fault *fault);
    /* A PDU has left; it may be lined up again. */
    void (*sent)(struct nvme_tcp_stream *s, struct nvme_tcp_out *out);
    /* The peer has broken the protocol with this header of len bytes (0: in the data). */
    void (*broken)(struct nvme_tcp_stream *s, const struct nvme_tcp_fault *fault,
                   const void *header, size_t len);
    /* The socket's end or error: 0 when the peer has closed it, or -errno. */
    void (*ended)(struct nvme_tcp_stream *s, int rc);
};

struct nvme_tcp_stream {
    const struct nvme_tcp_stream_ops *ops;
    int fd; /* the owner's; -1 ends a receive that is under way */
    struct nvme_tcp_rules rules;
    uint8_t pda; /* the peer's alignment of data, 0's based dwords */
    struct list out;
    /* Ticks since the last byte came or left; the owner counts them up, progress sets them to 0. */
    uint32_t in_ticks, out_ticks;

    /* Of the PDU that is coming in. */
    struct nvme_tcp_layout layout;
    struct cursor in_cursor;
    bool in_drop; /* its data are read and thrown away */

    /* Unparsed bytes are buf[head, tail). */
    enum { IN_HEADER, IN_PAD, IN_DATA, IN_DIGEST } state;
    uint32_t left; /* of padding or data */
    uint32_t crc;
    char *buf, *scratch; /* the owner's; scratch: at least 4 KiB, may be shared by connections */
    unsigned buf_bytes, scratch_bytes, head, tail;
};

/* Begins with a new socket. buf and scratch are set; rules and pda are those of a connection
 * without IC exchange. */
void nvme_tcp_stream_begin(struct nvme_tcp_stream *s, int fd, bool host);
/* Reads and handles a bounded amount of what is there. True: there may be more. */
bool nvme_tcp_receive(struct nvme_tcp_stream *s);
/* In the middle of a PDU. */
static inline bool nvme_tcp_half_way(const struct nvme_tcp_stream *s)
{
    return s->state != IN_HEADER || s->tail > s->head;
}

/* Bytes of data of the PDU that is coming in that are in their place. */
static inline uint32_t nvme_tcp_data_arrived(const struct nvme_tcp_stream *s)
{
    return s->state == IN_DATA     ? s->layout.data_bytes - s->left
           : s->state == IN_DIGEST ? s->layout.data_bytes
                                   : 0;
}

/* Seals the header and puts the PDU in line; its data_bytes bytes are at `at`. hlen and flags as
 * nvme_tcp_seal(). */
void nvme_tcp_line_up(struct nvme_tcp_stream *s, struct nvme_tcp_out *out, uint8_t hlen,
                      uint8_t flags, struct cursor at, uint32_t data_bytes);
/* The data of a PDU in line are elsewhere from now on (the same contents for those that have left):
 * at is the place of its first byte. */
void nvme_tcp_out_move(struct nvme_tcp_out *out, struct cursor at);
/* Sends what is in line, a bounded amount. 0: all has left; -EAGAIN: wait for EPOLLOUT; or ended()
 * has been called. */
int nvme_tcp_send(struct nvme_tcp_stream *s);

#endif
