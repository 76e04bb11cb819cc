"""Start a script in several processes: `python -m wslax.population.launch --processes 2 script.py`.

The script calls `ws.population.start()` first. The launcher waits for all; when one process dies it
stops the others, says once which one it was and why, and ends with 1. What processes write to
standard error is shown only then, for the one that died; standard output is process 0's.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

TAIL = 20  # lines of a dead process's standard error that are shown
# A thread that waits for another device or process keeps its place in XLA's pools, which have one
# for each core: with few cores all may wait for what none is left to do.
THREADS = 8  # for each virtual device


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(process: int, processes: int, port: int, devices: int | None) -> dict[str, str]:
    own = {
        "WSLAX_COORDINATOR": f"127.0.0.1:{port}",
        "WSLAX_PROCESSES": str(processes),
        "WSLAX_PROCESS": str(process),
    }
    if devices is not None:
        flags = os.environ.get("XLA_FLAGS", "").split()
        flags = [flag for flag in flags if "host_platform_device_count" not in flag]
        flags.append(f"--xla_force_host_platform_device_count={devices}")
        threads = str(max(os.cpu_count() or 1, THREADS * devices))
        own |= {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu", "NPROC": threads}
    return {**os.environ, **own}


def _first_dead(running: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The first process that failed; of several at once one that was killed, others follow it."""
    dead = [i for i, one in enumerate(running) if one.poll() not in (None, 0)]
    return min(dead, key=lambda i: (running[i].returncode > 0, i), default=None)


def launch(command: Sequence[str], *, processes: int, devices: int | None = None) -> int:
    """Run a Python command line in several processes on this machine.

    Args:
      command: script and arguments.
      processes: how many, at least 1.
      devices: virtual CPU devices of each; default what the machine has.

    Returns:
      0, or 1 if a process failed; the others are stopped then.

    Example:
        >>> import os
        >>> launch([os.devnull], processes=2)
        0
    """
    port = _free_port()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, running)
        for i in range(processes):
            errors = stack.enter_context(open(folder / str(i), "wb"))
            running.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=_environment(i, processes, port, devices),
                    stdout=None if i == 0 else subprocess.DEVNULL,
                    stderr=errors,
                )
            )
        while (dead := _first_dead(running)) is None:
            if all(one.poll() == 0 for one in running):
                return 0
            time.sleep(0.02)
        code = running[dead].returncode
        lines = (folder / str(dead)).read_text("utf-8", "replace").splitlines()[-TAIL:]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    message = f"launch: process {dead} of {processes} {how}; the others were stopped"
    print("\n".join([message, *lines]), file=sys.stderr, flush=True)
    return 1


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for one in running:
        if one.poll() is None:
            one.kill()
    for one in running:
        one.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Example:
        >>> import os
        >>> main(["--processes", "1", os.devnull])
        0
    """
    parser = argparse.ArgumentParser(prog="python -m wslax.population.launch", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="how many, on this machine")
    parser.add_argument("--devices", type=int, help="virtual CPU devices of each")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="script and its arguments")
    given = parser.parse_args(arguments)
    if given.processes < 1 or not given.command:
        parser.error("give --processes of at least 1, and a script")
    return launch(given.command, processes=given.processes, devices=given.devices)


if __name__ == "__main__":
    # An exit by exception stops the processes first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
