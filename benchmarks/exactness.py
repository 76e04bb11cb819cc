"""What each method of growth keeps, on every net of the symmetry tests: a record for the docs.

`python -m benchmarks.exactness` measures all methods by all factors on all nets, and writes
`benchmarks/exactness.jsonl`, a line each; `python docs/generated.py` makes the table in
docs/growing.md from it. The factors of the suite are two of these.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.runner import machine
from tests.grow import nets
from tests.symmetry.zoo import ZOO
from wslax import WeightSpaceError, edit, grow
from wslax.grow import reasons
from wslax.grow.orders import DEPTH_METHODS
from wslax.io.atomic import replaced

RECORD = pathlib.Path(__file__).with_suffix(".jsonl")
FACTORS = (1.25, 1.5, 2, 3)
EPS = 0.1
# Nets whose gradients compile in seconds: where moments are compared, and where GradMax runs.
DIFFERENTIATED = ("mlp", "lstm", "gpt", "llama", "scanned", "vit", "separable")
TWICE = ("mlp", "lstm", "mamba")
Line = dict[str, Any]


def widening(name: str) -> Callable[..., edit.Edit]:
    """`(groups, sizes, **options) -> Edit` of a method in width."""
    if name == "aki":
        return functools.partial(grow.aki, key=1)
    if name == "shrink":
        return grow.shrink
    return functools.partial(grow.widen, method=name, key=1)


def loss(apply: Any, net: nets.Net) -> Callable[[Any], Any]:
    return lambda params: jnp.sum(jnp.sin(apply(params, *net.inputs)))


def unmasked(net: nets.Net, made: edit.Edit, sizes: dict[int, int]) -> edit.Edit:
    """An edit by MSG with its mask at zero."""
    old = {id: net.groups.all[id].size for id in sizes if net.groups.all[id].size < sizes[id]}
    masked = lambda params: grow.masked(made.apply(params), made.groups, old, 0.0)
    return edit.from_map(masked, groups=made.groups)


def moments(net: nets.Net, made: edit.Edit) -> float:
    """How far the moments that `"exact"` gives are from the wide model's gradient, of 1.

    Where an entry stems from an old one; the worst of all leaves, each relative to its largest.
    """
    apply = net.rebuilt(made.groups) if net.name in nets.COUNTED else net.apply
    before = jax.jit(jax.grad(loss(net.apply, net)))(net.params)
    own = jax.jit(jax.grad(loss(apply, net)))(made.apply(net.params))
    trace = lambda tree: made.optimizer_state(optax.TraceState(tree)).trace
    moved, stems = trace(before), trace(jax.tree.map(np.ones_like, net.params))
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(own))

    def off(moved: Any, own: Any, stems: Any) -> float:
        scale = max(float(jnp.abs(own).max()), 1e-3 * largest)
        return float(jnp.abs(jnp.where(stems != 0, moved - own, 0)).max()) / scale

    return max(jax.tree.leaves(jax.tree.map(off, moved, own, stems)))


def policies(params: Any, made: edit.Edit) -> list[str]:
    """The policies under which Adam takes its next step with the state that comes out."""
    found = []
    for policy in grow.POLICIES:
        own = grow.scale_by_adam() if policy == "zero_pad" else optax.scale_by_adam()
        _, state = own.update(jax.tree.map(jnp.ones_like, params), own.init(params))
        try:
            state = made.optimizer_state(state, policy=policy)
        except WeightSpaceError:
            continue
        wide = made.apply(params)
        updates, _ = own.update(jax.tree.map(jnp.ones_like, wide), state)
        if all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updates)):
            found.append(policy)
    return found


def taken(net: nets.Net, sizes: Any) -> Line:
    """How many groups there are and were widened, in all and under norms."""
    free = net.groups.free
    normed = [group.id for group in free if reasons.is_averaged(group)]
    return {
        "free": len(free),
        "taken": len(sizes),
        "normed": len(normed),
        "normed_taken": sum(id in sizes for id in normed),
    }


def in_width(name: str, net: nets.Net, before: Any, factor: float) -> Line:
    widen = widening(name)
    # AKI takes the groups of all blocks together or none, and each of them that FPI takes.
    sizes, _ = nets.accepted(net.groups, factor, widening("fpi") if name == "aki" else widen)
    line = {"method": name, "net": net.name, "factor": factor, **taken(net, sizes)}
    if not sizes:
        return line
    try:
        made = widen(net.groups, sizes)
    except WeightSpaceError as refusal:
        return line | {"refused": str(refusal)}
    if factor == 2 and net.name in DIFFERENTIATED and name != "msg":
        line["moments"] = moments(net, made)
    if net.name == ("llama" if name == "aki" else "mlp") and factor in (0.5, 2):
        line["policies"] = policies(net.params, made)
    if name == "hypercloning":
        made = widen(net.groups, sizes, noise=0.1)
    if name == "msg":
        made = unmasked(net, made, sizes)
    return line | {"change": net.change(made, before)}


def by_gradmax(net: nets.Net, before: Any, factor: float) -> Line:
    objective = loss(net.apply, net)
    widen = lambda groups, sizes: grow.gradmax(groups, sizes, objective, net.params)
    sizes, _ = nets.accepted(net.groups, factor, widen)
    line = {"method": "gradmax", "net": net.name, "factor": factor, **taken(net, sizes)}
    if not sizes:
        return line
    made = widen(net.groups, sizes)
    line |= {"moments": moments(net, made), "policies": policies(net.params, made)}
    return line | {"change": net.change(made, before)}


def in_depth(net: nets.Net, before: Any, factor: float) -> Iterator[Line]:
    depth = grow.blocks(net.groups)[0].depth
    for method in DEPTH_METHODS:
        line = {"method": f"deepen, {method}", "net": net.name, "factor": factor}
        try:
            made = grow.deepen(net.groups, int(np.ceil(factor * depth)), method=method)
        except WeightSpaceError as refusal:
            yield line | {"refused": str(refusal)}
            continue
        change = net.change(made, before)
        line |= {"policies": policies(net.params, made)} if net.name == "llama" else {}
        yield line | {"change": change}


def with_eps(name: str) -> Iterator[Line]:
    """LEMON's remainder under norms whose epsilon shows: as it was, and as it should be."""
    net, before = nets.net(name, eps=EPS)
    streams = {g.id: g.size for g in net.groups.free if reasons.is_averaged(g)}
    for factor in FACTORS:
        sizes = {id: int(factor * size) for id, size in streams.items()}
        made = widening("lemon")(net.groups, sizes)
        rescaled = EPS * int(factor) / factor
        yield {
            "method": "lemon",
            "net": f"{name}, eps {EPS}",
            "factor": factor,
            "kept": net.change(made, before, eps=EPS),
            "rescaled": net.change(made, before, eps=rescaled),
        }


