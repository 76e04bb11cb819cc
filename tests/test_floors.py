"""The floors of docs/design.md: who may import whom, and what an import may cost."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys

SPEC = importlib.util.find_spec("wslax")
ROOT = pathlib.Path(SPEC.origin).parent
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "design.md"
PRIVATE = {"_lazy": None, "_linen": "nets"}  # the ground under all, and a part of another module


def floors():
    """Module to floor, the highest first, as the page draws them; notes stand after wide gaps."""
    picture = re.search(r"## Floors.*?```text\n(.*?)```", PAGE.read_text(), re.S).group(1)
    rows = [re.split(r" {3,}", line)[0].split() for line in picture.strip().splitlines()]
    return {name: len(rows) - i for i, row in enumerate(rows) for name in row}


def part(module):
    """`"wslax.merge.files.plan"` to `"merge"`; None for the package itself and its version."""
    words = module.split(".")
    return words[1] if len(words) > 1 else None


def imports(file):
    """Modules of wslax that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "wslax")
        elif isinstance(node, ast.ImportFrom) and node.module == "wslax":
            for alias in node.names:
                if alias.name != "__version__":
                    yield f"wslax.{alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "wslax":
            yield node.module


FILES = sorted(ROOT.rglob("*.py"))


def test_every_module_has_a_floor():
    found = {file.relative_to(ROOT).with_suffix("").parts[0] for file in FILES}
    assert found - {"__init__", "__main__"} - set(PRIVATE) == set(floors())


def test_imports_go_down():
    level, wrong = floors(), []
    for file in FILES:
        name = file.relative_to(ROOT).with_suffix("").parts[0]
        if name in ("__init__", "__main__", "_lazy"):
            continue
        home = PRIVATE.get(name, name)
        for module in imports(file):
            target = PRIVATE.get(part(module), part(module))
            if target not in (None, home) and level[target] >= level[home]:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_only_the_shell_is_above_the_recipes():
    """What a user imports never pulls in the command line, the page or the recipes."""
    below = [f for f in FILES if f.relative_to(ROOT).parts[0] not in ("cli", "report", "recipes")]
    for file in below:
        if file.name != "__main__.py":
            assert not {"cli", "report", "recipes"} & {part(module) for module in imports(file)}


def loaded(script, *packages):
    """Which packages a fresh interpreter has loaded after a script."""
    probe = f"{script}\nimport sys; print(*[p for p in {packages} if p in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", probe], check=True, capture_output=True, text=True
    )
    return out.stdout.split()


JAX_FREE = [
    "errors", "globs", "random", "io", "io.reader", "io.writer", "io.files", "io.convert",
    "io.lora", "io.dequantise", "adapt.extraction", "merge", "merge.registry", "merge.files.config",
    "merge.files.resolve", "merge.files.plan", "merge.files.stream", "merge.files.disk",
    "merge.mixture.build", "numerics.streaming", "data", "cli", "cli.diff", "cli.extract_lora",
    "cli.moe", "recipes.config", "recipes.folder",
]  # fmt: skip


def test_what_needs_no_jax_imports_none():
    script = "\n".join(f"import wslax.{module}" for module in JAX_FREE)
    assert loaded(script, "jax", "flax", "optax", "orbax", "matplotlib") == []


def test_using_the_library_imports_nothing_heavy_beyond_jax():
    script = (
        "import wslax as ws; ws.merge.ties, ws.evolve.genome, ws.grow.widen, ws.select.lift;"
        "ws.population.train, ws.nets.mlp, ws.symmetry.Groups, ws.numerics.lowrank, ws.edit, ws.io"
    )
    heavy = ("flax", "orbax", "matplotlib", "rich", "pydantic", "sklearn", "torch", "cyclopts")
    assert loaded(script, *heavy) == []


def test_importing_the_library_costs_next_to_nothing():
    """Less than 0.3 s beyond `import jax`; it is 2 ms, so a busy machine does not matter."""
    script = (
        "import time, jax; begin = time.perf_counter(); "
        "import wslax; print(time.perf_counter() - begin)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout)
        for _ in range(2)
    ]
    assert min(seconds) < 0.3
