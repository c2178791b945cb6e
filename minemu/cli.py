"""The command line: `minemu demo | train | recipe | generate | evaluate | report | ablate | plan | parity | official | bench`.

Each command prints for people and, with `--json FILE`, writes one JSON object for programs. Bad input ends with status 2 and one line
on the error stream that names the problem and the fix. Heavy imports wait until a command needs them, so `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from minemu.errors import MinemuError, suggest

CHECKPOINT, ADAPTER = Path("data_samples/emu-tiny"), Path("data_samples/emu-tiny-instruct")
BAD_INPUT, INTERRUPTED = 2, 130
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write one JSON object for programs.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="A finished checkpoint in the place of the stages up to emu; for language and emu, of encoder and bridge."
    ),
]
Seed = Annotated[int, typer.Option(help="Another seed, other samples and noise.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: llm.layers=6, train.emu.steps=100."),
]
RunDir = Annotated[Path, typer.Option(help="Folder of the runs; a stopped one goes on from its last checkpoint.")]
LogTo = Annotated[str | None, typer.Option(help="Also log to tensorboard, wandb or trackio.")]


@app.callback()
def minemu() -> None:
    """Emu (arXiv 2307.05222) in small: reads pictures, draws pictures, and shows every step of how."""


@app.command()
def demo(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Folder or hub repository (default: the shipped one).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the gallery.")] = Path("demo"),
    seed: Seed = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the gallery in a browser.")] = False,
    json: Json = None,
) -> None:
    """Caption unseen pictures, draw from words, continue a document, rebuild a picture; leaves a gallery."""
    from minemu.demo import run_demo

    _write(json, run_demo(checkpoint, out, seed, show))


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="encoder, bridge, language, emu, codec, sketch, decoder or instruct.")],
    preset: Annotated[str, typer.Option(help="Which preset to train.")] = "emu-tiny",
    run_dir: RunDir = Path("runs"),
    settings: Set = None,
    log_to: LogTo = None,
    base: Base = None,
    json: Json = None,
) -> None:
    """Train one stage of a preset, or go on where it stopped."""
    from minemu.training.recipe import train_stage

    complete = train_stage(preset, stage, run_dir, _overrides(settings), log_to, base=base)
    folder = run_dir / preset / stage
    typer.echo(f"stage {stage} of {preset} is {'complete' if complete else 'not complete yet'}: {folder}")
    _write(json, {"preset": preset, "stage": stage, "complete": complete, "folder": str(folder)})


@app.command()
def recipe(
    preset: Annotated[str, typer.Argument(help="emu-nano or emu-tiny.")],
    run_dir: RunDir = Path("runs"),
    settings: Set = None,
    log_to: LogTo = None,
    instruct: Annotated[
        bool, typer.Option("--instruct", help="Emu-I as well, an adapter beside the checkpoint.")
    ] = False,
    base: Base = None,
    json: Json = None,
) -> None:
    """Train all stages of a preset in order; what is complete is kept."""
    from minemu.training.recipe import run_recipe

    checkpoint = run_recipe(preset, run_dir, _overrides(settings), log_to, instruct, base)
    typer.echo(f"checkpoint: {checkpoint}\ntry it: minemu demo {checkpoint}")
    _write(json, {"preset": preset, "checkpoint": str(checkpoint)})


@app.command()
def generate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    prompt: Annotated[
        list[str],
        typer.Argument(
            help="Words, picture files and clips (animated GIF, WebP, PNG, or a folder of frames: frames/; MP4 with the "
            "extra 'video'), in order. "
            "For Emu-I, 'assistant: ...' is what it said before."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Draw the next picture into this file; without it, continue in words.")
    ] = None,
    document: Annotated[
        Path | None, typer.Option(help="Continue with words and pictures as they come, the pictures into this folder.")
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ANSWER", help="Rank answers in place of saying one, the likeliest first; give it for each."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps (default: the checkpoint's).")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale (default: the checkpoint's).")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length limit of words.")] = 64,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Continue words and pictures with words (Emu-I answers them), a picture (--out) or both (--document), or rank answers (--rank).

    One picture alone is rebuilt with --out.
    """
    import torch

    from minemu.pipeline import EmuPipeline

    given = [name for name, value in (("--out", out), ("--document", document), ("--rank", rank)) if value]
    if len(given) > 1:
        raise MinemuError(
            "--out draws one picture, --document continues with words and pictures, --rank chooses among words: "
            f"give one of {' and '.join(given)}"
        )
    if out is None and (steps, guidance) != (None, None):
        raise MinemuError("--steps and --guidance are for drawing one picture: add --out FILE, or leave them out")
    if document is not None and document.exists() and not (document.is_dir() and not any(document.iterdir())):
        raise MinemuError(f"--document {document} is there already and not empty; name a new folder")
    if out is not None and out.suffix.lower() not in PICTURE_FORMATS:
        raise MinemuError(f"--out {out} should end in .png, .jpg or .webp")
    pipe = EmuPipeline.from_pretrained(checkpoint)
    sample = [_piece(piece) for piece in prompt]
    generator = torch.Generator().manual_seed(seed)
    if document is not None:
        pieces = pipe.continue_document(sample, max_new_tokens=max_new_tokens, generator=generator)
        shown = _show_document(pieces, document)
        return _write(json, {"prompt": prompt, "document": shown, "seed": seed})
    if rank:
        ranked = pipe.rank(_as_asked(pipe, sample), rank)
        typer.echo("\n".join(f"{score:7.2f}  {answer}" for answer, score in ranked))
        return _write(json, {"prompt": prompt, "ranked": [list(pair) for pair in ranked]})
    if out is None:
        text = _answer(pipe, sample, max_new_tokens)
        typer.echo(text)
        return _write(json, {"prompt": prompt, "text": text})
    picture = pipe(sample, num_inference_steps=steps, guidance_scale=guidance, generator=generator).images[0]
    _save_picture(picture, out)
    typer.echo(f"drew {out}")
    _write(json, {"prompt": prompt, "picture": str(out), "seed": seed})


