# SPDX-License-Identifier: BSD-3-Clause
"""A row of the table: sides, each a function without arguments that makes one run. "ours" is what a goal speaks of, others are
peers on the same machine."""
from dataclasses import dataclass, field


@dataclass
class Run:
    value: float
    delay: float = 0.0  # share of the time in which a process of ours waited for its CPU
    more: dict = field(default_factory=dict)


@dataclass
class Row:
    name: str
    unit: str
    goal: float  # 0: none
    sides: dict
    better: str = "more"          # or "less"
    goal_of: str = "value"        # or "ratio": ours over the first peer


def once(value):
    """Measured while the group was set up."""
    return lambda: Run(value)
