"""`wslax run`: options, folders, errors, and the whole command once."""

import html
import json
import re

import pytest
import yaml

from wslax.cli import main
from wslax.recipes.result import Estimate, text
from wslax.recipes.tour import PRESETS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(PRESETS["tiny"]))))
    return str(file)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    assert main(["run", "--config", tiny, "--seed", "0", "--out", str(out)]) == 0
    return out


def test_writes_page_results_and_models(finished):
    assert {path.name for path in finished.iterdir()} == {
        "models", "report.html", "results.json", "run.json",
    }  # fmt: skip
    assert (finished / "models" / "trained.orbax").is_dir()


def test_the_page_is_small_and_says_what_the_results_say(finished):
    page = (finished / "report.html").read_text("utf-8")
    assert len(page.encode()) < 500_000
    results = json.loads((finished / "results.json").read_text("utf-8"))
    words = html.unescape(page)
    for section in results["sections"]:
        assert section["finding"] in words
        for table in section["tables"]:
            for row in table["rows"]:
                for value, column in zip(row, table["columns"], strict=True):
                    value = Estimate(**value) if isinstance(value, dict) else value
                    assert f">{text(value, column['kind'])}<" in words
    assert re.search(r"wslax run --seed 0 --config \S+ --out", words)
    assert not re.search(r'(?:src|href)="https?:', page)


def test_on_a_finished_folder_it_prints_the_summary(finished, tiny, capsys):
    before = (finished / "results.json").stat().st_mtime_ns
    for given in ([], ["--resume"], ["--config", tiny, "--seed", "0"]):
        assert main(["run", "--out", str(finished), *given]) == 0
        said = capsys.readouterr().out
        assert "best single expert" in said
        assert "report.html" in said
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_a_finished_folder_with_other_settings_is_refused(finished, tiny, capsys):
    assert main(["run", "--out", str(finished), "--config", tiny, "--seed", "1"]) == 2
    assert "holds a finished run: seed is 0 there and 1 here" in capsys.readouterr().err


def begun(tmp_path, **settings):
    import dataclasses

    from wslax.recipes import config, folder
    from wslax.recipes.tour import TourConfig

    parsed = config.parse(TourConfig, {**PRESETS["tiny"], **settings})
    folder.begin(tmp_path, "tour", dataclasses.asdict(parsed))


def test_an_unfinished_folder_needs_resume(tmp_path, tiny, capsys):
    begun(tmp_path)
    assert main(["run", "--out", str(tmp_path), "--config", tiny]) == 2
    assert "holds an unfinished run; go on with --resume" in capsys.readouterr().err


def test_resume_with_other_settings_names_the_key(tmp_path, tiny, capsys):
    begun(tmp_path)
    given = ["--config", tiny, "--seed", "7", "--resume"]
    assert main(["run", "--out", str(tmp_path), *given]) == 2
    assert "config.seed is 0 there and 7 here" in capsys.readouterr().err


def test_a_foreign_folder_is_refused(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("x")
    assert main(["run", "--quick", "--out", str(tmp_path)]) == 2
    assert "holds files that are no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("experts: {stesp: 3}", "experts.stesp: no such key. Did you mean 'steps'?"),
        ("seed: -1", "seed: input should be greater than or equal to 0, got -1"),
        ("[1, 2]", "expected keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_settings_are_usage_errors(tmp_path, capsys, content, said):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    assert main(["run", "--config", str(file), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_a_missing_extra(tmp_path, capsys, monkeypatch):
    assert main(["run", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
    from wslax.cli import run

    monkeypatch.setattr(run, "_NEEDED", ("jinja2", "no_such_package"))
    assert main(["run", "--out", str(tmp_path / "out")]) == 1
    assert 'no_such_package missing: the tour needs pip install "wslax[run]"' in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
