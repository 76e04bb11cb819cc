"""Git Re-Basin and REPAIR: barriers between nets trained apart, by width."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.git_rebasin.vgg import vgg
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Loss barriers between nets trained apart"
PAPER = (
    "Ainsworth, Hayase and Srinivasa, Git Re-Basin, arXiv:2209.04836; Jordan et al., REPAIR, "
    "arXiv:2211.08403"
)
ABOUT = """
Pairs of nets from different seeds, trained by Adam (1e-3) on the same images: an MLP of three
hidden layers on 3,000 MNIST digits (40 epochs of batches of 100), and six 3x3 convolutions without
normalisation on 10,000 images of CIFAR-10-JPEG (30 epochs of batches of 125, mirrored at random).
A barrier is the test loss, or the share of wrong test images, of the average of two nets less the
mean of the two; below zero the average is the better. Matching is by `align.weight_matching` or, as
in the paper of REPAIR, by the activations of 1,000 training images (`align.activation_matching`);
`align.repair` follows on the same images. Where matching leaves next to no barrier, the share of it
that REPAIR removes is mostly noise. REPAIR can raise the loss while it lowers the error, likely
because the nets are surer of their answers than they are right: an average is less sure, and REPAIR
undoes that. The papers' own nets for CIFAR-10 (ResNet20, up to 32 times as wide; VGG, ResNet18) are
larger and trained on all of it: what does not hold here may hold there.
"""
WIDTHS = {"MNIST": (32, 128, 512), "CIFAR-10-JPEG": (8, 24, 64)}
SEEN = 1000  # images that activations and statistics are taken from


def mnist_net(width: int) -> Any:
    return ws.nets.mlp(784, (width, width, width), 10)


@functools.partial(jax.jit, static_argnames=("net", "epochs", "batch", "mirror"))
def train(key: Any, x: Any, y: Any, net: Any, epochs: int, batch: int, mirror: bool) -> Any:
    """One net, all its steps in one program."""
    optimizer = optax.adam(1e-3)
    params = net.init(key)
    steps = len(x) // batch

    def epoch(carry: Any, key: Any) -> Any:
        shuffle, flip = jr.split(key)
        rows = jr.permutation(shuffle, len(x))[: steps * batch].reshape(steps, batch)
        flips = jr.bernoulli(flip, 0.5, rows.shape)

        def step(carry: Any, at: Any) -> Any:
            params, state = carry
            rows, flips = at
            images = x[rows]
            if mirror:
                images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
            loss = lambda p: ws.nets.cross_entropy(net.apply(p, images), y[rows])
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, (rows, flips))[0], None

    keys = jr.split(jr.fold_in(key, 1), epochs)
    return jax.lax.scan(epoch, (params, optimizer.init(params)), keys)[0][0]


def one_width(net: Any, data: Any, epochs: int, batch: int, mirror: bool, seeds: int) -> Any:
    """Figures of one width, each a list over seeds."""
    (x, y), (test_x, test_y) = data
    x, y, test_x, test_y = map(jnp.asarray, (x, y, test_x, test_y))
    groups = ws.symmetry.infer(net.apply, jax.eval_shape(net.init, jr.key(0)), x[:2])
    seen = x[:SEEN]

    @jax.jit
    def test(params: Any) -> Any:
        logits = net.apply(params, test_x)
        return ws.nets.cross_entropy(logits, test_y), ws.nets.accuracy(logits, test_y)

    @jax.jit
    def by_weights(a: Any, b: Any, key: Any) -> Any:
        return ws.symmetry.permute(b, groups, ws.align.weight_matching(a, b, groups, key=key))

    @jax.jit
    def by_activations(a: Any, b: Any) -> Any:
        read = lambda p: ws.align.activations(net.apply, p, groups, seen)
        order = ws.align.activation_matching(read(a), read(b), groups)
        return ws.symmetry.permute(b, groups, order)

    @jax.jit
    def repaired(merged: Any, pair: Any) -> Any:
        return ws.align.repair(net.apply, merged, pair, groups, seen)

    pair_of = lambda a, b: ws.population.stack([a, b])
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        a, b = (train(jr.key(2 * seed + i), x, y, net, epochs, batch, mirror) for i in range(2))
        weights = pair_of(a, by_weights(a, b, jr.key(seed)))
        activations = pair_of(a, by_activations(a, b))
        mean = ws.merge.linear
        models = {
            "plain": mean(pair_of(a, b)), "weights": mean(weights),
            "activations": mean(activations),
            "weights, repaired": repaired(mean(weights), weights),
            "activations, repaired": repaired(mean(activations), activations),
        }  # fmt: skip
        ends = np.mean([test(a), test(b)], 0)
        found.setdefault("accuracy of the nets", []).append(float(ends[1]))
        for name, model in models.items():
            loss, accuracy = test(model)
            found.setdefault(name, []).append(float(loss - ends[0]))
            found.setdefault(f"error, {name}", []).append(float(ends[1] - accuracy))
    return found


def row(width: int, what: str, found: dict[str, list[float]]) -> dict[str, Any]:
    of = lambda name: found[name if what == "loss" else f"error, {name}"]
    return {
        "width": str(width),
        "accuracy of the nets": found["accuracy of the nets"],
        "not matched": of("plain"),
        "by weights": of("weights"),
        "by weights, then REPAIR": of("weights, repaired"),
        "by activations": of("activations"),
        "by activations, then REPAIR": of("activations, repaired"),
    }


def claims(data: str, widths: Sequence[int], found: dict[int, Any]) -> list[Claim]:
    less = lambda a, b: [1 - y / x for x, y in zip(a, b, strict=True)]
    least, most = found[widths[0]], found[widths[-1]]
    return [
        Claim(
            "wide nets trained apart have next to no barrier between them once matched",
            f"{data}, width {widths[-1]}: share of the loss barrier that weight matching removes",
            less(most["plain"], most["weights"]), "> 0.9",
        ),
        Claim(
            "the barrier after matching falls as nets get wider",
            f"{data}: loss barrier after weight matching at width {widths[0]} less that at "
            f"{widths[-1]}",
            [x - y for x, y in zip(least["weights"], most["weights"], strict=True)], "> 0",
        ),
        *(
            Claim(
                "REPAIR removes 60% to 100% of the barrier that matching leaves",
                f"{data}, width {widths[1]}: share of the {what} barrier after activation matching "
                "that REPAIR removes",
                less(
                    found[widths[1]][f"{prefix}activations"],
                    found[widths[1]][f"{prefix}activations, repaired"],
                ), "> 0.6",
            )
            for what, prefix in (("loss", ""), ("error", "error, "))
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    digits = ws.data.mnist()
    jobs = {"MNIST": (mnist_net, (digits.train, digits.test), 40, 100, False)}
    images = cifar(10_000, 2_000)
    skipped = told_missing(images)
    if images is not None:
        jobs["CIFAR-10-JPEG"] = (vgg, images, 30, 125, True)
    told: list[Claim] = []
    tables = {}
    for data, (make, parts, *how) in jobs.items():
        found = {w: one_width(make(w), parts, *how, seeds) for w in WIDTHS[data]}
        told += claims(data, WIDTHS[data], found)
        for what in ("loss", "error"):
            rows = [row(width, what, figures) for width, figures in found.items()]
            tables[f"{what.capitalize()} barriers, {data}"] = rows
    return Outcome(told, tables, skipped)
