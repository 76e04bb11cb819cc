"""The launcher: one message, whatever happens."""

import os
import signal
import subprocess
import sys
import time

import pytest

from wslax.population.launch import launch, main


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return [str(path)]

    return write


def test_the_first_to_fail_is_named_with_its_last_lines(script, capfd):
    text = """
import os, sys, time
if os.environ["WSLAX_PROCESS"] == "1":
    sys.exit("no such folder")
time.sleep(100)
"""
    assert launch(script(text), processes=3) == 1
    error = capfd.readouterr().err
    assert error == (
        "launch: process 1 of 3 ended with 1; the others were stopped\nno such folder\n"
    )


def test_only_process_0_prints_and_all_know_who_they_are(script, capfd):
    text = """
import os, sys
print(*sys.argv[1:], *(os.environ["WSLAX_" + name] for name in ("PROCESS", "PROCESSES")))
assert "device_count=3" in os.environ["XLA_FLAGS"]
"""
    assert launch([*script(text), "--seed", "1"], processes=2, devices=3) == 0
    assert capfd.readouterr() == ("--seed 1 0 2\n", "")


def test_virtual_devices_get_threads_of_their_own(script, capfd):
    text = """
import os, jax
assert len(jax.devices()) == 6
assert int(os.environ["NPROC"]) >= 6 * 8
"""
    assert launch(script(text), processes=1, devices=6) == 0, capfd.readouterr().err


def test_a_launcher_that_is_stopped_stops_all(script, tmp_path):
    text = f"""
import os, pathlib, time
pathlib.Path({str(tmp_path)!r}, os.environ["WSLAX_PROCESS"]).write_text(str(os.getpid()))
time.sleep(100)
"""
    command = [sys.executable, "-m", "wslax.population.launch", "--processes", "2", *script(text)]
    launcher = subprocess.Popen(command)
    files = [tmp_path / "0", tmp_path / "1"]
    while not all(file.exists() and file.read_text() for file in files):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=30) == 128 + signal.SIGTERM
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_a_command_line_without_a_script_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--processes", "2"])
    assert "a script" in capsys.readouterr().err
