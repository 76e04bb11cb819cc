"""Ways to grow a trained net to the large one."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.random as jr

import wslax as ws
from benchmarks.papers.counting import flops
from benchmarks.papers.growth_speed import nets

LARGE = nets.Size(32, 4)
SOURCES = {"narrow": nets.Size(16, 4), "shallow": nets.Size(32, 2), "small": nets.Size(16, 2)}
NOISE = {"hypercloning": 0.1, "net2wider": 0.01, "fpi": 0.01}  # the first cancels between copies


class Arm(NamedTuple):
    """A growth.

    Attributes:
      source: which net it begins from.
      edit: `(groups, key) -> Edit`.
    """

    source: str
    edit: Callable[[Any, Any], Any]


def larger(groups: Any) -> dict[int, int]:
    """Sizes of the groups of the large net: stream, heads, hidden units."""
    places = {
        ("norm", 0): LARGE.width,
        ("blocks/query", 2): LARGE.width // nets.HEAD,
        ("blocks/bias", 1): 4 * LARGE.width,
    }
    found = {place: groups.at(*place) for place in places}
    return {group.id: places[place] for place, (group,) in found.items()}


def widened(method: str, groups: Any, key: Any) -> Any:
    noise = NOISE.get(method, 0.0)
    return ws.grow.widen(groups, larger(groups), method=method, key=key, noise=noise)


def deepened(method: str, groups: Any, key: Any = None) -> Any:
    return ws.grow.deepen(groups, LARGE.depth, method=method)


def both(width: str, depth: str, groups: Any, key: Any) -> Any:
    wide = widened(width, groups, key)
    return ws.chain(wide, deepened(depth, wide.groups))


WIDTHS = {
    "HyperCloning": "hypercloning", "LEMON": "lemon", "Net2Wider": "net2wider", "FPI": "fpi",
    "zero": "zero",
}  # fmt: skip
DEPTHS = {"stack": "stack", "copies in turn": "copy", "identity": "identity"}
BOTH = {"LEMON + stack": ("lemon", "stack"), "LEMON + identity": ("lemon", "identity")}
ARMS = {
    **{name: Arm("narrow", functools.partial(widened, m)) for name, m in WIDTHS.items()},
    **{name: Arm("shallow", functools.partial(deepened, m)) for name, m in DEPTHS.items()},
    **{name: Arm("small", functools.partial(both, *m)) for name, m in BOTH.items()},
}


def groups(size: nets.Size, job: nets.Job) -> ws.symmetry.Groups:
    params = jax.eval_shape(lambda: nets.init(size, job, jr.key(0)))
    apply = functools.partial(nets.apply, causal=job.causal)
    return ws.symmetry.infer(apply, params, job.train[0][:2])


def grow(arm: Arm, groups: Any, policy: str, held: Any, keys: Any) -> Any:
    """Members `(params, state)` `[seeds, ...]`, grown."""

    def member(held: Any, key: Any) -> Any:
        edit = arm.edit(groups, key)
        return edit.apply(held[0]), edit.optimizer_state(held[1], policy=policy)

    return jax.vmap(member)(held, keys)


def operator(groups: Any, key: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
    """LiGO's maps, depth first, and `(maps, params) -> params`."""
    deep = ws.grow.ligo_depth(groups, LARGE.depth, key=key)
    wide = ws.grow.ligo_width(deep.groups, larger(deep.groups), key=key)

    def materialise(maps: Any, params: Any) -> Any:
        return wide.materialise(maps[1], deep.materialise(maps[0], params))

    return (deep.maps, wide.maps), materialise


def learned(
    groups: Any, job: nets.Job, steps: int, params: Any, key: Any, unroll: int | bool = 1
) -> Any:
    """LiGO's maps after some steps."""
    maps, materialise = operator(groups, key)
    rows = jr.randint(key, (steps, job.batch), 0, len(job.train[0]))

    def loss(maps: Any, batch: Any) -> Any:
        return nets.loss(materialise(maps, params), batch, causal=job.causal, unroll=unroll)

    return ws.grow.tune(loss, maps, jax.tree.map(lambda x: x[rows], job.train))[0]


def ligo(groups: Any, job: nets.Job, steps: int, params: Any, keys: Any) -> tuple[Any, float]:
    """Members `(params, state)` `[seeds, ...]`, grown, and the operations that one took."""

    def member(params: Any, key: Any) -> Any:
        maps = learned(groups, job, steps, params, key)
        large = operator(groups, key)[1](maps, params)
        return large, nets.ADAM.init(large)

    one = functools.partial(learned, groups, job, 1, unroll=True)
    each = flops(one, jax.tree.map(lambda x: x[0], params), keys[0])
    return jax.jit(jax.vmap(member))(params, keys), steps * each
