"""`wslax merge` and `wslax methods` as a shell sees them: exit codes, sentences, what is left."""

import errno
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import wslax as ws
from wslax.cli import main
from wslax.io import writer
from wslax.merge.further import FURTHER
from wslax.merge.registry import ON_DISK

NAMES = ("base", "a", "b")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Three models in the working directory, and a recipe."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in NAMES:
        tree = {f"h.{i}.w": rng.normal(size=(8, 9)).astype(np.float32) for i in range(3)}
        ws.io.save(tree, name)
    recipe(tmp_path / "ties.yaml")
    return tmp_path


def recipe(path, **change):
    content = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"density": 0.5, "weight": [0.1, 0.9]},
    }
    path.write_text(json.dumps({**content, **change}))


def left(folder):
    """What stands in the folder beside the inputs."""
    return sorted({p.name for p in folder.iterdir()} - {*NAMES, "ties.yaml"})


def test_a_recipe(models, capsys):
    assert main(["merge", "ties.yaml", "out"]) == 0
    out = capsys.readouterr().out
    for part in ("3 tensors", "of buffers", "distance to the result", "all finite"):
        assert part in out
    assert left(models) == ["out"]
    assert set(ws.io.load("out")) == {f"h.{i}.w" for i in range(3)}


def test_options_say_the_same_as_a_recipe(models, capsys):
    shared = ["--method", "ties", "--base", "base", "--weight", "0.5", "-0.25", "--density", "0.5"]
    assert main(["merge", "a", "b", *shared, "--out", "x", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "ties"
    assert [parent["path"].split("/")[0] for parent in report["parents"]] == ["a", "b", "base"]
    entries = [
        {"model": "a", "parameters": {"weight": 0.5}},
        {"model": "b", "parameters": {"weight": -0.25}},
    ]
    recipe(models / "ties.yaml", models=entries, parameters={"density": 0.5})
    assert main(["merge", "ties.yaml", "y.safetensors", "--threads", "1"]) == 0
    x, y = ws.io.load("x"), ws.io.load("y.safetensors")
    assert all((x[name] == y[name]).all() for name in x)


def test_a_dry_run_prints_the_plan_and_writes_nothing(models, capsys):
    before = left(models)
    assert main(["merge", "ties.yaml", "out", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "h.1.w" in out
    assert "weight [0.5, 0.5]" in out
    assert main(["merge", "ties.yaml", "out", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tensors"][2]["parameters"]["weight"] == [0.9, 0.9]
    assert plan["written"] == 3 * 8 * 9 * 4
    assert plan["peak_buffers"] < 250e6
    assert left(models) == before


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


TWICE = b'{"w":%s,"w":%s}' % ((json.dumps(entry(0, 8)).encode(),) * 2)
BAD_FILES = {
    "empty": (b"", "too short for a header"),
    "truncated": (safetensors({"w": entry(0, 8)}, bytes(4)), "lie outside"),
    "header longer than the file": (safetensors({}, length=1 << 40), "the header claims"),
    "not JSON": (safetensors(b"{{"), "not JSON"),
    "overlap": (safetensors({"w": entry(0, 8), "v": entry(4, 12)}, bytes(12)), "overlaps"),
    "out of range": (safetensors({"w": entry(8, 16)}, bytes(8)), "lie outside"),
    "duplicate names": (safetensors(TWICE, bytes(8)), "stands twice"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(models, capsys, kind):
    content, sentence = BAD_FILES[kind]
    (models / "a" / "model.safetensors").write_bytes(content)
    assert main(["merge", "ties.yaml", "out"]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert left(models) == []


def spoil(change):
    """Rewrite model b by a change of its tree."""

    def run():
        tree = {name: np.array(x) for name, x in ws.io.load("b").items()}
        change(tree)
        (os.unlink("b/model.safetensors"), os.rmdir("b"))
        ws.io.save(tree, "b")

    return run


def set_one(value):
    return spoil(lambda tree: tree["h.1.w"].__setitem__((2, 3), value))


BAD_MODELS = {
    "missing": (lambda: os.rename("b", "base/b"), "b: no such file or folder"),
    "no weights": (lambda: os.unlink("b/model.safetensors"), "has no .safetensors file"),
    "pickle": (lambda: os.rename("b/model.safetensors", "b/m.bin"), "a pickle file runs whatever"),
    "shape": (
        spoil(lambda t: t.update({"h.0.w": np.zeros((9, 9), np.float32)})),
        "h.0.w: [9, 9] in b/model.safetensors, [8, 9] in a/model.safetensors; shapes must",
    ),
    "renamed": (
        spoil(lambda t: t.update({"h.0.wt": t.pop("h.0.w")})),
        "lacks 'h.0.w' that base/model.safetensors has; nothing is dropped silently. Did you mean "
        "'h.0.wt'?",
    ),
    "one more": (spoil(lambda t: t.update(head=t["h.0.w"])), "lacks 'head' that b/model.safetens"),
    "integers": (
        spoil(lambda t: t.update({"h.0.w": np.zeros((8, 9), np.int32)})),
        "h.0.w: dtypes differ: float32, int32, float32",
    ),
    "nan": (set_one(np.nan), "h.1.w: b/model.safetensors holds NaN or infinity"),
    "infinity": (set_one(-np.inf), "(first at element 21)"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(models, capsys, kind):
    change, sentence = BAD_MODELS[kind]
    change()
    assert main(["merge", "ties.yaml", "out"]) == 1
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert left(models) == []


USAGE = {
    "nothing": ([], "give a recipe and an output"),
    "no output": (["ties.yaml"], "give a recipe and an output"),
    "no recipe": (["none.yaml", "out"], "none.yaml: no such file"),
    "no models": (
        ["--method", "linear", "--out", "out"],
        "give exactly one of models, slices and modules, got none",
    ),
    "method": (["a", "b", "--method", "linaer", "--out", "out"], "Did you mean 'linear'?"),
    "no --out": (["a", "b", "--method", "linear"], "the output as --out"),
    "no base": (["a", "b", "--method", "ties", "--out", "out"], "base_model: ties needs one"),
    "no t": (["a", "b", "--method", "slerp", "--out", "out"], "slerp needs t"),
    "weights": (
        ["a", "b", "--method", "linear", "--out", "out", "--weight", "1", "2", "3"],
        "--weight: give one value or 2",
    ),
    "both": (["ties.yaml", "out", "--density", "0.5"], "stand in the recipe"),
    "threads": (["ties.yaml", "out", "--threads", "0"], "--threads: expected at least 1, got 0"),
    "option": (["ties.yaml", "out", "--treads", "1"], "--threads"),
    "number": (["ties.yaml", "out", "--seed", "x"], "--seed"),
    "negative density": (
        ["a", "--method", "ties", "--base", "b", "--out", "out", "--density", "-0.5"],
        "density: expected 0 to 1, got -0.5",
    ),
    "density above 1": (
        ["a", "--method", "ties", "--base", "b", "--out", "out", "--density", "1.5"],
        "density: expected 0 to 1, got 1.5",
    ),
}


@pytest.mark.parametrize("kind", USAGE)
def test_wrong_usage(models, capsys, kind):
    tokens, sentence = USAGE[kind]
    assert main(["merge", *tokens]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert left(models) == []


@pytest.mark.parametrize("key", ["merge_metod", "slices", "dtypes"])
def test_unknown_keys_of_a_recipe(models, capsys, key):
    recipe(models / "ties.yaml", **{key: "x"})
    assert main(["merge", "ties.yaml", "out"]) == 2
    assert key in capsys.readouterr().err
    assert left(models) == []


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_an_output_that_exists(models, capsys, flags):
    (models / "out").mkdir()
    (models / "out" / "mine").write_text("x")
    assert main(["merge", "ties.yaml", "out", *flags]) == 1
    assert "out: the output folder is not empty" in capsys.readouterr().err
    (models / "y.safetensors").write_text("x")
    assert main(["merge", "ties.yaml", "y.safetensors", *flags]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (models / "out" / "mine").read_text() == (models / "y.safetensors").read_text() == "x"


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_full_disk(models, capsys, monkeypatch, calls):
    written = iter(range(100))

    def pwrite(*args):
        if next(written) >= calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    real = os.pwrite
    monkeypatch.setattr(writer.os, "pwrite", pwrite)
    assert main(["merge", "ties.yaml", "out"]) == 1
    assert "out: the disk is full; nothing was kept" in capsys.readouterr().err
    assert left(models) == []


def test_too_small_a_disk_is_known_before_work(models, capsys, monkeypatch):
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("wslax.io.atomic.shutil.disk_usage", lambda path: usage)
    assert main(["merge", "ties.yaml", "out"]) == 1
    assert "the disk has 100 free" in capsys.readouterr().err
    assert left(models) == []


def test_control_c_keeps_nothing(models, capsys, monkeypatch):
    def combine(leaf):
        raise KeyboardInterrupt

    ties = ws.merge.METHODS["ties"]._replace(combine=combine)
    monkeypatch.setitem(ws.merge.METHODS, "ties", ties)
    assert main(["merge", "ties.yaml", "out"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert left(models) == []


def test_debug_shows_the_traceback(models):
    with pytest.raises(ws.WeightSpaceError):
        main(["merge", "a", "c", "--method", "linear", "--out", "out", "--debug"])


def test_methods_are_the_registry(capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == [*ws.merge.METHODS, *FURTHER]
    assert main(["methods", "--markdown"]) == 0
    assert capsys.readouterr().out.count("\n") == len(ON_DISK) + 2
    assert main(["methods"]) == 0
    assert "density" in capsys.readouterr().out


HEAVY = ("jax", "flax", "orbax", "matplotlib", "optax", "scipy")


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["merge", "--help"], 0),
        (["merge", "ties.yaml", "out"], 0),
        (["merge", "bad.yaml", "out"], 2),
        (["methods"], 0),
    ],
)
def test_start_up_imports_no_jax(models, tokens, code):
    recipe(models / "bad.yaml", merge_method="teis")
    script = (
        "import sys; from wslax.cli import main; code = main(sys.argv[1:]);"
        f"print([m for m in {HEAVY} if m in sys.modules], code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *tokens], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"[] {code}"
