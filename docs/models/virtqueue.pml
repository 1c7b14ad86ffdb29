/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A virtqueue: a driver, a service that is killed and followed by another, the records between them.
 * What both formats have in common; split.pml or packed.pml (-DPACKED) is the ring and its driver.
 * README.md maps the steps to the code and says the bounds. Left out on purpose, to be found:
 *   -DNO_INTENT          completions are posted without their intent
 *   -DNO_INTENT_FENCE    a ring entry may be visible before the intents of its batch
 *   -DNO_FETCH_FENCE     a batch of fetches may be stored before the completions of the turn before
 *   -DNO_PUBLISH_RELEASE used index, or the first used descriptor, by a plain store
 *   -DNO_CURSOR          the next service does not restore the used cursor
 *   -DNO_RESUBMIT        the next service executes nothing again
 *   -DNO_FLAG_CHECK      packed: the next service writes without a look at the flags */
#define SLOTS 2 /* records, and chains that the driver has in flight */
#ifndef N
#define N 4     /* chains */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define NONE 255

/* Places in shared memory. State memory: */
#define AVAIL 0
#define CURSOR 1 /* used cursor */
#define USED 2   /* slots_used */
#define BODY(s) (3 + (s)) /* start of the ring, head, copies of the descriptors */
#define INDEX(s) (5 + (s))
#define INTENT(s) (7 + (s))
#define LEN(s) (9 + (s))
/* Guest memory that the device writes: */
#define RING(p) (11 + (p))
#define UIDX 14
#define LOCS 15
#define GUEST(l) ((l) >= 11)
#include "store_order.pml"

#define OLD_START 255

/* What is true, for the assertions: */
byte outstanding[SLOTS]; /* by head, or buffer ID */
bool executed[N], finished[N];
byte nfinished;

/* What a record says. */
#ifdef PACKED
#define QSIZE 3
#define ID(b) ((b) % 4) /* buffer ID */
#define NDESC(b) (((b) / 4) % 4)
#define OPERATION(b) ((b) / 16) /* from its copies: completions overwrite the descriptors of other chains */
#else
#define QSIZE 2
byte desc[SLOTS]; /* the driver's table: which command the chain of a head is, until it is used */
#define ID(b) (b) /* head */
#define NDESC(b) 1
#define OPERATION(b) desc[b]
#endif

#define S_FREE 0
#define S_ACTIVE 1
#define S_DONE 2 /* executed, waits for its used entry */

/* The private half of a service. */
byte avail, used, slots_used, reposts;
byte st[SLOTS], body[SLOTS], ndesc[SLOTS];
byte done[SLOTS]; /* slots in the order of their completions */
byte ndone;
byte n, i, s, v, at;

/* Where it is in the posting of a batch of n. */
mtype = {IDLE, INTENDED, WRITTEN, PUBLISHED};
mtype step = IDLE;

inline tidy()
{
    i = 0; s = 0; v = 0; at = 0
}

/* The driver has found a completion of this ID with this result. */
inline driver_takes(id, result)
{
    assert(id < SLOTS && outstanding[id] != NONE); /* once, and for a chain there is */
    assert(result == outstanding[id] + 1);
    assert(executed[outstanding[id]] && !finished[outstanding[id]]);
    finished[outstanding[id]] = true;
    nfinished++;
    outstanding[id] = NONE
}

inline forget()
{
    avail = 0; used = 0; slots_used = 0; reposts = 0; ndone = 0; n = 0; step = IDLE;
    st[0] = 0; st[1] = 0; body[0] = 0; body[1] = 0; ndesc[0] = 0; ndesc[1] = 0; done[0] = 0; done[1] = 0
}

/* ---- adoption ---- */

inline adopt_slot()
{
    v = mem[INDEX(s)];
    if
    :: v == 0 -> skip
    :: v != 0 && (mem[BODY(s)] == OLD_START || v > avail || (mem[INTENT(s)] != 0 && mem[INTENT(s)] <= used)) ->
        store_release(INDEX(s), 0) /* void, to be fetched again, or posted */
    :: else ->
        body[s] = mem[BODY(s)];
        ndesc[s] = NDESC(body[s]);
        if
        :: mem[INTENT(s)] != 0 -> st[s] = S_DONE; reposts++
        :: else ->
#ifdef NO_RESUBMIT
            store_release(INDEX(s), 0)
#else
            st[s] = S_ACTIVE
#endif
        fi
    fi
}

