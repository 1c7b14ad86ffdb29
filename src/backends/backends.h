/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/backends.h - makes the devices that need no connection: null, memory, files and block
 * devices, and those that stand on another one: delay and error. Thread: control. Strings are
 * copied. On success the device is registered in set and *ret (which may be NULL) is it; deleting
 * is bdev_unregister(). bdev_ops_of()->kind is "null", "malloc", "aio", "uring", "delay" or
 * "error". uuid NULL: derived from the kind and the name or path, the same in every run. */
#ifndef BACKENDS_BACKENDS_H
#define BACKENDS_BACKENDS_H

#include "bdev/bdev.h"

enum { BACKEND_BLOCK_MIN = 512, BACKEND_BLOCK_MAX = 65536 }; /* powers of two */

/* "Null disk": writes vanish, reads give zeroes. Answers at once. */
struct null_opts {
    const char *name;
    uint32_t block_bytes;
    uint64_t nblocks;
    const struct bdev_uuid *uuid;
};
int null_bdev_create(struct bdev_set *set, const struct null_opts *opts, struct bdev **ret,
                     struct err *err);

/* "Malloc disk": memory behind a descriptor, normally the keepsake "malloc.<name>" of snap_emu
 * (this room does not know the link: the caller gets it by link_keep_sync(), and drops it when the
 * user deletes the disk, not when the service ends). Answers at once, but for large discards. */
struct malloc_opts {
    const char *name;
    uint32_t block_bytes;
    uint64_t nblocks;
    const struct bdev_uuid *uuid;
    int memory_fd; /* a memfd of block_bytes * nblocks bytes; stays the caller's (duplicated) */
};
int malloc_bdev_create(struct bdev_set *set, const struct malloc_opts *opts, struct bdev **ret,
                       struct err *err);
/* Bytes of memory such a disk needs, for link_keep_sync(). 0, or an error that names the wrong
 * value. */
int malloc_bdev_bytes(const struct malloc_opts *opts, uint64_t *ret, struct err *err);
/* Name of the keepsake; -ENAMETOOLONG. */
int malloc_bdev_keepsake(const char *name, char *out, unsigned out_bytes, struct err *err);

/* "AIO disk", "URING bdev": a file or block device through io_uring, direct where the file allows
 * it. */
enum file_flavour { FILE_AIO, FILE_URING };
struct file_opts {
    const char *name, *path;
    uint32_t block_bytes; /* 0: the device's, 512 for files */
    const struct bdev_uuid *uuid;
    enum file_flavour flavour; /* only the product name differs */
    bool read_only;
    bool fallocate; /* unmap punches holes, write zeroes uses the file system's or device's help */
};
int file_bdev_create(struct bdev_set *set, const struct file_opts *opts, struct bdev **ret,
                     struct err *err);
/* Looks at the size again (bdev_aio_rescan, bdev_uring_rescan). -EINVAL when bd is not such a
 * device. */
int file_bdev_rescan(struct bdev *bd, struct err *err);

/* "delay": another bdev, which it claims, but slow. A request is accepted, waits, and only then is
 * given to the base; its end comes with the base's. Writes, discards and zeroes have the latency of
 * a write, flushes none; one request in a hundred has the p99 one. Once accepted a write is done,
 * cancelled or not; a waiting read ends early. A change of latency is for requests that come later:
 * with 0 they overtake those that wait. */
enum delay_kind { DELAY_AVG_READ, DELAY_P99_READ, DELAY_AVG_WRITE, DELAY_P99_WRITE, DELAY_KINDS };
struct delay_opts {
    const char *name;
    struct bdev *base;
    uint64_t latency_us[DELAY_KINDS];
    const struct bdev_uuid *uuid;
};
int delay_bdev_create(struct bdev_set *set, const struct delay_opts *opts, struct bdev **ret,
                      struct err *err);
/* -EINVAL when bd is not such a device. */
int delay_bdev_update(struct bdev *bd, enum delay_kind kind, uint64_t us, struct err *err);

/* "Error Injection Disk" EE_<base>: another bdev, which it claims, but some of its requests fail.
 * Which is not saved: a new program begins without errors. */
enum error_type {
    ERROR_FAILURE,      /* -EIO at once, without effect */
    ERROR_PENDING,      /* without effect, and without an end until it is cancelled or cleared */
    ERROR_CORRUPT_DATA, /* one byte of what is read or written is another; others are as ever */
    ERROR_NOMEM,        /* -ENOMEM at once, without effect */
};
struct error_injection {
    enum error_type type;
    uint32_t num;         /* requests; 0: no more */
    uint64_t queue_depth; /* only when so many others are at the base, of the same reactor */
    uint64_t corrupt_offset;
    uint8_t corrupt_value; /* xor; not 0 */
};
int error_bdev_create(struct bdev_set *set, struct bdev *base, const struct bdev_uuid *uuid,
                      struct bdev **ret, struct err *err);
/* ops: bits of bdev_op, whose former injection it replaces. -EINVAL when bd is not such a device.
 */
int error_bdev_inject(struct bdev *bd, unsigned ops, const struct error_injection *f,
                      struct err *err);
/* No more errors; pending requests end with -EIO. */
int error_bdev_clear(struct bdev *bd, struct err *err);

#endif
