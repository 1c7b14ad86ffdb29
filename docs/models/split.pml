/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Split ring of two entries, for virtqueue.pml. A record needs the head only: the descriptors stay in
 * the driver's table until the chain is used. The used index is kept modulo 256. */
byte aring[QSIZE], aidx; /* the driver's */
#define HAS_WORK (aidx != avail)

inline fetch_batch()
{
    fetch_begins();
    do
    :: aidx != avail -> fill_slot(aring[avail % QSIZE])
    :: else -> break
    od
}

/* id and len of an entry: two plain stores with nothing between them. */
inline write_entries()
{
    i = 0;
    do
    :: i < n ->
        s = done[i];
        load(LEN(s), v);
        store(RING((used + i) % QSIZE), v * 4 + body[s]);
        i++
    :: else -> break
    od
}

inline publish()
{
#ifdef NO_PUBLISH_RELEASE
    store(UIDX, used + n)
#else
    store_release(UIDX, used + n)
#endif
}

active proctype driver()
{
    byte last, h, e;

    d_step {
        outstanding[0] = NONE;
        outstanding[1] = NONE
    }
end:
    do
    :: atomic {
            aidx < N && (outstanding[0] == NONE || outstanding[1] == NONE) ->
            if
            :: outstanding[0] == NONE -> h = 0
            :: outstanding[1] == NONE -> h = 1
            fi;
            outstanding[h] = aidx;
            desc[h] = aidx;
            aring[aidx % QSIZE] = h;
            aidx++;
            h = 0
        }
    :: atomic {
            mem[UIDX] != last ->
            assert(mem[UIDX] > last && mem[UIDX] - last <= QSIZE);
            e = mem[RING(last % QSIZE)];
            driver_takes(e % 4, e / 4);
            last++;
            e = 0
        }
    od
}
