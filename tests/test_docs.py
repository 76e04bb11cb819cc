"""What README and docs say runs: their Python and their commands, in order."""

import json
import pathlib
import re
import runpy
import shlex

import numpy as np
import pytest

from wslax import io
from wslax.cli import app, main

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{name}.md" for name in (
    "index", "getting_started", "concepts", "symmetry", "adding_a_method", "tour", "merging",
    "checkpoints", "growing", "adapting", "evolving", "scaling",
))]  # fmt: skip


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": page}
    import jax

    # The pages are written for users, whose arrays broadcast as numpy's do.
    with jax.numpy_rank_promotion("allow"):
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec"), space)


def commands(page):
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["wslax"]:
                    yield words[1:]


@pytest.fixture
def models(tmp_path, monkeypatch):
    """What the pages speak of, small: three models of one architecture in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("base", "math", "code"):
        names = [f"model.layers.{i}.{part}.weight" for i in range(3) for part in ("mlp", "attn")]
        tree = {name: rng.normal(size=(8, 9)).astype(np.float32) for name in names}
        io.save(tree, tmp_path / "models" / name)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_commands_run(page, models):
    """In order, as a reader types them; of the tour, which takes minutes, the options only."""
    recipe = blocks(page, "yaml") or blocks("docs/getting_started.md", "yaml")
    (models / "recipe.yaml").write_text(recipe[0])
    for words in commands(page):
        function, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert function.__name__ == words[0].replace("-", "_")
        assert words[0] == "run" or main(words) == 0, words


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "docs/design.md", "docs/methods.md"])
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (ROOT / page).read_text()):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            slugs = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize("page", ["growing.md", "methods.md", "scaling.md", "tour.md"])
def test_generated_parts_are_up_to_date(page):
    """`python docs/generated.py` writes them."""
    generated = runpy.run_path(str(ROOT / "docs" / "generated.py"))
    assert generated["page"](page) == (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("name", ["tour", "align", "grow"])
def test_the_notebook_is_its_source(name):
    """`jupytext --to ipynb --update notebooks/NAME.py` writes one from the other."""
    source = (ROOT / "notebooks" / f"{name}.py").read_text()
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
        else:
            assert cell["outputs"] == []
        assert text in source
        source = source[source.index(text) + len(text) :]
    assert re.sub(r"# %%.*", "", source).strip() == ""


def test_every_method_parameter_has_an_option(capsys):
    from wslax.merge.registry import ON_DISK

    assert main(["merge", "--help"]) == 0
    out = capsys.readouterr().out
    for method in ON_DISK.values():
        for param in method.params:
            assert "--" + param.word.replace("_", "-") in out


def test_the_two_commands_are_one_line_each():
    readme = (ROOT / "README.md").read_text()
    assert 'pip install ".[run]" && wslax run\n' in readme
    assert 'pip install ".[test]" && pytest\n' in readme


def test_the_table_of_groups_is_what_the_page_prints(capsys):
    exec(blocks("docs/symmetry.md", "python")[0], {})
    assert capsys.readouterr().out == blocks("docs/symmetry.md", "text")[0]
