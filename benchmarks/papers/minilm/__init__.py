"""Real transformer weights: experts of one checkpoint merged by `wslax merge`."""

import functools
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.minilm.bert import embedded, layer, pooled
from benchmarks.papers.minilm.tasks import TASKS, Sentences, checkpoint, missing, sentences
from benchmarks.papers.runner import Claim, Outcome
from wslax.errors import WeightSpaceError

TITLE = "Fine-tuned transformers merged on disk"
PAPER = (
    "Ilharco et al., task arithmetic, arXiv:2212.04089; Yadav et al., TIES, arXiv:2306.01708; Yu "
    "et al., DARE, arXiv:2311.03099; Davari and Belilovsky, Model Breadcrumbs, arXiv:2312.06795; "
    "Jang et al., Model Stock, arXiv:2403.19522"
)
ABOUT = """
Three experts of all-MiniLM-L6-v2 (22.7 M parameters), the two upper of its six layers trained by
Adam (2e-4, 100 steps of 16) together with a linear read-out of the mean over tokens: is a sentence
of SST-2 praise, are its words out of order (as they are in every other sentence), and has it more
than 18 words. 1,200 sentences of at most 24 tokens, other batches for each seed. Experts are saved
as folders, and `wslax merge` makes one folder of them; read-outs are not merged, each task keeps
its own. Accuracies on 400 sentences; methods with a factor before the merged task vector have it
chosen from 0.5 and 1 on 200 others. TIES and DARE-TIES keep 0.2 of a task vector, breadcrumbs
0.9 less the largest hundredth.
"""
UPPER = (4, 5)
STEPS, BATCH, RATE = 100, 16, 2e-4
LAMBDAS = (0.5, 1.0)
FIXED = ("linear", "model_stock")  # nothing to choose
METHODS = {
    "linear": {"weight": 1.0}, "model_stock": {}, "task_arithmetic": {"weight": 1.0},
    "ties": {"weight": 1.0, "density": 0.2}, "dare_ties": {"weight": 1.0, "density": 0.2},
    "breadcrumbs": {"weight": 1.0, "density": 0.9, "gamma": 0.01},
}  # fmt: skip


