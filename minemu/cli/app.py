"""The command line itself, the options that several commands have, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minemu import __version__
from minemu.errors import MinemuError

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON to FILE.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Begin with this checkpoint in place of the stages before. Stages language, imagine and emu take its encoder and "
        "bridge, later ones all of it up to emu."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Where to compute, such as cuda:0 or cpu (default: a GPU where there is one).")
]
Dtype = Annotated[
    str, typer.Option(help="Precision of the weights: float32, bfloat16, float16, or auto, that of the file.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that make batches, if one thread does not keep a GPU busy.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the layers of the LLM: faster; sums differ in their last bits.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Of samples and noise; no seed changes a picture drawn in one step.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, as often as you like: llm.layers=6, train.emu.steps=100."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16 for all stages (default: the recipe's); take float32 where bfloat16 is slow."
    ),
]
RunDir = Annotated[Path, typer.Option(help="Folder of the runs; a stopped one goes on from its last checkpoint.")]
LogTo = Annotated[str | None, typer.Option(help="Also log to tensorboard, wandb or trackio.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"minemu {__version__}")
        raise typer.Exit


@app.callback()
def minemu(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    """Emu (arXiv 2307.05222) in small: reads pictures, draws pictures, and shows every step of how."""


def overrides(settings: list[str] | None) -> dict[str, str]:
    """`["llm.layers=6"]` as a dict."""
    pairs = [setting.partition("=") for setting in settings or []]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise MinemuError(f"--set {key} has no value; write it as KEY=VALUE, such as --set llm.layers=6")
    return {key.strip(): value.strip() for key, _, value in pairs}


def load(checkpoint: str, device: str | None, dtype: str) -> EmuPipeline:
    """The pipeline of a checkpoint, on a device or on a GPU where there is one."""
    from minemu.loading import device_of
    from minemu.pipeline import EmuPipeline

    at = device_of(device)  # before seconds are spent
    return EmuPipeline.from_pretrained(checkpoint, dtype).to(at)


def write(path: Path | None, value: dict[str, Any]) -> None:
    if path is not None:
        from minemu.files import write_json

        write_json(path, value)
