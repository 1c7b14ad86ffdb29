# SPDX-License-Identifier: BSD-3-Clause
"""The connection breaks with requests in flight: each is executed again once, in the driver's order, before newer ones."""
from blk_chains import held
from virtio_blk import IN, OK, OUT, VirtioBlk, pattern

SECTOR = 500


def test_reconnect_replays_each_once(either, blk_neighbour):
    either.works()
    for lap in range(3):
        with held(either, seed=100 * lap) as h:
            h.wait_fetched()
            either.reconnect(before_start=h.back)
            h.check()
    either.works()


def test_reconnect_with_new_requests_queued_meanwhile(either, packed):
    """Kicks while nobody listens are kept in the eventfd."""
    with held(either) as h:
        h.wait_fetched()
        either.vc.close()
        more = [either.make(OUT, 2000 + i, pattern(i, 512)) for i in range(8)]
        for r in more:
            h.ids.append(either.rings[0].submit(r.segs))
        either.reconnect(before_start=h.back)
        h.requests += more
        h.check()
        assert either.read(2003, 1) == pattern(3, 512)


def test_reconnect_replays_in_the_order_of_fetching(either, packed):
    """Writes to one sector, the later ones under smaller numbers: the last one must win."""
    ring = either.rings[0]
    for lap in range(4):
        if packed:
            ring.free_ids.reverse()
        else:
            ring.free.reverse()
        with held(either, count=12, sector=500, step=0, seed=300 + 20 * lap) as h:
            h.wait_fetched()
            either.reconnect(before_start=h.back)
            h.check()


def test_stale_base_is_ignored_with_an_area(either, packed):
    """2.3: what counts is used idx and what is in flight, not the base the front end believes in."""
    for i in range(5):
        either.works(i)
    with held(either) as h:
        h.wait_fetched()
        ring = either.rings[0]
        stale = ring.base() if packed else ring.avail_idx
        either.reconnect(bases=[stale], before_start=h.back)
        h.check()
        either.works()


def test_reconnect_of_a_split_ring_without_an_area(blk_path):
    """Its base is the used index: what was in flight is fetched again."""
    with VirtioBlk(blk_path, inflight=False) as d:
        d.works()
        with held(d) as h:
            assert d.rings[0].quiet(0.05)
            d.reconnect(before_start=h.back)
            h.check()


def test_reconnect_again_and_again_under_load(either):
    """At whatever point of a request the connection breaks."""
    ring = either.rings[0]
    requests = [either.make(IN if i % 2 else OUT, 8 * i, b"" if i % 2 else pattern(i, 4096), 4096 if i % 2 else 0)
                for i in range(16)]
    for lap in range(25):
        for r in requests:
            ring.add(r.segs)
        ring.publish()
        ring.kick()
        either.reconnect()
        ring.wait_all()
        assert {r.status for r in requests} == {OK}
    either.works()


# ---- and newer requests ----

def newer(d, seed):
    """Writes to where the held ones write, too."""
    requests = [d.make(OUT, SECTOR, pattern(seed + i, 512)) for i in range(4)]
    for r in requests:
        d.rings[0].submit(r.segs)
    return requests


def finished(d, h, requests, seed):
    d.rings[0].wait_all()
    assert not d.rings[0].unexpected
    assert {r.status for r in h.requests + requests} == {OK}
    assert d.read(SECTOR, 1) == pattern(seed + 3, 512), "a replayed write was done after a newer one"


def test_reconnect_replays_before_anything_newer(either, packed):
    """What the driver made available while nobody served it is done afterwards."""
    for lap in range(4):
        (either.rings[0].free_ids if packed else either.rings[0].free).reverse()
        with held(either, sector=SECTOR, step=0, seed=100 * lap) as h:
            h.wait_fetched()
            requests = []

            def before_start(d):
                requests.extend(newer(d, 5000 + 10 * lap))
                h.back()

            either.reconnect(before_start=before_start)
            finished(either, h, requests, 5000 + 10 * lap)


def test_next_service_replays_before_anything_newer(blk_snap, either, packed, blk_neighbour):
    for lap in range(2):
        (either.rings[0].free_ids if packed else either.rings[0].free).reverse()
        with held(either, sector=SECTOR, step=0, seed=100 * lap) as h:
            h.wait_fetched()
            blk_snap.kill_service()
            try:
                h.back()
                requests = newer(either, 6000 + 10 * lap)
            finally:
                blk_snap.start_service()
            finished(either, h, requests, 6000 + 10 * lap)
