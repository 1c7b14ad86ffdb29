# SPDX-License-Identifier: BSD-3-Clause
"""INDEX names a test for every pitfall, and every test it names exists."""
import ast
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent

# How many lines each group must have at least: a line taken out of INDEX is noticed here.
GROUPS = {"1.1": 8, "1.2": 16, "1.3": 3, "1.4": 8, "1.5": 5, "1.6": 3, "1.7": 6, "1.8": 3,
          "2.1": 15, "2.2": 18, "2.3": 8, "2.4": 5, **{f"8.{i}": 1 for i in range(1, 9)},
          **{f"A{i}": 1 for i in range(1, 16)}, **{f"D{i}": 1 for i in range(1, 10)},
          **{f"C{i}": 1 for i in (1, 2, 3, 4, 5, 6, 7, 8, 10)}, **{f"B{i}": 1 for i in range(1, 12)}}


def lines():
    for number, line in enumerate((HERE / "INDEX").read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            fields = [f.strip() for f in line.split("|")]
            assert len(fields) == 3 and all(fields), f"INDEX line {number}: key | words | tests"
            yield number, fields[0], fields[2].split()


@cache
def names_in(path):
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_pitfall_has_a_line():
    counts = {}
    for _, key, _ in lines():
        counts[key.split("-")[0]] = counts.get(key.split("-")[0], 0) + 1
    short = {g: (counts.get(g, 0), n) for g, n in GROUPS.items() if counts.get(g, 0) < n}
    assert not short, f"groups with fewer lines than there are pitfalls (found, expected): {short}"


def test_every_test_named_exists():
    missing = []
    for number, key, tests in lines():
        for test in tests:
            name, _, function = test.partition("::")
            path = HERE / name
            if not path.exists() or function not in names_in(path):
                missing.append(f"line {number}, {key}: {test}")
    assert not missing, "\n".join(missing)


def test_keys_are_unique():
    keys = [key for _, key, _ in lines()]
    assert len(keys) == len(set(keys))
