"""A small evolution with a checkpoint a generation, in one process or in many."""

import os
import pathlib
import signal
import sys

from wslax import population

process = population.start(heartbeat=10)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from wslax import evolve, nets

folder, die_at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
KEY, N, GENERATIONS = 0, 16, 4
net = nets.mlp(3, (4,), 1)
x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def error(params, x):
    return jnp.square(net.apply(params, x)[:, 0] - jnp.sin(x[:, 0])).mean()


def judge(members):
    return population.evaluate(error, members, x)


def save(generation, state, info):
    leaves = population.host(jax.tree.leaves(state))
    if process == 0:
        np.savez(folder / "partial.npz", *leaves, generation=generation)
        os.replace(folder / "partial.npz", folder / "state.npz")
    if process == 1 and generation == die_at:
        os.kill(os.getpid(), signal.SIGKILL)


mesh = jax.make_mesh((8,), ("population",), axis_types=(AxisType.Auto,))
strategy = evolve.genome(mutation_rate=0.5, gene_rate=0.2, sigma=0.1)
members = population.shard(population.init(net.init, KEY, N), mesh)
begin = {"population": members}
if (folder / "state.npz").exists():
    with jax.set_mesh(mesh):
        state = strategy.init(KEY, members, jnp.zeros(N))
    with np.load(folder / "state.npz") as stored:
        leaves, treedef = jax.tree.flatten(state)
        placed = [
            jax.device_put(stored[f"arr_{i}"], leaf.sharding) for i, leaf in enumerate(leaves)
        ]
        begin = {"population": None, "start": int(stored["generation"])}
        begin["state"] = treedef.unflatten(placed)
end = evolve.run(
    strategy, **begin, evaluate=judge, key=KEY, generations=GENERATIONS, direction="minimize",
    on_generation=save,
)  # fmt: skip
last = population.host(jax.tree.leaves(end.members))
if process == 0:
    np.savez(folder / "end.npz", *last, first=end.generation - len(end.history.best))
