/* SPDX-License-Identifier: BSD-3-Clause
 *
 * journal/journal.h - the saved configuration: <state-dir>/config.journal, one checksummed line per
 * RPC that changed something, appended before the RPC is answered.
 *
 * What holds: a change that was answered survives the death of the service (page cache), and within
 * about a second the death of the machine (a thread of its own syncs; the RPC path never waits for
 * the disk). A damaged end is cut off and kept as config.journal.bad. When most lines are dead the
 * file is rewritten aside, synced and renamed. When a change cannot be written the RPC fails and
 * says so, the change stays in force, and the whole file is written anew as soon as that works, so
 * that file and service agree again. Thread: control; the helper thread stays inside. */
#ifndef JOURNAL_JOURNAL_H
#define JOURNAL_JOURNAL_H

#include "rpc/dispatch.h"

struct journal;

/* Locks the state directory (it must exist) for this process and reads what is saved. -EBUSY:
 * another service has it. */
int journal_open(const char *state_dir, struct journal **ret, struct err *err);
/* orderly: leaves a mark, so that the next start knows it was no crash. Syncs. Accepts NULL. */
void journal_close(struct journal *j, bool orderly);

/* The last service ended by journal_close(orderly), or there was none. */
bool journal_was_orderly(const struct journal *j);
/* Its lock on the state directory: the next one can open it only when the last holder of this open
 * file is gone. Stays the journal's. */
int journal_lock_fd(const struct journal *j);
/* Objects saved. */
unsigned journal_count(struct journal *j);
/* Forgets everything (start from other files). */
int journal_clear(struct journal *j, struct err *err);

/* The saved calls in order, an array of {put, method, params}; new reference. */
json_t *journal_calls(struct journal *j);

/* rpc_env.save; arg is the journal. */
int journal_save(void *arg, const struct rpc_change *changes, unsigned n, struct err *err);

/* Calls the saved methods one after the other, each when the one before has answered. A call that
 * fails is logged and kept. done runs once, maybe inside. */
void journal_replay(struct journal *j, const struct rpc_env *env,
                    void (*done)(void *arg, unsigned ok, unsigned failed), void *arg);

#endif
