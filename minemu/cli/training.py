"""Commands that train: `minemu train | recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minemu.cli.app import Base, Compile, Device, Json, LogTo, Precision, RunDir, Set, Workers, app, overrides, write


@app.command(short_help="Train one stage, or go on with it.")
def train(
    stage: Annotated[
        str, typer.Argument(help="encoder, bridge, language, imagine, emu, codec, sketch, decoder or instruct.")
    ],
    preset: Annotated[str, typer.Option(help="Which preset to train.")] = "emu-tiny",
    run_dir: RunDir = Path("runs"),
    settings: Set = None,
    log_to: LogTo = None,
    base: Base = None,
    device: Device = None,
    workers: Workers = 0,
    compiled: Compile = False,
    precision: Precision = None,
    json: Json = None,
) -> None:
    """Train one stage of a preset, or go on where it stopped."""
    from minemu.training.recipe import train_stage

    changes = in_precision(precision) | overrides(settings)
    complete = train_stage(
        preset,
        stage,
        run_dir,
        changes,
        log_to,
        base=base,
        device=device,
        workers=workers,
        compiled=compiled,
    )
    folder = run_dir / preset / stage
    typer.echo(f"stage {stage} of {preset} is {'complete' if complete else 'not complete yet'}: {folder}")
    write(json, {"preset": preset, "stage": stage, "complete": complete, "folder": str(folder)})


@app.command(short_help="Train all stages in order.")
def recipe(
    preset: Annotated[str, typer.Argument(help="emu-nano, emu-tiny, emu-small, emu2-nano, emu2-tiny or emu2-small.")],
    run_dir: RunDir = Path("runs"),
    settings: Set = None,
    log_to: LogTo = None,
    instruct: Annotated[
        bool, typer.Option("--instruct", help="Also train Emu-I, an adapter beside the checkpoint.")
    ] = False,
    base: Base = None,
    device: Device = None,
    workers: Workers = 0,
    compiled: Compile = False,
    precision: Precision = None,
    json: Json = None,
) -> None:
    """Train all stages of a preset in order; what is complete is kept."""
    from minemu.training.recipe import run_recipe

    changes = in_precision(precision) | overrides(settings)
    checkpoint = run_recipe(preset, run_dir, changes, log_to, instruct, base, device, workers, compiled)
    typer.echo(f"checkpoint: {checkpoint}\ntry it: minemu demo {checkpoint}")
    if instruct:
        typer.echo(
            f"its adapter: {checkpoint}-instruct\ntalk to it: minemu generate {checkpoint}-instruct PICTURE QUESTION"
        )
    write(json, {"preset": preset, "checkpoint": str(checkpoint)})


def in_precision(precision: str | None) -> dict[str, str]:
    """The settings by which all stages are computed in one precision, where one is given."""
    from minemu.training.recipes import TRAINABLE

    return {f"train.{stage}.precision": precision for stage in TRAINABLE} if precision else {}
