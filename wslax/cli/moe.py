"""`wslax moe`: dense checkpoints as one mixture of experts."""

import json
import pathlib
from typing import Annotated

from cyclopts import Parameter

from wslax.cli.show import size
from wslax.merge.mixture import mixture


def moe(
    config: pathlib.Path,
    out: str,
    *,
    seed: int = 0,
    shard_bytes: int | None = None,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Make a mixture of experts of dense checkpoints: attention and norms of one, MLPs of all.

    Recipes are mergekit-moe's YAML: base_model, experts, gate_mode (random, uniform_random,
    cheap_embed, or vectors), experts_per_token, shared_experts, architecture, dtype.

    Args:
      config: the recipe.
      out: a new or empty folder.
      seed: of routers that are drawn, and of noise.
      shard_bytes: greatest file of the output, in bytes.
      json_: print JSON.
    """
    made = mixture(config, out, seed=seed, shard_bytes=shard_bytes)
    if json_:
        print(json.dumps(made._asdict(), indent=2))
        return
    print(f"{made.out}  {made.architecture}, {made.tensors} tensors, {size(made.written)}")
    if made.condition > 5:
        print(
            f"the router's rows are alike (condition number {made.condition:.1f}): some experts "
            "will see few tokens"
        )
