"""What reaches each leaf: the inputs of its products, and sums over them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.globs import pick
from wslax.trace import jaxpr
from wslax.trace.interpret import VIEWS, Interpreter, Note, Rule, View
from wslax.trace.meeting import MEETINGS, Meeting, Place
from wslax.trace.model import traced
from wslax.typing import Array, Params, Where

Read = Literal["inputs", "gram", "norms", "outputs", "features"]


SUMS = ("gram", "norms")


def _value(meeting: Meeting, what: Read, result: Array) -> Array:
    if what not in SUMS:
        return meeting.read(what, result)
    x = meeting.read("inputs", result)
    x = x.astype(tree.wide(x))
    lead = meeting.place.lead("inputs")
    if what == "norms":
        return jnp.sum(x * x, lead)
    x = x.reshape(*x.shape[: lead + 1], -1)
    return jnp.einsum("...si,...sj->...ij", x, x, precision="highest")


def _noted(meeting: Meeting, what: Read, result: Array) -> Note:
    lead = meeting.place.lead(what)

    def over_steps(stacked: Array, own: int) -> Array:
        if what in SUMS:
            return stacked.sum(0)
        moved = jnp.moveaxis(stacked, 0, own + lead)
        return moved.reshape(*moved.shape[: own + lead], -1, *moved.shape[own + lead + 2 :])

    about = (what, meeting.place)
    return Note(
        meeting.view.name, _value(meeting, what, result), over_steps, meeting.view.loops, about
    )


class Seen(NamedTuple):
    """What a model did with its leaves.

    Attributes:
      read: `{leaf: {(what, place): array}}`, over all uses at a place.
      reason: leaf to the operation that took it as an array, where one did.
    """

    read: dict[str, dict[tuple[str, Place], Array]]
    reason: dict[str, str]


def seen(
    apply: Callable[..., Any],
    params: Params,
    inputs: tuple[Any, ...],
    reads: Callable[[str], Sequence[Read]],
) -> Seen:
    """Run a model and read at each product of a leaf.

    Args:
      apply: the model.
      params: its parameters.
      inputs: its inputs.
      reads: leaf name to what to read there.

    Returns:
      What was seen.
    """
    reason: dict[str, str] = {}

    def on_dense(view: View, eqn: Any) -> None:
        line = jaxpr.source(eqn) or "an unknown line"
        reason.setdefault(view.name, f"{eqn.primitive.name} at {line}")

    def rule(meet: Callable[..., Meeting | None]) -> Rule:
        def read(run: Interpreter, eqn: Any, *operands: Any) -> list[Any] | None:
            meeting = meet(eqn, *operands)
            if meeting is None:
                return None
            arrays = (v.dense() if isinstance(v, View) else v for v in operands)
            (result,) = jaxpr.bind(eqn, *arrays)
            run.notes += [_noted(meeting, what, result) for what in reads(meeting.view.name)]
            return [result]

        return read

    model = traced(apply, params, inputs)
    views = [View(x, name, tuple(range(x.ndim))) for name, x in model.leaves.items()]
    rules = VIEWS | {name: rule(meet) for name, meet in MEETINGS.items()}
    run = Interpreter(rules, on_dense)
    run.run(model.program, [*views, *model.inputs])
    read: dict[str, dict[tuple[str, Place], Array]] = {}
    for note in run.notes:
        what, place = note.about
        values = read.setdefault(note.name, {})
        if note.about not in values:
            values[note.about] = note.value
        elif what in SUMS:
            values[note.about] += note.value
        else:
            pair = [values[note.about], note.value]
            values[note.about] = jnp.concatenate(pair, place.loops + place.lead(what))
    return Seen(read, reason)


def _on_leaf(squares: Array, place: Place, shape: tuple[int, ...]) -> Array:
    """Sums of squares with the axes of the leaf, of length 1 where it produces."""
    if place.groups > 1:
        axis, (produced,) = place.loops, place.produced
        squares = jnp.repeat(squares, shape[produced] // place.groups, axis)
        axes = [*range(place.loops), produced, *place.consumed]
    else:
        axes = [*range(place.loops), *place.batch, *place.consumed]
        squares = jnp.expand_dims(squares, tuple(range(squares.ndim, len(shape))))
        axes += place.produced
    return jnp.transpose(squares, [axes.index(axis) for axis in range(len(shape))])


def taps(
    apply: Callable[..., Any],
    params: Params,
    *inputs: Any,
    read: Literal["inputs", "gram", "norms", "outputs"] = "inputs",
    where: Where = None,
) -> dict[str, Array]:
    r"""What reaches each leaf: the data that its products and convolutions meet.

    The model's program is run once, and wherever a leaf \(W\) is contracted with data \(x\) that is
    read. *Samples* are all axes of \(x\) that the leaf does not share: of a batch, of positions, of
    the steps of a loop, of all uses of a shared leaf.

    - `"inputs"`: \(x\), `[*batch, samples, *consumed]`.
    - `"gram"`: \(\sum_s x_s x_s^T\) over the flattened consumed axes, `[*batch, c, c]`, in float32
      or wider: what RegMean and whitening need.
    - `"norms"`: \(\sqrt{\sum_s x_s^2}\) of each input, with the axes of the leaf and length 1 where
      it produces, so that `jnp.abs(leaf) * norms` is Wanda's score (arXiv:2306.11695).
    - `"outputs"`: the products, `[*batch, samples, *produced]`, before any bias.

    *Batch* axes are those of the leaf that are taken one by one: the layers of a scan, experts.
    *Consumed* axes are summed over, in the order of the leaf: `d` of a kernel `(d, heads, width)`,
    the window and the input channels of a convolution (whose inputs are patches). A convolution
    over groups of features has the groups as its batch axis.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`.
      params: its parameters.
      *inputs: its inputs; a batch of data.
      read: what to read.
      where: globs of the leaves.

    Returns:
      Leaf name to array, for the leaves that meet data in a product. Others, such as biases, scales
      and looked-up rows, are left out, as are products inside `while` and `cond`, which may not
      run. Works under `jax.jit` (what is not used is not kept), `jax.vmap` over a population, and
      `jax.grad`.

    Raises:
      WeightSpaceError: if a leaf that `where` names meets no data in a product, or is used in two
        ways, as a tied matrix and its transpose are.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> params = {"a": jnp.eye(2), "b": jnp.ones((2, 1))}
        >>> x = jnp.array([[3.0, -1.0], [4.0, 2.0]])
        >>> taps(apply, params, x)["b"].tolist()
        [[3.0, 0.0], [4.0, 2.0]]
        >>> taps(apply, params, x, read="norms", where="b")["b"].tolist()
        [[5.0], [2.0]]
    """
    names = tree.leaf_names(params)
    picked = {name for name, hit in zip(names, pick(names, where), strict=True) if hit}
    found = seen(apply, params, inputs, lambda name: [read] if name in picked else [])
    leaves = tree.named_leaves(params)
    taken: dict[str, Array] = {}
    for name, values in found.read.items():
        if len(values) > 1:
            ways = " and ".join(f"{place.consumed}" for _, place in values)
            raise WeightSpaceError(
                f"{name}: products sum over its axes {ways} at different places; leave it out by "
                "`where=`"
            )
        (((_, place), value),) = values.items()
        if read == "norms":
            value = jnp.sqrt(_on_leaf(value, place, leaves[name].shape))
        taken[name] = value
    for name in () if where is None else sorted(picked - taken.keys()):
        why = found.reason.get(
            name, "the model does not use it, or only as rows or element by element"
        )
        raise WeightSpaceError(f"{name}: meets no data in a product ({why}); narrow `where=`")
    return taken
