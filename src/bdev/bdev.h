/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bdev/bdev.h - a block device as a device model sees it, and the table a backend fills.
 * Thread: devices are made, listed and destroyed on the control thread; a channel and its requests
 * belong to one reactor. Owner: the caller owns bdev_req, the iov array and its memory until done()
 * has run. */
#ifndef BDEV_BDEV_H
#define BDEV_BDEV_H

#include "base/err.h"
#include "base/list.h"
#include "runtime/reactor.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct bdev;
struct bdev_channel; /* one per reactor and device */
struct bdev_req;
struct json_t;

typedef void (*bdev_done_fn)(struct bdev_req *req, int rc); /* rc: 0 or -errno */
enum {
    BDEV_PENDING = 1
}; /* submit: 0 or -errno is the result now; BDEV_PENDING: done() will bring it */

enum bdev_op { BDEV_READ, BDEV_WRITE, BDEV_FLUSH, BDEV_UNMAP, BDEV_WRITE_ZEROES, BDEV_OPS };
enum {                      /* flags */
       BDEV_FUA = 1,        /* on the medium before done */
       BDEV_RESENT = 1 << 1 /* A service before this one may have submitted it, too: what changes
                               blocks may be executed late once more. Backends whose requests end
                               with their process (behind the lease's fence) ignore it. */
};

struct bdev_req {
    enum bdev_op op;
    uint32_t flags;
    uint64_t lba;     /* first block; unit: bdev_info.block_bytes */
    uint32_t nblocks; /* 1-based, unlike the NLB field of NVMe; 0 for flush */
    struct iovec *iov;
    int iovcnt;
    bdev_done_fn done;
    struct bdev_channel *channel;   /* bdev_submit()'s */
    _Alignas(16) char backend[192]; /* the backend's, between submit and done; not cleared */
};

struct bdev_uuid {
    uint8_t b[16];
};

struct bdev_info {
    uint32_t block_bytes;
    uint64_t nblocks; /* may change: see bdev_resized() */
    struct bdev_uuid uuid;
    uint8_t nguid[16], eui64[8]; /* of a remote namespace; zero when it has none */
    bool write_cache;            /* completed writes may be volatile until flush */
    bool read_only;
    bool can_unmap, can_write_zeroes;
    bool copies; /* submit() moves the data itself before it returns: a batch takes its time, and
                    what has ended is worth telling in the middle of it */
};

/* ctx is what open_channel returned: the backend's per-reactor part. Every slot is filled;
 * bdev_register() refuses a table with a hole. */
struct bdev_ops {
    const char *kind;    /* "file", "nvme_of": for logs */
    const char *product; /* product_name of bdev_get_bdevs: "Malloc disk", "NVMe disk" ... */
    /* On the reactor that will use the channel. */
    void *(*open_channel)(void *dev, struct reactor *r, struct err *err);
    /* Nothing is in flight. */
    void (*close_channel)(void *ctx);
    /* Result now, or BDEV_PENDING and done() once, never inside this call. Range, alignment and op
     * are checked already. */
    int (*submit)(void *ctx, struct bdev_req *req);
    /* End of a batch of submits: ring the doorbell, send the bytes. */
    void (*flush_batch)(void *ctx);
    /* Stop using the request's memory: a guest takes its pages away. 0: iov is not touched any more
     * from now on; BDEV_PENDING: it is, until done(). done() runs later in both cases, exactly
     * once. A read may end early with -ECANCELED (its late data is dropped); a write never does: it
     * goes on, from a copy of its data, to its real result. */
    int (*detach)(void *ctx, struct bdev_req *req);
    /* The caller has lost interest (controller reset, queue deletion): end with -ECANCELED as soon
     * as the request can be proven to have no later effect on the medium or on memory; a hint.
     * done() runs later, exactly once. */
    void (*cancel)(void *ctx, struct bdev_req *req);
    /* Control thread: adds members to driver_specific of bdev_get_bdevs. */
    void (*describe)(void *dev, struct json_t *out);
    /* Control thread, all channels are closed: frees dev. */
    void (*destroy)(void *dev);
    /* The one slot that may be empty: a read or write that begins at lba, which is on the disk, is
     * about to be submitted, and what that will touch can be fetched into the cache. On the
     * reactor, for devices with bdev_info.copies. */
    void (*expect)(void *ctx, uint64_t lba);
};

/* ---- for control: the set of devices, control thread ---- */
struct bdev_set;
struct bdev_set *bdev_set_create(void);
/* Destroys the devices too, the newest first; no channel is open, and only devices of the set claim
 * others. */
void bdev_set_destroy(struct bdev_set *set);
/* Registers a device; the name is copied. -EEXIST, -EINVAL. On success the set owns dev by
 * ops->destroy. */
