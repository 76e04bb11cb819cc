"""What a kind of PEFT's adapters is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wslax.adapter import Adapter

Config = Mapping[str, Any]
Arrays = Mapping[str, Any]
Shape = tuple[int, ...]


class Module(NamedTuple):
    """The adapter of one module.

    Attributes:
      make: makes the adapter.
      settings: its arguments beside `where` and `groups`, hashable.
      train: its trained part.
      fixed: its fixed part; None for the one that `init` makes of the base.
      bias: what is added to the module's bias.
    """

    make: Callable[..., Adapter]
    settings: tuple[tuple[str, Any], ...]
    train: Arrays
    fixed: Arrays | None
    bias: Any = None


Read = Callable[[Config, str, Arrays, Shape], Module]
Implied = Callable[[Config, Mapping[str, Arrays]], dict[str, Any]]
Write = Callable[[Config, str, Arrays, Arrays, Shape], dict[str, Any]]


class Kind(NamedTuple):
    """A kind of adapter of PEFT.

    Attributes:
      read: `(config, module, parts, shape) -> Module`, the shape being `[in, out]`.
      write: `(config, module, train, fixed, shape) -> parts`, the way back.
      parts: how the names of its tensors end, one tuple for each set that may stand together.
      fields: of the configuration that it has beside those of all kinds.
      implied: `(config, {module: parts}) -> fields` that the tensors imply and nobody has given.
      always: fields as they have to be of what is written.
      shared: parts that all modules share, each as large as the largest needs it.
    """

    read: Read
    write: Write
    parts: tuple[tuple[str, ...], ...]
    fields: str
    implied: Implied = lambda config, modules: {}
    always: tuple[tuple[str, Any], ...] = ()
    shared: tuple[str, ...] = ()


# How many axes a part has where it is no matrix.
AXES = {
    "lora_B.bias": (1,), "lora_magnitude_vector": (1,), "boft_R": (4,), "vera_lambda_b": (1,),
    "vera_lambda_d": (1,), "shira_weight": (1,), "miss_block": (2, 3), "bone_block": (2, 3),
}  # fmt: skip
