/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One NVMe queue pair: a guest, a service that is killed and followed by another, the records between
 * them. README.md maps the steps to the code and says the bounds. Left out on purpose, to be found:
 *   -DNO_INTENT       completions are posted without their intent
 *   -DNO_FETCH_FENCE  a batch of fetches may be stored before the completions of the turn before
 *   -DNO_CQE_RELEASE  the half of a CQE with the phase tag is a plain store
 *   -DNO_HEAD_RELEASE the queue head is a plain store
 *   -DNO_PHASE        the next service begins its CQ anew
 *   -DNO_RESUBMIT     the next service executes nothing again */
#define SQ 3    /* entries of the queues; one stays empty */
#define CQ 3
#define SLOTS 2 /* records, and command identifiers of the guest */
#ifndef N
#define N 4     /* commands of the guest: more than a lap of both queues */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define NONE 255

/* Places in shared memory. State memory: */
#define HEAD 0
#define TAIL 1
#define USED 2 /* slots_used */
#define BODY(s) (3 + (s)) /* copy of the SQE, and generation */
#define INDEX(s) (5 + (s))
#define INTENT(s) (7 + (s))
#define RESULT(s) (9 + (s)) /* DW0 and SQHD */
/* Guest memory: the two halves of a CQE, 0 before the first lap. */
#define LO(p) (11 + (p))
#define HI(p) (14 + (p))
#define LOCS 17
#define GUEST(l) ((l) >= 11)
#include "store_order.pml"

#define OLD_GENERATION 200

/* The guest's own, read by the service: SQ ring (command * 4 + CID) and doorbells. */
byte sq[SQ], db_sq, db_cq;

/* What is true, for the assertions: */
byte outstanding[SLOTS];
bool executed[N], finished[N];
byte nfinished;

active proctype guest()
{
    byte submitted, sqhd, cqh, cid, hi, op;

    d_step {
        outstanding[0] = NONE;
        outstanding[1] = NONE;
        cid = 0
    }
end:
    do
    :: submitted < N && (submitted + 1) % SQ != sqhd && (outstanding[0] == NONE || outstanding[1] == NONE) ->
        atomic {
            if
            :: outstanding[0] == NONE -> cid = 0
            :: outstanding[1] == NONE -> cid = 1
            fi;
            d_step {
                outstanding[cid] = submitted;
                sq[submitted % SQ] = submitted * 4 + cid;
                submitted++;
                db_sq = submitted % SQ;
                cid = 0
            }
        }
    :: d_step {
            mem[HI(cqh % CQ)] / 64 == 1 - (cqh / CQ) % 2 ->
            hi = mem[HI(cqh % CQ)];
            cid = (hi / 4) % 4;
            op = outstanding[cid];
            assert(op != NONE);                        /* completed once, and for a command there is */
            assert(mem[LO(cqh % CQ)] == op + 1);       /* its own result */
            assert(executed[op] && !finished[op]);
            finished[op] = true;
            nfinished++;
            outstanding[cid] = NONE;
            sqhd = hi % 4;
            cqh++;
            db_cq = cqh % CQ;
            hi = 0;
            cid = 0;
            op = 0
        }
    od
}

#define S_FREE 0
#define S_ACTIVE 1
#define S_DONE 2 /* executed, waits for its CQE */

/* The private half of a service. */
byte head, tail, cq_head, used, reposts;
byte st[SLOTS], body[SLOTS];
byte done[SLOTS]; /* slots in the order of their CQEs */
byte ndone;
byte n, i, s, v;

/* Where it is in the completion of a batch of n. */
mtype = {IDLE, INTENDED, WRITTEN};
mtype step = IDLE;

inline forget()
{
    head = 0; tail = 0; cq_head = 0; used = 0; reposts = 0; ndone = 0; n = 0; step = IDLE;
    st[0] = 0; st[1] = 0; body[0] = 0; body[1] = 0; done[0] = 0; done[1] = 0
}

/* ---- adoption ---- */

inline adopt_slot()
{
    v = mem[INDEX(s)];
    if
    :: v == 0 -> skip
    :: v != 0 && (mem[BODY(s)] == OLD_GENERATION || v > head || (mem[INTENT(s)] != 0 && mem[INTENT(s)] <= tail)) ->
        store_release(INDEX(s), 0) /* void, to be fetched again, or posted */
    :: else ->
        body[s] = mem[BODY(s)];
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
    head = mem[HEAD];
    tail = mem[TAIL];
    used = mem[USED];
    s = 0;
    do
    :: s < used -> adopt_slot(); s++
    :: else -> break
    od;
    i = 0; /* intents in their order, which must be consecutive */
    do
    :: i < reposts ->
        s = 0;
        do
        :: s < SLOTS && !(st[s] == S_DONE && mem[INTENT(s)] == tail + i + 1) -> s++
        :: else -> break
        od;
        assert(s < SLOTS);
        done[ndone] = s;
        ndone++;
        i++
    :: else -> break
    od;
    assert(st[0] != S_ACTIVE || st[1] != S_ACTIVE || mem[INDEX(0)] != mem[INDEX(1)]);
#ifdef NO_PHASE
    tail = 0;
#endif
    /* How far the guest has consumed is not known: assume the worst. */
    cq_head = (tail + reposts < CQ -> 0 : tail + reposts - (CQ - 1));
    i = 0; s = 0; v = 0
}