def _piece(piece: str) -> Any:
    """What a word of the command line stands for: a picture, a clip, or words. What is named like a file has to be one."""
    from minemu.data.video import VIDEO_SUFFIXES, is_clip, read_frames
    from minemu.processor import PICTURE_SUFFIXES
    from minemu.sequence import Video

    if os.path.isdir(piece) and piece.endswith(("/", os.sep)):  # a folder of frames; without the slash it may be a word
        return Video(read_frames(piece))
    named = Path(piece).suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) and " " not in piece
    if not (Path(piece).suffix and os.path.isfile(piece)):
        if named:
            raise MinemuError(f"there is no file {piece}; check the path")
        return piece
    moves = is_clip(piece) or Path(piece).suffix.lower() in VIDEO_SUFFIXES
    return Video(read_frames(piece)) if moves else Path(piece)


def _answer(pipe: Any, sample: list[Any], max_new_tokens: int) -> str:
    from minemu.prompts import DESCRIBE

    described = DESCRIBE if len(sample) == 1 and isinstance(sample[0], Path) else {}  # as `EmuPipeline.caption` does
    return pipe.chat(_as_asked(pipe, sample), max_new_tokens=max_new_tokens, **described).text


def _as_asked(pipe: Any, sample: list[Any]) -> list[Any]:
    """For Emu-I a question in its template."""
    from minemu.chat import as_messages
    from minemu.tokenizer import USER

    return as_messages(sample) if USER in pipe.processor.special else sample


