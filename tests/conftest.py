"""Test set-up: strict JAX, four virtual CPU devices, annotations checked while tests run."""

import importlib.metadata
import itertools
import os
import pathlib
import platform

# Most of the suite's time is compiling small programs that run once: LLVM need not polish them.
FLAGS = [
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
# The older of XLA's ways to emit a fused loop takes half the time; later versions lack it. Whether
# it fuses a product with a sum depends on the program: without such an instruction bits are equal.
if importlib.metadata.version("jaxlib").startswith("0.10.") and platform.machine() == "x86_64":
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_max_isa=AVX"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxtyping

# Before any import of wslax, so that its aliases are the checked ones.
_hook = jaxtyping.install_import_hook("wslax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")


# Compiled programs are mapped memory, of which Linux grants a process 65,530 pieces.
MAPS, MOST_MAPS = pathlib.Path("/proc/self/maps"), 25_000
_tests = itertools.count(1)


def pytest_runtest_teardown(item):
    if next(_tests) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


def pytest_configure(config):
    cache = getattr(config, "cache", None)  # -p no:cacheprovider
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
