"""An evolution in two processes: what one gives, and what happens when one is killed."""

import os
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest

SCRIPT = """
import os, pathlib, signal, sys, time
from wslax import population

process = population.start(heartbeat=10)
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from wslax import WeightSpaceError, evolve, io

folder, die_at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
x = np.linspace(-1, 1, 16, dtype=np.float32)


def init(key):
    return {"w": jax.random.normal(key, (3, 8)), "key": key}


def error(params):
    hidden = jnp.tanh(x[:, None] * params["w"][:1] + params["w"][1:2])
    return jnp.square(hidden @ params["w"][2] - jnp.sin(3 * x)).mean()


def die(generation, state, info):
    if process == 1 and generation == die_at:
        (folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ("population",), axis_types=auto)
first = population.shard(population.init(init, 0, 16), mesh)
shapes, gather = [], multihost_utils.process_allgather
multihost_utils.process_allgather = lambda x, **how: shapes.append(x.shape) or gather(x, **how)
end = evolve.run(
    evolve.genome(mutation_rate=0.5, gene_rate=0.3, sigma=0.1),
    first,
    lambda members: population.evaluate(error, members),
    key=0, generations=4, direction="minimize", folder=folder / "run", resume=True, on_segment=die,
)
gathered, members, refused = len(shapes), sum(shape[-2:] == (3, 8) for shape in shapes), ""
try:
    io.save(end.members, folder / "members.safetensors")
except WeightSpaceError as error:
    refused = str(error)
last, history = population.host(end.members), end.history
if process == 0:
    np.savez(folder / "end.npz", **last.params, ids=last.ids, fitness=last.fitness,
             parents=history.parents, devices=jax.device_count(), evaluated=end.evaluations,
             gathered=gathered, members=members, refused=refused)
    print("done in", jax.process_count())
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "evolving.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def alone(script):
    """The end of the script in this process, on its four devices."""
    folder = script.parent / "alone"
    folder.mkdir()
    arguments, sys.argv = sys.argv, [str(script), str(folder), "0"]
    try:
        runpy.run_path(str(script))
    finally:
        sys.argv = arguments
    return dict(np.load(folder / "end.npz"))


def launch(script, folder, die_at, cache):
    command = [sys.executable, "-m", "wslax.population.launch", "--processes", "2"]
    command += ["--devices", "4", str(script), str(folder), str(die_at)]
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    own = {"JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": fast}
    own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    env = {**os.environ, **own}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    return done, time.time()


def test_a_killed_process_fails_the_job_and_a_restart_ends_like_one_process(
    script, alone, tmp_path, pytestconfig
):
    cache = pytestconfig.cache.mkdir("jax")
    done, ended = launch(script, tmp_path, 2, cache)
    assert done.returncode == 1
    assert done.stderr.startswith("launch: process 1 of 2 was killed by SIGKILL")
    assert done.stderr.count("launch:") == 1
    assert "Traceback" not in done.stderr
    assert ended - float((tmp_path / "killed").read_text()) < 60
    assert not (tmp_path / "end.npz").exists()

    done, _ = launch(script, tmp_path, 0, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done in 2\n")  # Gloo talks before
    two = dict(np.load(tmp_path / "end.npz"))
    assert two["devices"] == 8
    assert two["evaluated"] < alone["evaluated"]
    np.testing.assert_array_equal(two["key"], alone["key"])
    np.testing.assert_array_equal(two["parents"], alone["parents"])
    np.testing.assert_array_equal(two["ids"], alone["ids"])
    for name in ("w", "fitness"):
        np.testing.assert_allclose(two[name], alone[name], rtol=1e-5, atol=1e-6)
    # Numbers of members are brought together, members never: they lie on the disk in two parts.
    assert two["gathered"] > 0
    assert two["members"] == 0
    parts = (tmp_path / "run" / "evolution-4.orbax").glob("ocdbt.process_*/d/*")
    largest = dict.fromkeys(("ocdbt.process_0", "ocdbt.process_1"), 0)  # the others are indices
    for part in parts:
        largest[part.parts[-3]] = max(largest[part.parts[-3]], part.stat().st_size)
    assert all(0.4 * two["w"].nbytes < size < two["w"].nbytes for size in largest.values())
    assert "params/key: is spread over several processes" in str(two["refused"])
    assert not (tmp_path / "members.safetensors").exists()