int bdev_register(struct bdev_set *set, const char *name, const struct bdev_ops *ops, void *dev,
                  const struct bdev_info *info, struct bdev **ret, struct err *err);
/* NULL: there is none, or it is going. */
struct bdev *bdev_find(struct bdev_set *set, const char *name);
void bdev_for_each(struct bdev_set *set, void (*fn)(struct bdev *bd, void *arg), void *arg);
const char *bdev_name(const struct bdev *bd);
const struct bdev_ops *bdev_ops_of(const struct bdev *bd);
void *bdev_dev(const struct bdev *bd);
struct bdev_info bdev_get_info(const struct bdev *bd); /* any thread: a consistent copy */

/* Claims: a bdev with claims cannot be destroyed. "who" is shown in errors and lists ("namespace 1
 * of nqn..."). -ENODEV: it is being deleted. Each claim is released once. */
int bdev_claim(struct bdev *bd, const char *who, struct err *err);
void bdev_release(struct bdev *bd);
unsigned bdev_claims(const struct bdev *bd);
/* -EBUSY while claimed. The device is not found any more at once, but its name is taken until it is
 * gone. done (may be NULL) runs when the last channel is closed and the device is gone: inside this
 * call, or later on the calling reactor. */
int bdev_unregister(struct bdev *bd, void (*done)(void *arg), void *arg, struct err *err);

/* Control thread, by backends: capacity has changed; listeners (namespaces) are told. */
void bdev_resized(struct bdev *bd, uint64_t nblocks);
struct bdev_listener {
    struct list node;
    void (*resized)(struct bdev_listener *l, struct bdev *bd);
};
/* l is the caller's, from bdev_listen() until bdev_unlisten(), which comes before the end of bd. */
void bdev_listen(struct bdev *bd, struct bdev_listener *l);
void bdev_unlisten(struct bdev_listener *l);

/* ---- for devices: on the reactor ---- */
/* The reactor's channel of a device, opened at first use, counted. The last put closes it in a
 * later turn. NULL and err filled: no memory, or the backend's reason. */
struct bdev_channel *bdev_channel_get(struct bdev *bd, struct reactor *r, struct err *err);
void bdev_channel_put(struct bdev_channel *ch);
struct bdev *bdev_channel_bdev(struct bdev_channel *ch);

/* Checks range and op once, for all backends: -ERANGE beyond the end, -EROFS, -EOPNOTSUPP, -EINVAL
 * (no blocks, or iov and nblocks differ in size), -ENODEV. Memory-like backends answer at once;
 * after BDEV_PENDING done() runs exactly once, never inside this call, also when the device is
 * going away (-ENODEV). */
int bdev_submit(struct bdev_channel *ch, struct bdev_req *req);
/* A read or write that begins at lba is about to be submitted: a bdev that copies fetches what it
 * will need into the cache. A hint; any lba may be given. */
void bdev_expect(struct bdev_channel *ch, uint64_t lba);
/* The end of a batch of submits: once for each channel that was given any. */
void bdev_flush_batch(struct bdev_channel *ch);
/* Of a request that answered BDEV_PENDING and is not done: as bdev_ops.detach and cancel say. */
int bdev_detach(struct bdev_channel *ch, struct bdev_req *req);
void bdev_cancel(struct bdev_channel *ch, struct bdev_req *req);
/* By backends, for requests that answered BDEV_PENDING: counts it and calls req->done. */
void bdev_complete(struct bdev_req *req, int rc);

/* ---- statistics: kept per channel without locks, summed on the control thread ---- */
struct bdev_stats {
    /* ops and bytes: what succeeded; errors: what failed, but for what was cancelled and what
     * bdev_submit() refused */
    uint64_t ops[BDEV_OPS], bytes[BDEV_OPS], errors[BDEV_OPS];
    uint64_t bounce_bytes; /* copied because alignment forced it; by backends through
                              bdev_count_bounce() */
};
/* The sum over all channels, closed ones too. */
void bdev_get_stats(struct bdev *bd, struct bdev_stats *ret);
/* By backends, on the request's reactor. */
void bdev_count_bounce(struct bdev_req *req, uint64_t bytes);

/* UUID text, 36 characters. parse: 0 or -EINVAL. */
void bdev_uuid_format(const struct bdev_uuid *uuid, char out[37]);
int bdev_uuid_parse(const char *text, struct bdev_uuid *ret);
void bdev_uuid_random(struct bdev_uuid *ret);
/* The same for the same words in every run (version 8): kind "file", name "/var/disk.img". */
void bdev_uuid_derive(const char *kind, const char *name, struct bdev_uuid *ret);
bool bdev_uuid_is_zero(const struct bdev_uuid *uuid);

#endif