def _show_document(pieces: list[Any], folder: Path) -> list[str]:
    """Print a document and save its pictures as 1.png, 2.png, ...; texts and names of files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[str] = []
    drawn = 0
    for piece in pieces:
        if not isinstance(piece, str):
            drawn += 1
            path = folder / f"{drawn}.png"
            _save_picture(piece, path)
            piece = str(path)
        typer.echo(piece)
        shown.append(piece)
    return shown


def _save_picture(picture: Any, path: Path) -> None:
    from minemu.files import atomic_write

    with atomic_write(path) as temporary:
        picture.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()])


@app.command()
def evaluate(
    checkpoint: Annotated[str | None, typer.Argument(help="Checkpoint folder or hub repository.")] = None,
    task: Annotated[str | None, typer.Option(help="Which task; see --list.")] = None,
    split: Annotated[
        str | None, typer.Option(help="One of the task's splits, as --list names them (default: its first).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of samples (default: the task's).")] = None,
    shots: Annotated[
        int | None, typer.Option(help="Examples in the prompt of a few-shot task (default: the task's).")
    ] = None,
    seed: Seed = 0,
    all_tasks: Annotated[
        bool, typer.Option("--all", help="Every task that is trained, on each of its splits.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Say what each task is, on which splits, and what is not trained yet.")
    ] = False,
    json: Json = None,
) -> None:
    """Measure a checkpoint on held-out samples, beside chance, a blind baseline and an upper bound."""
    from minemu.evaluation import report, tasks

    if show:
        return _list_tasks(checkpoint, json)
    if checkpoint is None or (task is None) == (not all_tasks):
        raise MinemuError(
            f"say what to measure: minemu evaluate {checkpoint or CHECKPOINT} --task caption (or --all; --list names the tasks)"
        )
    if all_tasks:
        known = tasks.trained(tasks.trained_on(checkpoint))
        wanted = [
            (name, on, examples)
            for name in known
            for on in tasks.TASKS[name].splits
            for examples in tasks.numbers_of_examples(name, shots)
        ]
    else:
        wanted = [(task, split, shots)]
    for name, on, examples in wanted:
        tasks.check(name, on, limit, examples)  # before minutes are spent
    if task is not None:
        tasks.check_trained(task, checkpoint)
    from minemu.pipeline import EmuPipeline

    pipe, weights = EmuPipeline.from_pretrained(checkpoint), report.weights_of(checkpoint)
    results = []
    for name, on, examples in wanted:
        results.append(tasks.evaluate(pipe, name, on, limit, seed, shots=examples))
        typer.echo(report.line(results[-1]))
        if all_tasks:
            _write(
                json, report.collect(results, pipe.model.config.name, weights)
            )  # also what is known so far survives a stop
    if not all_tasks:
        _write(json, {**results[0].to_dict(), **report.provenance(), **weights, "preset": pipe.model.config.name})


def _list_tasks(checkpoint: str | None, json: Path | None) -> None:
    """All tasks, and which of them a checkpoint (default: the shipped one or its adapter) was trained for."""
    from minemu.evaluation import tasks

    sources = [checkpoint] if checkpoint else [folder for folder in (CHECKPOINT, ADAPTER) if folder.is_dir()]
    known = tasks.trained(set().union(*map(tasks.trained_on, sources)))
    listed = {
        name: {"about": task.about, "splits": list(task.splits), "needs": list(task.needs), "trained": name in known}
        for name, task in tasks.TASKS.items()
    }
    for name, entry in listed.items():
        notes = [*entry["splits"], *([] if entry["trained"] else ["not trained yet"])]
        typer.echo(f"{name:16} {entry['about']}  [{', '.join(notes)}]")
    _write(json, listed)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="What `minemu evaluate --all --json` wrote.")],
    page: Annotated[Path, typer.Argument(help="Markdown file with <!-- results:begin --> and <!-- results:end -->.")],
    instruct: Annotated[
        Path | None, typer.Option(help="The same of the adapter, for <!-- instruct:begin --> ... end.")
    ] = None,
    times: Annotated[
        Path | None, typer.Option("--bench", help="What `minemu bench --json` wrote, for <!-- bench:begin --> ... end.")
    ] = None,
    parity: Annotated[
        Path | None,
        typer.Option(
            help="Folder with what `minemu parity --json` wrote, parity-emu1.json and -emu2.json, for <!-- parity:begin --> ... end."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Write the tables of results into a README; a model card beside the results is written anew."""
    from minemu.evaluation import report as reporting

    reporting.fill(page, "results", reporting.table(reporting.read_results(results)))
    if instruct is not None:
        reporting.fill(page, "instruct", reporting.table(reporting.read_results(instruct)))
    if times is not None:
        reporting.fill(page, "bench", reporting.bench_table(reporting.read_bench(times)))
    if parity is not None:
        reporting.fill(page, "parity", reporting.parity_table(reporting.read_parity(parity)))
    written = [page]
    for folder in {results.parent, *([instruct.parent] if instruct else [])}:
        if (folder / "training").is_dir():
            from minemu.training.export import refresh_card

            refresh_card(folder)
            written.append(folder / "README.md")
    typer.echo("\n".join(f"wrote the results into {path}" for path in written))
    _write(json, {"written": [str(path) for path in written]})


