/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory that services keep here by name, so that it outlives them. Nothing looks into it. */
#include "base/fd.h"
#include "emu/emu.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_MAX = 4096 };
#define BYTES_MAX (64ULL << 30)

struct keepsake {
    char name[LINK_NAME_BYTES];
    uint64_t size_bytes;
    int fd;
};

struct keepsakes {
    struct keepsake *all;
    unsigned count, room;
    uint64_t bytes;
};

struct keepsakes *keepsakes_create(void)
{
    return calloc(1, sizeof(struct keepsakes));
}

void keepsakes_destroy(struct keepsakes *k)
{
    if (!k)
        return;
    for (unsigned i = 0; i < k->count; i++)
        fd_close(&k->all[i].fd);
    free(k->all);
    free(k);
}

static struct keepsake *find(struct keepsakes *k, const char *name)
{
    for (unsigned i = 0; i < k->count; i++)
        if (!strcmp(k->all[i].name, name))
            return &k->all[i];
    return NULL;
}

/* name: LINK_NAME_BYTES from a packet. */
static int check_name(const char *name, struct err *err)
{
    if (!memchr(name, '\0', LINK_NAME_BYTES) || !*name)
        return err_set(err, -EINVAL, "a keepsake's name has 1 to %d characters",
                       LINK_NAME_BYTES - 1);
    for (const char *p = name; *p; p++)
        if (!isprint((unsigned char)*p))
            return err_set(err, -EINVAL, "a keepsake's name is printable ASCII");
    return 0;
}

static int make(struct keepsakes *k, const char *name, uint64_t size, struct keepsake **ret,
                struct err *err)
{
    struct keepsake *all;
    int fd;

    if (k->count >= NAMES_MAX)
        return err_set(err, -ENOSPC, "keepsake '%s': there are %d already, the limit", name,
                       NAMES_MAX);
    if (size > BYTES_MAX || k->bytes > BYTES_MAX - size)
        return err_set(err, -ENOSPC,
                       "keepsake '%s': %llu bytes are too many; %llu of %llu are in use", name,
                       (unsigned long long)size, (unsigned long long)k->bytes, BYTES_MAX);
    if (k->count == k->room) {
        all = realloc(k->all, (k->room + 64) * sizeof(*all));
        if (!all)
            return err_set(err, -ENOMEM, "keepsake '%s': no memory", name);
        k->all = all;
        k->room += 64;
    }
    fd = fd_memfd("snap-keep", size);
    if (fd < 0)
        return err_set(err, fd, "keepsake '%s': %s", name, strerror(-fd));
    *ret = &k->all[k->count++];
    **ret = (struct keepsake){.size_bytes = size, .fd = fd};
    memcpy((*ret)->name, name, strlen(name) + 1);
    k->bytes += size;
    return 0;
}

int keepsake_get(struct keepsakes *k, const char *name, uint64_t size_bytes, int *fd,
                 uint64_t *ret_size, struct err *err)
{
    int rc = check_name(name, err);
    struct keepsake *one;

    if (rc < 0)
        return rc;
    one = find(k, name);
    if (!one && size_bytes == 0)
        return err_set(err, -ENOENT, "there is no keepsake '%s'", name);
    if (!one)
        rc = make(k, name, size_bytes, &one, err);
    if (rc < 0 || !one)
        return rc;
    *fd = one->fd;
    *ret_size = one->size_bytes;
    return 0;
}

int keepsake_drop(struct keepsakes *k, const char *name, struct err *err)
{
    int rc = check_name(name, err);
    struct keepsake *one;

    if (rc < 0)
        return rc;
    one = find(k, name);
    if (!one)
        return err_set(err, -ENOENT, "there is no keepsake '%s'", name);
    k->bytes -= one->size_bytes;
    fd_close(&one->fd);
    *one = k->all[--k->count];
    return 0;
}