inline adopt()
{
    avail = mem[AVAIL];
    used = mem[CURSOR];
    slots_used = mem[USED];
    s = 0;
    do
    :: s < slots_used -> adopt_slot(); s++
    :: else -> break
    od;
    i = 0; at = used; /* intents in their order, which must be consecutive */
    do
    :: i < reposts ->
        s = 0;
        do
        :: s < SLOTS && !(st[s] == S_DONE && mem[INTENT(s)] == at + 1) -> s++
        :: else -> break
        od;
        assert(s < SLOTS);
        done[ndone] = s;
        ndone++;
        at = at + ndesc[s];
        i++
    :: else -> break
    od;
    assert(st[0] != S_ACTIVE || st[1] != S_ACTIVE || mem[INDEX(0)] != mem[INDEX(1)]);
    assert(st[0] == S_FREE || st[1] == S_FREE || ID(body[0]) != ID(body[1]));
#ifdef NO_CURSOR
    used = 0;
#endif
    tidy()
}

/* ---- fetch ---- */

inline fetch_begins()
{
#ifndef NO_FETCH_FENCE
    fence_release();
#endif
    i = 0
}

inline fill_slot(b)
{
    s = (st[0] == S_FREE -> 0 : 1);
    assert(st[s] == S_FREE);
    assert(st[1 - s] == S_FREE || ID(body[1 - s]) != ID(b)); /* no head twice in flight */
    st[s] = S_ACTIVE;
    body[s] = b;
    ndesc[s] = NDESC(b);
    if
    :: s >= slots_used ->
        slots_used = s + 1;
        store(INDEX(s), 0);
        store_release(USED, slots_used)
    :: else ->
        load(INDEX(s), v);
        assert(v == 0) /* no slot is taken before its record is over */
    fi;
    store(BODY(s), b);
    store(INTENT(s), 0);
    store_release(INDEX(s), avail + 1);
    avail = avail + ndesc[s]
}

inline execute(slot)
{
    v = OPERATION(body[slot]);
    assert(v < N && !finished[v]); /* the guest may have something newer in those blocks */
    executed[v] = true;
    done[ndone] = slot;
    ndone++;
    st[slot] = S_DONE;
    v = 0
}

/* ---- posting ---- */

inline store_intents()
{
    i = 0; at = used;
    do
    :: i < n ->
        s = done[i];
        v = OPERATION(body[s]) + 1;
        store(LEN(s), v);
#ifndef NO_INTENT
        store_release(INTENT(s), at + 1);
#endif
        at = at + ndesc[s];
        i++
    :: else -> break
    od
}

inline free_slots()
{
    i = 0;
    do
    :: i < n -> used = used + ndesc[done[i]]; i++
    :: else -> break
    od;
    store_release(CURSOR, used);
    i = 0;
    do
    :: i < n ->
        store_release(INDEX(done[i]), 0);
        st[done[i]] = S_FREE;
        body[done[i]] = 0;
        ndesc[done[i]] = 0;
        i++
    :: else -> break
    od;
    ndone = ndone - n;
    done[0] = (ndone == 1 -> done[1] : 0);
    done[1] = 0;
    reposts = 0; n = 0
}

#define NFREE ((st[0] == S_FREE -> 1 : 0) + (st[1] == S_FREE -> 1 : 0))

#ifdef PACKED
#include "packed.pml"
#else
#include "split.pml"
#endif

active proctype service()
{
    atomic { /* records of another start of the ring */
        mem[INDEX(0)] = 1; mem[INDEX(1)] = 2;
        mem[BODY(0)] = OLD_START; mem[BODY(1)] = OLD_START;
        select(kills_left : 0 .. KILLS)
    };
end:
    do
    :: atomic { step == IDLE && reposts == 0 && HAS_WORK -> fetch_batch(); store_release(AVAIL, avail); tidy() }
    :: atomic { step == IDLE && st[0] == S_ACTIVE -> execute(0) }
    :: atomic { step == IDLE && st[1] == S_ACTIVE -> execute(1) }
    :: atomic {
            step == IDLE && ndone > 0 ->
            n = (reposts > 0 -> reposts : ndone);
            if
            :: reposts == 0 -> store_intents()
            :: else -> skip
            fi;
#ifndef NO_INTENT_FENCE
            fence_release();
#endif
            step = INTENDED; tidy()
        }
    :: atomic { step == INTENDED -> write_entries(); step = WRITTEN; tidy() }
    :: atomic { step == WRITTEN -> publish(); step = PUBLISHED; tidy() }
    :: atomic { step == PUBLISHED -> free_slots(); step = IDLE; tidy() }
    :: atomic { kills_left > 0 -> kills_left--; sb_lose(); forget(); adopt() }
    od
}

active proctype monitor()
{
end:
    timeout -> assert(nfinished == N)
}
