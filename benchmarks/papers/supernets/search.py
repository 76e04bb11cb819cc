"""Evolution of architectures: the best within a budget of weights, as one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

import wslax as ws
from wslax.grow.supernet import Space

PARENTS, MUTANTS, CROSSED, ROUNDS, RATE = 8, 16, 16, 8, 0.3


def sizes_of(space: Space, genes: Any) -> dict[int, Any]:
    """Genes `[..., groups]`, places in the choices, as an architecture."""
    return {id: jnp.asarray(sizes)[genes[..., k]] for k, (id, sizes) in enumerate(space.choices)}


def search(key: Any, space: Space, fitness: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The best genes found and their fitness.

    As in the authors' search: the best are parents, mutants change each gene with probability 0.3,
    crossed ones take each gene from one of two parents.
    """
    counts = jnp.asarray([len(sizes) for _, sizes in space.choices])
    any_genes = lambda key, n: jr.randint(key, (n, len(counts)), 0, counts[None])
    score = lambda genes: jax.vmap(lambda one: fitness(sizes_of(space, one)))(genes)

    def turn(carry: Any, key: Any) -> tuple[Any, None]:
        genes, found = carry
        best = ws.evolve.elite(found, PARENTS)
        parents, marks = genes[best], found[best]
        keys = jr.split(key, 5)
        mutants = parents[jr.randint(keys[0], (MUTANTS,), 0, PARENTS)]
        hit = jr.bernoulli(keys[1], RATE, mutants.shape)
        mutants = jnp.where(hit, any_genes(keys[2], MUTANTS), mutants)
        a, b = parents[ws.evolve.pairs(keys[3], PARENTS, CROSSED)].swapaxes(0, 1)
        crossed = jnp.where(jr.bernoulli(keys[4], 0.5, a.shape), a, b)
        children = jnp.concatenate([mutants, crossed])
        return (
            jnp.concatenate([parents, children]),
            jnp.concatenate([marks, score(children)]),
        ), None

    first, rest = jr.split(key)
    genes = any_genes(first, PARENTS + MUTANTS + CROSSED)
    (genes, found), _ = jax.lax.scan(turn, (genes, score(genes)), jr.split(rest, ROUNDS))
    best = jnp.argmax(found)
    return genes[best], found[best]
