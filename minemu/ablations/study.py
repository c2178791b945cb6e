"""The study itself: every variant is trained from every seed and measured; then the numbers are collected, read and compared."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minemu.ablations.measures import measure
from minemu.ablations.variants import PRESET, QUESTIONS, SETTINGS, THINGS, VARIANTS, FewThings, Variant, variants_of
from minemu.config import EmuConfig
from minemu.errors import MinemuError, suggest
from minemu.evaluation.report import provenance
from minemu.files import read_json, write_json
from minemu.model import Emu
from minemu.processor import EmuProcessor
from minemu.tokenizer import load_tokenizer
from minemu.training.recipe import make_processor, train_stage
from minemu.training.recipes import SECTIONS, Recipe, needs, resolve

Found = dict[str, dict[str, dict[str, Any]]]  # variant -> seed -> numbers

FAR_BELOW = -100.0  # a mean below this, as where nothing varies that could be explained, says no more than its sign
BEFORE = ("encoder", "language", "bridge", "imagine")  # the stages that variants may share
# What a run was measured by; what those are called that are others than the command's own.
MEASURED_BY = {"commit": "earlier_commits", "versions": "earlier_versions"}


# ---- training --------------------------------------------------------------------------------------------------------


def ablate(
    names: Sequence[str],
    run_dir: str | Path,
    seeds: int = 3,
    changes: dict[str, Any] | None = None,
    report: Callable[[Found], None] = lambda found: None,
    made_by: dict[str, Any] | None = None,
) -> Found:
    """Train and measure every variant of some questions from `seeds` seeds: variant -> seed -> numbers.

    What is finished in `run_dir` is not run again. `changes` are settings for all variants; `report` gets all that is known so far
    after each training; `made_by` is a `provenance` taken before.
    """
    made_by = made_by or provenance()
    if seeds < 1:
        raise MinemuError(f"--seeds {seeds} is too few; give 1 or more, 3 to see a spread")
    if own := [key for key in changes or () if key in _seeded(0)]:
        raise MinemuError(f"{own[0]} is set anew for each training: leave it out, and give --seeds")
    wanted = {variant.name: variant for name in names for variant in variants_of(name)}
    found: Found = {name: {} for name in wanted}
    for seed in range(seeds):
        for name, variant in wanted.items():
            found[name][str(seed)] = run_variant(variant, Path(run_dir), seed, changes, made_by)
            report(found)
    return found


def run_variant(
    variant: Variant,
    run_dir: Path,
    seed: int,
    changes: dict[str, Any] | None = None,
    made_by: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one variant from one seed and measure it, unless that is done already: its numbers, and by what they were measured."""
    made_by = made_by or provenance()
    start, folder = run_dir / f"seed-{seed}" / "start", run_dir / f"seed-{seed}" / variant.name
    common = {**SETTINGS, **(changes or {}), **_seeded(seed)}
    settings = {**common, **variant.settings}
    config, recipe = resolve(PRESET, settings)
    world = FewThings(seed, config.vision.image_size)
    root = folder / PRESET
    make_processor(start / PRESET, *resolve(PRESET, common), world)
    if not (root / "processor.json").exists():
        tokenizer = load_tokenizer(start / PRESET)
        EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image).save_pretrained(root)
    own = own_stages(variant)
    for stage in shared_stages(config, recipe):
        if stage in own:
            train_stage(PRESET, stage, folder, settings, world=world, device="cpu")
        else:
            train_stage(PRESET, stage, start, common, world=world, device="cpu")
            if not (root / stage).exists():
                (root / stage).symlink_to(os.path.relpath(start / PRESET / stage, root), target_is_directory=True)
    train_stage(PRESET, "emu", folder, settings, world=world, device="cpu")
    measured, trained = root / "measured.json", root / "emu" / "done.json"
    if not measured.exists() or measured.stat().st_mtime < trained.stat().st_mtime:  # it may have been lengthened since
        model, processor = Emu.from_pretrained(root / "emu").eval(), EmuProcessor.from_pretrained(root)
        numbers = {
            **measure(model, processor, seed, variant.question == "video"),
            "seconds": read_json(trained)["seconds_of_last_run"],
        }
        numbers = {name: rounded(value) for name, value in numbers.items()}
        write_json(measured, {**numbers, **{what: made_by[what] for what in MEASURED_BY}})
    return read_json(measured)


def own_stages(variant: Variant) -> set[str]:
    """The stages before `emu` that the variant trains itself, since it changes what they depend on."""
    config, recipe = resolve(PRESET, {**SETTINGS, **variant.settings})
    own: set[str] = set()
    for stage in shared_stages(config, recipe):
        parts = (*SECTIONS[stage], f"train.{stage}")
        changed = any(key.startswith(f"{part}.") for part in parts for key in variant.settings)
        if changed or own & set(needs(stage, config, recipe)):
            own.add(stage)
    return own


