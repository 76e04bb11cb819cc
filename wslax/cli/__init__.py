"""The command line: parse, call, print. Sub-commands import when they are run."""

import os
import sys

import cyclopts

from wslax import __version__
from wslax.errors import WeightSpaceError

USAGE, FAILURE, INTERRUPTED = 2, 1, 130


class UsageError(Exception):
    """What the caller typed is wrong; the message is a sentence."""


app = cyclopts.App(
    name="wslax",
    help="Transforms of neural-network weights: merge, inspect and convert checkpoints; the tour.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
_MERGE = """Merge checkpoints on disk.

By options, or by a recipe in mergekit's YAML (one document or several). Models are folders, files
or Hub ids, MODEL+LORA with an adapter put in. Everything is checked before a byte is written;
memory stays at a few chunks whatever the size of the models.

    wslax merge A B --method linear --weight 0.7 0.3 --out MERGED

    wslax merge A B --base C --method ties --density 0.3 --out MERGED

    wslax merge recipe.yaml MERGED --dry-run

`wslax methods` lists the methods and their parameters.
"""
for _name, _help in {
    "run": "The tour: train, merge, evolve, widen and adapt small nets on real digits.",
    "merge": _MERGE,
    "methods": "List the merging methods.",
    "inspect": "Show a checkpoint's tensors and their statistics.",
    "convert": "Convert between Hugging Face, Flax and npz layouts.",
    "diff": "Compare two checkpoints tensor by tensor.",
    "moe": "Make a mixture of experts of dense checkpoints.",
    "extract-lora": "Make a LoRA adapter of a fine-tuned checkpoint and its base.",
}.items():
    _module = _name.replace("-", "_")
    app.command(f"wslax.cli.{_module}:{_module}", name=_name, help=_help)


def main(tokens: list[str] | None = None) -> int:
    """Run `wslax`; the exit code is 0, 2 for wrong usage, 1 for a failure, 130 for Ctrl-C.

    A command may return a code of its own, as `diff` does.

    `--debug` anywhere shows the traceback of an error.

    Args:
      tokens: the arguments; those of the process by default.

    Returns:
      The exit code.

    Example:
        >>> main(["--version"])
        0.1.0
        0
    """
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        code = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError:
        return USAGE
    except (UsageError, WeightSpaceError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILURE
    except KeyboardInterrupt:
        print("interrupted; nothing was kept under the final name", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as in `wslax inspect X | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    return code or 0


def script() -> None:
    """The `wslax` command."""
    sys.exit(main())
