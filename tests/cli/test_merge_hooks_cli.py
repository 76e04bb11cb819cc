"""Merges in several steps, judged and searched, through the command."""

import json
import shutil
import textwrap

import numpy as np
import pytest

import wslax as ws
from wslax.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {"a": 0.0, "b": 1.0, "c": 4.0}.items():
        ws.io.save({"w": np.full(3, value, np.float32)}, name)
    (tmp_path / "judge.py").write_text(
        textwrap.dedent("""
        import wslax as ws

        calls = []

        def value(path):
            calls.append(path)
            return float(ws.io.load(path)["w"][0])

        def both(path):
            return {"mean": value(path), "twice": 2 * value(path)}

        def word(path):
            return "good"

        def near(path):
            return abs(value(path) - 0.3)
    """)
    )
    return tmp_path


def weights(path):
    return np.array(ws.io.load(path)["w"])


TWICE = """
merge_method: linear
models: [{model: half}, {model: c}]
parameters: {weight: 1}
---
name: half
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
"""


@pytest.mark.parametrize("kept", [False, True])
def test_a_file_of_two_recipes(here, kept):
    (here / "two.yaml").write_text(TWICE)
    assert main(["merge", "two.yaml", "out", *(["--intermediates", "parts"] if kept else [])]) == 0
    assert weights("out").tolist() == [2.25] * 3
    assert (here / "parts" / "half").exists() == kept
    assert not (here / "out.intermediates").exists()


def test_every_recipe_is_checked_before_the_first_is_merged(here, capsys):
    (here / "two.yaml").write_text(TWICE.replace("{model: c}", "{model: d}"))
    assert main(["merge", "two.yaml", "out"]) != 0
    assert "d: no such file or folder" in capsys.readouterr().err
    assert not list(here.glob("out*"))


def test_evaluations_are_shown(capsys):
    assert (
        main(["merge", "a", "b", "--method", "linear", "--out", "out", "--eval", "judge:both"]) == 0
    )
    assert "judge:both  twice 1" in capsys.readouterr().out


def test_evaluations_stand_in_the_json(capsys):
    tokens = ["merge", "a", "b", "--method", "linear", "--out", "out", "--eval", "judge:both"]
    assert main([*tokens, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["eval"] == {"mean": 0.5, "twice": 1.0}


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("judge", "judge: expected module:function"),
        ("jugde:value", "the module cannot be imported"),
        ("judge:valeu", "no such function. Did you mean 'value'?"),
    ],
)
def test_a_function_that_is_none_is_named_before_any_work(here, capsys, function, sentence):
    assert main(["merge", "a", "--method", "linear", "--out", "out", "--eval", function]) == 1
    assert sentence in capsys.readouterr().err
    assert not (here / "out").exists()


def test_an_evaluation_that_is_no_number_keeps_the_merge(here, capsys):
    assert main(["merge", "a", "--method", "linear", "--out", "out", "--eval", "judge:word"]) == 1
    assert "gave 'good' as score, expected a number" in capsys.readouterr().err
    assert (here / "out").exists()


RANGES = """
merge_method: linear
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: {low: 0, high: 1}}}
parameters: {normalize: false}
"""
SEARCH = ["--search", "judge:near", "--direction", "minimize"]


def test_a_search_finds_the_number_and_goes_on_where_it_was_stopped(here, capsys):
    (here / "r.yaml").write_text(RANGES)
    assert main(["merge", "r.yaml", "out", *SEARCH, "--budget", "48"]) == 0
    assert abs(weights("out")[0] - 0.3) < 0.02
    assert "best of 48 (minimize)" in capsys.readouterr().out
    log = here / "out.search" / "candidates.jsonl"
    asked, *lines = log.read_text().splitlines()
    assert len(lines) == 48
    best = min(lines, key=lambda line: json.loads(line)["fitness"])
    assert json.loads(best)["values"]["models.1.parameters.weight"] == pytest.approx(
        float(weights("out")[0]), abs=1e-6
    )
    (here / "out.search").rename(here / "again.search")
    log = here / "again.search" / "candidates.jsonl"
    log.write_text("\n".join([asked, *lines[:30], lines[30][:12]]))
    import judge

    judge.calls.clear()
    assert main(["merge", "r.yaml", "again", *SEARCH, "--budget", "48", "--resume"]) == 0
    assert len(judge.calls) == 18
    assert log.read_text().splitlines() == [asked, *lines]
    assert weights("again").tolist() == weights("out").tolist()


