/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/room.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CNTLID_MAX = 0xffef };

struct nvme_subsystems *nvme_subsystems_create(void)
{
    struct nvme_subsystems *set = calloc(1, sizeof(*set));

    if (set)
        list_init(&set->subsystems);
    return set;
}

void nvme_subsystems_destroy(struct nvme_subsystems *set)
{
    free(set);
}

/* ASCII without control characters, at most size bytes: it goes into Identify data. */
static int check_text(const char *what, const char *text, size_t max, struct err *err)
{
    size_t len = strlen(text);

    if (len == 0 || len > max)
        return err_set(err, -EINVAL, "%s must have 1 to %zu characters, not %zu", what, max, len);
    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return err_set(err, -EINVAL, "%s: character %zu is not printable ASCII", what, i + 1);
    return 0;
}

int nvme_subsystem_create(struct nvme_subsystems *set, const struct nvme_subsystem_opts *opts,
                          struct nvme_subsystem **ret, struct err *err)
{
    const char *sn = opts->serial_number ? opts->serial_number : "MNC12";
    const char *mn = opts->model_number ? opts->model_number : "OpenSNAP NVMe Controller";
    uint32_t nn = opts->nn ? opts->nn : 0xfffffffe, mnan = opts->mnan ? opts->mnan : NVME_STATE_NS;
    struct nvme_subsystem *ss;
    int rc = check_text("NQN", opts->nqn, NVME_NQN_MAX, err);

    if (rc == 0)
        rc = check_text("serial number", sn, sizeof(ss->sn) - 1, err);
    if (rc == 0)
        rc = check_text("model number", mn, sizeof(ss->mn) - 1, err);
    if (rc < 0)
        return rc;
    if (nn == NVME_NSID_ALL)
        return err_set(err, -EINVAL, "nn must be below 4294967295");
    if (mnan > nn)
        mnan = nn;
    if (nvme_subsystem_find(set, opts->nqn))
        return err_set(err, -EEXIST, "NVMe subsystem '%s' exists already", opts->nqn);
    ss = calloc(1, sizeof(*ss));
    if (!ss)
        return err_set(err, -ENOMEM, "no memory for NVMe subsystem '%s'", opts->nqn);
    snprintf(ss->nqn, sizeof(ss->nqn), "%s", opts->nqn);
    snprintf(ss->sn, sizeof(ss->sn), "%s", sn);
    snprintf(ss->mn, sizeof(ss->mn), "%s", mn);
    ss->nn = nn;
    ss->mnan = mnan;
    list_init(&ss->namespaces);
    list_init(&ss->controllers);
    pthread_mutex_init(&ss->lock, NULL);
    list_append(&set->subsystems, &ss->node);
    if (ret)
        *ret = ss;
    return 0;
}

int nvme_subsystem_destroy(struct nvme_subsystem *ss, struct err *err)
{
    if (!list_empty(&ss->controllers))
        return err_set(err, -EBUSY, "NVMe subsystem '%s' has controllers: destroy them first",
                       ss->nqn);
    if (!list_empty(&ss->namespaces))
        return err_set(err, -EBUSY, "NVMe subsystem '%s' has namespaces: destroy them first",
                       ss->nqn);
    list_remove(&ss->node);
    pthread_mutex_destroy(&ss->lock);
    free(ss);
    return 0;
}

struct nvme_subsystem *nvme_subsystem_find(struct nvme_subsystems *set, const char *nqn)
{
    list_for_each(it, &set->subsystems)
    {
        struct nvme_subsystem *ss = list_entry(it, struct nvme_subsystem, node);

        if (strcmp(ss->nqn, nqn) == 0)
            return ss;
    }
    return NULL;
}

struct nvme_subsystem_info nvme_subsystem_get_info(const struct nvme_subsystem *ss)
{
    return (struct nvme_subsystem_info){
        .nqn = ss->nqn, .sn = ss->sn, .mn = ss->mn, .nn = ss->nn, .mnan = ss->mnan};
}

void nvme_subsystem_for_each(struct nvme_subsystems *set,
                             void (*fn)(struct nvme_subsystem *ss, void *arg), void *arg)
{
    list_for_each_safe(it, &set->subsystems)
    {
        fn(list_entry(it, struct nvme_subsystem, node), arg);
    }
}

/* ---- for controllers ---- */

const char *nvme_subsystem_nqn(const struct nvme_subsystem *ss)
{
    return ss->nqn;
}

const char *nvme_subsystem_sn(const struct nvme_subsystem *ss)
{
    return ss->sn;
}

const char *nvme_subsystem_mn(const struct nvme_subsystem *ss)
{
    return ss->mn;
}

uint32_t nvme_subsystem_nn(const struct nvme_subsystem *ss)
{
    return ss->nn;
}

uint32_t nvme_subsystem_mnan(const struct nvme_subsystem *ss)
{
    return ss->mnan;
}

int nvme_subsystem_cntlid_take(struct nvme_subsystem *ss, uint32_t want)
{
    int rc = -ENOSPC;

    pthread_mutex_lock(&ss->lock);
    if (want > CNTLID_MAX || (want && ss->cntlids[want / 8] & 1U << want % 8)) {
        rc = -EBUSY;
    } else {
        for (uint32_t i = want ? want : 1; rc < 0 && i <= CNTLID_MAX; i++)
            if (!(ss->cntlids[i / 8] & 1U << i % 8)) {
                ss->cntlids[i / 8] |= (uint8_t)(1U << i % 8);
                rc = (int)i;
            }
    }
    pthread_mutex_unlock(&ss->lock);
    return rc;
}

void nvme_subsystem_cntlid_put(struct nvme_subsystem *ss, uint32_t cntlid)
{
    pthread_mutex_lock(&ss->lock);
    ss->cntlids[cntlid / 8] &= (uint8_t) ~(1U << cntlid % 8);
    pthread_mutex_unlock(&ss->lock);
}
