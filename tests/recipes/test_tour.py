"""The tour on tiny nets: what it leaves, and that a killed run ends like one that was not."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from wslax import io, nets, population
from wslax.errors import WeightSpaceError
from wslax.recipes import config, folder
from wslax.recipes.tour import PRESETS, STAGES, TourConfig, run, task

TINY = config.parse(TourConfig, PRESETS["tiny"])
SETTINGS = dataclasses.asdict(TINY)


class Killed(Exception):
    pass


def go(out, progress=None, resume=False):
    """A run with everything but the page."""
    store = folder.begin(out, "tour", SETTINGS, resume=resume)
    result = run(TINY, progress, store)
    return result, folder.finish(out, result, "tour", SETTINGS, "<html></html>", "trained")


def same(results, other):
    untimed = [{k: v for k, v in r.items() if k != "seconds"} for r in (results, other)]
    assert json.loads(json.dumps(untimed[0])) == json.loads(json.dumps(untimed[1]))


def same_models(one, other):
    files = sorted(p.relative_to(one) for p in one.rglob("models/**/*.safetensors"))
    assert len(files) == 11
    for file in files:
        a, b = io.load(one / file), io.load(other / file)
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{file}: {name}")


@pytest.fixture(scope="module", autouse=True)
def turned_once():
    """The same views of the digits for every run here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "make", functools.cache(task.make))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("tour") / "run"
    told = []
    result, results = go(out, lambda *event: told.append(event))
    return out, result, results, told


def test_progress_names_every_stage(whole):
    told = whole[3]
    assert [stage for stage, done, total, note in told if note == "done"] == list(STAGES)
    assert all(0 <= done <= total for _, done, total, _ in told)


def test_models_load_into_the_nets(whole):
    out, result, _, _ = whole
    models = out / "models"
    base = nets.mlp(784, TINY.experts.hidden, 10).init(jax.random.key(0))
    experts = population.load(models / "experts", like=base)
    assert population.size(experts) == 5
    for name in ("base", "merged", "evolved"):
        io.load(models / f"{name}.safetensors", like=base)
    wide = nets.mlp(784, [2 * n for n in TINY.experts.hidden], 10).init(jax.random.key(0))
    for name in ("widened", "trained", "adapted"):
        io.load(models / f"{name}.safetensors", like=wide)
    restored = io.load(models / "trained.orbax", like=wide)
    for a, b in zip(
        jax.tree.leaves(restored), jax.tree.leaves(result.params["trained"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_results_record_how_they_came_about(whole):
    results = whole[2]
    assert results["schema"] == 1
    assert results["config"]["experts"]["hidden"] == list(TINY.experts.hidden)
    assert results["versions"]["jax"] == jax.__version__
    assert set(results["seconds"]) == set(STAGES)
    assert results == folder.finished(whole[0])
    assert not (whole[0] / "state").exists()


def test_every_method_of_the_registry_is_in_the_table(whole):
    from wslax.merge import METHODS

    table = next(table for table in whole[1].tables if table.name == "merges")
    assert set(METHODS) <= {row[0] for row in table.rows}


def test_findings_hold_numbers_of_the_metrics(whole):
    metrics = whole[1].metrics
    findings = {section.name: section.finding for section in whole[1].sections}
    assert f"{100 * metrics['best_merge'].value:.1f}%" in findings["merge"]
    assert f"{100 * metrics['evolved'].value:.1f}%" in findings["evolve"]
    assert metrics["widening_changes_logits_by"] < 1e-5


def test_a_net_grows_while_it_trains(whole):
    """Both ways have their first stage in common, and a loss for every step."""
    figure = next(figure for figure in whole[1].figures if figure.name == "in_training")
    grown, by_hand = (series.y for series in figure.series)
    assert len(grown) == len(by_hand) == len(figure.series[0].x) == 6
    assert grown[:2] == by_hand[:2]
    assert grown[2] != by_hand[2]
    assert grown[4] != by_hand[4]
    moved = max(grown[2] - grown[1], grown[4] - grown[3])
    assert whole[1].metrics["growing_in_training_moves_loss_by"] == moved


def test_killed_at_every_stage_and_inside_them(whole, tmp_path):
    """One folder, killed again and again; each time the run goes on from what was there."""
    seen = set()

    def progress(stage, done, total, note):
        point = (stage, done, note.partition(",")[0])
        if done > 0 and point not in seen and (stage != "merge" or done in (1, 3)):
            seen.add(point)
            raise Killed

    out, kills = tmp_path / "run", 0
    while True:
        try:
            _, results = go(out, progress, resume=kills > 0)
            break
        except Killed:
            kills += 1
            assert folder.finished(out) is None
            with pytest.raises(WeightSpaceError, match="go on with --resume"):
                folder.begin(out, "tour", SETTINGS)
    assert kills > 3 * len(STAGES)
    assert {stage for stage, _, _ in seen} == set(STAGES)
    same(results, whole[2])
    same_models(out, whole[0])


def test_killed_by_the_system(whole, tmp_path):
    """A real SIGKILL of a process in the middle of evolution, and a resume here."""
    out = tmp_path / "run"
    code = (
        "import dataclasses, sys\n"
        "from wslax.recipes import config, folder\n"
        "from wslax.recipes.tour import PRESETS, TourConfig, run\n"
        "tiny = config.parse(TourConfig, PRESETS['tiny'])\n"
        "run(tiny, None, folder.begin(sys.argv[1], 'tour', dataclasses.asdict(tiny)))\n"
    )
    cache = jax.config.jax_compilation_cache_dir or ""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
    )
    mark = out / "state" / "stage-merge.safetensors"
    end = time.monotonic() + 120
    while not mark.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _, results = go(out, resume=True)
    same(results, whole[2])