@pytest.mark.parametrize(
    ("text", "tokens", "sentence"),
    [
        (
            RANGES,
            ["--search", "judge:near"],
            "--search takes a recipe with ranges and --direction",
        ),
        (RANGES.replace("{low: 0, high: 1}", "1"), SEARCH, "nothing is searched: put {low: 0"),
        (RANGES.replace("high: 1", "high: -1"), SEARCH, "expected low below high, got 0 and -1"),
        (RANGES, [*SEARCH, "--budget", "3"], "budget: expected at least a batch"),
        (RANGES.replace("model: b", "model: d"), SEARCH, "d: no such file or folder"),
    ],
)
def test_a_search_that_cannot_be(here, capsys, text, tokens, sentence):
    (here / "r.yaml").write_text(text)
    assert main(["merge", "r.yaml", "out", *tokens]) != 0
    assert sentence in capsys.readouterr().err
    assert not (here / "out").exists()


def test_a_search_does_not_take_the_answers_of_another(here, capsys):
    (here / "r.yaml").write_text(RANGES)
    search = ["merge", "r.yaml", "out", *SEARCH, "--budget", "4", "--batch", "4"]
    assert main(search) == 0
    shutil.rmtree(here / "out")
    other = ["judge:value" if token == "judge:near" else token for token in search]
    for changed in ([*search, "--seed", "2"], other):
        assert main([*changed, "--resume"]) == 1
        assert "is of another search" in capsys.readouterr().err
    assert main(search) == 1
    assert "is of an earlier search; go on with resume, or remove it" in capsys.readouterr().err


def test_a_fitness_that_is_never_a_number_finds_nothing(here, capsys):
    (here / "r.yaml").write_text(RANGES)
    (here / "none.py").write_text("def at_all(path): return float('nan')")
    tokens = ["--search", "none:at_all", "--direction", "minimize", "--budget", "4", "--batch", "4"]
    assert main(["merge", "r.yaml", "out", *tokens]) == 1
    assert "no number for any of 4 candidates" in capsys.readouterr().err


def test_code_that_fails_is_one_message(here, capsys):
    (here / "broken.py").write_text("def f(path:\n")
    (here / "raises.py").write_text("def f(path): return 1 / 0")
    assert main(["merge", "a", "--method", "linear", "--out", "out", "--eval", "broken:f"]) == 1
    assert "the module cannot be imported (SyntaxError" in capsys.readouterr().err
    assert main(["merge", "a", "--method", "linear", "--out", "out", "--eval", "raises:f"]) == 1
    assert "f failed on out: ZeroDivisionError" in capsys.readouterr().err


def test_intermediates_leave_what_is_not_theirs(here):
    (here / "two.yaml").write_text(TWICE)
    (here / "out.intermediates").mkdir()
    (here / "out.intermediates" / "mine").write_text("x")
    assert main(["merge", "two.yaml", "out"]) == 0
    assert [p.name for p in (here / "out.intermediates").iterdir()] == ["mine"]


def test_a_file_of_recipes_that_fails_can_be_run_again(here, capsys):
    (here / "two.yaml").write_text(TWICE)
    ws.io.save({"w": np.full(3, np.nan, np.float32)}, here / "c2")
    shutil.rmtree(here / "c")
    (here / "c2").rename(here / "c")
    assert main(["merge", "two.yaml", "out"]) == 1
    assert "holds NaN" in capsys.readouterr().err
    assert not list(here.glob("out*"))
    assert main(["merge", "two.yaml", "out", "--resume"]) == 1
    half = here / "out.intermediates" / "half"
    assert half.exists()
    shutil.rmtree(here / "a")
    ws.io.save({"w": np.full(3, 5, np.float32)}, here / "a")
    capsys.readouterr()
    assert main(["merge", "two.yaml", "out", "--resume"]) == 1
    assert "was made by another merge, or of other files" in capsys.readouterr().err


def test_the_kept_recipe_of_several_runs_again(here):
    (here / "two.yaml").write_text(TWICE)
    assert main(["merge", "two.yaml", "out"]) == 0
    assert main(["merge", "out/mergekit_config.yml", "again"]) == 0
    assert weights("again").tolist() == weights("out").tolist()


def test_names_with_brackets_are_names(here, capsys):
    ws.io.save({"evil[/x].w": np.ones(2, np.float32)}, here / "m[/v2]")
    tokens = ["merge", "m[/v2]", "--method", "linear", "--out", "o[bold]p"]
    assert main([*tokens, "--dry-run"]) == 0
    assert main(tokens) == 0
    out = capsys.readouterr().out
    assert "evil[/x].w" in out
    assert "m[/v2]" in out
    assert "o[bold]p" in out


@pytest.mark.parametrize("out", ["a/model.safetensors/x", "n" * 300, "link"])
def test_outputs_that_cannot_be(here, capsys, out):
    (here / "link").symlink_to("nowhere")
    assert main(["merge", "b", "--method", "linear", "--out", out]) == 1
    assert "error: " in capsys.readouterr().err


def test_weights_that_sum_to_zero_are_named(capsys):
    tokens = ["merge", "a", "b", "--method", "linear", "--weight", "1", "-1", "--out", "out"]
    assert main(tokens) == 1
    assert "smaller weights, or such that do not sum to zero" in capsys.readouterr().err
