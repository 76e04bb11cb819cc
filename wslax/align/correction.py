"""Statistics of activations after merging, set back to what they were before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population import size
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.trace import jaxpr
from wslax.trace.interpret import LIFTED, VIEWS, Interpreter, Note, Rule, View, is_kept
from wslax.trace.meeting import MEETINGS
from wslax.trace.model import traced
from wslax.typing import Array, Params, Population

MODELS = "models"  # the axis of the models and the merged one behind them, run side by side


class Made(NamedTuple):
    """A sum of products that waits for its bias.

    Attributes:
      array: its value.
      kernels: the leaves that made it, each with `{axis of the leaf: axis of the value}`.
    """

    array: Array
    kernels: tuple[tuple[View, dict[int, int]], ...]

    @property
    def axes(self) -> set[int]:
        """The axes of its units."""
        return set(self.kernels[0][1].values())

    def dense(self) -> Array:
        """Its value."""
        return self.array


class Centred(NamedTuple):
    """Data less a leaf, perhaps a running mean."""

    array: Array
    data: Array
    mean: View

    def dense(self) -> Array:
        """Its value."""
        return self.array


class Spread(NamedTuple):
    """A function of a leaf, perhaps of a running variance: once `rooted` it may scale data.

    Attributes:
      variance: the leaf.
      of: the function, of the leaf as it lies here.
      rooted: whether it has gone through a square root.
    """

    variance: View
    of: Callable[[Array], Array]
    rooted: bool

    def dense(self) -> Array:
        """Its value."""
        return self.of(self.variance.dense())


def _units(view: View) -> set[int]:
    return {i for i, axis in enumerate(view.order) if axis is not None}


def _moments(x: Array, units: set[int]) -> tuple[Array, Array]:
    """Mean and variance over all axes but those of the units, which stay in place."""
    x = x.astype(tree.wide(x))
    rest = tuple(a for a in range(x.ndim) if a not in units)
    return x.mean(rest, keepdims=True), x.var(rest, keepdims=True)


def _on_leaf(value: Array, view: View) -> Array:
    """A value with the axes of a view, as the axes of its leaf."""
    added = tuple(i for i, axis in enumerate(view.order) if axis is None)
    value = jnp.squeeze(value, added)
    return jnp.transpose(value, [view.axes.index(a) for a in range(value.ndim)])


class _Repair:
    """The rules of one repair; `coef` says what the models count for."""

    def __init__(self, names: set[str], coef: Array) -> None:
        self.names, self.coef = names, coef
        self.rules: dict[str, Rule] = {
            **VIEWS, **LIFTED, **{name: self.make(meet) for name, meet in MEETINGS.items()},
            "transpose": self.transpose, "add": self.add, "sub": self.sub, "max": self.shifted,
            "sqrt": self.rooted, "rsqrt": self.rooted, "mul": self.scaled, "div": self.scaled,
        }  # fmt: skip

    def own(self, run: Interpreter, *views: View) -> bool:
        """Whether each pass of the loops around has leaves of its own here."""
        return all(len(view.loops) == run.loops for view in views)

    def note(self, run: Interpreter, view: View, what: str, value: Array) -> None:
        """Note what becomes of a leaf; `value` has the axes of the view."""
        over_steps = lambda stacked, own: stacked
        run.notes.append(Note(view.name, _on_leaf(value, view), over_steps, view.loops, what))

    def merged(self, corrected: Array, as_is: Array) -> Array:
        """The corrected value in the merged model, the other in the models."""
        last = jax.lax.axis_index(MODELS) == len(self.coef)
        return jnp.where(last, corrected.astype(as_is.dtype), as_is)

    def make(self, meet: Any) -> Rule:
        def rule(run: Interpreter, eqn: Any, *operands: Any) -> list[Any] | None:
            operands = tuple(
                run.dense(v, eqn) if is_kept(v) and not isinstance(v, View) else v for v in operands
            )
            meeting = meet(eqn, *operands)
            out = jaxpr.bind(eqn, *(run.dense(v, eqn) for v in operands))
            return out if meeting is None else [Made(out[0], ((meeting.view, meeting.at),))]

        return rule

    def transpose(self, run: Interpreter, eqn: Any, value: Any) -> list[Any] | None:
        if not isinstance(value, Made):
            return VIEWS["transpose"](run, eqn, value)
        (array,) = jaxpr.bind(eqn, value.array)
        to = {a: i for i, a in enumerate(eqn.params["permutation"])}
        kernels = tuple((v, {a: to[i] for a, i in at.items()}) for v, at in value.kernels)
        return [Made(array, kernels)]

    def add(self, run: Interpreter, eqn: Any, x: Any, y: Any) -> list[Any] | None:
        if isinstance(x, Made) and isinstance(y, Made) and x.axes == y.axes:
            return [Made(x.array + y.array, x.kernels + y.kernels)]
        made, bias = (x, y) if isinstance(x, Made) else (y, x)
        if not isinstance(made, Made) or not isinstance(bias, View):
            return self.shifted(run, eqn, x, y)
        kernels = [view for view, _ in made.kernels]
        fits = _units(bias) == made.axes and bias.name in self.names
        if not fits or not self.own(run, bias, *kernels):
            return None
        return [self._repaired(run, eqn, made, bias)]

    def _repaired(self, run: Interpreter, eqn: Any, made: Made, bias: View) -> Array:
        """REPAIR: units of the merged model get the mean mean and deviation of the models."""
        (out,) = jaxpr.bind(eqn, made.array, bias.dense())
        mean, variance = _moments(out, made.axes)
        means, deviations = jax.lax.all_gather((mean, jnp.sqrt(variance)), MODELS)
        goal_mean, goal = (jnp.tensordot(self.coef, all[:-1], 1) for all in (means, deviations))
        mean, deviation = means[-1], deviations[-1]
        scale = jnp.where(deviation > 0, goal / jnp.where(deviation > 0, deviation, 1), 1)
        wide = lambda x: x.astype(tree.wide(x))
        self.note(run, bias, "set", scale * (wide(bias.dense()) - mean) + goal_mean)
        for view, at in made.kernels:
            factor = jnp.squeeze(scale, tuple(a for a in range(scale.ndim) if a not in made.axes))
            axes, rank = sorted(at, key=lambda a: at[a]), len(view.axes)
            factor = jnp.transpose(factor, [axes.index(a) for a in sorted(axes)])
            factor = jnp.expand_dims(factor, [a for a in range(rank) if a not in axes])
            whole = view._replace(order=tuple(range(rank)))
            self.note(run, whole, "scale", factor)
        return self.merged((wide(out) - mean) * scale + goal_mean, out)

    def sub(self, run: Interpreter, eqn: Any, x: Any, y: Any) -> list[Any] | None:
        if not isinstance(y, View) or isinstance(x, View) or y.name not in self.names:
            return None
        if not self.own(run, y):
            return None
        x = run.dense(x, eqn)
        (array,) = jaxpr.bind(eqn, x, y.dense())
        return [Centred(array, x, y)]

    def shifted(self, run: Interpreter, eqn: Any, x: Any, y: Any) -> list[Any] | None:
        """A leaf plus, or at least, a number: a variance and its epsilon."""
        value, number = (x, y) if is_kept(x) else (y, x)
        if is_kept(number) or jnp.ndim(number) > 0 or not isinstance(value, (View, Spread)):
            return None
        return [self._after(value, lambda v: jaxpr.bind(eqn, v, number)[0], False)]

    def rooted(self, run: Interpreter, eqn: Any, x: Any) -> list[Any] | None:
        if not isinstance(x, (View, Spread)):
            return None
        return [self._after(x, lambda v: jaxpr.bind(eqn, v)[0], True)]

    def _after(self, value: View | Spread, step: Callable[[Array], Array], root: bool) -> Spread:
        if isinstance(value, View):
            return Spread(value, step, root)
        return Spread(value.variance, lambda v: step(value.of(v)), root or value.rooted)

    def scaled(self, run: Interpreter, eqn: Any, x: Any, y: Any) -> list[Any] | None:
        """RESET: data less its running mean meets its running deviation, perhaps with a gain."""
        if isinstance(y, Centred) and eqn.primitive.name == "mul":
            x, y = y, x
        pair = (x, y) if isinstance(x, Spread) else (y, x)
        spread, other = pair
        if not isinstance(spread, Spread) or not spread.rooted:
            return None
        if isinstance(other, View) and eqn.primitive.name == "mul":
            step = lambda v: jaxpr.bind(eqn, v, other.dense())[0]
            return [self._after(spread, step, True)]
        if not isinstance(x, Centred) or x.mean.order != spread.variance.order:
            return None
        if spread.variance.name not in self.names or not self.own(run, spread.variance):
            return None
        (out,) = jaxpr.bind(eqn, x.array, spread.dense())
        mean, variance = _moments(x.data, _units(x.mean))
        self.note(run, x.mean, "set", mean)
        self.note(run, spread.variance, "set", variance)
        held = spread.variance.dense().dtype
        centred = (x.data - mean.astype(x.data.dtype)).astype(x.array.dtype)
        (corrected,) = jaxpr.bind(eqn, centred, spread.of(variance.astype(held)))
        return [self.merged(corrected, out)]


def repair(
    apply: Callable[..., Any],
    merged: Params,
    population: Population,
    groups: Groups,
    *inputs: Any,
    coef: Any = None,
) -> Params:
    r"""Correct the statistics of a merged model's hidden units to those of the models.

    Averaged weights give activations that vary too little, more so in each layer. REPAIR (Jordan et
    al., arXiv:2211.08403, section 4) rescales and shifts the preactivations \(z\) of every hidden
    unit so that

    \[\operatorname{mean}(z) = \sum_i c_i \operatorname{mean}(z_i), \qquad
    \operatorname{std}(z) = \sum_i c_i \operatorname{std}(z_i),\]

    layer after layer, each measured behind the corrected ones before it, and folds the change into
    the kernel and the bias. Where the model normalises by running statistics (BatchNorm in
    evaluation mode) these are set to what the merged model shows, as the paper does there (RESET).

    Products and their biases, running means and variances are found in the model's own program.
    Models that normalise by each example's own statistics (LayerNorm, GroupNorm, RMSNorm) need no
    repair behind a norm; products without a bias are left as they are.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`, in evaluation mode.
      merged: the merged parameters.
      population: the models that were merged, `[N, ...]`, aligned.
      groups: of the model; the outputs, which no free group holds, stay as they are.
      *inputs: data, one large batch; the paper takes the training set. Labels are not needed.
      coef: `[N]`, what each model counts for; equal by default.

    Returns:
      `merged` with other kernels, biases and statistics; every leaf with its shape and dtype. Works
      under `jax.jit` and `jax.vmap`; memory is that of N + 1 forward passes.

    Raises:
      WeightSpaceError: if the trees differ, there is nothing to correct, or a leaf to be corrected
        is used at several places.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None]) @ p["out"]
        >>> one = {"w": jnp.eye(2), "b": jnp.zeros(2), "out": jnp.ones((2, 1))}
        >>> pair = ws.population.stack([one, one | {"w": -jnp.eye(2)}])
        >>> x = jnp.array([[1.0, 2.0], [2.0, 5.0], [3.0, 2.0]])
        >>> groups = ws.symmetry.infer(apply, one, x)
        >>> merged = one | {"w": 0.1 * jnp.eye(2)}
        >>> repair(apply, merged, pair, groups, x)["w"].round(3).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    count = size(population)
    tree.check_like(jax.tree.map(lambda x: x[0], population), merged, "population[0]", "merged")
    locate(merged, groups)
    coef = jnp.full(count, 1 / count) if coef is None else jnp.asarray(coef, jnp.float32)
    if coef.shape != (count,):
        raise WeightSpaceError(f"coef: expected one a model, [{count}], got {tree.aval(coef)}")
    model = traced(apply, merged, inputs)
    models = tree.named_leaves(population)
    both: dict[str, Any] = {
        n: jnp.concatenate([models[n], x[None]]) for n, x in model.leaves.items()
    }
    names = {site.name for group in groups.free for site in group.sites}
    whats: list[tuple[str, str]] = []

    def forward(leaves: dict[str, Array]) -> list[Array]:
        views = [View(x, name, tuple(range(x.ndim))) for name, x in leaves.items()]
        run = Interpreter(_Repair(names, coef).rules)
        run.run(model.program, [*views, *model.inputs])
        whats[:] = [(note.name, note.about) for note in run.notes]
        return [note.value for note in run.notes]

    values = jax.vmap(forward, axis_name=MODELS)(both)
    return _folded(merged, whats, [value[-1] for value in values])


def _folded(merged: Params, whats: list[tuple[str, str]], values: list[Array]) -> Params:
    changes: dict[str, tuple[str, Array]] = {}
    for (name, what), value in zip(whats, values, strict=True):
        if name in changes:
            raise WeightSpaceError(
                f"{name}: is used at several places, which differ in what would repair them"
            )
        changes[name] = (what, value)
    if not changes:
        raise WeightSpaceError(
            "nothing to repair: no hidden units have a bias of their own or running statistics"
        )

    def change(name: str, leaf: Any) -> Any:
        if name not in changes:
            return leaf
        what, value = changes[name]
        wide = jnp.asarray(leaf).astype(tree.wide(leaf))
        return tree.cast_like(wide * value if what == "scale" else value, leaf)

    return tree.map_named(change, merged)
