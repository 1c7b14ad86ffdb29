# SPDX-License-Identifier: BSD-3-Clause
"""The models of docs/models: the good ones are explored to their end, and each with a rule left out runs into an error."""
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "docs" / "models"
SECONDS = 120
# Kills in the exhaustive runs: MODEL_KILLS=2 takes minutes and about 1 GiB.
KILLS = os.environ.get("MODEL_KILLS", "1")
GOOD = {"nvme": ("nvme",), "split": ("virtqueue",), "packed": ("virtqueue", "PACKED"), "lease": ("lease",)}
LEFT_OUT = {
    "nvme": ["NO_INTENT", "NO_FETCH_FENCE", "NO_CQE_RELEASE", "NO_HEAD_RELEASE", "NO_PHASE", "NO_RESUBMIT"],
    "split": ["NO_INTENT", "NO_FETCH_FENCE", "NO_PUBLISH_RELEASE", "NO_CURSOR", "NO_RESUBMIT"],
    "packed": ["NO_INTENT", "NO_FETCH_FENCE", "NO_INTENT_FENCE+NO_PUBLISH_RELEASE", "NO_CURSOR", "NO_RESUBMIT", "NO_FLAG_CHECK"],
    "lease": ["NO_FENCE", "NO_DRAIN", "NO_HOLDERS", "NO_RING_LOCK", "NO_UNMAP"],
}
CASES = [(m, None) for m in GOOD] + [(m, rule) for m, rules in LEFT_OUT.items() for rule in rules]


def explore(case, directory):
    """Output of the verifier that spin makes."""
    model, rule = case
    file, *defines = GOOD[model]
    defines += ["KILLS=2" if model == "lease" else f"KILLS={KILLS}"] + (rule.split("+") if rule else [])
    directory.mkdir()
    for source in MODELS.glob("*.pml"):
        shutil.copy(source, directory)

    def run(*argv):
        return subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)

    got = run("spin", *(f"-D{d}" for d in defines), "-a", f"{file}.pml")
    if got.returncode == 0:
        # Compiling with optimization takes longer than it gains, but for a deep search.
        got = run("gcc", "-O2" if KILLS != "1" and rule is None else "-O0", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2048",
                  "-DVECTORSZ=512", "-o", "pan", "pan.c")
    if got.returncode == 0:
        got = run("./pan", "-m20000", "-n")
    shutil.rmtree(directory)
    return got.stdout + got.stderr


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    if not shutil.which("spin"):
        pytest.skip("no spin")
    tmp = tmp_path_factory.mktemp("models")
    with ThreadPoolExecutor(2) as pool:
        futures = {case: pool.submit(explore, case, tmp / str(i)) for i, case in enumerate(CASES)}
        yield futures


@pytest.mark.parametrize("model", GOOD)
def test_every_interleaving_is_right(explored, model):
    text = explored[model, None].result()
    assert re.search(r"errors: 0$", text, re.M), text
    assert "max search depth too small" not in text and "memory limit" not in text and "out of memory" not in text, text
    assert int(re.search(r"(\d+) states, stored", text)[1]) > 1000, text


@pytest.mark.parametrize("model,rule", [c for c in CASES if c[1]])
def test_without_a_rule_the_model_fails(explored, model, rule):
    text = explored[model, rule].result()
    assert re.search(r"errors: [1-9]", text) and "assertion violated" in text, text
    assert "invalid array index" not in text, text
