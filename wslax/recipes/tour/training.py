"""Training of the tour: one step for everything, and checkpoints between segments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import nets, population, random
from wslax.recipes.store import Store
from wslax.recipes.tour.config import TourConfig
from wslax.recipes.tour.measure import apply
from wslax.recipes.tour.task import Task

Tell = Callable[[int, int, str], None]


class Context(NamedTuple):
    """What every stage gets.

    Attributes:
      config: the settings.
      task: data and conditions.
      store: where checkpoints go.
      tell: `(done, total, note)`: progress within the stage.
    """

    config: TourConfig
    task: Task
    store: Store
    tell: Tell


class Outcome(NamedTuple):
    """What a stage leaves for later stages, the page and a resume.

    Attributes:
      params: name to parameters.
      hits: model to `measure.hits`.
      facts: other numbers, as JSON has them.
    """

    params: dict[str, Any]
    hits: dict[str, np.ndarray]
    facts: dict[str, Any]


def loss(params: Any, batch: Any, key: Any, member: population.Member) -> Any:
    """Cross entropy on the member's own images; a mask in `hyper` freezes what it leaves out."""
    hyper = member.hyper
    if "mask" in hyper:
        frozen = jax.lax.stop_gradient(params)
        params = jax.tree.map(jnp.where, hyper["mask"], params, frozen)
    x = hyper["x"][batch].astype(jnp.float32) / 255
    return nets.cross_entropy(apply(params, x), hyper["y"][batch])


dense = population.step_from_loss(loss, optax.inject_hyperparams(optax.adam)(learning_rate=0.0))


def start(trainer: population.Trainer, params: Any, hyper: dict[str, Any]) -> Any:
    """Members from parameters and per-member data, `[N, ...]` both."""
    return jax.jit(jax.vmap(lambda p, h: trainer.init(p, None, h)))(params, hyper)


def batches(seed: int, name: str, steps: int, sizes: Any, batch: int) -> np.ndarray:
    """Indices of images, `int32[steps, members, batch]`; member i has `sizes[i]` images.

    Example:
        >>> batches(0, "base", 2, [3, 5], 4).shape
        (2, 2, 4)
    """
    words = random.bits(seed, f"tour/{name}", steps * len(sizes) * batch)
    words = words.reshape(steps, len(sizes), batch)
    return (words % np.asarray(sizes, np.uint32)[:, None]).astype(np.int32)


def member(population_: Any, index: Any) -> Any:
    """One member, or several, of a population on the host; compiles nothing.

    Example:
        >>> member({"w": np.arange(3)}, 1)
        {'w': np.int64(1)}
    """
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], population_)


def repeat(params: Any, count: int) -> Any:
    """A population of equal members on the host.

    Example:
        >>> repeat({"w": np.zeros(2)}, 3)["w"].shape
        (3, 2)
    """
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, 0), params)


def train(
    context: Context,
    name: str,
    trainer: population.Trainer,
    members: Any,
    indices: np.ndarray,
    watch: Callable[[Any], Any] | None = None,
) -> tuple[Any, list[Any]]:
    """Train members, with a checkpoint after each segment; takes up what the store has.

    Args:
      context: settings, store and progress.
      name: of the checkpoint and of the progress.
      trainer: the step.
      members: from `start`; their data (`hyper`) are not stored.
      indices: from `batches`.
      watch: `params -> JSON`, called after each segment.

    Returns:
      The trained parameters on the host, and what `watch` returned.
    """
    steps = len(indices)
    held = context.store.read(name, members._replace(hyper={}))
    done, seen = 0, []
    if held is not None:
        members = held[0]._replace(hyper=members.hyper)
        done, seen = held[1]["step"], held[1]["seen"]

    def save(step: int, now: Any, metrics: Any) -> None:
        if watch is not None:
            seen.append(watch(now.params))
        context.store.write(name, now._replace(hyper={}), {"step": step, "seen": seen})
        context.tell(step, steps, f"{name}, loss {float(metrics['loss'][-1].mean()):.2f}")

    if done < steps:
        members, _ = population.train(
            trainer.step,
            members,
            jnp.asarray(indices),
            key=jax.random.key(context.config.seed),
            start=done,
            segment=context.config.segment,
            per_member=True,
            strategy="vmap",
            on_segment=save,
        )
    return jax.device_get(members.params), seen
