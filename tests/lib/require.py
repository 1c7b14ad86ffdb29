# SPDX-License-Identifier: BSD-3-Clause
"""Skips a test for a missing tool, unless the run demands everything."""

import os

import pytest


def require(condition, reason: str) -> None:
    """Goes on when condition holds; else skips, or fails when REQUIRE=all is set."""
    if condition:
        return
    if os.environ.get("REQUIRE") == "all":
        pytest.fail(f"required: {reason}", pytrace=False)
    pytest.skip(reason)
