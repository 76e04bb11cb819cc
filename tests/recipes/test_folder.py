"""Output folders: what is claimed, taken up and refused."""

import pytest

from wslax.errors import WeightSpaceError
from wslax.recipes import folder, store


def test_claims_new_and_empty_folders(tmp_path):
    for out in (tmp_path / "new" / "deep", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        folder.begin(out, "tour", {"seed": 1}, command="wslax run")
        assert folder.begun(out)["config"] == {"seed": 1}
        assert folder.begun(out)["command"] == "wslax run"
        assert folder.finished(out) is None


def test_a_kill_while_claiming_leaves_a_free_folder(tmp_path):
    (tmp_path / "run.json.partial").write_text("{")
    folder.begin(tmp_path, "tour", {})


def test_refuses_what_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WeightSpaceError, match="holds files that are no run"):
        folder.begin(tmp_path, "tour", {})
    with pytest.raises(WeightSpaceError, match="holds files that are no run"):
        folder.begin(tmp_path, "tour", {}, resume=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(WeightSpaceError, match="cannot be read"):
        folder.begin(tmp_path, "tour", {})


def test_refuses_an_unfinished_run_without_resume(tmp_path):
    folder.begin(tmp_path, "tour", {"seed": 1})
    with pytest.raises(WeightSpaceError, match="holds an unfinished run; go on with --resume"):
        folder.begin(tmp_path, "tour", {"seed": 1})
    folder.begin(tmp_path, "tour", {"seed": 1}, resume=True)


def test_refuses_to_resume_with_other_settings_or_versions(tmp_path, monkeypatch):
    folder.begin(tmp_path, "tour", {"seed": 1})
    with pytest.raises(WeightSpaceError, match=r"config\.seed is 1 there and 2 here"):
        folder.begin(tmp_path, "tour", {"seed": 2}, resume=True)
    monkeypatch.setattr(folder, "versions", lambda: {"jax": "99"})
    with pytest.raises(WeightSpaceError, match=r"versions\.jax is .* there and 99 here"):
        folder.begin(tmp_path, "tour", {"seed": 1}, resume=True)


def test_stores(tmp_path):
    import numpy as np

    kept = store.in_folder(tmp_path / "state")
    assert kept.read("a", None) is None
    tree = {"w": np.arange(3.0, dtype=np.float32)}
    kept.write("a", tree, {"step": 1})
    kept.write("a", tree, {"step": 2, "seen": [[0.1]]})
    found, notes = kept.read("a", tree)
    np.testing.assert_array_equal(found["w"], tree["w"])
    assert notes == {"step": 2, "seen": [[0.1]]}
    none = store.nowhere()
    none.write("a", tree, {})
    assert none.read("a", None) is None
