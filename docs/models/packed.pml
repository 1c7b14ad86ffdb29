/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Packed ring of three descriptors, chains of one or two, for virtqueue.pml. A descriptor is one byte
 * here, as its half with the flags is one word there: AVAIL 128, USED 64, NEXT 32, buffer ID * 8, and
 * the command (available) or its result (used). */
#define LAP(c) (1 - ((c) / QSIZE) % 2) /* the wrap counter at a cursor */
#define A_BIT(d) ((d) / 128)
#define U_BIT(d) (((d) / 64) % 2)
#define NEXT_BIT(d) (((d) / 32) % 2)
#define ID_OF(d) (((d) / 8) % 4)
#define IS_AVAIL(c) (A_BIT(mem[RING((c) % QSIZE)]) == LAP(c) && U_BIT(mem[RING((c) % QSIZE)]) != LAP(c))
#define AVAIL_FLAGS(c) (LAP(c) * 128 + (1 - LAP(c)) * 64)
#define USED_FLAGS(c) (LAP(c) * 192)

/* What the service itself has stored there and is not visible is never of the lap that it waits for. */
#define HAS_WORK IS_AVAIL(avail)

inline fetch_batch()
{
    fetch_begins();
    do
    :: IS_AVAIL(avail) ->
        at = mem[RING(avail % QSIZE)];
        if
        :: NEXT_BIT(at) == 1 ->
            assert(IS_AVAIL(avail + 1));
            at = (at % 8) * 16 + 2 * 4 + ID_OF(mem[RING((avail + 1) % QSIZE)])
        :: else -> at = (at % 8) * 16 + 1 * 4 + ID_OF(at)
        fi;
        fill_slot(at)
    :: else -> break
    od
}

inline put_used(slot)
{
    load(LEN(slot), v);
    v = USED_FLAGS(at) + ID(body[slot]) * 8 + v;
#ifndef NO_FLAG_CHECK
    if
    :: reposts == 0 || IS_AVAIL(at) ->
#endif
#ifdef NO_PUBLISH_RELEASE
        store(RING(at % QSIZE), v)
#else
        store_release(RING(at % QSIZE), v)
#endif
#ifndef NO_FLAG_CHECK
    :: else -> skip
    fi
#endif
}

/* All but the first, at which the driver looks first. */
inline write_entries()
{
    i = 1; at = used + ndesc[done[0]];
    do
    :: i < n ->
        s = done[i];
        put_used(s);
        at = at + ndesc[s];
        i++
    :: else -> break
    od
}

inline publish()
{
    at = used;
    s = done[0];
    put_used(s)
}

active proctype driver()
{
    byte next, last, left = QSIZE, submitted, id, d;
    byte num[SLOTS];

    d_step {
        outstanding[0] = NONE;
        outstanding[1] = NONE
    }
end:
    do
    :: atomic {
            submitted < N && left > 0 && (outstanding[0] == NONE || outstanding[1] == NONE) ->
            if
            :: outstanding[0] == NONE -> id = 0
            :: outstanding[1] == NONE -> id = 1
            fi;
            if
            :: num[id] = 1
            :: left > 1 -> num[id] = 2
            fi;
            outstanding[id] = submitted;
            if /* the first one last */
            :: num[id] == 2 -> mem[RING((next + 1) % QSIZE)] = AVAIL_FLAGS(next + 1) + id * 8 + submitted
            :: else -> skip
            fi;
            mem[RING(next % QSIZE)] = AVAIL_FLAGS(next) + (num[id] == 2 -> 32 : 0) + id * 8 + submitted;
            next = next + num[id];
            left = left - num[id];
            submitted++;
            id = 0
        }
    :: atomic {
            A_BIT(mem[RING(last % QSIZE)]) == LAP(last) && U_BIT(mem[RING(last % QSIZE)]) == LAP(last) ->
            d = mem[RING(last % QSIZE)];
            id = ID_OF(d);
            driver_takes(id, d % 8);
            last = last + num[id];
            left = left + num[id];
            num[id] = 0;
            d = 0; id = 0
        }
    od
}