@app.command()
def ablate(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Which questions; all without it. --list names them.")
    ] = None,
    run_dir: RunDir = Path("runs/ablations"),
    seeds: Annotated[int, typer.Option(help="Trainings of each variant, from seed 0 on.")] = 3,
    settings: Set = None,
    show: Annotated[bool, typer.Option("--list", help="Name the questions and their variants.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", "--out", metavar="FILE", help="Write all numbers as one JSON object.")
    ] = None,
) -> None:
    """Change one idea at a time, train each variant from several seeds, and measure; what is finished is not run again."""
    from minemu import ablations

    names = questions or list(ablations.QUESTIONS)
    variants = {
        name: ablations.variants_of(name) for name in names
    }  # an unknown name is refused before minutes are spent
    if show:
        for name in names:
            typer.echo(f"{name:10} {ablations.QUESTIONS[name].asks}  [{', '.join(v.name for v in variants[name])}]")
        return
    changes = _overrides(settings)
    found = ablations.ablate(
        names, run_dir, seeds, changes, lambda known: _write(json, ablations.collect(known, names, changes))
    )
    results = ablations.collect(found, names, changes)
    for name in names:
        typer.echo("\n".join(ablations.lines(results, name)))
    typer.echo("*  further from the baseline than three times the larger standard deviation of seeds")


