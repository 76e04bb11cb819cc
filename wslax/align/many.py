"""Many models at once, each aligned to the mean of the others."""

import jax
import jax.numpy as jnp

from wslax.align.compose import after, identity
from wslax.align.similarity import float_leaves
from wslax.align.weights import Leaves, Order, matched
from wslax.errors import WeightSpaceError
from wslax.population import member, size
from wslax.symmetry.actions import permute
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Population

State = tuple[Leaves, Array, Order, Array]  # members, which count, their orders, did one move


def match_many(population: Population, groups: Groups, *, key: Key, iterations: int = 10) -> Order:
    """Permutations that bring the members of a population near to their mean.

    Git Re-Basin's MergeMany (Ainsworth, Hayase and Srinivasa, arXiv:2209.04836, algorithm 3): each
    member in turn, in an order drawn anew in each pass, is matched to the mean of the others, until
    a pass moves none. In the first pass, unlike there, the mean is of the members visited before:
    the mean of models in different orders says little.

    Args:
      population: leaves `[N, ...]`.
      groups: of one member.
      key: draws the orders of members and of groups.
      iterations: most passes over the members; 10, the paper names none.

    Returns:
      Group id to int32 `[N, *sizes of per, size]`:
      `jax.vmap(lambda m, p: symmetry.permute(m, groups, p))(population, orders)` is the aligned
      population.

    Raises:
      WeightSpaceError: if there are fewer than two members, no group is free, or the groups do not
        fit a member.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> population = {"in": jnp.array([[[1.0, 2.0]], [[2.0, 1.0]]]), "out": jnp.ones((2, 2, 1))}
        >>> groups = ws.symmetry.infer(apply, ws.population.member(population, 0), jnp.ones((1, 1)))
        >>> orders = match_many(population, groups, key=jax.random.key(0))[0]
        >>> sorted(orders.tolist())
        [[0, 1], [1, 0]]
    """
    count = size(population)
    if count < 2:
        raise WeightSpaceError(f"population: expected two or more members, got {count}")
    if not groups.free:
        raise WeightSpaceError("no group is free; `groups.table()` says what froze them")
    found = locate(member(population, 0), groups)
    members = float_leaves(population, found)
    orders = {id: jnp.broadcast_to(p, (count, *p.shape)) for id, p in identity(groups).items()}

    def align(i: Array, key: Key, state: State) -> State:
        members, seen, orders, moved = state
        here = jnp.arange(count) == i
        others = seen & ~here
        own = {name: leaf[i] for name, leaf in members.items()}
        share = others / jnp.maximum(others.sum(), 1)
        mean = {
            name: jnp.tensordot(share.astype(leaf.dtype), leaf, 1) for name, leaf in members.items()
        }
        order = matched(mean, own, groups, key, 100)
        new = permute(own, groups, order)
        changed = [(p != jnp.arange(p.shape[-1])).any() for p in order.values()]
        members = {name: leaf.at[i].set(new[name]) for name, leaf in members.items()}
        own_order = after(groups, {id: p[i] for id, p in orders.items()}, order)
        orders = {id: p.at[i].set(own_order[id]) for id, p in orders.items()}
        return members, seen | here, orders, moved | jnp.stack(changed).any()

    def one_pass(state: tuple[Array, State]) -> tuple[Array, State]:
        at, (members, seen, orders, _) = state
        draw, inner = jax.random.split(jax.random.fold_in(key, at))
        visits = jax.random.permutation(draw, count)

        def body(k: Array, state: State) -> State:
            return align(visits[k], jax.random.fold_in(inner, k), state)

        begin = (members, seen, orders, jnp.array(False))
        return at + 1, jax.lax.fori_loop(0, count, body, begin)

    begin = (jnp.int32(0), (members, jnp.zeros(count, bool), orders, jnp.array(True)))
    going = lambda state: (state[0] < iterations) & state[1][3]
    return jax.lax.while_loop(going, one_pass, begin)[1][2]
