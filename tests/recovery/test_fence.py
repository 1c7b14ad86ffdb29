# SPDX-License-Identifier: BSD-3-Clause
"""Requests of a killed service that the kernel still holds: the next lease waits for them."""
from big import COUNT, round_

SETTLE = (0.017, 0.02, 0.025, 0.03, 0.014, 0.022)  # seconds between the doorbell and the kill


def test_nothing_in_flight_survives_the_next_lease(tmp_path):
    most = 0
    for i, settle in enumerate(SETTLE[:3]):
        found, records = round_(tmp_path / str(i), settle=settle)
        assert not found, found
        most = max(most, records)
    assert most >= COUNT // 2, f"only {most} commands were in flight"


def test_without_the_fence_it_is_found_out(tmp_path):
    """The same rounds with a snap_emu that grants the lease at once."""
    for i, settle in enumerate(SETTLE * 2):
        found, _ = round_(tmp_path / str(i), {"snap_emu": "snap_emu_no_fence"}, settle, watch=0.5,
                          to_the_end=False)
        if any("after the lease" in f for f in found):
            return
    raise AssertionError(f"{2 * len(SETTLE)} rounds without the fence, and nothing was found")
