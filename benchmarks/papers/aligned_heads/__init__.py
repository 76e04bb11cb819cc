"""Classes that come two at a time: what it is worth to bring their weights to one length."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome

TITLE = "A head whose classes come in turn"
PAPER = "Zhao et al., Weight aligning, arXiv:1911.07053"
ABOUT = """
Ten classes in five increments of two, in an order of each seed; an MLP with two hidden layers of
128 on MNIST (300 images a class) or CIFAR-10-JPEG at 16 x 16 (800). An increment sees all images of
its own classes and 20 of every earlier one, drawn as often as any other, for 300 steps of 64 with
SGD, momentum 0.9, at 0.03 falling to 0 by a cosine. *Distilled* is the paper's loss, with the model
before the increment as the teacher of the old classes at temperature 2, its weight the share of old
classes. Weights of the head are kept at 0 or above in all runs, as in the paper. A run is *aligned*
(`wslax.adapt.weight_align`) after every increment and goes on from there; *shrunk* scales the new
classes by a random number from 0.5 to 1 in its place, *adjusted* is the distilled run when the
logarithm of each class's share of the increment's images is taken off its logit. *At once* learns
all classes together in as many steps. An accuracy is that on test images of the classes so far; its
mean over increments is the *average*, the last is the *final* one.
"""
CLASSES, NEW, KEPT, STEPS, BATCH = 10, 2, 20, 300, 64
INCREMENTS = CLASSES // NEW
ARMS = {
    "plain": (0.0, "none"),
    "plain, aligned": (0.0, "aligned"),
    "distilled": (1.0, "none"),
    "distilled, aligned": (1.0, "aligned"),
    "distilled, shrunk": (1.0, "shrunk"),
}
OURS, WITHOUT = "distilled, aligned", "distilled"


def net(features: int) -> ws.nets.Net:
    return ws.nets.mlp(features, (128, 128), CLASSES)


def among(logits: Any, count: Any) -> Any:
    """Logits of the first so many classes, those of others as good as impossible."""
    return jnp.where(jnp.arange(CLASSES)[None] < count, logits, -1e9)


def drawn(key: Any, x: Any, old: Any, new: Any) -> tuple[Any, Any]:
    """A batch of an increment, from images `[classes, n, features]`."""
    each = x.shape[1]
    row = jr.randint(key, (BATCH,), 0, old * KEPT + new * each)
    kept = row < old * KEPT
    later = row - old * KEPT
    label = jnp.where(kept, row // KEPT, old + later // each)
    return x[label, jnp.where(kept, row % KEPT, later % each)], label


@functools.partial(jax.jit, static_argnames="steps")
@functools.partial(jax.vmap, in_axes=(0, 0, 0, None, None, None, None))
def increment(
    key: Any, params: Any, x: Any, old: Any, new: Any, distil: Any, steps: int = STEPS
) -> Any:
    """Weights after the increment."""
    apply, teacher = net(x.shape[-1]).apply, params
    rule = optax.sgd(optax.cosine_decay_schedule(0.03, steps), momentum=0.9)

    def loss(params: Any, key: Any) -> Any:
        rows, label = drawn(key, x, old, new)
        logits, before = apply(params, rows), among(apply(teacher, rows), old)
        hard = ws.nets.cross_entropy(among(logits, old + new), label)
        # The paper's has no square of the temperature.
        soft = ws.nets.distillation(among(logits, old), before, label, temperature=2.0) / 4
        weight = distil * old / (old + new)
        return (1 - weight) * hard + weight * soft

    def turn(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        change, state = rule.update(jax.grad(loss)(params, key), state)
        params = optax.apply_updates(params, change)
        head = params["out"] | {"kernel": jnp.maximum(params["out"]["kernel"], 0)}
        return (params | {"out": head}, state), None

    return jax.lax.scan(turn, (params, rule.init(params)), jr.split(key, steps))[0][0]


def scaled(params: Any, old: int, factor: Any | None) -> tuple[Any, Any]:
    """New classes aligned (None) or scaled by a factor, and by how much they were."""
    kernel = params["out"]["kernel"]
    part = kernel[:, : old + NEW]
    if factor is None:
        found = ws.adapt.weight_align({"w": part}, "w", old)["w"]
    else:
        found = part.at[:, old:].multiply(factor)
    gamma = jnp.linalg.norm(found[:, old:]) / jnp.linalg.norm(part[:, old:])
    head = params["out"] | {"kernel": kernel.at[:, : old + NEW].set(found)}
    return params | {"out": head}, gamma


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, 0, None, None))
def told(params: Any, x: Any, y: Any, old: Any, shift: Any) -> Any:
    """Accuracy on the classes so far, on those from before and on the new ones."""
    logits = among(net(x.shape[-1]).apply(params, x) - shift[None], old + NEW)
    right = jnp.argmax(logits, -1) == y
    share = lambda rows: jnp.sum(right & rows) / jnp.maximum(jnp.sum(rows), 1)
    return jnp.stack([share(y < old + NEW), share(y < old), share((y >= old) & (y < old + NEW))])


def shares(old: int, each: int) -> np.ndarray:
    """Logarithm of each class's share of an increment's images."""
    count = np.where(np.arange(CLASSES) < old, KEPT, each)
    return np.log(count / (KEPT * old + NEW * each)).astype(np.float32)


def measured(seeds: int, train: Any, test: Any, steps: int = STEPS) -> tuple[Any, np.ndarray]:
    """By run accuracies `[increments, seeds, 3]`, and gammas `[increments - 1, seeds]`."""
    x, y = train
    each = min(int((y == c).sum()) for c in range(CLASSES))
    x = np.stack([x[y == c][:each].reshape(each, -1) for c in range(CLASSES)])
    orders = np.stack([np.random.default_rng(s).permutation(CLASSES) for s in range(seeds)])
    labels, test_x = np.argsort(orders, 1)[:, test[1]], test[0].reshape(len(test[0]), -1)
    x, keys = jnp.asarray(x[orders]), jax.vmap(jr.key)(jnp.arange(seeds))
    begin = jax.vmap(net(x.shape[-1]).init)(keys)
    none = np.zeros(CLASSES, np.float32)
    found: dict[str, list[Any]] = {name: [] for name in (*ARMS, "distilled, adjusted", "at once")}
    gammas = []
    for name, (distil, after) in ARMS.items():
        params = begin
        for t in range(INCREMENTS):
            old, now = t * NEW, jax.vmap(lambda key, t=t: jr.fold_in(key, t))(keys)
            params = increment(now, params, x, old, NEW, distil, steps)
            if old and after == "aligned":
                params, gamma = jax.vmap(lambda p, old=old: scaled(p, old, None))(params)
                gammas += [np.asarray(gamma)] * (name == OURS)
            elif old and after == "shrunk":
                factor = jax.vmap(lambda key: jr.uniform(jr.fold_in(key, 9), (), minval=0.5))(now)
                params, _ = jax.vmap(lambda p, f, old=old: scaled(p, old, f))(params, factor)
            found[name].append(told(params, test_x, labels, old, none))
            if name == WITHOUT:
                shift = shares(old, each)
                found["distilled, adjusted"].append(told(params, test_x, labels, old, shift))
    params = increment(keys, begin, x, 0, CLASSES, 0.0, INCREMENTS * steps)
    found["at once"].append(told(params, test_x, labels, CLASSES - NEW, none))
    return {name: np.stack(values) for name, values in found.items()}, np.stack(gammas)


def claims(data: str, found: dict[str, np.ndarray], gammas: np.ndarray) -> list[Claim]:
    average = {name: values[..., 0].mean(0) for name, values in found.items()}
    final = {name: values[-1, :, 0] for name, values in found.items()}
    gap = {name: values[-1, :, 2] - values[-1, :, 1] for name, values in found.items()}

    def less(says: str, what: str, of: Any, one: str, other: str, bound: str = "> 0") -> Claim:
        values = (of[one] - of[other]).tolist()
        return Claim(says, f"{data}: {what} of {one} less that of {other}", values, bound)

    better = "aligning raises accuracy"
    return [
        Claim(
            "new classes have longer weights than old ones",
            f"{data}: what aligning scales them by", gammas.mean(0).tolist(), "< 1",
        ),
        less(better, "average accuracy", average, OURS, WITHOUT),
        less(better, "final accuracy", final, OURS, WITHOUT),
        less(better, "average accuracy", average, "plain, aligned", "plain"),
        less("the scale is more than any", "average accuracy", average, OURS, "distilled, shrunk"),
        less(
            "aligning is better than counting images",
            "average accuracy", average, OURS, "distilled, adjusted",
        ),
        less(
            "aligning brings fairness between old and new classes",
            "final accuracy on new classes less that on old", gap, OURS, WITHOUT, "< 0",
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    digits, images = ws.data.mnist(), cifar(10_000, 2_000)
    sets = {"MNIST": (digits.train, digits.test)}
    if images is not None:
        sets["CIFAR-10-JPEG"] = tuple((halved(x), y) for x, y in images)
    made: list[Claim] = []
    tables = {}
    for data, parts in sets.items():
        found, gammas = measured(seeds, *parts)
        made += claims(data, found, gammas)
        tables[data] = [
            {
                "run": name,
                "average accuracy": values[..., 0].mean(0).tolist() if len(values) > 1 else "",
                "final accuracy": values[-1, :, 0].tolist(),
                "final, the last two classes": values[-1, :, 2].tolist(),
                "final, earlier classes": values[-1, :, 1].tolist(),
            }
            for name, values in found.items()
        ]
    return Outcome(made, tables, told_missing(images))
