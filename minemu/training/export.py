"""From the folders of a finished recipe to one checkpoint that `EmuPipeline.from_pretrained` loads, card and logs included."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from minemu.adapters import BASE, CONFIG, WEIGHTS, is_adapter
from minemu.config import DecoderConfig, EmuConfig
from minemu.data.sources import TOY
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.files import atomic_dir, atomic_write, read_json, sweep, write_json
from minemu.model import LOGS, Emu
from minemu.pipeline import DECODER_FOLDER, EmuPipeline
from minemu.processor import EmuProcessor
from minemu.training.continuing import IMAGINED, changed_settings
from minemu.training.instruct import ADAPTER_FOLDER
from minemu.training.recipes import RECIPES, TRAINABLE, facts_of, resolve
from minemu.visual_decoder import VisualDecoder, begins_as_sketch
from minemu.weights import load_folder, load_tensors, save_tensors


def export(root: Path, out: Path | None = None, dtype: torch.dtype = torch.float16) -> Path:
    """Write the checkpoint of the recipe run in `root` to `out` (default: root/checkpoint), weights in half precision."""
    out = Path(out or root / "checkpoint")
    sweep(out.parent, out.name)
    for stage in ("emu", "decoder"):
        if not (root / stage / "done.json").exists():
            raise MinemuError(f"stage {stage} of {root} is not complete; run: minemu recipe {root.name}")
    pipe = EmuPipeline(
        Emu.from_pretrained(root / "emu"),
        EmuProcessor.from_pretrained(root),
        VisualDecoder.from_pretrained(root / "decoder" / DECODER_FOLDER),
    )
    with atomic_dir(out) as temporary:
        pipe.save_pretrained(temporary, dtype)
        for stage in sorted(path.parent for path in root.glob("*/done.json") if path.parent.name != "instruct"):
            if (stage / "run.json").exists():  # a base may have been made without it
                _copy_log(stage, temporary / LOGS)
        (temporary / "README.md").write_text(model_card(temporary), encoding="utf-8")
    return out


def is_exported(root: Path, stages: Iterable[str], out: Path) -> bool:
    """Whether `out` was written and none of these stages has ended since: then it stays, with results that were put into it.

    The training records tell when: results that are written later do not touch them.
    """
    done = [path for path in (root / stage / "done.json" for stage in stages) if path.exists()]
    records = out / LOGS
    return records.exists() and all(path.stat().st_mtime <= records.stat().st_mtime for path in done)


def export_adapter(root: Path, out: Path | None = None, dtype: torch.dtype = torch.float16) -> Path:
    """Write Emu-I, the adapter of stage `instruct` alone, to `out` (default: root/checkpoint-instruct), in half precision as its
    base, card and log included."""
    out, stage = Path(out or root / "checkpoint-instruct"), root / "instruct"
    if not (stage / "done.json").exists():
        raise MinemuError(f"stage instruct of {root} is not complete; run: minemu train instruct --preset {root.name}")
    with atomic_dir(out) as temporary:
        shutil.copytree(stage / ADAPTER_FOLDER, temporary, dirs_exist_ok=True)
        save_tensors(load_tensors(stage / ADAPTER_FOLDER / WEIGHTS), temporary / WEIGHTS, dtype)
        _copy_log(stage, temporary / LOGS)
        (temporary / "README.md").write_text(adapter_card(temporary), encoding="utf-8")
    return out


def _copy_log(stage: Path, folder: Path) -> None:
    """Log and settings of a stage; where the runs and their base lay is nobody's business."""
    folder.mkdir(exist_ok=True)
    shutil.copy(stage / "log.jsonl", folder / f"{stage.name}.jsonl")
    run = read_json(stage / "run.json")
    run["command"] = _without_places(run["command"])
    if "earlier_commands" in run:
        run["earlier_commands"] = list(map(_without_places, run["earlier_commands"]))
    write_json(folder / f"{stage.name}.json", run)


def _without_places(command: str) -> str:
    """A recorded command with the names of its folders alone."""
    words: list[str] = []
    for word in shlex.split(command):
        words += word.split("=", 1) if word.startswith(("--run-dir=", "--base=")) else [word]
    for place, option in enumerate(words[:-1], start=1):
        if option == "--run-dir":
            words[place] = "runs"
        elif option == "--base":
            words[place] = os.path.basename(os.path.normpath(words[place]))
    return shlex.join(words)


