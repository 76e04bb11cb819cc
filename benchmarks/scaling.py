"""What travels between devices in a generation, and weak scaling over processes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.runner import Row

TITLE = "A generation over devices"
ABOUT = """
Rows (whole members) that pass through each device's links in the fourth generation of GENOME at its
default rates, counted from the parents and survivors that were drawn: rows of a message times
messages, filling up included. An all-gather of the population brings each device all the rows that
it does not hold. Weak scaling: 8 members of 0.26 M float32 parameters for each of 4 virtual CPU
devices in one process, and the same for each of 8 in two processes, which share the cores of one
machine: twice the work on the same cores, so 2 x is what perfect scaling would measure there.
"""
SPREADS = ((64, 8), (1000, 50), (10_000, 125))
PER_DEVICE, WIDTH, GENERATIONS = 8, 512, 5


def wanted(before: Any, info: Any, ring: int) -> Iterator[tuple[np.ndarray, int]]:
    """The index vectors of a generation's four exchanges, and how many rows each takes from."""
    ids, parents = np.asarray(before.members.ids), np.asarray(info.parents)
    n, total = len(ids), len(parents)
    room = -(-total // ring) * ring
    order = np.argsort(ids)
    first = int(before.next_id)
    of_child = parents[:, 0] >= first
    crossed = parents[:, 0] != parents[:, 1]

    def slots(rows: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(ids[order], rows)]

    couples, lone, again = (np.full(shape, -1) for shape in ((room, 2), room, room))
    couples[:total][crossed] = slots(parents[crossed])
    lone[:total][~crossed & ~of_child] = slots(parents[~crossed & ~of_child, 0])
    again[:total][of_child] = parents[of_child, 0] - first
    stay, placed = np.asarray(info.slots), np.full(n, -1)
    placed[stay[stay >= 0]] = np.flatnonzero(stay >= 0)
    yield from ((couples.ravel(), n), (lone, n), (again, room), (placed, room))


def rows_moved(n: int, ring: int, seed: int) -> int:
    """Rows through a device's links in the fourth generation; members of one number."""
    import jax
    import jax.numpy as jnp

    from wslax import evolve
    from wslax.population.ring import moved

    strategy = evolve.genome()
    members = {"w": jax.random.normal(jax.random.key(seed), (n,))}
    state = strategy.init(seed, members, members["w"])
    for g in range(4):
        key = jax.random.fold_in(jax.random.key(seed), g)
        before = state
        children, state = strategy.ask(key, state)
        state, info = strategy.tell(key, state, children, jnp.asarray(children["w"]))
    return sum(moved(index, held, ring) for index, held in wanted(before, info, ring))


def worker() -> None:
    """Seconds of a generation over all devices of all processes, printed by process 0."""
    from wslax import population

    process = population.start()
    import jax
    import jax.numpy as jnp

    from wslax import evolve

    ring = jax.device_count()
    mesh = jax.make_mesh((ring,), ("population",), axis_types=(jax.sharding.AxisType.Auto,))
    init = lambda key: {"w": jax.random.normal(key, (WIDTH, WIDTH))}
    members = population.shard(population.init(init, 0, PER_DEVICE * ring), mesh)
    strategy = evolve.genome()
    score = lambda member: jnp.square(member["w"]).mean()
    begin = [0.0]
    evolve.run(
        strategy, members, lambda members: population.evaluate(score, members), key=0,
        generations=1 + GENERATIONS, direction="minimize",
        on_segment=lambda *_: begin.append(time.perf_counter()),
    )  # fmt: skip
    if process == 0:
        print(json.dumps((begin[-1] - begin[1]) / GENERATIONS))


def seconds(processes: int) -> float:
    start = f'launch(["-m", "benchmarks.scaling"], processes={processes}, devices=4)'
    command = [sys.executable, "-c", f"from wslax.population.launch import launch; exit({start})"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(repeats: int) -> list[Row]:
    rows = []
    for n, ring in SPREADS:
        found = [rows_moved(n, ring, seed) for seed in range(repeats)]
        gathered, what = n - n // ring, f"{n:,} members over {ring} devices"
        rows += [
            Row(f"{what}: rows moved", found, "rows"),
            Row(f"{what}: rows moved over an all-gather's", [f / gathered for f in found], "x"),
        ]
    times = [(seconds(1), seconds(2)) for _ in range(repeats)]
    return [
        *rows,
        Row("one process of 4 devices, 32 members: a generation", [a for a, _ in times], "s"),
        Row("two processes, 64 members, over one", [b / a for a, b in times], "x"),
    ]


if __name__ == "__main__":
    worker()
