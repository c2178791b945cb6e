"""Results on paper: one JSON file with where they come from, and the Markdown tables that README and model card show of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minemu import adapters
from minemu.errors import MinemuError
from minemu.evaluation.tasks import Result
from minemu.files import atomic_write, digest, read_json
from minemu.model import local_folder
from minemu.training.run import command, commit, versions


@dataclass(frozen=True)
class Row:
    """A line of the table: which number of which result, and what was aimed at."""

    title: str
    task: str
    split: str
    aim: float = 0.0
    detail: str = ""  # the number of this name in the details, in place of the score; "parts.direction": that of a part
    shots: int | None = None  # of a result with as many examples
    chance: float | None = None  # of a detail that has another than the score


COPY_IS_NEARER = 2 / 3  # where it was not measured: one nearness against the smaller of two

ROWS = (
    Row("caption of one drawing, exact", "caption", "seen", 0.95),
    Row("caption of two drawings, exact (both, relation, background, style)", "scene-caption", "seen", 0.80),
    Row("concept of a new drawing, likeliest", "caption", "new-drawing", 0.15),
    Row("concept of a new drawing, among the five likeliest", "caption", "new-drawing", 0.45, detail="top5"),
    Row("drawing from words, judged", "text-to-image", "seen", 0.75),
    Row("drawing from words in a style new to the concept, judged", "text-to-image", "new-drawing", 0.40),
    Row("style of what is drawn from words, judged", "text-to-image", "seen", detail="style", chance=0.25),
    Row(
        "style of what is drawn in a style new to the concept",
        "text-to-image",
        "new-drawing",
        detail="style",
        chance=0.25,
    ),
    Row("two drawings from words, both in their places, judged", "scene-to-image", "seen", 0.50),
    Row("picture rebuilt from its embeddings, judged", "autoencode", "seen", 0.85),
    Row("style of a rebuilt picture, judged", "autoencode", "seen", detail="style", chance=0.25),
    Row("new drawing rebuilt from its embeddings, judged", "autoencode", "new-drawing"),
    Row("style of a rebuilt new drawing, judged", "autoencode", "new-drawing", detail="style", chance=0.25),
    Row("questions about a picture", "vqa", "seen", 0.85),
    Row("questions about a new drawing", "vqa", "new-drawing"),
    Row("questions about 8 frames of a clip", "video-qa", "seen", 0.85),
    Row("the same about a still, the middle frame eight times", "video-qa", "seen", detail="single_frame"),
    Row("the same about the middle frame alone, the likeliest answer", "video-qa", "seen", detail="ranked_frame"),
    Row("questions about 8 frames: which way a thing moves", "video-qa", "seen", 0.85, "parts.direction", chance=0.25),
    Row(
        "the same about a still, the middle frame eight times",
        "video-qa",
        "seen",
        detail="parts.direction.single_frame",
        chance=0.25,
    ),
    Row(
        "the same about the middle frame alone, the likeliest answer",
        "video-qa",
        "seen",
        detail="parts.direction.ranked_frame",
        chance=0.25,
    ),
    Row("caption of 8 frames of a clip, exact (thing, event, background, style)", "video-caption", "seen"),
    Row("the same of a still, the middle frame eight times", "video-caption", "seen", detail="single_frame"),
    Row("answers in a dialogue ranked, NDCG", "dialogue", "seen"),
    Row("answers in the asked form: a word, a sentence, a list", "form", "seen", 0.95),
    Row("two new names for new concepts, 1 example of each", "few-shot-names", "new-concept", 0.75, shots=1),
    Row("two new names for new concepts, 4 examples of each", "few-shot-names", "new-concept", 0.85, shots=4),
    Row("questions in a plain prompt, no examples", "few-shot-vqa", "seen", shots=0),
    Row("questions after 2 examples without pictures", "few-shot-vqa", "seen", detail="text_only", shots=0),
    Row("questions after 2 examples, by RICES", "few-shot-vqa", "seen", shots=2),
    Row("questions after 2 examples, at random", "few-shot-vqa", "seen", detail="random", shots=2),
    Row("questions after 4 examples, by RICES", "few-shot-vqa", "seen", shots=4),
    Row("questions after 4 examples, at random", "few-shot-vqa", "seen", detail="random", shots=4),
    Row("questions after 8 examples, by RICES", "few-shot-vqa", "seen", shots=8),
    Row("questions after 8 examples, at random", "few-shot-vqa", "seen", detail="random", shots=8),
    Row("two pictures blended, the true sum among the judge's first five", "blend", "all", 0.50),
    Row("the same of a copy of one of the two", "blend", "all", detail="copied"),
    Row(
        "a blend nearer to its two pictures than to another's (chance: a copy of one of the two)",
        "blend",
        "all",
        detail="nearer_than_chance",
        chance=COPY_IS_NEARER,
    ),
    Row("drawing in context, among the judge's first five, as told", "in-context-draw", "seen", 0.50),
    Row(
        "a drawing in context nearer to its two pictures than to another's (chance: a copy of one of the two)",
        "in-context-draw",
        "seen",
        detail="nearer_than_chance",
        chance=COPY_IS_NEARER,
    ),
    Row(
        "document continued: pictures and texts alternate as they should, whatever they show",
        "interleaved",
        "seen",
        0.90,
    ),
)


BESIDE = {  # details that are said in one line with the score
    "top5": "among the five likeliest",
    "single_frame": "the middle frame eight times",
    "ranked_frame": "the middle frame alone, the likeliest answer",
    "is_caption": "a caption at all",
    "random": "examples at random",
    "text_only": "two examples without pictures",
    "nearer_than_chance": "nearer to both than to another's two",
}


MET, MISSED = "✓", "✗"
BENCH_AIMS = {
    "image-embeds-n32": 5.0,
    "image-embeds-n64": 8.5,
    "image-embeds-n32-bf16": 8.0,
    "image-embeds-n64-bf16": 14.0,
    "make-demo": 1.0,
    "make-test": 1.0,
}
BENCH_LIMITS = {"train-peak": 1.0}  # here less is better


PARITY_STAGES = {  # which recorded tensors show which stage
    "visual encoder": ("visual_features",),
    "visual embeddings": ("causal_embeds", "encode_image", "encode_video_frames"),
    "LLM: hidden states, logits, regressed embeddings": (
        "hidden",
        "logits",
        "regress_all",
        "regress_pred",
        "regress_label",
    ),
    "both losses": ("text_loss", "regress_mse_33", "regress_mse_image_only"),
    "visual embeddings generated one by one": ("gen_text_only", "gen_batch_leftpad", "gen_with_images"),
}


def provenance() -> dict[str, Any]:
    """What a reader needs to get the same numbers again."""
    return {
        "command": command(),
        "commit": commit(),
        "versions": versions(),
    }


def weights_of(checkpoint: str | os.PathLike) -> dict[str, str]:
    """Digests of the weights that are measured: a checkpoint's, or an adapter's and its base's."""
    folder = local_folder(checkpoint)
    found = {"weights": digest(folder)}
    return {**found, "base_weights": digest(adapters.base_folder(folder))} if adapters.is_adapter(folder) else found


