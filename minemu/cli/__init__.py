"""The command line: `minemu demo | generate | train | recipe | evaluate | report | ablate | bench | plan | parity | official`.

Each command prints for people and, with `--json FILE`, writes one JSON object for programs. Bad input ends with status 2 and one line
on the error stream that names the problem and the fix. Heavy imports wait until a command needs them, so `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

# isort: off
from minemu.cli import use, training, measure, published  # noqa: F401 (each adds its commands; --help has them in this order)

# isort: on
from minemu.cli.app import app
from minemu.errors import MinemuError, suggest
from minemu.training import run as training_run

BAD_INPUT, INTERRUPTED = 2, 130
GO_ON = ("train", "recipe", "ablate", "official")  # commands that go on where they were stopped


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    training_run.given = arguments  # what is written will name them
    command = typer.main.get_command(app)
    try:
        status = int(command.main(arguments or ["--help"], prog_name="minemu", standalone_mode=False) or 0)
    except MinemuError as error:
        return _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        what = f"{error.filename}: " if error.filename else ""
        return _fail(f"{what}{error.strerror or error}; free disk space, or check the path and its rights")
    except typer.Abort:
        status = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # the command line parser's own errors have it, bugs do not
            raise
        return _fail(_usage(error, command))
    if status == INTERRUPTED:
        goes_on = arguments and arguments[0] in GO_ON
        return _fail("stopped; run the same command again to go on" if goes_on else "stopped", status)
    return status


def _usage(error: Any, command: Any) -> str:
    """One line for what the parser did not understand."""
    message = error.format_message().strip().splitlines()[0].rstrip(".")
    if message.startswith("No such command"):
        word = message.split("'")[1]
        return f"unknown command '{word}': {suggest(word, command.commands)}"
    where = getattr(getattr(error, "ctx", None), "command_path", "minemu")
    return f"{message} (see: {where} --help)"


def _fail(message: str, status: int = BAD_INPUT) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return status


def main() -> None:
    sys.exit(run(sys.argv[1:]))
