"""Streaming merges of checkpoints on disk against copying the same files and against mergekit."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import scipy.special

from benchmarks.runner import Row
from wslax.io.header import Spec
from wslax.io.reader import open_tensors
from wslax.io.writer import write_tensors
from wslax.merge.registry import METHODS

TITLE = "Streaming merges"
ABOUT = """
Four float32 checkpoints of a Llama-like model of about 1 GB each, files in the page cache; methods
with a base take one of them as that, and those of two models only two. Bytes per second are those
read and written, from the first header to the synced output, over those of `shutil.copyfile` of
the same four files to fresh files (not synced) in the same repeat; a copy writes half of its bytes,
a merge a fifth, so more than 1 is possible. Wall time, CPU time and peak resident memory are those
of the whole process, `wslax merge ...` and `mergekit-yaml ...` with its default options, start-up
included; memory is above that of a bare Python interpreter. mergekit writes shards of up to 5 GB
and maps its inputs, so only CPU and wall time are compared with it. Its rows are missing where it
is not installed. Entries are compared with mergekit's, over the largest of their tensor, for
methods that draw nothing at random. `arcee_fusion` hangs on divergences of nearly equal rows that
float32 barely resolves, so both selections are compared with that of its formula in float64, on one
matrix. Four methods run once more on the same models in bfloat16, and `ties` on models four times
as deep, for its memory alone. `WSLAX_BENCHMARK_LAYERS` makes the models smaller while developing.
"""
LAYERS = int(os.environ.get("WSLAX_BENCHMARK_LAYERS", "14"))
HIDDEN, INNER, VOCABULARY = 1024, 2816, 32000 * LAYERS // 14
MEMBERS = 4

# Parameters by method; `weight` is one a model.
SETTINGS: dict[str, dict[str, object]] = {
    "linear": {"weight": 0.25},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": 0.5},
    "multislerp": {"weight": 0.25},
    "karcher": {},
    "model_stock": {},
    "task_arithmetic": {"weight": 0.25},
    "ties": {"weight": 0.25, "density": 0.2},
    "dare_linear": {"weight": 0.25, "density": 0.5},
    "dare_ties": {"weight": 0.25, "density": 0.5},
    "della_linear": {"weight": 0.25, "density": 0.5},
    "della": {"weight": 0.25, "density": 0.5},
    "breadcrumbs": {"weight": 0.25, "density": 0.2},
    "breadcrumbs_ties": {"weight": 0.25, "density": 0.2},
    "sce": {"select_topk": 0.2},
    "ram": {},
    "ramplus_tl": {},
    "nearswap": {"t": 0.001},
    "arcee_fusion": {},
}
# mergekit's CPU time over wslax's: what is aimed at.
GOALS = {
    **dict.fromkeys(("ties", "breadcrumbs", "breadcrumbs_ties", "sce"), 6),
    **dict.fromkeys(("della", "della_linear"), 4),
    **dict.fromkeys(("dare_linear", "dare_ties", "karcher", "arcee_fusion", "ram"), 3),
    **dict.fromkeys(("linear", "slerp", "task_arithmetic", "model_stock"), 1),
}


class Run(NamedTuple):
    """One process: seconds of wall and CPU time, and what it printed."""

    wall: float
    cpu: float
    text: str


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    found = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(layers):
        at = f"model.layers.{i}."
        found[at + "input_layernorm.weight"] = found[at + "post_attention_layernorm.weight"] = (
            HIDDEN,
        )
        found |= {at + f"self_attn.{p}_proj.weight": (HIDDEN, HIDDEN) for p in "qkvo"}
        found |= {at + f"mlp.{p}_proj.weight": (INNER, HIDDEN) for p in ("gate", "up")}
        found[at + "mlp.down_proj.weight"] = (HIDDEN, INNER)
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def make_models(folder: pathlib.Path, dtype: str = "float32") -> list[pathlib.Path]:
    """A base and its fine-tuned copies: normal weights, normal changes a tenth as large."""
    stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
    specs = {name: Spec(stored, shape) for name, shape in shapes().items()}
    paths = [folder / f"model{i}" for i in range(MEMBERS)]
    for i, path in enumerate(paths):
        base, own = np.random.default_rng(0), np.random.default_rng(i)
        with write_tensors(path, specs) as (writer, partial):
            for name, spec in specs.items():
                x = base.standard_normal(spec.shape, np.float32) * np.float32(0.02)
                if i:
                    x += own.standard_normal(spec.shape, np.float32) * np.float32(0.002)
                writer.write(name, 0, x.astype(stored, copy=False))
            config = CONFIG | {"torch_dtype": dtype}
            (partial / "config.json").write_text(json.dumps(config))
    return paths


def make_deep(folder: pathlib.Path) -> list[pathlib.Path]:
    """Models four times as deep, all of them one file: what they hold does not matter here."""
    specs = {n: Spec(np.dtype(np.float32), shape) for n, shape in shapes(4 * LAYERS).items()}
    paths = [folder / f"deep{i}" for i in range(MEMBERS)]
    x = np.random.default_rng(0).standard_normal(max(s.size for s in specs.values()), np.float32)
    with write_tensors(paths[0], specs) as (writer, _):
        for name, spec in specs.items():
            writer.write(name, 0, x[: spec.size])
    for path in paths[1:]:
        path.mkdir()
        os.link(paths[0] / "model.safetensors", path / "model.safetensors")
    return paths


def recipes(models: Sequence[pathlib.Path], dtype: str = "float32") -> dict[str, dict[str, object]]:
    """Every merge, in YAML that both programs read (JSON is YAML)."""
    found: dict[str, dict[str, object]] = {}
    for name, settings in SETTINGS.items():
        method = METHODS[name]
        paths = [str(path) for path in models]
        based = method.base != "member"
        first = 1 if based and method.base != "first" else 0
        chosen = paths[first : None if method.most is None else first + method.most]
        found[name] = {
            "merge_method": name,
            "models": [{"model": path} for path in chosen],
            "parameters": settings,
            "dtype": dtype,
        }
        if based:
            found[name]["base_model"] = paths[0]
    return found


def run(*command: str) -> Run:
    """Run a process to its end and measure it."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begin
        out.seek(0)
        text = out.read()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {text[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, text)


def copy_speed(models: Sequence[pathlib.Path], folder: pathlib.Path) -> float:
    """Bytes read and written a second by a plain copy of the weights to fresh files."""
    files = [path / "model.safetensors" for path in models]
    begin = time.perf_counter()
    for i, file in enumerate(files):
        shutil.copyfile(file, folder / str(i))
    seconds = time.perf_counter() - begin
    for i in range(len(files)):
        (folder / str(i)).unlink()
    return 2 * sum(file.stat().st_size for file in files) / seconds


def interpreter() -> int:
    """Peak resident bytes of Python without any import but what reads them."""
    lines = "(l.split() for l in open('/proc/self/status'))"
    script = f"print(next(l[1] for l in {lines} if l[0] == 'VmHWM:'))"
    return int(run(sys.executable, "-c", script).text) * 1024


def disagreement(ours: pathlib.Path, theirs: pathlib.Path) -> tuple[float, float]:
    """The share of entries off by more than 1e-5 of their tensor's largest, and the most of it."""
    off, size, most = 0, 0, 0.0
    with open_tensors(ours) as a, open_tensors(theirs) as b:
        for name in a:
            x, y = (tensors.read(name).astype(np.float32) for tensors in (a, b))
            gap = np.abs(x - y) / max(float(np.abs(y).max()), 1e-30)
            off, size = off + int((gap > 1e-5).sum()), size + gap.size
            most = max(most, float(gap.max()))
    return off / size, most


def selected(base: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What arcee_fusion takes of a matrix, by its formula in float64."""
    base, x = base.astype(float), x.astype(float)
    p, q = (scipy.special.softmax(m, axis=-1) + 1e-8 for m in (x, base))
    found = np.abs(x - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(found, axis=None)
    lower, middle, upper = (ordered[int(share * (found.size - 1))] for share in (0.25, 0.5, 0.75))
    return found >= middle + 1.5 * (upper - lower)


def flips(out: pathlib.Path, models: Sequence[pathlib.Path]) -> float:
    """The share of a matrix's entries that a merge by arcee_fusion takes where it should not."""
    name = "model.layers.0.mlp.up_proj.weight"
    merged, base, x = (open_tensors(path).read(name) for path in (out, *models[:2]))
    return float(((merged != base) != selected(base, x)).mean())


def mergekit() -> str | None:
    """The peer's command, beside this interpreter or on the path."""
    beside = pathlib.Path(sys.executable).with_name("mergekit-yaml")
    return str(beside) if beside.exists() else shutil.which("mergekit-yaml")


def measure(repeats: int) -> list[Row]:
    """Every figure, `repeats` times, the programs taking turns."""
    peer = mergekit()
    if peer is None:
        print("mergekit-yaml is not installed: its rows are left out", file=sys.stderr)
    bare = interpreter()
    found: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        found.setdefault(what, []).append(value)

    def compare(
        what: str, recipe: dict[str, Any], models: Sequence[pathlib.Path], folder: pathlib.Path
    ) -> None:
        path, out, other = (folder / name for name in ("recipe.yaml", "out", "other"))
        path.write_text(json.dumps(recipe))
        ours = run(sys.executable, "-m", "wslax", "merge", str(path), str(out), "--json")
        report = json.loads(ours.text)
        speed = (report["read"] + report["written"]) / report["seconds"]
        note(f"{what}: bytes per second over a copy's", speed / copy_speed(models, folder))
        note(f"{what}: peak memory above the interpreter", (report["peak"] - bare) / 1e6)
        note(f"{what}: wall time", ours.wall)
        note(f"{what}: CPU time", ours.cpu)
        if peer is not None:
            theirs = run(peer, str(path), str(other), "--quiet", "--no-write-model-card")
            if not METHODS[recipe["merge_method"]].random:
                off, most = disagreement(out, other)
                note(f"{what}: share of entries off mergekit's", off)
                note(f"{what}: largest difference from mergekit's", most)
            if recipe["merge_method"] == "arcee_fusion":
                note(f"{what}: selection off float64's", flips(out, models))
                note(f"{what}: mergekit's selection off float64's", flips(other, models))
            shutil.rmtree(other)
            note(f"{what}: mergekit's wall time over wslax's", theirs.wall / ours.wall)
            note(f"{what}: mergekit's CPU time over wslax's", theirs.cpu / ours.cpu)
        shutil.rmtree(out)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        models = make_models(folder)
        for _ in range(repeats):
            for method, recipe in recipes(models).items():
                compare(method, recipe, models, folder)
        deep = make_deep(folder)
        path, out = folder / "recipe.yaml", folder / "out"
        path.write_text(json.dumps(recipes(deep)["ties"]))
        ours = run(sys.executable, "-m", "wslax", "merge", str(path), str(out), "--json")
        held = (json.loads(ours.text)["peak"] - bare) / 1e6
        note("ties, four times as deep: peak memory above the interpreter", held)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        models = make_models(folder, "bfloat16")
        for _ in range(repeats):
            for method in ("linear", "slerp", "task_arithmetic", "ties"):
                recipe = recipes(models, "bfloat16")[method]
                compare(f"{method}, bfloat16", recipe, models, folder)
    return [Row(what, values, *_unit(what)) for what, values in found.items()]


def _unit(what: str) -> tuple[str, str | None]:
    """Unit and target of a row."""
    match what.partition(": ")[::2]:
        case (("linear" | "task_arithmetic"), "bytes per second over a copy's"):
            return "x", ">= 0.7"
        case _, "peak memory above the interpreter":
            return "MB", "<= 250"
        case _, "share of entries off mergekit's":
            if "bfloat16" in what:
                return "", None
            return "", "<= 0.005" if what.startswith("arcee") else "<= 0.00001"
        case _, "largest difference from mergekit's" | (
            "selection off float64's" | "mergekit's selection off float64's"
        ):
            return "", None
        case (("linear" | "ties"), "mergekit's wall time over wslax's"):
            return "x", ">= 2"
        case method, "mergekit's CPU time over wslax's" if method in GOALS:
            return "x", f">= {GOALS[method]}"
        case _, "wall time" | "CPU time":
            return "s", None
        case _:
            return "x", None
