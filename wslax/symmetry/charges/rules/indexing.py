"""Indexing with what is computed: along the axes that are cut all changes alike."""

from typing import Any

import numpy as np

from wslax.symmetry.charges.forms import Form, System
from wslax.symmetry.charges.rules.elementwise import Rule


def gather(system: System, eqn: Any, x: Form, index: Form) -> list[Form]:
    """Axes taken whole pass, along the others all changes alike."""
    system.vanish(index)
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, rank = eqn.invars[0].aval.shape, len(eqn.outvars[0].aval.shape)
    gone = (*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ()))
    x = system.even(x, [a for a in range(len(shape)) if a in gone or sizes[a] != shape[a]])
    kept = [a for a in range(len(shape)) if a not in gone]

    def move(array: np.ndarray) -> np.ndarray:
        new = [1] * rank
        for a, source in zip(numbers.offset_dims, kept, strict=True):
            new[a] = array.shape[source]
        return array.reshape(new)

    return [x and {u: move(array) for u, array in x.items()}]


def dynamic_slice(system: System, eqn: Any, x: Form, *starts: Form) -> list[Form]:
    """Along the axes that are cut all changes alike."""
    system.vanish(*starts)
    whole, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    return [system.even(x, [a for a in range(len(whole)) if sizes[a] != whole[a]])]


def dynamic_update_slice(system: System, eqn: Any, x: Form, new: Form, *starts: Form) -> list[Form]:
    """Old and new change alike, and all along the axes that are cut."""
    system.vanish(*starts)
    whole, part = (var.aval.shape for var in eqn.invars[:2])
    cut = [a for a in range(len(whole)) if whole[a] != part[a]]
    return [system.same(system.even(x, cut), system.even(new, cut))]


def scatter(system: System, eqn: Any, x: Form, index: Form, update: Form) -> list[Form]:
    """Old and new change alike, and all along the axes that are not written whole."""
    system.vanish(index)
    numbers = eqn.params["dimension_numbers"]
    shape, part = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    gone = (*numbers.inserted_window_dims, *getattr(numbers, "operand_batching_dims", ()))
    kept = [a for a in range(len(shape)) if a not in gone]
    pairs = zip(numbers.update_window_dims, kept, strict=True)
    whole = {source: a for a, source in pairs if part[a] == shape[source]}
    x = system.even(x, [a for a in range(len(shape)) if a not in whole])
    update = system.even(update, [a for a in range(len(part)) if a not in whole.values()])

    def move(array: np.ndarray) -> np.ndarray:
        return array.reshape(
            [array.shape[whole[a]] if a in whole else 1 for a in range(len(shape))]
        )

    return [system.same(x, update and {u: move(array) for u, array in update.items()})]


RULES: dict[str, Rule] = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), scatter),
}
