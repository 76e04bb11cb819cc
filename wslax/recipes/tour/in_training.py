"""Part of stage 5: a residual net that grows wider and deeper while it trains."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import edit, grow, nets, random, symmetry, tree
from wslax.recipes.result import Figure, Series
from wslax.recipes.tour.task import samples
from wslax.recipes.tour.training import Context, batches

WIDTH, HIDDEN, DEPTH = 64, 64, 2
ARMS = ("grown", "by hand")


class _Job(NamedTuple):
    """A schedule, and the steps of each of its stages."""

    schedule: grow.Schedule
    rows: np.ndarray  # [stages, steps, batch]
    data: Any


def _init(seed: int, hidden: int, depth: int) -> Any:
    """A net of blocks that reads images `[n, 28, 28]`; on the host, so nothing is compiled."""

    def kernel(name: str, n: int, m: int) -> np.ndarray:
        drawn = random.normal(random.bits(seed, f"tour/job/{name}", n * m))
        return (np.asarray(drawn) / n**0.5).astype(np.float32).reshape(n, m)

    blocks = {
        f"block_{i}": {
            "up": {"kernel": kernel(f"up_{i}", WIDTH, hidden), "bias": np.zeros(hidden, "float32")},
            "down": {"kernel": kernel(f"down_{i}", hidden, WIDTH)},
        }
        for i in range(depth)
    }
    ends = {"embed": kernel("embed", 784, WIDTH), "out": kernel("out", WIDTH, 10)}
    return {**{name: {"kernel": leaf} for name, leaf in ends.items()}, **blocks}


def _apply(params: Any, x: Any) -> Any:
    h = x.reshape(len(x), -1) @ params["embed"]["kernel"]
    for i in range(len(params) - 2):
        up, down = params[f"block_{i}"]["up"], params[f"block_{i}"]["down"]
        n = jax.nn.standardize(h, epsilon=1e-5) @ up["kernel"] + up["bias"][None]
        h = h + jax.nn.relu(n) @ down["kernel"]
    return h @ params["out"]["kernel"]


def _loss(params: Any, x: Any, y: Any) -> Any:
    return nets.cross_entropy(_apply(params, x.astype(jnp.float32) / 255), y)


def _stage(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """All steps of a stage, with the loss on validation images before each."""

    def run(params: Any, state: Any, rows: Any, data: Any) -> Any:
        (x, y), seen = data

        def step(carry: Any, at: Any) -> Any:
            params, state = carry
            slope = jax.grad(_loss)(params, x[at], y[at])
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(params, updates), state), _loss(params, *seen)

        (params, state), losses = jax.lax.scan(step, (params, state), rows)
        return params, state, losses

    return run


def _by_hand(fresh: Any, optimizer: optax.GradientTransformation) -> edit.Edit:
    """The old numbers in the corner of a fresh net's, and an optimizer that begins anew."""

    def apply(params: Any) -> Any:
        held = tree.named_leaves(params)

        def corner(name: str, leaf: Any) -> Any:
            if name not in held:
                return leaf
            return leaf.at[tuple(slice(n) for n in held[name].shape)].set(held[name])

        return tree.map_named(corner, jax.tree.map(jnp.asarray, fresh))

    return edit.from_map(apply, lambda state, policy="reset": optimizer.init(fresh))


def _go(context: Context, job: _Job, arm: str, members: Any, first: int) -> Iterator[Any]:
    """Members and losses after each stage from the first; takes up what the store has."""
    count, steps, _ = job.rows.shape
    for i in range(first, count):
        name, done = f"grow while training, {arm}, {i}", (i + 1) * steps
        held = context.store.read(name, job.schedule.spec(done))
        if held is None:
            *members, losses = job.schedule.step(i * steps, *members, job.rows[i], job.data)
            held = jax.device_get(tuple(members)), np.asarray(losses).tolist()
            context.store.write(name, *held)
        context.tell(done, count * steps, f"{name}, loss {held[1][-1]:.2f}")
        members = held[0]
        yield held