def collect(results: Sequence[Result], preset: str, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All results of one checkpoint as one JSON object; `measured` says what was measured, as `weights_of` does, where and by what
    (`provenance`, taken before: minutes later the code on disk may be another).
    """
    return {
        **(measured or provenance()),
        "preset": preset,
        "results": [result.to_dict() for result in results],
    }


def line(result: Result) -> str:
    """A result for a person to read."""
    low, high = result.details["interval"]
    on = f"{result.split}, {result.details['shots']} shots" if "shots" in result.details else result.split
    text = f"{result.task} ({on}): {result.score:.1%}  [{low:.1%}, {high:.1%}]  n {result.n}, seed {result.seed}"
    text += (
        f"; chance {percent(result.chance)}, blind {percent(result.blind)}, upper bound {percent(result.upper_bound)}"
    )
    beside = [f"{said} {result.details[name]:.1%}" for name, said in BESIDE.items() if name in result.details]
    return "; ".join([text, *beside])


def table(collected: dict[str, Any], aims_alone: bool = False) -> str:
    """The results that `collect` gave as a Markdown table (of all, or of those with an aim), below it their command, commit and seeds."""
    found = {(one["task"], one["split"], one["details"].get("shots")): one for one in collected["results"]}
    lines = [
        "| on the core world | split | n | aim | measured | 95 % interval | chance | blind | upper bound |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in ROWS if row.aim or not aims_alone):
        result = found.get((row.task, row.split, row.shots))
        if numbers := result and _numbers(result, row):
            rate, n, *cells = numbers
            aim = f"≥ {row.aim:.0%} {MET if rate >= row.aim else MISSED}" if row.aim else ""
            lines.append(f"| {' | '.join([row.title, row.split, n, aim, *cells])} |")
    seeds = sorted({result["seed"] for result in collected["results"]})
    origin = f"`{collected['command']}` at commit `{collected['commit'][:12]}`, seed {', '.join(map(str, seeds))}."
    return "\n".join(
        [
            *lines,
            "",
            f"Measured by {origin} Judged rows: share of the judge's rate on real pictures, which is the upper bound.",
        ]
    )


def _numbers(result: dict[str, Any], row: Row) -> list[Any]:
    """Rate and cells of a score, or of a detail: n, rate, interval and what stands beside it; [] of a detail that is not in the result.

    A detail has the chance of the score unless it has its own, or the row says it. A blind baseline and an upper bound are nobody's
    but whose they were measured for.
    """
    details = result["details"]
    shown = {"rate": result["score"], "interval": details["interval"]}
    if row.detail and not (shown := _detail(details, row.detail)):
        return []
    low, high = shown["interval"]
    common = result
    if row.detail:
        common = {"chance": result["chance"] if row.chance is None else row.chance}
    beside = [{**common, **shown}.get(name) for name in ("chance", "blind", "upper_bound")]
    cells = ["" if value is None else percent(value) for value in beside]
    return [
        shown["rate"],
        str(shown.get("n", result["n"])),
        f"**{percent(shown['rate'])}**",
        f"{low:.1%} – {high:.1%}",
        *cells,
    ]


def _detail(details: dict[str, Any], name: str) -> dict[str, Any]:
    """Rate, interval and, where they are known, n and baselines of a detail; {} if there is none of this name."""
    part, _, of = name.partition(".")
    if of:
        return _detail(details.get(part, {}), of)
    if isinstance(details.get(name), dict):  # a part
        return details[name]
    if f"{name}_interval" not in details:
        return {}
    own = {key.removeprefix(f"{name}_"): value for key, value in details.items() if key.startswith(f"{name}_")}
    counted = {"n": details["n"]} if "n" in details else {}  # of the part that it is a detail of
    return {"rate": details[name], **counted, **own}


def percent(value: float) -> str:
    return f"{value:.1%}" if value == 0 or value >= 0.001 else "< 0.1%"


def bench_table(bench: dict[str, Any]) -> str:
    """What `minemu bench --json` wrote as a Markdown table."""
    lines = ["| time | against | aim | measured | range | runs | largest error |", "|---|---|---|---|---|---|---|"]
    for name, row in bench["rows"].items():
        least, most = BENCH_AIMS.get(name, -math.inf), BENCH_LIMITS.get(name, math.inf)
        aim = f"≥ {least:g} ×" if name in BENCH_AIMS else f"≤ {most:g} ×" if name in BENCH_LIMITS else ""
        aim += f" {MET if least <= row['ratio'] <= most else MISSED}" if aim else ""
        error = f"{row['error']:.0e}" if "error" in row else ""
        ratio, low, high = (f"{row[key]:.{1 if row[key] >= 1 else 2}f}" for key in ("ratio", "min", "max"))
        spread = f"{low} – {high} ×" if row["runs"] > 1 else row["said"]
        cells = [f"`{name}`", row["against"], aim, f"**{ratio} ×**", spread, str(row["runs"]), error]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Measured by `{bench['command']}` at commit `{bench['commit'][:12]}`."])


def full_scale_table(found: dict[str, Any]) -> str:
    """What `minemu bench --full-scale --json` wrote as a Markdown table."""
    device, preset = found["machine"]["device"], found["preset"]
    lines = [f"| `{preset}`, random weights in bfloat16, on one {device} | |", "|---|---|"]
    lines += [f"| {name} | {row['said']} |" for name, row in found["rows"].items()]
    return "\n".join([*lines, "", f"Measured by `minemu bench --full-scale` at commit `{found['commit'][:12]}`."])


def parity_table(found: dict[str, dict[str, Any]]) -> str:
    """What `minemu parity --json` wrote for each model, by name, as a Markdown table of the largest error of each stage."""
    lines = [f"| largest error | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for stage, names in PARITY_STAGES.items():
        cells = []
        for parity in found.values():
            errors = [parity["tensors"][name]["error"] for name in names if name in parity["tensors"]]
            cells.append(f"{max(errors):.1e}" if errors else "not recorded")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    equal = [all(t["passed"] for t in parity["tensors"].values() if t["ids"]) for parity in found.values()]
    lines.append(
        f"| tokenisation; text from greedy and beam search | {' | '.join('equal' if e else 'DIFFERENT' for e in equal)} |"
    )
    commits = sorted({parity["commit"][:12] for parity in found.values()})
    return "\n".join([*lines, "", f"Measured by `minemu parity` at commit {', '.join(f'`{c}`' for c in commits)}."])


def has_place(path: str | os.PathLike, name: str) -> bool:
    """Whether a Markdown file has a place of this name for `fill`."""
    return Path(path).is_file() and f"<!-- {name}:begin -->" in Path(path).read_text(encoding="utf-8")


def fill(path: str | os.PathLike, tables: Mapping[str, str]) -> None:
    """Put each text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a Markdown file, in place of what stands there.

    All of them or, where one has no place, none.
    """
    path = Path(path)
    if not path.is_file():
        raise MinemuError(f"there is no file {path} to write the table into; check the path")
    whole = path.read_text(encoding="utf-8")
    for name, text in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found_begin, rest = whole.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise MinemuError(
                f"{path} has no place for the table; write the two lines {begin} and {end} where it should stand"
            )
        whole = f"{before}{begin}\n{text}\n{end}{after}"
    with atomic_write(path) as temporary:
        temporary.write_text(whole, encoding="utf-8")


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """A results file, as `minemu evaluate --all --json` wrote it."""
    return _read(path, "minemu evaluate CHECKPOINT --all", "results")


def read_bench(path: str | os.PathLike) -> dict[str, Any]:
    """A file that `minemu bench --json` wrote."""
    found = _read(path, "minemu bench", "rows")
    if "preset" in found:
        raise MinemuError(f"{path} is of minemu bench --full-scale; give it as --full-scale {path}")
    return found


def read_full_scale(path: str | os.PathLike) -> dict[str, Any]:
    """A file that `minemu bench --full-scale --json` wrote."""
    return _read(path, "minemu bench --full-scale", "rows", "preset")


def read_parity(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """parity-emu1.json and parity-emu2.json of a folder, as `minemu parity --json` wrote them."""
    files = {"Emu": "parity-emu1.json", "Emu2": "parity-emu2.json"}
    return {
        name: _read(Path(folder) / file, "minemu parity RECORDING", "tensors", "commit") for name, file in files.items()
    }


def _read(path: str | os.PathLike, command: str, *keys: str) -> dict[str, Any]:
    if not Path(path).exists():
        raise MinemuError(f"there is no results file {path}; write one with: {command} --json {path}")
    value = read_json(path)
    if not isinstance(value, dict) or not set(keys) <= set(value):
        raise MinemuError(f"{path} is no results file; write one with: {command} --json {path}")
    return value