def load(folder: pathlib.Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def is_upper(name: str) -> bool:
    return any(name.startswith(f"encoder.layer.{i}.") for i in UPPER)


@jax.jit
def below(params: Any, ids: Any, mask: Any) -> Any:
    """Hidden states that the upper layers get, the same for all experts."""
    x = embedded(params, ids)
    for index in range(UPPER[0]):
        x = layer(params, index, x, mask)
    return x


def features(params: Any, x: Any, mask: Any) -> Any:
    for index in UPPER:
        x = layer(params, index, x, mask)
    return pooled(x, mask)


def loss(params: Any, batch: Any, key: Any, member: Any) -> Any:
    x, mask, labels = batch
    found = features(params["upper"], x, mask)
    return ws.nets.cross_entropy(found @ params["head"], labels)


@functools.cache
def trainer() -> Any:
    return ws.population.step_from_loss(loss, optax.adam(RATE))


def fit(upper: Any, hidden: Any, data: Sentences, seed: int) -> Any:
    """Experts `{"upper", "head"}` with a member for each task, trained in one program."""
    count = len(TASKS)
    rows = np.random.default_rng(seed).integers(len(hidden), size=(STEPS, count, BATCH))
    labels = data.labels.T[np.arange(count)[:, None], rows]
    width = hidden.shape[-1]
    start = {"upper": upper, "head": jnp.zeros((width, 2))}
    population = ws.population.stack([start] * count)
    population = jax.vmap(trainer().init)(population)
    batches = hidden[rows], data.mask[rows], labels
    step = trainer().step
    return ws.population.train(step, population, batches, key=seed, per_member=True)[0].params


@jax.jit
def accuracies(upper: Any, heads: Any, hidden: Any, mask: Any, labels: Any) -> Any:
    """Of one encoder on every task, each with its own read-out."""
    found = features(upper, hidden, mask)
    return jax.vmap(lambda head, y: ws.nets.accuracy(found @ head, y))(heads, labels.T)


def save(folder: pathlib.Path, params: Mapping[str, Any]) -> None:
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({n: np.asarray(x) for n, x in params.items()}, folder / "model.safetensors")
    shutil.copy(checkpoint() / "config.json", folder)


def recipe(method: str, experts: Sequence[str], parameters: Mapping[str, float]) -> str:
    lines = [f"merge_method: {method}", "models:"]
    lines += [f"  - model: {path}" for path in experts]
    if method != "linear":
        lines.append(f"base_model: {checkpoint()}")
    words = ", ".join(f"{word}: {value}" for word, value in parameters.items())
    return "\n".join([*lines, f"parameters: {{{words}}}"]) + "\n"


def merged(folder: pathlib.Path, text: str, seed: int) -> dict[str, Any]:
    """The upper layers of what `wslax merge` writes; the lower ones must be the base's."""
    (folder / "recipe.yaml").write_text(text)
    out = folder / "merged"
    command = [sys.executable, "-m", "wslax", "merge", str(folder / "recipe.yaml"), str(out)]
    subprocess.run([*command, "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
    found, base = load(out), load(checkpoint())
    shutil.rmtree(out)
    for name in base.keys() - set(filter(is_upper, base)):
        assert np.abs(found[name] - base[name]).max() < 1e-6, name
    return {n: x for n, x in found.items() if is_upper(n)}


def one_seed(base: Any, hidden: Mapping[str, Any], data: Any, seed: int) -> dict[str, np.ndarray]:
    """Accuracies by task of experts, base and merges."""
    upper = {n: x for n, x in base.items() if is_upper(n)}
    trained = fit(upper, hidden["train"], data["train"], seed)
    experts, heads = ws.population.unstack(trained["upper"]), trained["head"]
    of = lambda upper, part: np.asarray(
        accuracies(upper, heads, hidden[part], data[part].mask, data[part].labels)
    )
    each = np.stack([of(expert, "test") for expert in experts])
    found = {"experts, each on its own task": np.diagonal(each), "base": of(upper, "test")}
    found |= {f"expert of {task}": row for task, row in zip(TASKS, each, strict=True)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for task, expert in zip(TASKS, experts, strict=True):
            save(folder / task, {**base, **expert})
        paths = [str(folder / task) for task in TASKS]
        for method, given in METHODS.items():
            free = [{**given, "lambda": lam} for lam in LAMBDAS]
            tries = [given] if method in FIXED else free
            models = [merged(folder, recipe(method, paths, tried), seed) for tried in tries]
            best = max(models, key=lambda upper: of(upper, "dev").mean())
            found[method] = of(best, "test")
    return found


def claims(mean: Mapping[str, Sequence[float]]) -> list[Claim]:
    pairs = (
        ("linear", "task_arithmetic"), ("task_arithmetic", "ties"), ("ties", "dare_ties"),
        ("task_arithmetic", "breadcrumbs"),
    )  # fmt: skip
    order = [
        Claim(
            f"{more} is better than {less}", f"accuracy of {more} less that of {less}",
            [b - a for a, b in zip(mean[less], mean[more], strict=True)], "> 0",
        )
        for less, more in pairs
    ]  # fmt: skip
    experts = mean["experts, each on its own task"]
    kept = Claim(
        "a merged model keeps most of what its experts can",
        "accuracy of ties over that of the experts, each on its own task",
        [b / a for a, b in zip(experts, mean["ties"], strict=True)], "> 0.9",
    )  # fmt: skip
    return [*order, kept]


def measure(seeds: int) -> Outcome:
    lacking = missing()
    if lacking:
        raise WeightSpaceError("minilm: nothing can be run without " + "; ".join(lacking))
    data = {part: sentences(part, n) for part, n in (("train", 1200), ("dev", 200), ("test", 400))}
    base = load(checkpoint())
    hidden = {part: np.asarray(below(base, x.ids, x.mask)) for part, x in data.items()}
    rows = [one_seed(base, hidden, data, seed) for seed in range(seeds)]
    columns = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}
    mean = {name: column.mean(0).tolist() for name, column in columns.items()}
    table = [
        {"model": n, **dict(zip(TASKS, column.tolist(), strict=True)), "mean": mean[n]}
        for n, column in columns.items()
    ]
    return Outcome(claims(mean), {"Accuracy on three tasks": table})
