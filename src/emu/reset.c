/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Function resets. A service that holds the function drains it first; when nobody does, or the
 * holder dies meanwhile and its fence has passed, the reset is done here alone. Until then the host
 * sees a function in reset. */
#include "base/crash_point.h"
#include "base/log.h"
#include "emu/emu.h"

#include <errno.h>

static void apply(struct emu_function *fn, bool alone)
{
    fn->host->reset(fn);
    crash_point(emu_reset_half);
    fn->failed[0] = '\0'; /* nothing of what made it fail is left */
    if (fn->regs.st)
        registers_reset(&fn->regs, alone);
    function_changed(fn);
}

bool reset_begin(struct emu_function *fn, enum function_reset why)
{
    struct link_msg msg = {.type = LINK_RESET};

    if (fn->resetting)
        return false; /* nothing the host has done since it began has had an effect */
    if (!fn->holder) {
        apply(fn, true);
        return true;
    }
    fn->resetting = true;
    fn->host->hide(fn, true);
    msg.cookie = ++fn->reset_cookie;
    msg.reset.epoch = atomic_load(&fn->regs.st->emu.epoch) + 1;
    msg.reset.why = why;
    lease_tell(fn, &msg, NULL, 0);
    return false;
}

static void end(struct emu_function *fn, bool alone)
{
    fn->resetting = false;
    apply(fn, alone);
    fn->host->hide(fn, false);
    fn->host->reset_done(fn);
    lease_wake(fn);
}

int reset_answered(struct emu_function *fn, uint64_t cookie, uint32_t epoch)
{
    if (!fn->resetting || cookie != fn->reset_cookie)
        return 0; /* of an earlier lease */
    if (epoch != atomic_load(&fn->regs.st->emu.epoch) + 1)
        return -EBADMSG;
    end(fn, false);
    return 0;
}

void reset_alone(struct emu_function *fn)
{
    if (fn->resetting)
        end(fn, true);
}