def shared_stages(config: EmuConfig, recipe: Recipe) -> list[str]:
    """The stages before `emu`, each after those that it needs."""
    return [stage for stage in BEFORE if stage in needs("emu", config, recipe)]


def _seeded(seed: int) -> dict[str, Any]:
    """Another start, and other data in another order."""
    return {"train.world_seed": seed, **{f"train.{stage}.seed": seed for stage in (*BEFORE, "emu")}}


def rounded(value: Any) -> Any:
    """Five digits are more than a spread of seeds needs."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}")


# ---- results ---------------------------------------------------------------------------------------------------------


def collect(
    found: Found,
    names: Sequence[str],
    changes: dict[str, Any] | None = None,
    made_by: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All numbers as one JSON object, with what a reader needs to get them again (`made_by`: a `provenance` taken before).

    Runs that were finished before may have been measured by other code: its commits and versions are listed too.
    """
    variants = {variant.name: variant for variant in VARIANTS}
    made_by = made_by or provenance()
    return {
        **made_by,
        **_earlier(found, made_by),
        "seeds": sorted({int(seed) for runs in found.values() for seed in runs}),
        "things": len(THINGS),
        "settings": {**SETTINGS, **(changes or {})},
        "questions": {name: asdict(QUESTIONS[name]) for name in names},
        "variants": {
            name: {**asdict(variants[name]), "runs": {seed: _numbers(run) for seed, run in runs.items()}}
            for name, runs in found.items()
        },
    }


def _earlier(found: Found, made_by: dict[str, Any]) -> dict[str, list[Any]]:
    """The commits and versions that some of the numbers were measured by, where they are others than those of `made_by`."""
    earlier: dict[str, list[Any]] = {}
    for run in (run for runs in found.values() for run in runs.values()):
        for what, name in MEASURED_BY.items():
            by = run.get(what, "unknown")  # until this was kept beside the numbers
            if by not in (made_by[what], *earlier.get(name, ())):
                earlier.setdefault(name, []).append(by)
    return earlier


def _numbers(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in MEASURED_BY}


def read_ablations(path: str | os.PathLike) -> dict[str, Any]:
    """What `minemu ablate --out` wrote."""
    if not Path(path).exists():
        raise MinemuError(f"there is no results file {path}; write one with: minemu ablate --out {path}")
    results = read_json(path)
    if not isinstance(results, dict) or "variants" not in results:
        raise MinemuError(f"{path} holds no ablations; write them with: minemu ablate --out {path}")
    return results


def values(results: dict[str, Any], variant: str, measure: str) -> list[Any]:
    """The numbers of one measure, one a seed."""
    runs = results["variants"].get(variant, {}).get("runs", {})
    found = [numbers[measure] for numbers in runs.values() if measure in numbers]
    if not found:
        raise MinemuError(f"no run of variant '{variant}' has '{measure}': run minemu ablate for its question first")
    return found


def compared(results: dict[str, Any], question: str) -> dict[str, str]:
    """The variants of a question that were run, the baseline first: name -> what it is called there."""
    if question not in results["questions"]:
        raise MinemuError(f"no question '{question}' in these results: {suggest(question, results['questions'])}")
    asked = results["questions"][question]
    others = [v for v in results["variants"].values() if v["question"] == question and v["name"] != asked["baseline"]]
    return {asked["baseline"]: asked["says"], **{variant["name"]: variant["says"] for variant in others}}


def in_order(names: dict[str, str]) -> dict[str, str]:
    """What `compared` gives, by number where every variant is called by one ("N = 4"), so that a trend can be seen; else as it is."""
    try:
        return dict(sorted(names.items(), key=lambda item: float(item[1].removeprefix("N = "))))
    except ValueError:
        return names


def differs(a: Sequence[float], b: Sequence[float], factor: float = 3.0) -> bool:
    """Is the difference of two variants more than the luck of their seeds?

    Only if their means are further apart than `factor` times the larger standard deviation. One seed has none, so it shows nothing.
    """
    if min(len(a), len(b)) < 2:
        return False
    return abs(statistics.mean(a) - statistics.mean(b)) > factor * max(statistics.stdev(a), statistics.stdev(b))


def lines(results: dict[str, Any], question: str) -> list[str]:
    """A question and its numbers for a person to read: mean, standard deviation, and whether it differs from the baseline."""
    asked = results["questions"][question]
    said = [f"{question}: {asked['asks']}"]
    for name, says in in_order(compared(results, question)).items():
        cells = []
        for key in asked["measures"]:
            mine, base = (values(results, which, key) for which in (name, asked["baseline"]))
            spread = f" ± {statistics.stdev(mine):.3f}" if len(mine) > 1 else ""
            said_of = f"{statistics.mean(mine):.3f}{spread}" if statistics.mean(mine) > FAR_BELOW else "far below 0"
            cells.append(f"{key} {said_of}{' *' if differs(mine, base) else ''}")
        said.append(f"  {says:26} {';  '.join(cells)}")
    return said
