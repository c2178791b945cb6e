"""Commands about the published models: `minemu plan | parity | official`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from minemu.cli.app import Json, Set, app, overrides, write
from minemu.errors import MinemuError


@app.command(short_help="Say what a preset costs, and what fits.")
def plan(
    preset: Annotated[str, typer.Argument(help="Which preset: emu-14b, emu2-37b, or one that has a recipe.")],
    devices: Annotated[int, typer.Option(help="Number of devices (GPUs).")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each: 80GiB, 24GB.")] = "80GiB",
    batch: Annotated[int, typer.Option(help="Sequences on each device.")] = 1,
    length: Annotated[int | None, typer.Option(help="Positions per sequence (default: the whole context).")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures per sequence.")] = 1,
    settings: Set = None,
    json: Json = None,
) -> None:
    """Say what a preset costs in parameters, FLOPs and memory, and what fits, before anything is allocated."""
    from minemu import plan as planning
    from minemu.config import EmuConfig

    size = planning.read_size(memory)
    config = EmuConfig.preset(preset).override(overrides(settings))
    load = planning.Load(batch, config.llm.context if length is None else length, pictures)
    found = planning.plan(config, devices, size, load)
    typer.echo("\n".join(planning.lines(found)))
    write(json, found)


@app.command(short_help="Compare with a recording of the published code.")
def parity(
    recording: Annotated[Path, typer.Argument(help="Folder with config.json, weights, outputs and a tokenizer.")],
    json: Json = None,
) -> None:
    """Run this implementation on a recording of the published one; exit 1 if a float is off by more than 1e-4 or an id differs."""
    from minemu.evaluation.report import provenance
    from minemu.parity import TOLERANCE, compare

    found = compare(recording)
    for tensor in found:
        said = ("equal" if tensor.passed else "different") if tensor.ids else f"{tensor.error:.1e}"
        typer.echo(f"{tensor.name:24} {'x'.join(map(str, tensor.shape)):>12}  {said}{'' if tensor.passed else '  <--'}")
    passed = all(tensor.passed for tensor in found)
    largest = max((tensor.error for tensor in found if not tensor.ids), default=0.0)
    typer.echo(f"{'equal' if passed else 'NOT equal'}: largest error {largest:.1e}, allowed {TOLERANCE:.0e}")
    write(
        json,
        {
            "recording": str(recording),
            "passed": passed,
            "tensors": {tensor.name: tensor.to_dict() for tensor in found},
            **provenance(),
        },
    )
    if not passed:
        raise typer.Exit(1)


@app.command(short_help="Map or convert a published checkpoint.")
def official(
    source: Annotated[
        Path,
        typer.Argument(
            help="Published checkpoint (file, index or folder), a decoder folder of diffusers, or a JSON table of names and shapes."
        ),
    ],
    preset: Annotated[str | None, typer.Option(help="What it is a checkpoint of: emu-14b or emu2-37b.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Convert into this folder; if stopped, the same command goes on.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16 (default: as published).")] = None,
    keep_lora: Annotated[
        bool, typer.Option("--keep-lora", help="Keep Emu-I's LoRA apart instead of merging it.")
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="SOURCE is a minemu folder: write it under the published names.")
    ] = False,
    json: Json = None,
) -> None:
    """Say how every published name maps: loaded, unused, missing, unexpected, wrong shape; exit 1 unless complete. Convert with --out."""
    from minemu import official as published
    from minemu.config import EmuConfig
    from minemu.convert import convert, convert_back
    from minemu.loading import read_dtype
    from minemu.shards import read_table

    into = None if dtype is None else read_dtype(dtype)
    if back and (preset is not None or keep_lora):
        raise MinemuError("--back reads what it needs from the minemu folder: leave out --preset and --keep-lora")
    if into is not None and out is None:
        raise MinemuError("--dtype is of what is written: name a folder with --out FOLDER, or leave it out")
    if back:
        if out is None:
            raise MinemuError("--back writes a checkpoint: name its folder with --out FOLDER")
        count = convert_back(source, out, into)
        typer.echo(f"wrote {count:,} tensors under their published names into {out}")
        write(json, {"source": str(source), "out": str(out), "written": count})
        return
    if preset is None:
        raise MinemuError("say what it is a checkpoint of: --preset emu-14b or --preset emu2-37b")
    if (source / "unet").is_dir():
        if keep_lora:
            raise MinemuError(f"--keep-lora is of a language model, and {source} is a decoder: leave it out")
        return _official_decoder(source, preset, out, into, json)
    if out is not None and source.suffix == ".json" and not source.name.endswith(".index.json"):
        raise MinemuError(
            f"{source} is a table of names, without weights; name the checkpoint to convert, or leave out --out"
        )
    shapes = read_table(source)
    mapping = published.map_names(shapes, EmuConfig.preset(preset), keep_lora)
    typer.echo(published.report(mapping, len(shapes)))
    write(json, {"source": str(source), "preset": preset, **mapping.to_dict()})
    if not mapping.complete:
        raise typer.Exit(1)
    if out is not None:
        convert(source, EmuConfig.preset(preset), out, into, keep_lora)
        typer.echo(f"wrote {out}; load it with Emu.from_pretrained('{out}', dtype='{dtype or 'auto'}')")


def _official_decoder(source: Path, preset: str, out: Path | None, dtype: Any, json: Path | None) -> None:
    """The same for a published visual decoder, a folder of diffusers; it is small enough to be loaded as a whole."""
    from minemu.config import EmuConfig
    from minemu.pipeline import DECODER_FOLDER
    from minemu.visual_decoder import VisualDecoder

    decoder = VisualDecoder.from_diffusers(source, EmuConfig.preset(preset).decoder)
    count = len(decoder.unet.state_dict()) + len(decoder.codec.vae.state_dict())
    typer.echo(f"{count:,} tensors of U-Net and VAE, all loaded into the visual decoder of {preset}: complete")
    write(json, {"source": str(source), "preset": preset, "complete": True, "counts": {"loaded": count}})
    if out is not None:
        decoder.save_pretrained(out / DECODER_FOLDER, dtype)
        typer.echo(f"wrote {out / DECODER_FOLDER}")
