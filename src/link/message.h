/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/message.h - the protocol between snap_emu and services: SOCK_SEQPACKET on
 * <run-dir>/emu.sock, one struct link_msg per packet, descriptors by SCM_RIGHTS. Host byte order:
 * both ends are on one machine. Requests carry a cookie that their answer repeats. Both ends check
 * every field: a bad packet ends the connection. */
#ifndef LINK_MESSAGE_H
#define LINK_MESSAGE_H

#include <assert.h>
#include <stdint.h>

enum {
    LINK_VERSION = 2,
    LINK_NAME_BYTES = 64,
    LINK_MAX_FDS = 72, /* HELLO: pidfd, fence, wake page, up to 64 eventfds */
};

enum function_kind { FUNCTION_NVME = 1, FUNCTION_VIRTIO_BLK = 2 };

enum function_reset {
    FUNCTION_RESET_FLR = 1,
    FUNCTION_RESET_DEVICE,     /* vfio-user DEVICE_RESET */
    FUNCTION_RESET_POWER,      /* D3hot -> D0 */
    FUNCTION_RESET_DISCONNECT, /* the client went away */
    FUNCTION_RESET_STATUS,     /* virtio: device status 0 */
};

enum link_type {
    /* ---- service -> snap_emu ---- */
    LINK_HELLO = 1, /* fds: pidfd, fence pipe read end, wake page memfd, one eventfd per reactor */
    LINK_OPEN, /* lease a function; answered by LINK_OPENED, perhaps much later (after a fence) */
    LINK_CANCEL_OPEN, /* forget a LINK_OPEN that has not been answered; answered by LINK_OPENED
                         -ECANCELED, or granted */
    LINK_START,       /* register images are valid: the function may accept clients (first lease) */
    LINK_RELEASE, /* give the lease back; answered by LINK_RELEASED. Nothing of ours is in flight
                     any more */
    LINK_MEM_DETACHED, /* answers LINK_MEM_DEL: the pages are not used any more */
    LINK_RESET_DONE,   /* answers LINK_RESET: nothing of the old epoch is left */
    LINK_KEEP, /* a keepsake by name: made with the size given, or the one that exists; answered by
                  LINK_KEPT */
    LINK_DROP, /* forget a keepsake; answered by LINK_DROPPED */
    LINK_QUEUE_STOPPED, /* answers a LINK_QUEUE with LINK_QUEUE_STOP: nothing of it is in flight any
                           more; queue.index, queue.base */
    LINK_CONFIG_CHANGED, /* the device's configuration (register image) or status (svc.status) is
                            another one: the host is to be told */
    LINK_QUEUE_PAUSED,   /* answers a LINK_QUEUE with LINK_QUEUE_PAUSE; queue.index */
    /* ---- snap_emu -> service ---- */
    LINK_WELCOME =
        64, /* answers LINK_HELLO; then one LINK_FUNCTION per function, then LINK_READY */
    LINK_READY,
    LINK_FUNCTION, /* what a function is now; again after every change, to all services */
    LINK_OPENED,   /* rc; on success fds: state memory, doorbell memfd (the doorbells are at file
                    * offset   STATE_DOORBELL_OFFSET, see state_memory.h). LINK_MEM_ADD, LINK_IRQ of
                    * all   that is there, then LINK_SYNCED */
    LINK_SYNCED,
    LINK_RELEASED,
    LINK_MEM_ADD, /* fd */
    LINK_MEM_DEL,
    LINK_IRQ,   /* fds: one eventfd per vector from mem.. irq.start; none: these vectors have no
                   eventfd now */
    LINK_RESET, /* stop, drain, answer; until then the host sees a function in reset */
    LINK_FLAGS, /* state memory emu.flags changed (bus master, power, client); also after
                   LINK_SYNCED */
    LINK_KEPT,  /* rc; fd */
    LINK_DROPPED,
    LINK_QUEUE,    /* what a virtqueue is now; fd: its kick eventfd, none: it cannot be kicked. Its
                    * call    eventfd is vector queue.index (LINK_IRQ). Also before LINK_SYNCED, of all
                    * that    have been started */
    LINK_INFLIGHT, /* fd: the in-flight area of a vhost-user front end; before any LINK_QUEUE with
                    * LINK_QUEUE_RUN that may use it. It ends with the next reset */
};

/* queue.flags */
enum {
    LINK_QUEUE_RUN = 1,  /* fetch from it. Without: stop fetching, what is in flight goes on */
    LINK_QUEUE_STOP = 2, /* drain, answer LINK_QUEUE_STOPPED; the queue does not exist after that */
    LINK_QUEUE_PAUSE = 4, /* without RUN: answer LINK_QUEUE_PAUSED when nothing more is fetched */
};

struct link_function_info {
    char vuid[LINK_NAME_BYTES];
    char ctrl_id[LINK_NAME_BYTES]; /* "" when no service holds it */
    char pci_bdf[16];              /* "bb:dd.f" */
    char state[LINK_NAME_BYTES];   /* "new", "parked", "leased", "fencing", "failed: reason" */
    uint32_t kind, vhca_id;
    int32_t pf_index, vf_index; /* vf_index -1: a PF */
    uint32_t num_vfs;           /* PFs: VFs there are */
    uint32_t num_msix, max_queue_depth;
    uint32_t hotplugged;
    uint32_t holder_pid; /* 0: none */
    uint32_t host_connected;
};

struct link_msg {
    uint32_t type;
    uint32_t function; /* index, from LINK_FUNCTION; ignored where there is none */
    uint64_t cookie;
    int32_t rc; /* answers: 0 or -errno */
    uint32_t reserved;
    union {
        struct {
            uint32_t version, reactors, pid, reserved;
            uint64_t start_time;        /* field 22 of /proc/pid/stat */
            char name[LINK_NAME_BYTES]; /* RPC socket, for logs */
        } hello;
        struct {
            uint32_t version, functions;
        } welcome;
        struct {
            uint32_t reactor, slot; /* where wake-ups go */
            char ctrl_id[LINK_NAME_BYTES];
        } open;
        struct {
            uint32_t functions_total, reserved;
            struct link_function_info info;
        } fn;
        struct {
            uint32_t id, prot; /* GUEST_READ | GUEST_WRITE */
            uint64_t gpa, size_bytes, fd_offset;
        } mem;
        struct {
            uint32_t start, count;
        } irq;
        struct {
            uint32_t epoch, why; /* the epoch that begins when the reset is done */
        } reset;
        struct {
            uint64_t size_bytes;
            char name[LINK_NAME_BYTES];
        } keep;
        struct {
            uint32_t index, flags;
            uint32_t size, base; /* base: as of SET_VRING_BASE */
            /* Number of its incarnation, never 0: another one with every start. While it is the
             * same, so is all the rest but flags. */
            uint32_t start, reserved;
            uint64_t features; /* negotiated */
            uint64_t desc_gpa, driver_gpa, device_gpa;
        } queue;
        struct {
            uint64_t size_bytes, fd_offset;
            uint32_t queues, queue_size;
        } inflight;
        char text[256]; /* rc < 0: why, for people */
    };
};
static_assert(sizeof(struct link_msg) <= 512, "one small packet");

#endif
