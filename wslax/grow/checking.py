"""`check`: whether the new-size model computes what the old one did, and which number keeps it."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax.edit import Edit
from wslax.grow import constants, fields
from wslax.grow.sizes import Growth, growth
from wslax.trace.model import Model, traced
from wslax.typing import Params

_HERE = str(Path(__file__).parents[1])


class Checked(NamedTuple):
    """What `check` found.

    Attributes:
      difference: the largest output difference as a share of the old outputs' largest magnitude;
        None where the new model does not run.
      notes: one sentence for each number or leaf that does not fit the new size.
      ok: whether the outputs agree in half of their digits and nothing is noted.
    """

    difference: float | None
    notes: tuple[str, ...]
    ok: bool

    def __str__(self) -> str:
        """Text for people: the outputs, then one line a note."""
        if self.difference is None:
            first = "the new model does not run"
        else:
            first = f"outputs differ by {self.difference:.2g} of the largest"
        if not self.ok and not self.notes:
            first += "; no number of an old size was found: does the edit keep the function?"
        return "\n".join([first, *(f"- {note}" for note in self.notes)])


def _difference(old: Any, new: Any) -> tuple[float, bool]:
    """How far outputs are apart, and whether they agree in half of their digits."""
    worst, agree = 0.0, True
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return float("inf"), False
        inexact = jnp.issubdtype(a.dtype, jnp.inexact)
        half = float(jnp.finfo(a.dtype).eps) ** 0.5 if inexact else 0.0
        wide = np.complex128 if jnp.iscomplexobj(a) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        scale = np.abs(a).max(initial=0.0)
        apart = float(np.abs(a - b).max(initial=0.0) / (scale if scale > 0 else 1.0))
        worst, agree = np.maximum(worst, apart), agree and apart <= half
    return float(worst), agree


def _raised(error: Exception) -> str | None:
    """`"file.py:12 (function)"`: the user's line that raised."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename and not frame.filename.startswith(_HERE)
    ]
    if not frames:
        return None
    file = frames[-1].filename.replace("\\", "/").rpartition("/")[2]
    return f"{file}:{frames[-1].lineno} ({frames[-1].name})"


def _unread(old: Model, new: Model) -> list[str]:
    """Leaves that only the old model reads, or that are new and not read."""
    reads = [constants.read(m.program, list(m.leaves)) for m in (old, new)]
    return [
        f"{name}: the new model does not read this leaf"
        for name in new.leaves
        if name not in reads[1] and (name in reads[0] or name not in old.leaves)
    ]


def _why_not(error: Exception, old: Model, sizes: Growth) -> list[str]:
    """Where the new model failed, and the sizes in the old program that may be why."""
    line = _raised(error)
    text = str(error).strip().partition("\n")[0][:200]
    said = f"{line or 'the new model'}: fails: {type(error).__name__}: {text}"
    return [said, *constants.suspects(old.program, sizes, line)]


def check(
    old_apply: Callable[..., Any],
    new_apply: Callable[..., Any],
    edit: Edit,
    params: Params,
    *inputs: Any,
) -> Checked:
    r"""Whether a model built for the new size computes what the old one did; if not, why.

    An edit changes weights; head counts, numbers of groups, reshapes, scales and eps stand in the
    model. Both models are run, \(\max|f(\theta) - f'(\theta')| / \max|f(\theta)|\), and traced, and
    their programs are compared operation by operation. Noted with the model's line are

    - the sizes of a reshape, a split or the end of a slice that stayed where what they cut grew;
    - a number a sum is divided by, or a product of activations is scaled by, that is the old
      width or the root of it;
    - the eps of a norm whose gain the edit shrank (LEMON with a remainder): the mean of squares
      became smaller by a factor, and eps has to become so too;
    - leaves that the new model leaves unread, such as blocks that it does not run.

    Where the new model fails or its outputs differ, the fields of its modules are named that still
    hold an old size: of Flax modules as they run, of Equinox and nnx modules in `params` or in what
    the functions refer to. What another size of the same value makes unclear is left out.

    Args:
      old_apply: `(params, *inputs) -> outputs` of the old size.
      new_apply: the same of the new size.
      edit: between them.
      params: the old parameters. Layers at zero prove nothing: what they would multiply is not
        compared, though still traced.
      *inputs: arrays.

    Returns:
      `Checked(difference, notes, ok)`; print it.

    Raises:
      Exception: what `old_apply` or the edit raises; what `new_apply` raises becomes a note.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> def model(width):
        ...     return lambda p, x: (x @ p["w"]).sum(-1) / width
        >>> params = {"w": jnp.ones((3, 4))}
        >>> twice = lambda x: jnp.concatenate([x, x], -1)
        >>> edit = ws.edit.from_map(lambda p: jax.tree.map(twice, p))
        >>> ws.grow.check(model(4), model(8), edit, params, jnp.ones((2, 3))).ok
        True
        >>> print(ws.grow.check(model(4), model(4), edit, params, jnp.ones((2, 3))))
        outputs differ by 1 of the largest
        - ... (<lambda>): div by 4, expected 8
    """
    new_params = edit.apply(params)
    ran_old, ran_new = fields.Seen(), fields.Seen()
    with ran_old.watching():
        traced(old_apply, params, inputs)
    old = traced(old_apply, params, inputs)  # apart: those who watch stand among its lines
    sizes = growth(old_apply, params, inputs, edit.groups, new_params)
    expected = old_apply(params, *inputs)
    difference, agree, notes = None, False, []
    try:
        with ran_new.watching():
            traced(new_apply, new_params, inputs)
        new = traced(new_apply, new_params, inputs)
        difference, agree = _difference(expected, new_apply(new_params, *inputs))
        notes = [*constants.unchanged(old.program, new.program, sizes), *_unread(old, new)]
    except Exception as error:
        notes = _why_not(error, old, sizes)
    ran_old.add(old_apply, params)
    ran_new.add(new_apply, new_params)
    notes += fields.unchanged(ran_old.modules, ran_new.modules, sizes, agree)
    notes = list(dict.fromkeys(notes))
    return Checked(difference, tuple(notes), agree and not notes)
