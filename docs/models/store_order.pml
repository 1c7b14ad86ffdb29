/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Shared memory as C11 promises it and no better. A store of the service goes into a buffer and
 * becomes visible later: plain and relaxed ones in any order, except that stores to one place keep
 * theirs; a release store after all stores before it; nothing passes a fence. What comes after a
 * release store may be visible before it. So it stands for a compiler that moves stores as well as
 * for a processor that does.
 *
 * A kill loses any set of the stores in the buffer that these rules allow. That includes all that
 * follow some store, so a kill between two stores of one step is a kill after the step that loses
 * the rest: the steps of the service can be atomic, and still it dies between any two stores.
 * State memory is looked at by the next service only, hence its stores stay in the buffer until
 * then, until the buffer is full (the oldest goes), or until a store to guest memory drags them out.
 *
 * To be defined before: LOCS, the number of places; GUEST(l), whether the guest looks at place l. */
#ifndef SB
#define SB 8
#endif
#define PLAIN 0
#define RELEASE 1
#define FENCE 2

byte mem[LOCS];
byte kills_left;
byte sb_loc[SB], sb_val[SB], sb_kind[SB];
byte sb_n, sb_guests, sb_i, sb_k, sb_left;
bool sb_lost[LOCS], sb_any, sb_cut;

/* Removes entry k; the caller has seen to it that it may be visible now, or never. */
inline sb_remove(k)
{
    if
    :: sb_kind[k] != FENCE && GUEST(sb_loc[k]) -> sb_guests--
    :: else -> skip
    fi;
    sb_i = k;
    do
    :: sb_i + 1 < sb_n ->
        sb_loc[sb_i] = sb_loc[sb_i + 1];
        sb_val[sb_i] = sb_val[sb_i + 1];
        sb_kind[sb_i] = sb_kind[sb_i + 1];
        sb_i++
    :: else -> break
    od;
    sb_n--;
    sb_loc[sb_n] = 0;
    sb_val[sb_n] = 0;
    sb_kind[sb_n] = 0;
    sb_i = 0
}

inline sb_oldest()
{
    if
    :: sb_kind[0] != FENCE -> mem[sb_loc[0]] = sb_val[0]
    :: else -> skip
    fi;
    sb_remove(0)
}

inline put(l, v, k)
{
    if
    :: kills_left == 0 && k != FENCE && !GUEST(l) -> mem[l] = v /* nobody will look at it */
    :: else ->
        if
        :: sb_n == SB -> sb_oldest()
        :: else -> skip
        fi;
        sb_loc[sb_n] = l;
        sb_val[sb_n] = v;
        sb_kind[sb_n] = k;
        sb_n++;
        if
        :: k != FENCE && GUEST(l) -> sb_guests++
        :: k == FENCE && sb_n == 1 -> sb_n = 0; sb_kind[0] = 0 /* nothing to keep apart */
        :: else -> skip
        fi
    fi
}

#define store(l, v) put(l, v, PLAIN)
#define store_release(l, v) put(l, v, RELEASE)
#define fence_release() put(0, 0, FENCE)

/* The service's own view of a place: its newest store, or what is visible. */
inline load(l, v)
{
    v = mem[l];
    sb_i = 0;
    do
    :: sb_i < sb_n ->
        if
        :: sb_kind[sb_i] != FENCE && sb_loc[sb_i] == l -> v = sb_val[sb_i]
        :: else -> skip
        fi;
        sb_i++
    :: else -> break
    od;
    sb_i = 0
}

/* Stores to guest memory become visible at any time. One that has to wait for others takes them along. */
active proctype store_buffer()
{
end:
    do
    :: atomic {
            sb_guests > 0 -> sb_k = 0;
            do
            :: sb_k < sb_n && sb_kind[sb_k] != FENCE && GUEST(sb_loc[sb_k]) -> break /* this one */
            :: sb_k < sb_n -> sb_k++
            :: sb_k >= sb_n -> break
            od;
            if
            :: sb_k >= sb_n -> skip
            :: sb_k < sb_n && sb_kind[sb_k] == RELEASE ->
                do
                :: sb_k > 0 -> sb_oldest(); sb_k--
                :: else -> sb_oldest(); break
                od
            :: sb_k < sb_n && sb_kind[sb_k] == PLAIN ->
                sb_i = sb_k; /* up to the last fence, or older store to this place, before it */
                do
                :: sb_i > 0 && sb_kind[sb_i - 1] != FENCE && sb_loc[sb_i - 1] != sb_loc[sb_k] -> sb_i--
                :: else -> break
                od;
                do
                :: sb_i > 0 ->
                    sb_left = sb_i - 1; /* sb_oldest() uses sb_i */
                    sb_oldest();
                    sb_k--;
                    sb_i = sb_left
                :: else -> break
                od;
                mem[sb_loc[sb_k]] = sb_val[sb_k];
                sb_remove(sb_k)
            fi;
            sb_k = 0; sb_any = false; sb_left = 0; sb_i = 0
        }
    od
}

/* A kill: which of the stores in the buffer have been made? */
inline sb_lose()
{
    sb_k = 0;
    do
    :: sb_k < sb_n ->
        if
        :: sb_kind[sb_k] == FENCE -> sb_cut = sb_any
        :: sb_kind[sb_k] != FENCE && !sb_cut && (sb_kind[sb_k] == PLAIN -> !sb_lost[sb_loc[sb_k]] : !sb_any) ->
            mem[sb_loc[sb_k]] = sb_val[sb_k]
        :: sb_kind[sb_k] != FENCE -> sb_any = true; sb_lost[sb_loc[sb_k]] = true
        fi;
        if
        :: sb_cut -> break /* nothing behind a fence before all that was before it */
        :: else -> sb_k++
        fi
    :: else -> break
    od;
    atomic {
        sb_k = 0;
        do
        :: sb_k < SB -> sb_loc[sb_k] = 0; sb_val[sb_k] = 0; sb_kind[sb_k] = 0; sb_k++
        :: else -> break
        od;
        sb_k = 0;
        do
        :: sb_k < LOCS -> sb_lost[sb_k] = false; sb_k++
        :: else -> break
        od;
        sb_k = 0; sb_n = 0; sb_guests = 0; sb_any = false; sb_cut = false
    }
}
