# SPDX-License-Identifier: BSD-3-Clause
"""Requests of a killed service that the kernel still holds: the next lease waits for them."""
from big import round_


def test_nothing_in_flight_survives_the_next_lease(tmp_path):
    for i in range(3):
        found, took = round_(tmp_path / str(i), settle=0.005 * (i + 1))
        print(f"round {i}: the lease took {took * 1000:.0f} ms")
        assert not found, found


def test_without_the_fence_it_is_found_out(tmp_path):
    """The same rounds with a snap_emu that grants the lease at once."""
    for i in range(8):
        found, took = round_(tmp_path / str(i), {"snap_emu": "snap_emu_no_fence"}, settle=0.005 + 0.003 * i, watch=0.6)
        print(f"round {i}: the lease took {took * 1000:.0f} ms: {found}")
        if any("after the lease" in f for f in found):
            return
    raise AssertionError("eight rounds without the fence, and nothing was found")
