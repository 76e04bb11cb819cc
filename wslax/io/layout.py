"""The layouts of PyTorch (as Hugging Face stores it) and Flax: which name and axes become which.

The default rules::

    PyTorch                             Flax                           axes
    a.b.weight [out, in]                a/b/kernel [in, out]           swapped
    a.conv.weight [out, in, window]     a/conv/kernel [window, in, out] moved
    a.embed.weight [vocabulary, width]  a/embed/embedding              as they are
    a.norm.weight [width]               a/norm/scale                   as they are
    running_mean, running_var           mean, var                      as they are

Everything else keeps its last part and its axes. Names and shapes cannot tell an embedding from a
linear layer, so a module is an embedding if its own name has `embed`, `embd`, `wte` or `wpe` in it,
or is `shared` or `relative_attention_bias`. Flax kernels of three axes in modules called `query`,
`key`, `value` or `out` (attention heads) are kept. A transposed convolution looks like any other,
and a linear layer that reads a flattened image keeps PyTorch's order of it (channels first). A
user's rules come before all of these.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from wslax.errors import WeightSpaceError, did_you_mean

Layout = Literal["torch", "flax"]
Axes = tuple[int, ...]
Shape = tuple[int, ...]

_EMBEDDING = re.compile(r".*(embed|embd|wte|wpe).*|shared|relative_attention_bias", re.IGNORECASE)
_HEADS = {"query", "key", "value", "out"}
_TO_FLAX = {"running_mean": "mean", "running_var": "var"}
_TO_TORCH = {flax: torch for torch, flax in _TO_FLAX.items()}
_KINDS = {2: "linear", 3: "convolution", 4: "convolution", 5: "convolution"}


class Step(NamedTuple):
    """What happens to one tensor.

    Attributes:
      source: its name before.
      target: its name after.
      shape: its shape before.
      axes: which axis before stands at each place after.
      rule: why, in words.
    """

    source: str
    target: str
    shape: Shape
    axes: Axes
    rule: str

    @property
    def new_shape(self) -> Shape:
        """Its shape after."""
        return tuple(self.shape[axis] for axis in self.axes)


class Rule(NamedTuple):
    """One line of a name map.

    Attributes:
      old: a name, or a glob in which each `*` stands for some text.
      new: the new name, with as many `*`, which take those texts in order.
      axes: which axis before stands at each place after; None for as they are.
    """

    old: str
    new: str
    axes: Axes | None = None


def _flax(module: str, leaf: str, rank: int) -> tuple[str, Axes, str]:
    same = tuple(range(rank))
    if leaf in _TO_FLAX:
        return _TO_FLAX[leaf], same, "statistics"
    if leaf == "weight" and rank == 1:
        return "scale", same, "norm"
    if leaf == "weight" and rank == 2 and _EMBEDDING.fullmatch(module):
        return "embedding", same, "embedding"
    if leaf == "weight" and rank in _KINDS:
        return "kernel", (*range(2, rank), 1, 0), _KINDS[rank]
    return leaf, same, "kept"


def _torch(module: str, leaf: str, rank: int) -> tuple[str, Axes, str]:
    same = tuple(range(rank))
    if leaf in _TO_TORCH:
        return _TO_TORCH[leaf], same, "statistics"
    if leaf == "scale" and rank == 1:
        return "weight", same, "norm"
    if leaf == "embedding" and rank == 2:
        return "weight", same, "embedding"
    if leaf == "kernel" and rank == 3 and module in _HEADS:
        return leaf, same, "attention heads, kept"
    if leaf == "kernel" and rank in _KINDS:
        return "weight", (rank - 1, rank - 2, *range(rank - 2)), _KINDS[rank]
    return leaf, same, "kept"


def _by_default(name: str, shape: Shape, to: Layout) -> Step:
    *modules, leaf = re.split(r"[./]", name)
    module = modules[-1] if modules else ""
    leaf, axes, rule = (_flax if to == "flax" else _torch)(module, leaf, len(shape))
    separator = "/" if to == "flax" else "."
    return Step(name, separator.join([*modules, leaf]), shape, axes, rule)


def _checked_return(step: Step, to: Layout) -> Step:
    """Say so where the default way back gives something else (`a.scale` returns as `a.weight`)."""
    back = _by_default(step.target, step.new_shape, "torch" if to == "flax" else "flax")
    axes = tuple(step.axes[axis] for axis in back.axes)
    if back.target == step.source and axes == tuple(range(len(axes))):
        return step
    return step._replace(rule=f"{step.rule}; the default way back gives {back.target}")


def _check_bias(step: Step, shapes: Mapping[str, Shape], to: Layout) -> None:
    """A bias has one number an output: it shows a kernel that is not laid out as its name says."""
    if step.rule not in _KINDS.values():
        return
    bias = shapes.get(re.sub(r"(weight|kernel)$", "bias", step.source), ())
    out, other = (0, 1) if to == "flax" else (-1, -2)
    if len(bias) == 1 and bias[0] == step.shape[other] != step.shape[out]:
        layout = "PyTorch's [out, in, ...]" if to == "flax" else "Flax's [..., in, out]"
        raise WeightSpaceError(
            f"{step.source}: {list(step.shape)} with a bias of {bias[0]} is not {layout}; say what "
            f"it is in a map: '{step.source}': {{to: '{step.target}', axes: [...]}}"
        )


def _match(rule: Rule, name: str) -> re.Match[str] | None:
    parts = (
        {"*": "(.*)", ".": "[./]", "/": "[./]"}.get(char, re.escape(char)) for char in rule.old
    )
    return re.fullmatch("".join(parts), name)


def _by_rule(rule: Rule, found: re.Match[str], shape: Shape, to: Layout | None) -> Step:
    name, target = found.string, rule.new
    for text in found.groups():
        if to is not None:
            text = re.sub(r"[./]", "/" if to == "flax" else ".", text)
        target = target.replace("*", text, 1)
    axes = tuple(range(len(shape))) if rule.axes is None else rule.axes
    if sorted(axes) != list(range(len(shape))):
        raise WeightSpaceError(
            f"{name}: the map's axes {list(axes)} do not order the {len(shape)} axes of its shape "
            f"{list(shape)}"
        )
    return Step(name, target, shape, axes, f"map: {rule.old}")


def _check_rules(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> None:
    for rule in rules:
        if rule.old.count("*") != rule.new.count("*"):
            raise WeightSpaceError(
                f"map: {rule.old!r} and {rule.new!r} need as many * as each other"
            )
        if not any(_match(rule, name) for name in shapes):
            raise WeightSpaceError(
                f"map: {rule.old!r} names no tensor.{did_you_mean(rule.old, shapes)}"
            )


def plan(
    shapes: Mapping[str, Shape], to: Layout | None = None, rules: Sequence[Rule] = ()
) -> tuple[Step, ...]:
    """What a conversion does with every tensor, known before any data is touched.

    Args:
      shapes: name to shape.
      to: the layout wanted; None keeps names and axes, except where a rule says otherwise.
      rules: a map; the first line that matches a name decides alone (`.` and `/` alike).

    Returns:
      One step a tensor, in order.

    Raises:
      WeightSpaceError: if two tensors would get one name, a line of the map matches nothing or has
        wrong axes, or a bias shows that a kernel is laid out otherwise than its name says (GPT-2
        stores its `Conv1D` weights as [in, out]).

    Example:
        >>> import wslax as ws
        >>> for step in ws.io.layout.plan({"fc.weight": (2, 3), "norm.weight": (3,)}, "flax"):
        ...     print(step.source, step.target, step.new_shape, step.rule)
        fc.weight fc/kernel (3, 2) linear
        norm.weight norm/scale (3,) norm
    """
    _check_rules(rules, shapes)
    steps: dict[str, Step] = {}
    for name, shape in shapes.items():
        hits = ((rule, found) for rule in rules if (found := _match(rule, name)))
        rule, found = next(hits, (None, None))
        if rule is not None and found is not None:
            step = _by_rule(rule, found, shape, to)
        elif to is None:
            step = Step(name, name, shape, tuple(range(len(shape))), "kept")
        else:
            step = _by_default(name, shape, to)
            _check_bias(step, shapes, to)
            step = _checked_return(step, to)
        if step.target in steps:
            raise WeightSpaceError(
                f"{steps[step.target].source!r} and {name!r} would both be called {step.target!r}; "
                "give one of them another name in a map"
            )
        steps[step.target] = step
    return tuple(steps.values())


def inverse(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The exact way back of any plan.

    Example:
        >>> back = inverse(plan({"fc.weight": (2, 3)}, "flax"))[0]
        >>> back.source, back.target, back.shape, back.new_shape
        ('fc/kernel', 'fc.weight', (3, 2), (2, 3))
    """
    return tuple(
        Step(
            step.target,
            step.source,
            step.new_shape,
            tuple(step.axes.index(axis) for axis in range(len(step.axes))),
            f"back: {step.rule}",
        )
        for step in steps
    )