@app.command()
def plan(
    preset: Annotated[str, typer.Argument(help="Which preset, such as emu-14b.")],
    devices: Annotated[int, typer.Option(help="Number of devices (GPUs).")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each: 80GiB, 24GB.")] = "80GiB",
    batch: Annotated[int, typer.Option(help="Sequences on each device.")] = 1,
    length: Annotated[int | None, typer.Option(help="Positions a sequence (default: the whole context).")] = None,
    pictures: Annotated[int, typer.Option(help="Pictures a sequence.")] = 1,
    settings: Set = None,
    json: Json = None,
) -> None:
    """Say what a preset costs in parameters, FLOPs and memory, and what fits, before anything is allocated."""
    from minemu import plan as planning
    from minemu.config import EmuConfig

    size = planning.read_size(memory)
    config = EmuConfig.preset(preset).override(_overrides(settings))
    load = planning.Load(batch, config.llm.context if length is None else length, pictures)
    found = planning.plan(config, devices, size, load)
    typer.echo("\n".join(planning.lines(found)))
    _write(json, found)


@app.command()
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
    _write(
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


@app.command()
def official(
    source: Annotated[
        Path,
        typer.Argument(
            help="Published checkpoint (file, index or folder), a decoder folder of diffusers, or a JSON table of names and shapes."
        ),
    ],
    preset: Annotated[str | None, typer.Option(help="What it is a checkpoint of: emu-14b or emu2-37b.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Convert into this folder; stopped, the same command goes on.")
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
    if back:
        if out is None:
            raise MinemuError("--back writes a checkpoint: name its folder with --out FOLDER")
        count = convert_back(source, out, into)
        typer.echo(f"wrote {count:,} tensors under their published names into {out}")
        _write(json, {"source": str(source), "out": str(out), "written": count})
        return
    if preset is None:
        raise MinemuError("say what it is a checkpoint of: --preset emu-14b or --preset emu2-37b")
    if (source / "unet").is_dir():
        return _official_decoder(source, preset, out, into, json)
    shapes = read_table(source)
    mapping = published.map_names(shapes, EmuConfig.preset(preset), keep_lora)
    typer.echo(published.report(mapping, len(shapes)))
    _write(json, {"source": str(source), "preset": preset, **mapping.to_dict()})
    if not mapping.complete:
        raise typer.Exit(1)
    if out is not None:
        convert(source, EmuConfig.preset(preset), out, into, keep_lora)
        typer.echo(f"wrote {out}; load it with Emu.from_pretrained('{out}')")


def _official_decoder(source: Path, preset: str, out: Path | None, dtype: Any, json: Path | None) -> None:
    """The same for a published visual decoder, a folder of diffusers; it is small enough to be loaded as a whole."""
    from minemu.config import EmuConfig
    from minemu.pipeline import DECODER_FOLDER
    from minemu.visual_decoder import VisualDecoder

    decoder = VisualDecoder.from_diffusers(source, EmuConfig.preset(preset).decoder)
    count = len(decoder.unet.state_dict()) + len(decoder.codec.vae.state_dict())
    typer.echo(f"{count:,} tensors of U-Net and VAE, all loaded into the visual decoder of {preset}: complete")
    _write(json, {"source": str(source), "preset": preset, "complete": True, "counts": {"loaded": count}})
    if out is not None:
        decoder.save_pretrained(out / DECODER_FOLDER, dtype)
        typer.echo(f"wrote {out / DECODER_FOLDER}")


@app.command()
def bench(
    row: Annotated[str | None, typer.Argument(help="Which row; all without it. --list names them.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Name the rows.")] = False,
    json: Json = None,
) -> None:
    """Time parts of minemu against the plain way to do the same, in the same run; and the memory of a conversion."""
    from minemu import bench as benchmarks

    if show:
        for name, about in benchmarks.ROWS.items():
            typer.echo(f"{name:20} {about}")
        _write(json, dict(benchmarks.ROWS))
        return
    if row is not None and row not in benchmarks.ROWS:
        raise MinemuError(f"unknown bench row '{row}': {suggest(row, benchmarks.ROWS)}")
    from minemu.evaluation.report import provenance

    measured = benchmarks.run_bench([row] if row else list(benchmarks.ROWS))
    _write(json, {**measured, **provenance()})


def _overrides(settings: list[str] | None) -> dict[str, str]:
    """`["llm.layers=6"]` as a dict."""
    pairs = [setting.partition("=") for setting in settings or []]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise MinemuError(f"--set {key} has no value; write it as KEY=VALUE, such as --set llm.layers=6")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _write(path: Path | None, value: dict[str, Any]) -> None:
    if path is not None:
        from minemu.files import write_json

        write_json(path, value)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    command = typer.main.get_command(app)
    try:
        status = int(command.main(arguments or ["--help"], prog_name="minemu", standalone_mode=False) or 0)
    except MinemuError as error:
        return _fail(str(error))
    except typer.Abort:
        status = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # the command line parser's own errors have it, bugs do not
            raise
        return _fail(_usage(error, command))
    return _fail("stopped; run the same command again to go on", status) if status == INTERRUPTED else status


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


if __name__ == "__main__":
    main()
