/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/check.h"
#include "backends/file.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Linux 6.1, statx(2); not in the C library of every distribution we build on. */
#define DIOALIGN_MASK 0x2000U
struct dioalign {
    uint32_t mem, offset;
};

/* A killed service's last descriptors go away a moment after it: wait this long for a busy file. */
enum { BUSY_TRIES = 50, BUSY_WAIT_MS = 20 };

static void wait_a_little(void)
{
    struct timespec t = {.tv_nsec = BUSY_WAIT_MS * 1000000L};

    nanosleep(&t, NULL);
}

static const char *type_word(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
        return "a character device";
    default:
        return "of an unknown type";
    }
}

/* Looks before opening: opening a FIFO or a tape has effects. */
static int check_type(struct file_disk *d, struct stat *st, int rc, struct err *err)
{
    if (rc < 0)
        return err_set(err, -errno, "bdev '%s': %s: %s", d->name, d->path, strerror(errno));
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
        return err_set(err, -EINVAL, "bdev '%s': %s is %s, not a file or block device", d->name,
                       d->path, type_word(st->st_mode));
    d->block_device = S_ISBLK(st->st_mode);
    return 0;
}

static int open_exclusive(struct file_disk *d, struct err *err)
{
    int flags = (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    struct stat st;
    int rc;

    rc = check_type(d, &st, stat(d->path, &st), err);
    if (rc)
        return rc;
    if (d->block_device && !d->read_only)
        flags |= O_EXCL;
    for (int i = 0; i < BUSY_TRIES; i++) {
        d->fd = open(d->path, flags);
        if (d->fd >= 0 || errno != EBUSY)
            break;
        wait_a_little();
    }
    if (d->fd < 0 && errno == EBUSY)
        return err_set(err, -EBUSY,
                       "bdev '%s': %s is in use (mounted, part of another device, or "
                       "another disk of ours)",
                       d->name, d->path);
    if (d->fd < 0)
        return err_set(err, -errno, "bdev '%s': cannot open %s for %s: %s", d->name, d->path,
                       d->read_only ? "reading" : "reading and writing", strerror(errno));
    return check_type(d, &st, fstat(d->fd, &st), err);
}

/* Advisory, but other virtual machine software looks at it too, and it keeps two of our disks off
 * one file. */
static int lock_file(struct file_disk *d, struct err *err)
{
    struct flock lock = {.l_type = (short)(d->read_only ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET};

    for (int i = 0; i < BUSY_TRIES; i++) {
        if (fcntl(d->fd, F_OFD_SETLK, &lock) == 0)
            return 0;
        if (errno != EAGAIN && errno != EACCES) {
            log_line(LOG_WARNING, "file",
                     "bdev %s: %s cannot be locked (%s): make sure that nobody "
                     "else uses it",
                     d->name, d->path, strerror(errno));
            return 0;
        }
        wait_a_little();
    }
    return err_set(err, -EBUSY, "bdev '%s': %s is in use by another bdev or program", d->name,
                   d->path);
}

int file_bytes(const struct file_disk *d, uint64_t *ret)
{
    struct stat st;

    if (d->block_device)
        return ioctl(d->fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
    if (fstat(d->fd, &st) < 0)
        return -errno;
    *ret = (uint64_t)st.st_size;
    return 0;
}

int file_reopen(const struct file_disk *d, bool direct)
{
    int flags = (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | (direct ? O_DIRECT : 0);
    char self[64];
    int fd;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", d->fd);
    fd = open(self, flags);
    return fd < 0 ? -errno : fd;
}

/* What direct I/O on this file asks for. False: the kernel does not tell. */
static bool ask_alignment(int fd, struct dioalign *ret)
{
    union {
        struct statx st;
        unsigned char raw[256];
    } buf;

    memset(&buf, 0, sizeof(buf));
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, DIOALIGN_MASK, &buf) < 0 ||
        !(buf.st.stx_mask & DIOALIGN_MASK))
        return false;
    memcpy(ret, buf.raw + 0x98, sizeof(*ret)); /* stx_dio_mem_align, stx_dio_offset_align */
    return true;
}

/* The final word: one block, read as the data path will. */
static bool direct_works(const struct file_disk *d, int fd)
{
    size_t align = d->mem_align < 512 ? 512 : d->mem_align;
    size_t bytes = MAX(align, d->block_bytes);
    void *buf = aligned_alloc(align, bytes);
    bool works;

    if (!buf)
        return false;
    works = pread(fd, buf, d->block_bytes, 0) >= 0 || errno != EINVAL;
    explicit_bzero(buf, bytes); /* a core dump would hold it */
    free(buf);
    return works;
}

static int set_block_bytes(struct file_disk *d, uint32_t wanted, struct err *err)
{
    int sector = 512;

    if (d->block_device && ioctl(d->fd, BLKSSZGET, &sector) < 0)
        return err_set(err, -errno, "bdev '%s': block size of %s: %s", d->name, d->path,
                       strerror(errno));
    d->block_bytes_given = wanted != 0;
    d->block_bytes = wanted ? wanted : (uint32_t)sector;
    if (d->block_bytes < (uint32_t)sector)
        return err_set(err, -EINVAL, "bdev '%s': block_size %u is smaller than the %d bytes of %s",
                       d->name, d->block_bytes, sector, d->path);
    return check_block_bytes(d->name, d->block_bytes, err);
}

static void set_direct(struct file_disk *d)
{
    struct dioalign align = {512, 512};
    const char *why = NULL;
    int fd = file_reopen(d, true);

    d->mem_align = d->offset_align = 1;
    if (fd < 0) {
        why = strerror(-fd);
    } else {
        if (!ask_alignment(fd, &align) && d->block_device)
            align.mem = align.offset = d->block_bytes;
        if (align.mem == 0 || align.offset == 0)
            why = "the file system has no direct I/O for it";
        else if (d->block_bytes % align.offset)
            why = "its storage needs larger blocks: see block_size";
        else {
            d->mem_align = align.mem;
            d->offset_align = align.offset;
            if (!direct_works(d, fd))
                why = "the kernel refuses direct I/O";
        }
    }
    fd_close(&fd);
    d->direct = !why;
    if (why) {
        d->mem_align = d->offset_align = 1;
        log_line(LOG_INFO, "file", "bdev %s: %s goes through the page cache: %s", d->name, d->path,
                 why);
    }
}

/* Punching beyond the end changes nothing, and tells whether the file system can. */
static void probe_punch(struct file_disk *d)
{
    uint64_t end = (d->bytes + BOUNCE_BYTES) / BOUNCE_BYTES * BOUNCE_BYTES;

    if (!d->fallocate || d->read_only || d->block_device)
        return;
    if (end < INT64_MAX - BOUNCE_BYTES &&
        fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)end, BOUNCE_BYTES) <
            0 &&
        errno == EOPNOTSUPP) {
        atomic_store(&d->no_punch, true);
        log_line(LOG_INFO, "file", "bdev %s: the file system of %s cannot discard", d->name,
                 d->path);
    }
}

int file_open(struct file_disk *d, const struct file_opts *opts, struct err *err)
{
    int rc;

    d->read_only = opts->read_only;
    d->fallocate = opts->fallocate;
    rc = open_exclusive(d, err);
    if (rc == 0)
        rc = lock_file(d, err);
    if (rc == 0)
        rc = set_block_bytes(d, opts->block_bytes, err);
    if (rc)
        return rc;
    rc = file_bytes(d, &d->bytes);
    if (rc)
        return err_set(err, rc, "bdev '%s': size of %s: %s", d->name, d->path, strerror(-rc));
    if (d->bytes < d->block_bytes)
        return err_set(err, -EINVAL, "bdev '%s': %s has %llu bytes, not even one block of %u",
                       d->name, d->path, (unsigned long long)d->bytes, d->block_bytes);
    if (d->bytes % d->block_bytes)
        log_line(LOG_WARNING, "file",
                 "bdev %s: the last %llu bytes of %s are less than a block: not used", d->name,
                 (unsigned long long)(d->bytes % d->block_bytes), d->path);
    set_direct(d);
    probe_punch(d);
    return 0;
}
