"""`wslax convert` and `wslax inspect` as a shell sees them."""

import json
import subprocess
import sys

import numpy as np
import pytest

import wslax as ws
from wslax.cli import main


@pytest.fixture
def source(tmp_path):
    tree = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.array([1, np.nan], np.float32)}
    ws.io.save(tree, tmp_path / "hf", metadata={"note": "x"})
    return tmp_path / "hf"


def test_convert_prints_what_it_did_with_every_tensor(source, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "flax"), "--to", "flax"]) == 0
    out = capsys.readouterr().out
    assert "fc/kernel" in out
    assert "linear" in out
    assert "[3, 2]" in out
    assert ws.io.load(tmp_path / "flax")["fc/kernel"].shape == (3, 2)


def test_convert_with_a_map_prints_json(source, tmp_path, capsys):
    (tmp_path / "map.json").write_text('{"fc.*": "net.*"}')
    argv = ["convert", str(source), str(tmp_path / "x.npz"), "--map", str(tmp_path / "map.json")]
    assert main([*argv, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["target"] for step in steps] == ["net.weight", "net.bias"]
    assert main(argv) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hf", "x.npz"])
def test_inspect_counts_what_is_not_finite(source, tmp_path, capsys, name):
    ws.io.save(ws.io.load(source), tmp_path / "x.npz")
    assert main(["inspect", str(tmp_path / name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tensors"], found["parameters"], found["bytes"]) == (2, 8, 32)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["fc.bias"]["nan"] == 1
    assert rows["fc.bias"]["mean"] == rows["fc.weight"]["absmax"] == 1
    assert main(["inspect", str(tmp_path / name)]) == 0
    assert "2 tensors, 8 numbers, 32 bytes" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / name), "--no-stats"]) == 0
    assert "mean" not in capsys.readouterr().out


def test_a_pickle_is_an_error_without_a_traceback(tmp_path, capsys):
    (tmp_path / "m.bin").write_bytes(b"\x80\x04.")
    for argv in (["inspect", "m.bin"], ["convert", "m.bin", "out"]):
        assert main([argv[0], str(tmp_path / argv[1]), *(str(tmp_path / a) for a in argv[2:])]) == 1
        assert "wslax never does" in capsys.readouterr().err
    assert main(["convert", "a", "b", "--to", "tf"]) == 2


@pytest.mark.parametrize("command", [["methods", "--json"], ["methods"], ["--help"]])
def test_a_reader_that_goes_away_is_no_traceback(command):
    process = subprocess.Popen(
        [sys.executable, "-m", "wslax", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_inspect_shows_the_groups_of_built_in_nets(capsys):
    assert main(["inspect", "mlp", "--groups"]) == 0
    out = capsys.readouterr().out
    assert "hidden_0/kernel[1] produced" in out
    assert "frozen by input 0" in out
    assert main(["inspect", "conv", "--groups", "--json"]) == 0
    groups = ws.symmetry.Groups.from_json(capsys.readouterr().out)
    assert [group.size for group in groups.free] == [16, 32]
    assert main(["inspect", "mpl", "--groups"]) == 1
    assert "Did you mean 'mlp'?" in capsys.readouterr().err