def refresh_card(folder: Path) -> None:
    """Write the card anew, after results.json came or changed."""
    card = adapter_card if is_adapter(folder) else model_card
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(card(folder), encoding="utf-8")


def model_card(folder: Path) -> str:
    """The card of a checkpoint: every number in it is read from the checkpoint's own files."""
    values = read_json(folder / "config.json")
    values.pop("model_type")
    config = EmuConfig.from_dict(values)
    with torch.device("meta"):
        model = Emu(config)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    decoder = VisualDecoder.from_pretrained(folder / DECODER_FOLDER)
    sizes["visual_decoder"] = sum(p.numel() for p in decoder.parameters())
    things, own = _things(folder), _own_data(folder)
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in load_folder(folder).values()})
    bytes_on_disk = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    lines = [
        "---", "library_name: minemu", "license: apache-2.0", "tags: [emu, multimodal, image-to-text, text-to-image]", "---", "",
        f"# {config.name}", "",
        f"Emu (arXiv 2307.05222) at toy size, trained from {_begun(folder)} on drawings of {things} things in four styles{own}.",
        f"It reads and draws such pictures, {config.vision.image_size} pixels wide, and nothing else. "
        f"Weights are stored in {' and '.join(stored)}.", "",
        "```python", "from minemu import EmuPipeline", "", f'pipe = EmuPipeline.from_pretrained("{config.name}")  # this folder',
        'pipe(["a rocket on a purple background, Fluent style"]).images[0]', "```", "",
        f"## Parts ({sum(sizes.values()):,} parameters, {bytes_on_disk / 1e6:.1f} MB)", "", "| part | parameters |", "|---|---|",
        *(f"| `{name}` | {size:,} |" for name, size in sizes.items()), "", *_training(folder),
        f"Settings and logs of each stage: `{LOGS}/`. {_again(folder, config.name, '')}", "", *_results(folder),
    ]  # fmt: skip
    if not own:
        lines += [
            "## Limits", "",
            f"Knows {things} concepts, eight backgrounds, four drawing styles and one or two things at a time;",
            "photographs, and questions in other words than training's, mean nothing to it.",
            *_of_one_step(decoder.config), "",
        ]  # fmt: skip
    lines += [
        "Data of the toy world: Noto (Apache-2.0), Twemoji (CC-BY-4.0), Fluent, also animated (MIT); labels from Unicode CLDR",
        "(Unicode-3.0), definitions from WordNet 3.0. Credits and licences: NOTICE of minemu.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _of_one_step(config: DecoderConfig) -> list[str]:
    if config.inference_steps > 1 or not begins_as_sketch(config):
        return []
    return ["It draws in one step: the picture is the sketch, regressed from its embeddings, and no seed changes it.",
            "The U-Net corrects the sketch where more steps are asked for."]  # fmt: skip


def _things(folder: Path) -> int:
    """How many things the world of a checkpoint's training has."""
    world = read_json(folder / LOGS / "emu.json")["world"]
    return world.get("things") or len(ToyWorld("seen", core=world["core"]).labels)


def _begun(folder: Path) -> str:
    """What training began with; of a folder of one's own, its name."""
    record = folder / LOGS / "language.json"
    llm = read_json(record).get("data", {}).get("llm", "") if record.exists() else ""
    return f"the LLM `{Path(llm).name if os.path.isabs(llm) else llm}`, all else from nothing," if llm else "nothing"


def _own_data(folder: Path) -> str:
    """Which sources of stage `emu` were data on disk, for the card's first sentence."""
    files = read_json(folder / LOGS / "emu.json").get("data", {}).get("files", {})
    named = [name for name, data in files.items() if data["format"] != TOY]
    return f", and on data of one's own for {', '.join(named)}" if named else ""


def adapter_card(folder: Path) -> str:
    """The card of an adapter, from its own files."""
    settings, base = read_json(folder / CONFIG), read_json(folder / BASE)["name"]
    tensors = load_tensors(folder / WEIGHTS)
    lines = [
        "---", "library_name: minemu", "license: apache-2.0", "tags: [emu, multimodal, lora, peft]", "---", "",
        f"# {base}-instruct", "",
        f"Emu-I at toy size: a low-rank adapter on the self-attention of `{base}`'s LLM, and nothing else. Rank {settings['r']}, "
        f"alpha {settings['lora_alpha']}, {sum(tensor.numel() for tensor in tensors.values()):,} numbers. "
        "It answers questions about toy pictures and clips in the form that is asked for.", "",
        "```python", "from minemu import EmuPipeline", "",
        f'pipe = EmuPipeline.from_pretrained("{base}-instruct")  # this folder, with {base} beside it', "```", "",
        *_training(folder), _again(folder, base, " --instruct"), "", *_results(folder),
    ]  # fmt: skip
    return "\n".join(lines)


def _again(folder: Path, preset: str, options: str) -> str:
    """What the recipe makes beside this: the same only where each stage was trained in one go, with the recipe's settings."""
    runs = [read_json(path) for path in sorted((folder / LOGS).glob("*.json"))]
    command = f"`minemu recipe {preset}{options}`"
    if preset not in RECIPES:
        return ""
    if any("weights_of" in run or " --base " in run["command"] for run in runs):
        return f"Another of its kind, each stage in one go: {command}."
    if any(_differs_from_recipe(run, preset) for run in runs):
        return f"{command} trains with other settings."
    if is_adapter(folder):
        return f"Another like it, on a base of its own: {command}."
    return f"The same again, each stage on its commit above: {command}."


def _differs_from_recipe(run: dict, preset: str) -> bool:
    facts = facts_of(preset, run["stage"], *resolve(preset, {}), world=None)
    return any(changed_settings(run, facts, part) for part in ("model", "train", "world", "data"))


def _results(folder: Path) -> list[str]:
    if not (folder / "results.json").exists():
        return []
    from minemu.evaluation.report import read_results, table

    return ["## Results", "", table(read_results(folder / "results.json")), ""]


def _training(folder: Path) -> list[str]:
    records = sorted((folder / LOGS).glob("*.json"), key=lambda path: TRAINABLE.index(path.stem))
    return [
        "## Training", "",
        "| stage | steps | samples a step | hours of steps | peak memory | commit |", "|---|---|---|---|---|---|",
        *map(_training_row, records), "", *(line for path in records for line in _began_with(read_json(path))),
    ]  # fmt: skip


def _began_with(run: dict) -> list[str]:
    """Said of a stage that a shipped checkpoint's weights were trained further in: the same recipe, other bits."""
    links, link = [], run
    while link := link.get("weights_of"):
        other = {
            ", of another mixture": {"data"},
            ", of other scenes": {"world"},
            ", from other embeddings": {*IMAGINED},
            ", without maps for its cells": {"cell_maps"},
            ", with convolutions that it has lost since": {"refine_layers"},  # a setting until November 2026
        }
        which = "".join(text for text, parts in other.items() if parts & link.keys())
        links.insert(0, f"{link['steps']} steps{which} (commit `{link['commit'][:12]}`)")
    if not links:
        return []
    only = f" From the last on `{run['train']['only']}` learnt alone." if run["train"].get("only") else ""
    return [
        f"Stage {run['stage']} went on from its weights after {', '.join(links)}: rounded to half precision each time, with a new "
        f"optimizer.{only} Trained in one go the recipe gives another model.", "",
    ]  # fmt: skip


def _training_row(settings: Path) -> str:
    run = read_json(settings)
    entries = [json.loads(line) for line in settings.with_suffix(".jsonl").read_text().splitlines()]
    seconds = sum(entry["seconds"] for entry in entries) / max(1, len(entries)) * run["train"]["steps"]
    peak = max((entry["peak_gb"] for entry in entries), default=0.0)
    batch = run["train"]["batch_size"] * run["train"]["accumulate"]
    commits = ", ".join(f"`{commit[:12]}`" for commit in (*run.get("earlier_commits", ()), run["commit"]))
    return f"| {run['stage']} | {run['train']['steps']} | {batch} | {seconds / 3600:.2f} | {peak:.2f} GB | {commits} |"
