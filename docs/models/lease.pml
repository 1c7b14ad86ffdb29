/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One function, two services, snap_emu. Any of them may be killed; the kernel goes on with the requests
 * of a dead service for as long as it likes. README.md maps the steps to the code and says the bounds.
 * Left out on purpose, to be found:
 *   -DNO_FENCE       the end of the process is taken for the end of its I/O
 *   -DNO_DRAIN       a lease is given back with requests in flight
 *   -DNO_HOLDERS     a restarted snap_emu does not look for former holders
 *   -DNO_RING_LOCK   the rings do not hold the lock of the holder's file
 *   -DNO_UNMAP       a service that lost its link says hello again before it has stopped */
#ifndef KILLS
#define KILLS 2 /* of services */
#endif
#ifndef EMU_KILLS
#define EMU_KILLS 1
#endif
#define NOBODY 2

/* Services: what is true. */
bool alive[2] = true;
bool touch[2]; /* has guest memory mapped */
bool kreq[2];  /* the kernel has requests of it */
bool locked[2]; /* its file in holders/ has its lock: by the process, and by each ring */

/* The link: what is on its way. */
bool linked[2];   /* as the service sees it */
bool lost[2];     /* snap_emu is dead, which the service has not seen yet */
bool hello[2], open[2], granted[2], refused[2], release[2], released[2];
bool eof[2];      /* snap_emu has not seen yet that the service's end is closed */

/* snap_emu. */
bool up = true;
byte holder = NOBODY;
bool conn[2];   /* it has a connection to this service */
bool waits[2];  /* a LINK_OPEN behind a fence */
bool former[2]; /* holder of an earlier snap_emu */

byte kills_left, emu_kills_left;
byte tries[2] = 2; /* to open a lease */

#define MAY_TOUCH(s) (touch[s] || kreq[s])

/* What ends only when neither the process nor the kernel for it can do anything any more. */
#define HUNG_UP(s) (!alive[s] && !kreq[s])
#ifdef NO_FENCE
#define FENCED(s) (!alive[s])
#else
#define FENCED(s) (!alive[s] && HUNG_UP(s))
#endif
#ifdef NO_RING_LOCK
#define LOCK_HELD(s) (locked[s] && alive[s])
#else
#define LOCK_HELD(s) (locked[s] && (alive[s] || kreq[s]))
#endif

inline grant(who)
{
    holder = who;
    waits[who] = false;
    granted[who] = alive[who] /* else nobody reads it */
}

inline serve_waiters()
{
    if
    :: up && holder == NOBODY && !former[0] && !former[1] && waits[0] -> grant(0)
    :: up && holder == NOBODY && !former[0] && !former[1] && waits[1] -> grant(1)
    :: else -> skip
    fi
}

/* ---- a service ---- */

proctype service(byte s)
{
end:
    do
    /* It says hello with nothing mapped and nothing in flight, and holds the lock of its file before. */
#ifdef NO_UNMAP
    :: atomic { alive[s] && up && !linked[s] && !eof[s] && !hello[s] -> locked[s] = true; linked[s] = true; hello[s] = true }
#else
    :: atomic { alive[s] && up && !linked[s] && !eof[s] && !hello[s] && !MAY_TOUCH(s) && !granted[s] ->
            locked[s] = true; linked[s] = true; hello[s] = true }
#endif
    :: atomic { alive[s] && linked[s] && !lost[s] && !hello[s] && !open[s] && !waits[s] && !touch[s] && !granted[s] && !release[s] && !released[s] && !refused[s] && tries[s] > 0 -> tries[s]--; open[s] = true }
    :: atomic { alive[s] && refused[s] -> refused[s] = false }
    :: atomic { alive[s] && released[s] -> released[s] = false }
    /* LINK_OPENED may still be read when snap_emu is dead already. */
    :: atomic { alive[s] && granted[s] -> granted[s] = false; touch[s] = true; assert(!MAY_TOUCH(1 - s)) }
    :: atomic { alive[s] && touch[s] && !kreq[s] && linked[s] -> kreq[s] = true; assert(!MAY_TOUCH(1 - s)) }
    /* Giving back: stop, drain, unmap, say so. */
#ifdef NO_DRAIN
    :: atomic { alive[s] && touch[s] && linked[s] -> touch[s] = false; release[s] = !lost[s] }
#else
    :: atomic { alive[s] && touch[s] && linked[s] && !kreq[s] -> touch[s] = false; release[s] = !lost[s] }
#endif
    :: atomic { alive[s] && linked[s] && lost[s] && !granted[s] -> linked[s] = false; lost[s] = false; refused[s] = false;
            released[s] = false }
    /* The link is gone: the same, but nobody is to be told. */
    :: atomic { alive[s] && touch[s] && !linked[s] && !kreq[s] -> touch[s] = false }
    /* Killed: its descriptors close, in whatever order snap_emu learns of it. */
    :: atomic { alive[s] && kills_left > 0 ->
            kills_left--;
            alive[s] = false; touch[s] = false; granted[s] = false;
            refused[s] = false; released[s] = false;
            eof[s] = linked[s] && up && !lost[s]; linked[s] = false; lost[s] = false }
    /* Another one is started in its place, as another process: the old one's requests must be over for the model to
     * have one variable for both, which snap_emu does not know. */
    :: atomic { !alive[s] && !kreq[s] && !eof[s] && !conn[s] && holder != s && !former[s] && !hello[s] && !open[s] ->
            alive[s] = true; locked[s] = false; tries[s] = 1 }
    od
}
/* The kernel finishes a request when it does. */
active proctype kernel()
{
end:
    do
    :: atomic { kreq[0] -> kreq[0] = false }
    :: atomic { kreq[1] -> kreq[1] = false }
    od
}

