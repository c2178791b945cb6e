"""Commands that measure: `minemu evaluate | report | ablate | bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minemu.cli.app import Device, Dtype, Json, RunDir, Seed, Set, app, load, overrides, write
from minemu.errors import MinemuError, suggest

CHECKPOINT, ADAPTER = Path("data_samples/emu-tiny"), Path("data_samples/emu-tiny-instruct")


@app.command(short_help="Measure a checkpoint on held-out samples.")
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
        bool, typer.Option("--all", help="Every task the checkpoint was trained for, on each of its splits.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Say what each task is, on which splits, and what is not trained yet.")
    ] = False,
    device: Device = None,
    dtype: Dtype = "float32",
    json: Json = None,
) -> None:
    """Measure a checkpoint on held-out samples, beside chance, a blind baseline and an upper bound."""
    from minemu.evaluation import report, tasks

    if show:
        return _list_tasks(checkpoint, json)
    if task is not None and all_tasks:
        raise MinemuError("--all is every task: leave it out, or --task")
    if checkpoint is None or (task is None and not all_tasks):
        raise MinemuError(
            f"say what to measure: minemu evaluate {checkpoint or CHECKPOINT} --task caption (or --all; --list names the tasks)"
        )
    if all_tasks and split is not None:
        raise MinemuError(
            f"--split {split} is of one task, and --all measures each on each of its splits; leave one out"
        )
    if all_tasks:
        known = tasks.trained(tasks.trained_on(checkpoint))
        wanted = [
            (name, on, examples, tasks.at_most(name, limit))
            for name in known
            for on in tasks.TASKS[name].splits
            for examples in tasks.numbers_of_examples(name, shots)
        ]
    else:
        wanted = [(task, split, shots, limit)]
    for name, on, examples, n in wanted:
        tasks.check(name, on, n, examples)  # before minutes are spent
    if task is not None:
        tasks.check_trained(task, checkpoint)
    made_by, pipe = report.provenance(), load(checkpoint, device, dtype)
    measured = {**made_by, **report.weights_of(checkpoint), "device": pipe.model.device.type}
    results = []
    for name, on, examples, n in wanted:
        results.append(tasks.evaluate(pipe, name, on, n, seed, shots=examples))
        typer.echo(report.line(results[-1]))
        if all_tasks:
            # Also what is known so far survives a stop.
            write(json, report.collect(results, pipe.model.config.name, measured))
    if not all_tasks:
        write(json, {**results[0].to_dict(), **measured, "preset": pipe.model.config.name})


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
    write(json, listed)


@app.command(short_help="Write tables of results into a README.")
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
    full_scale: Annotated[
        Path | None,
        typer.Option(help="What `minemu bench --full-scale --json` wrote, for <!-- full-scale:begin --> ... end."),
    ] = None,
    json: Json = None,
) -> None:
    """Write the tables of results into a README; a model card beside the results is written anew."""
    from minemu.evaluation import report as reporting
    from minemu.model import LOGS

    tables = {"results": reporting.table(reporting.read_results(results))}
    if reporting.has_place(page, "aims"):
        tables["aims"] = reporting.table(reporting.read_results(results), aims_alone=True)
    if instruct is not None:
        tables["instruct"] = reporting.table(reporting.read_results(instruct))
    if times is not None:
        tables["bench"] = reporting.bench_table(reporting.read_bench(times))
    if parity is not None:
        tables["parity"] = reporting.parity_table(reporting.read_parity(parity))
    if full_scale is not None:
        tables["full-scale"] = reporting.full_scale_table(reporting.read_full_scale(full_scale))
    reporting.fill(page, tables)
    written = [page]
    for folder in {results.parent, *([instruct.parent] if instruct else [])}:
        if (folder / LOGS).is_dir():
            from minemu.training.export import refresh_card

            refresh_card(folder)
            written.append(folder / "README.md")
    typer.echo("\n".join(f"wrote the results into {path}" for path in written))
    write(json, {"written": [str(path) for path in written]})


@app.command(short_help="Change one idea at a time, from several seeds.")
def ablate(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Which questions (default: all); --list names them.")
    ] = None,
    run_dir: RunDir = Path("runs/ablations"),
    seeds: Annotated[int, typer.Option(help="Trainings of each variant, from seed 0 on.")] = 3,
    settings: Set = None,
    show: Annotated[bool, typer.Option("--list", help="Name the questions and their variants.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", "--out", metavar="FILE", help="Also write all numbers as JSON to FILE.")
    ] = None,
) -> None:
    """Change one idea at a time, train each variant from several seeds, and measure; what is finished is not run again."""
    from minemu import ablations
    from minemu.evaluation.report import provenance

    names = questions or list(ablations.QUESTIONS)
    # An unknown name is refused before minutes are spent.
    variants = {name: [variant.name for variant in ablations.variants_of(name)] for name in names}
    if show:
        for name in names:
            typer.echo(f"{name:10} {ablations.QUESTIONS[name].asks}  [{', '.join(variants[name])}]")
        listed = {name: {"asks": ablations.QUESTIONS[name].asks, "variants": variants[name]} for name in names}
        return write(json, listed)
    changes, made_by = overrides(settings), provenance()

    def keep(known: dict) -> None:
        write(json, ablations.collect(known, names, changes, made_by))

    found = ablations.ablate(names, run_dir, seeds, changes, keep, made_by)
    results = ablations.collect(found, names, changes, made_by)
    for name in names:
        typer.echo("\n".join(ablations.lines(results, name)))
    typer.echo("*  further from the baseline than three times the larger standard deviation of seeds")


@app.command(short_help="Time minemu's parts against the plain way.")
def bench(
    rows: Annotated[list[str] | None, typer.Argument(help="Which rows (default: all); --list names them.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Name the rows.")] = False,
    full_scale: Annotated[
        bool, typer.Option("--full-scale", help="Instead: emu-14b itself, with random weights, on a GPU of 80 GB.")
    ] = False,
    json: Json = None,
) -> None:
    """Time parts of minemu against the plain way to do the same, in the same run; and the memory of a conversion."""
    from minemu import bench as benchmarks
    from minemu.evaluation.report import provenance

    if full_scale and (rows or show):
        raise MinemuError("--full-scale has no rows: it runs emu-14b as a whole; leave the others out")
    made_by = provenance()
    if full_scale:
        import torch

        from minemu.full_scale import run_full_scale

        if not torch.cuda.is_available():
            raise MinemuError("--full-scale needs a GPU of 80 GB, and none is visible here; minemu plan needs none")
        run_full_scale("emu-14b", "cuda:0", keep=lambda found: write(json, {**found, **made_by}))
        return
    if show:
        about = {name: says for name, (says, _) in benchmarks.ROWS.items()}
        for name, says in about.items():
            typer.echo(f"{name:22} {says}")
        return write(json, about)
    for row in rows or ():
        if row not in benchmarks.ROWS:
            raise MinemuError(f"unknown bench row '{row}': {suggest(row, benchmarks.ROWS)}")
    benchmarks.run_bench(rows or list(benchmarks.ROWS), lambda found: write(json, {**found, **made_by}))
