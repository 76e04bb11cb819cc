"""Mixtures of experts from dense checkpoints on disk."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.merge.mixture.build import Mixed as Mixed
    from wslax.merge.mixture.build import mixture as mixture
    from wslax.merge.mixture.recipe import Expert as Expert
    from wslax.merge.mixture.recipe import MixtureRecipe as MixtureRecipe
    from wslax.merge.mixture.recipe import parse_mixture as parse_mixture

__getattr__, __all__ = attach(
    __name__,
    {
        "Mixed": "wslax.merge.mixture.build",
        "mixture": "wslax.merge.mixture.build",
        "Expert": "wslax.merge.mixture.recipe",
        "MixtureRecipe": "wslax.merge.mixture.recipe",
        "parse_mixture": "wslax.merge.mixture.recipe",
    },
)
