/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev/bdev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* RFC 9562, 4: 8-4-4-4-12 digits; a dash before these bytes. */
static bool dash_before(unsigned i)
{
    return i == 4 || i == 6 || i == 8 || i == 10;
}

static void stamp(struct bdev_uuid *uuid, unsigned version)
{
    uuid->b[6] = (uint8_t)((uuid->b[6] & 0x0f) | (version << 4));
    uuid->b[8] = (uint8_t)((uuid->b[8] & 0x3f) | 0x80);
}

void bdev_uuid_format(const struct bdev_uuid *uuid, char out[37])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < sizeof(uuid->b); i++) {
        if (dash_before(i))
            *out++ = '-';
        *out++ = digits[uuid->b[i] >> 4];
        *out++ = digits[uuid->b[i] & 15];
    }
    *out = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int bdev_uuid_parse(const char *text, struct bdev_uuid *ret)
{
    struct bdev_uuid uuid;

    for (unsigned i = 0; i < sizeof(uuid.b); i++) {
        int high, low;

        if (dash_before(i) && *text++ != '-')
            return -EINVAL;
        high = hex_digit(text[0]);
        low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0)
            return -EINVAL;
        uuid.b[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    if (*text)
        return -EINVAL;
    *ret = uuid;
    return 0;
}

void bdev_uuid_random(struct bdev_uuid *ret)
{
    if (getrandom(ret->b, sizeof(ret->b), 0) != (ssize_t)sizeof(ret->b)) {
        struct timespec now;
        char text[64];

        /* Only very early in a machine's boot. */
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(text, sizeof(text), "%lld.%09ld", (long long)now.tv_sec, now.tv_nsec);
        bdev_uuid_derive("random", text, ret);
    }
    stamp(ret, 4);
}

/* FNV-1a with a finish that spreads every bit; two of them with different starts make 128 bits. */
static uint64_t hash(uint64_t h, const char *kind, const char *name)
{
    const char *const words[] = {kind, name};

    for (unsigned w = 0; w < 2; w++) {
        const char *s = words[w];

        do
            h = (h ^ (unsigned char)*s) * 0x100000001b3ULL;
        while (*s++);
    }
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return h ^ (h >> 33);
}

void bdev_uuid_derive(const char *kind, const char *name, struct bdev_uuid *ret)
{
    uint64_t half[2] = {hash(0xcbf29ce484222325ULL, kind, name),
                        hash(0x9e3779b97f4a7c15ULL, kind, name)};

    for (unsigned i = 0; i < sizeof(ret->b); i++)
        ret->b[i] = (uint8_t)(half[i / 8] >> (56 - 8 * (i % 8)));
    stamp(ret, 8);
}

bool bdev_uuid_is_zero(const struct bdev_uuid *uuid)
{
    static const struct bdev_uuid zero;

    return memcmp(uuid, &zero, sizeof(zero)) == 0;
}
