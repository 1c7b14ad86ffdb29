# SPDX-License-Identifier: BSD-3-Clause
"""The table of docs/performance.md, made from the JSON of a run."""
import statistics
from pathlib import Path

BEGIN = "<!-- made by bench/run --write-docs from performance.json: do not edit -->"
END = "<!-- end of what is made -->"
NOISY = 0.05


def number(value, unit):
    if unit == "IOPS":
        return f"{value / 1000:,.0f} k" if value >= 10000 else f"{value:,.0f}"
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def median(side):
    return statistics.median(run["value"] for run in side)


def spread(side, unit):
    values = sorted(run["value"] for run in side)
    return f"{number(median(side), unit)} [{number(values[0], unit)} .. {number(values[-1], unit)}]"


def ratio(row):
    """Ours over the first peer, run by run: the sides were run in turn. NaN where the peer has none of it."""
    ours, peer = row["sides"]["ours"], next(v for k, v in row["sides"].items() if k != "ours")
    return statistics.median(a["value"] / b["value"] if b["value"] else float("nan") for a, b in zip(ours, peer))


def compared(row):
    """A line of a comparison of two builds."""
    return f"| {row['name']} | {spread(row['sides']['A'], row['unit'])} | {spread(row['sides']['ours'], row['unit'])} {row['unit']} | " \
           f"{ratio(row):.2f} | {noise(row)} |"


def verdict(row):
    """True, False, or None where no goal is set."""
    if not row["goal"]:
        return None
    value = ratio(row) if row["goal_of"] == "ratio" else median(row["sides"]["ours"])
    return value >= row["goal"] if row["better"] == "more" else value <= row["goal"]


def goal_words(row):
    if not row["goal"]:
        return "-"
    if row["goal_of"] == "ratio":
        return f">= {row['goal']:g}x"
    return f"{'>=' if row['better'] == 'more' else '<='} {number(row['goal'], row['unit'])} {row['unit']}"


def noise(row):
    longest = max(run["delay"] for side in row["sides"].values() for run in side)
    return f"{100 * longest:.0f} %" + (" (noisy)" if longest > NOISY else "")


def line(row):
    unit = row["unit"]
    peers = [f"{name}: {spread(side, unit)}; **{ratio(row):.2f}x**" for name, side in row["sides"].items() if name != "ours"]
    reached = {True: "yes", False: "**no**", None: "-"}[verdict(row)]
    return f"| {row['name']} | {spread(row['sides']['ours'], unit)} {unit} | {'; '.join(peers) or '-'} | {goal_words(row)} | " \
           f"{reached} | {noise(row)} |"


def table(result):
    facts = result["machine"]
    lines = [f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['memory_gib']} GiB, Linux {facts['kernel']}, huge pages "
             f"{facts['transparent_huge_pages']}; {facts['compiler']}; {facts['fio']}; {facts['qemu_storage_daemon']}. "
             f"Revision {facts['revision']}, {result['date']}. {result['runs']} runs of {result['seconds']:g} s a row, median "
             "[least .. most].", "",
             "| work | OpenSNAP | peer, run in turn with it; ratio | goal | reached | longest wait for a CPU |",
             "|---|---|---|---|---|---|"]
    lines += [line(row) for row in result["rows"]]
    lines += [f"| {p['group']} | not measured: {p['problem']} | | | | |" for p in result["problems"]]
    return "\n".join(lines)


def into(page, result):
    """Replaces the made part of a page's text."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n\n" + table(result) + "\n\n" + END + rest.split(END)[1]


def write(page: Path, result):
    page.write_text(into(page.read_text(), result))
