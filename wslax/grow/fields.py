"""Fields of modules that hold an old size: Flax modules as they run, others as objects."""

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from wslax.grow.sizes import Growth

# Fields that are lengths of given axes of the module's own kernel: (leaf, first of its axes).
_OWN = {
    "features": (("kernel", "embedding"), None),  # the last ones, as many as the field has
    "out_features": (("weight",), 0),
    "in_features": (("weight",), 1),
}


def _loaded(module: str, name: str) -> Any:
    """A class of a library, an empty tuple where that is not in use."""
    return getattr(sys.modules.get(module), name, ())


class Seen:
    """Modules by their path.

    Attributes:
      modules: path to the module.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}

    def watching(self) -> Any:
        """A context in which Flax linen modules that run are seen."""
        linen = sys.modules.get("flax.linen")
        if linen is None:
            return contextlib.nullcontext()

        def see(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            self.modules["/".join(context.module.path)] = context.module
            return call(*args, **kwargs)

        return linen.intercept_methods(see)

    def add(self, apply: Callable[..., Any], params: Any) -> None:
        """See what a function refers to, then what its parameters hold."""
        for root in (*_roots(apply), params):
            for path, module in _objects(root, "", set(), params):
                self.modules.setdefault(path, module)


def _roots(apply: Any) -> Iterator[Any]:
    """Objects that a function refers to."""
    if isinstance(apply, functools.partial):
        yield from (*apply.args, *apply.keywords.values())
        yield from _roots(apply.func)
    elif inspect.ismethod(apply):
        yield apply.__self__
    elif inspect.isfunction(apply):
        names = inspect.getclosurevars(apply)
        yield from (*names.nonlocals.values(), *names.globals.values())
    else:
        yield apply


def _objects(node: Any, path: str, seen: set[int], params: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, _loaded("flax.nnx", "GraphDef")):
        with contextlib.suppress(Exception):  # of another model than that of these parameters
            node = sys.modules["flax.nnx"].merge(node, params)
    if id(node) in seen or isinstance(node, (type, _loaded("flax.linen", "Module"))):
        return
    seen.add(id(node))
    if isinstance(node, dict):
        parts = node.items()
    elif isinstance(node, (list, tuple)):
        parts = enumerate(node)
    elif isinstance(node, (_loaded("equinox", "Module"), _loaded("flax.nnx", "Module"))):
        yield path, node
        parts = vars(node).items()
    else:
        return
    for key, part in parts:
        yield from _objects(part, f"{path}/{key}".lstrip("/"), seen, params)


def _values(module: Any) -> dict[str, Any]:
    """Fields that are numbers or tuples of them."""
    names = [f.name for f in dataclasses.fields(module)] if dataclasses.is_dataclass(module) else []
    found = {name: getattr(module, name, None) for name in dict.fromkeys([*names, *vars(module)])}
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    many = lambda x: isinstance(x, (list, tuple)) and x and all(map(number, x))
    return {name: value for name, value in found.items() if number(value) or many(value)}


def _own(path: str, name: str, count: int, sizes: Growth) -> list[Any] | None:
    """Old and new lengths of the axes of a kernel that a field tells; None where it tells none."""
    ends, first = _OWN.get(name, ((), 0))
    for leaf, (old, new) in sizes.under(path).items():
        if any(f"/{leaf}".endswith(f"/{path}/{end}".replace("//", "/")) for end in ends):
            start = len(old) - count if first is None else first
            return list(zip(old, new, strict=True))[start : start + count]
    return None


def _expected(path: str, name: str, value: Any, sizes: Growth) -> Any:
    """What a field that holds an old size should hold; the same where it is right or unclear."""
    many = list(value) if isinstance(value, (list, tuple)) else [value]
    own = _own(path, name, len(many), sizes)
    if own is not None:
        right = [n if m == v else v for v, (m, n) in zip(many, own, strict=True)]
    else:
        shapes = sizes.under(path).values()
        lengths = [pair for old, new in shapes for pair in zip(old, new, strict=True)]
        stay = {m for m, n in lengths if m == n}
        changed = sizes.changed(path)
        found = [sorted(n for m, n in changed if m == v and v not in stay) for v in many]
        right = [f[0] if len(f) == 1 else v for v, f in zip(many, found, strict=True)]
    return type(value)(right) if isinstance(value, (list, tuple)) else right[0]


def _eps(path: str, sizes: Growth) -> float | None:
    """The factor of a norm's eps, from its gain."""
    inside = sizes.under(path)
    gains = [name for name in sizes.shares if name in inside and len(inside) <= 2]
    return sizes.shares[gains[0]][2] if gains else None


def unchanged(old: dict[str, Any], new: dict[str, Any], sizes: Growth, agree: bool) -> list[str]:
    """Fields that hold the same old size in both models.

    Args:
      old: modules of the old model by path.
      new: of the new model.
      sizes: what changed.
      agree: whether outputs agree; then sizes are right, and eps alone is looked at.

    Returns:
      `"path: field=value, expected value (type)"`.
    """
    notes = []
    for path in (path for path in new if type(old.get(path)) is type(new[path])):
        before, after = _values(old[path]), _values(new[path])
        for name, value in after.items():
            if before.get(name) != value:
                continue
            factor = _eps(path, sizes) if "eps" in name else None
            if factor is not None:
                right = float(f"{value * factor:.6g}")
            else:
                right = value if agree else _expected(path, name, value, sizes)
            if right != value:
                kind = type(new[path]).__name__
                notes.append(f"{path or kind}: {name}={value}, expected {right} ({kind})")
    return notes