/* ---- fetch ---- */

inline execute(slot)
{
    assert(body[slot] / 4 < N);
    assert(!finished[body[slot] / 4]); /* the guest may have something newer in those blocks */
    executed[body[slot] / 4] = true;
    done[ndone] = slot;
    ndone++;
    st[slot] = S_DONE
}

inline fetch()
{
#ifndef NO_FETCH_FENCE
    fence_release();
#endif
    i = 0;
    do
    :: i < n ->
        s = (st[0] == S_FREE -> 0 : 1);
        assert(st[s] == S_FREE);
        st[s] = S_ACTIVE;
        body[s] = sq[(head + i) % SQ];
        if
        :: s >= used ->
            used = s + 1;
            store(INDEX(s), 0);
            store_release(USED, used)
        :: else ->
            load(INDEX(s), v);
            assert(v == 0) /* no slot is taken before its record is over */
        fi;
        store(BODY(s), body[s]);
        store(INTENT(s), 0);
        store_release(INDEX(s), head + i + 1);
        i++
    :: else -> break
    od;
    head = head + n;
#ifdef NO_HEAD_RELEASE
    store(HEAD, head);
#else
    store_release(HEAD, head);
#endif
    i = 0; s = 0; n = 0; v = 0
}

/* ---- completion ---- */

inline store_intents()
{
    i = 0;
    do
    :: i < n ->
        s = done[i];
        store(RESULT(s), (body[s] / 4 + 1) * 4 + head % SQ);
        store_release(INTENT(s), tail + i + 1);
        i++
    :: else -> break
    od
}

inline write_cqes()
{
    i = 0;
    do
    :: i < n ->
        s = done[i];
#ifdef NO_INTENT
        store(RESULT(s), (body[s] / 4 + 1) * 4 + head % SQ);
#endif
        load(RESULT(s), v);
        store(LO((tail + i) % CQ), v / 4);
#ifdef NO_CQE_RELEASE
        store(HI((tail + i) % CQ), (1 - ((tail + i) / CQ) % 2) * 64 + (body[s] % 4) * 4 + v % 4);
#else
        store_release(HI((tail + i) % CQ), (1 - ((tail + i) / CQ) % 2) * 64 + (body[s] % 4) * 4 + v % 4);
#endif
        i++
    :: else -> break
    od
}

inline free_slots()
{
    tail = tail + n;
    store_release(TAIL, tail);
    i = 0;
    do
    :: i < n ->
        store_release(INDEX(done[i]), 0);
        st[done[i]] = S_FREE;
        i++
    :: else -> break
    od;
    ndone = ndone - n;
    done[0] = (ndone == 1 -> done[1] : 0);
    done[1] = 0;
    reposts = 0; n = 0
}

/* Free entries of the CQ, after a look at its head doorbell. */
#define MOVED ((db_cq + CQ - cq_head % CQ) % CQ)
#define ROOM (CQ - 1 - (tail - cq_head))
#define NFREE ((st[0] == S_FREE -> 1 : 0) + (st[1] == S_FREE -> 1 : 0))

active proctype service()
{
    atomic { /* records that another incarnation of the queue has left */
        mem[INDEX(0)] = 1; mem[INDEX(1)] = 2;
        mem[BODY(0)] = OLD_GENERATION; mem[BODY(1)] = OLD_GENERATION;
        select(kills_left : 0 .. KILLS)
    };
end:
    do
    :: atomic {
            step == IDLE && db_sq != head % SQ && NFREE > 0 ->
            n = (db_sq + SQ - head % SQ) % SQ;
            n = (n > NFREE -> NFREE : n);
            fetch()
        }
    :: atomic { step == IDLE && st[0] == S_ACTIVE -> execute(0) }
    :: atomic { step == IDLE && st[1] == S_ACTIVE -> execute(1) }
    :: atomic {
            step == IDLE && reposts == 0 && MOVED > 0 ->
            assert(MOVED <= tail - cq_head);
            cq_head = cq_head + MOVED
        }
    :: atomic {
            step == IDLE && ndone > 0 && (reposts > 0 || ROOM > 0) ->
            n = (reposts > 0 -> reposts : (ndone > ROOM -> ROOM : ndone));
#ifndef NO_INTENT
            if
            :: reposts == 0 -> store_intents()
            :: else -> skip
            fi;
#endif
            step = INTENDED; i = 0; s = 0; v = 0
        }
    :: atomic { step == INTENDED -> write_cqes(); step = WRITTEN; i = 0; s = 0; v = 0 }
    :: atomic { step == WRITTEN -> free_slots(); step = IDLE; i = 0; s = 0 }
    :: atomic { kills_left > 0 -> kills_left--; sb_lose(); forget(); adopt() }
    od
}

active proctype monitor()
{
end:
    timeout -> assert(nfinished == N)
}