def upcycled() -> Line:
    """A dense layer as four experts of which two are chosen, their shares summing to one."""
    rng = np.random.default_rng(0)
    shapes = {"in": (3, 6), "mlp": {"up": (6, 10), "down": (10, 6)}}
    draw = lambda shape: rng.normal(size=shape).astype("f4")
    params = jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))
    x = rng.normal(size=(7, 3)).astype("f4")
    dense = jnp.tanh(x @ params["in"] @ params["mlp"]["up"]) @ params["mlp"]["down"]
    made = grow.upcycle(params, 4, where="mlp/*", router={"router": 6}, key=1)
    wide = made.apply(params)
    h = x @ params["in"]
    values, index = jax.lax.top_k(h @ wide["router"], 2)
    share = (jax.nn.one_hot(index, 4) * jax.nn.softmax(values)[..., None]).sum(1)
    each = jnp.einsum("td,edf->tef", h, wide["mlp"]["up"])
    each = jnp.einsum("tef,efd->ted", jnp.tanh(each), wide["mlp"]["down"])
    change = float(jnp.abs(jnp.einsum("ted,te->td", each, share) - dense).max())
    change /= float(jnp.abs(dense).max())
    found = policies(params, made)
    return {"method": "upcycle", "net": "one layer", "change": change, "policies": found}


def measured() -> Iterator[Line]:
    yield {"machine": machine()}
    yield upcycled()
    for name in ("llama", "scanned", "encoder_decoder"):
        yield from with_eps(name)
    heavy = ("resnet", "densenet", "unet", "encoder_decoder", "vit")
    for name in sorted(ZOO, key=lambda name: name in heavy):
        net, before = nets.net(name)
        for factor in FACTORS:
            for method in (*grow.METHODS, *(("aki",) if grow.blocks(net.groups) else ())):
                yield in_width(method, net, before, factor)
            if name in ("gpt", "llama", "scanned"):
                yield from in_depth(net, before, factor)
        yield in_width("shrink", net, before, 0.5)
        if name in TWICE:
            yield by_gradmax(net, before, 1.25)


def main() -> None:
    # Hundreds of small programs run once each: compiling them is all the cost.
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_rank_promotion("allow"), replaced(RECORD) as path, path.open("w") as out:
        for line in measured():
            print(json.dumps(line), file=out, flush=True)
            print(json.dumps(line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