/* ---- snap_emu ---- */

inline lease_end()
{
    holder = NOBODY;
    serve_waiters()
}

/* service_fence_moved() */
inline fence_moved(who)
{
    if
    :: holder == who && FENCED(who) -> lease_end()
    :: else -> skip
    fi
}

proctype emu_for(byte s)
{
end:
    do
    :: atomic { up && hello[s] && !conn[s] ->
            hello[s] = false;
            conn[s] = true;
            former[s] = false;
            if
            :: holder == s -> lease_end() /* a process that says hello again has let go of all */
            :: else -> serve_waiters()
            fi }
    :: atomic { up && open[s] && conn[s] && !hello[s] ->
            open[s] = false;
            if /* its end may be in the same batch of events, behind this message */
            :: holder == 1 - s -> fence_moved(1 - s)
            :: else -> skip
            fi;
            if
            :: holder == NOBODY && !former[0] && !former[1] -> grant(s)
            :: holder == 1 - s && conn[1 - s] && alive[1 - s] -> refused[s] = alive[s]
            :: else -> waits[s] = true
            fi }
    :: atomic { up && release[s] && conn[s] ->
            release[s] = false;
            released[s] = alive[s];
            if
            :: holder == s -> lease_end()
            :: else -> skip
            fi }
    /* The end of a connection: behind all that was sent on it. */
    :: atomic { up && eof[s] && !hello[s] && !open[s] && !release[s] ->
            eof[s] = false; conn[s] = false; waits[s] = false; granted[s] = false;
            fence_moved(s) }
    /* pidfd or pipe are looked at: the wait for a fence ends. */
    :: atomic { up && holder == s && FENCED(s) -> fence_moved(s) }
    /* holders.c tries again. */
    :: atomic { up && former[s] && !LOCK_HELD(s) -> former[s] = false; serve_waiters() }
    od
}

/* It dies, and comes back with nothing but the files of holders/. */
active proctype emu_life()
{
end:
    do
    :: atomic { up && emu_kills_left > 0 ->
            emu_kills_left--;
            up = false; holder = NOBODY;
            conn[0] = false; conn[1] = false; waits[0] = false; waits[1] = false; former[0] = false; former[1] = false;
            hello[0] = false; hello[1] = false; open[0] = false; open[1] = false; release[0] = false; release[1] = false;
            eof[0] = false; eof[1] = false;
            lost[0] = linked[0]; lost[1] = linked[1] }
    :: atomic { !up ->
            up = true;
#ifndef NO_HOLDERS
            former[0] = LOCK_HELD(0);
            former[1] = LOCK_HELD(1);
#endif
            skip }
    od
}

init
{
    atomic {
        select(kills_left : 0 .. KILLS);
        select(emu_kills_left : 0 .. EMU_KILLS);
        run service(0);
        run service(1);
        run emu_for(0);
        run emu_for(1)
    }
}

/* Nobody who waits is forgotten. */
active proctype monitor()
{
end:
    timeout -> assert(up && !waits[0] && !waits[1] && !open[0] && !open[1])
}