def run(context: Context) -> dict[str, Any]:
    """Train a net that gets wider after a third of the steps and deeper after two.

    Returns:
      `curves`: arm to validation losses, one a step; `sizes`: weights of each stage.
    """
    config, task = context.config, context.task
    steps = max(1, config.grow.steps // 3)
    data = samples(task, task.train, len(task.train.y))
    seen = samples(task, task.validation, config.samples)
    rows = batches(config.seed, "job", 3 * steps, [len(data[1])], config.experts.batch)
    rows = rows[:, 0].reshape(3, steps, -1)
    optimizer = optax.adam(config.grow.rate)
    params = _init(config.seed, HIDDEN, DEPTH)
    groups = symmetry.infer(_apply, params, jax.ShapeDtypeStruct((1, 28, 28), np.float32))
    hidden = round(config.grow.factor * HIDDEN)
    inner = {group.id: hidden for group in groups.free if len(group.sites) == 3}
    wider = grow.widen(groups, inner, method="zero", key=config.seed)
    deeper = grow.deepen(wider.groups, 2 * DEPTH)
    fresh = [_init(config.seed + 1, hidden, depth) for depth in (DEPTH, 2 * DEPTH)]
    train, state = _stage(optimizer), jax.jit(optimizer.init)(params)

    def job(edits: Any) -> _Job:
        growths = {(i + 1) * steps: (edit, train) for i, edit in enumerate(edits)}
        inputs = rows[0], (data, seen)
        return _Job(grow.schedule(train, growths, params, state, *inputs), rows, (data, seen))

    grown = job((wider, deeper))
    found = list(_go(context, grown, ARMS[0], (params, state), 0))
    jobs = job([_by_hand(net, optimizer) for net in fresh])
    other_way = [found[0], *_go(context, jobs, ARMS[1], found[0][0], 1)]
    curves = {
        arm: [loss for _, losses in stages for loss in losses]
        for arm, stages in zip(ARMS, (found, other_way), strict=True)
    }
    sizes = [tree.size(stage.params) for stage in grown.schedule.stages()]
    return {"curves": curves, "sizes": sizes}


def jump(facts: dict[str, Any], arm: str) -> float:
    """How much higher the loss is after a growth than a step before, at most.

    Example:
        >>> jump({"curves": {"grown": [3.0, 2.0, 2.5, 1.0, 1.25, 1.0]}}, "grown")
        0.5
    """
    curve = facts["curves"][arm]
    third = len(curve) // 3
    return max(curve[at] - curve[at - 1] for at in (third, 2 * third))


def finding(facts: dict[str, Any]) -> str:
    """What the curves show."""
    ends = [facts["curves"][arm][-1] for arm in ARMS]
    rises = [jump(facts, arm) for arm in ARMS]
    return (
        f"In the net that grows while it trains the loss of validation images moves by "
        f"{rises[0]:+.2f} at most in the step of a growth; where the old weights are put among "
        f"fresh ones and Adam begins anew, by {rises[1]:+.2f}. In the end they are at "
        f"{ends[0]:.2f} and {ends[1]:.2f}."
    )


def figure(facts: dict[str, Any]) -> Figure:
    """The losses of both arms."""
    curves = facts["curves"]
    steps = len(curves[ARMS[0]])
    labels = ("grown, Adam goes on", "old weights among fresh ones, Adam anew")
    sizes = " to ".join(f"{size:,}" for size in facts["sizes"])
    x = tuple(map(float, range(steps)))
    lines = zip(labels, ARMS, strict=True)
    return Figure(
        "in_training", "lines", "A net that grows while it trains",
        f"Validation loss before each training step of a residual net that grows from {sizes} "
        f"weights, wider at step {steps // 3} and deeper at step {2 * steps // 3}. "
        f"{finding(facts)}",
        tuple(Series(label, tuple(curves[arm]), x) for label, arm in lines),
        x="training steps", y="validation loss", values="number",
    )  # fmt: skip
