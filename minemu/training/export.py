"""From the folders of a finished recipe to one checkpoint that `EmuPipeline.from_pretrained` loads, card and logs included."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from minemu.adapters import BASE, CONFIG, WEIGHTS, is_adapter
from minemu.config import EmuConfig
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.files import atomic_dir, atomic_write, read_json, write_json
from minemu.model import LOGS, Emu
from minemu.pipeline import DECODER_FOLDER, EmuPipeline
from minemu.processor import EmuProcessor
from minemu.training.instruct import ADAPTER_FOLDER
from minemu.visual_decoder import VisualDecoder
from minemu.weights import load_tensors


def export(root: Path, out: Path | None = None, dtype: torch.dtype = torch.float16) -> Path:
    """Write the checkpoint of the recipe run in `root` to `out` (default: root/checkpoint), weights in half precision."""
    out = Path(out or root / "checkpoint")
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


def export_adapter(root: Path, out: Path | None = None) -> Path:
    """Write Emu-I, the adapter of stage `instruct` alone, to `out` (default: root/checkpoint-instruct), card and log included."""
    out, stage = Path(out or root / "checkpoint-instruct"), root / "instruct"
    if not (stage / "done.json").exists():
        raise MinemuError(f"stage instruct of {root} is not complete; run: minemu train instruct --preset {root.name}")
    with atomic_dir(out) as temporary:
        shutil.copytree(stage / ADAPTER_FOLDER, temporary, dirs_exist_ok=True)
        _copy_log(stage, temporary / LOGS)
        (temporary / "README.md").write_text(adapter_card(temporary), encoding="utf-8")
    return out


def _copy_log(stage: Path, folder: Path) -> None:
    """Log and settings of a stage; where the runs and their base lay is nobody's business."""
    folder.mkdir(exist_ok=True)
    shutil.copy(stage / "log.jsonl", folder / f"{stage.name}.jsonl")
    run = read_json(stage / "run.json")
    command = re.sub(r"--run-dir \S+", "--run-dir runs", run["command"])
    run["command"] = re.sub(r"--base \S*/(?=\S)", "--base ", command)
    write_json(folder / f"{stage.name}.json", run)


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
    things = _things(folder)
    bytes_on_disk = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    lines = [
        "---", "library_name: minemu", "license: apache-2.0", "tags: [emu, multimodal, image-to-text, text-to-image]", "---", "",
        f"# {config.name}", "",
        f"Emu (arXiv 2307.05222) at toy size, trained from nothing on drawings of {things} things in four styles.",
        "It reads and draws such pictures, 64 pixels wide, and nothing else; what it was trained for has a row under Results.",
        "Weights are stored in float16.", "",
        "```python", "from minemu import EmuPipeline", "", f'pipe = EmuPipeline.from_pretrained("data_samples/{config.name}")',
        'pipe(["a rocket on a purple background, Fluent style"]).images[0]', "```", "",
        f"## Parts ({sum(sizes.values()):,} parameters, {bytes_on_disk / 1e6:.1f} MB)", "", "| part | parameters |", "|---|---|",
        *(f"| `{name}` | {size:,} |" for name, size in sizes.items()), "", *_training(folder),
        f"Settings and logs of each stage: `{LOGS}/`. {_again(folder)}: `minemu recipe {config.name}`.", "", *_results(folder),
    ]  # fmt: skip
    lines += [
        "## Limits", "",
        f"Knows {things} concepts, eight backgrounds, four drawing styles and one or two things at a time;",
        "photographs, and questions in other words than training's, mean nothing to it.",
        "Data: Noto (Apache-2.0), Twemoji (CC-BY-4.0), Fluent 3D and Fluent flat (MIT); see NOTICE.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _things(folder: Path) -> int:
    """How many things the world of a checkpoint's training has."""
    world = read_json(folder / LOGS / "emu.json")["world"]
    return world.get("things") or len(ToyWorld("seen", core=world["core"]).labels)


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
        f'pipe = EmuPipeline.from_pretrained("data_samples/{base}-instruct")  # with {base} beside it', "```", "",
        *_training(folder), f"{_again(folder)}: `minemu recipe {base} --instruct`.", "", *_results(folder),
    ]  # fmt: skip
    return "\n".join(lines)


def _again(folder: Path) -> str:
    """The recipe makes the same again only where each stage was trained in one go, with its settings."""
    runs = [read_json(path) for path in sorted((folder / LOGS).glob("*.json"))]
    same = not any("weights_of" in run or "--set" in run["command"].split() for run in runs)
    return "The same again" if same else "Another of its kind, each stage in one go"


def _results(folder: Path) -> list[str]:
    if not (folder / "results.json").exists():
        return []
    from minemu.evaluation.report import read_results, table

    return ["## Results", "", table(read_results(folder / "results.json")), ""]


def _training(folder: Path) -> list[str]:
    return [
        "## Training", "",
        "| stage | steps | pictures or texts a step | hours of steps | peak memory | commit |", "|---|---|---|---|---|---|",
        *(_training_row(path) for path in sorted((folder / LOGS).glob("*.json"))), "",
        *(line for path in sorted((folder / LOGS).glob("*.json")) for line in _began_with(read_json(path))),
    ]  # fmt: skip


def _began_with(run: dict) -> list[str]:
    """Said of a stage that a shipped checkpoint's weights were trained further in: the same recipe, other bits."""
    links, link = [], run
    while link := link.get("weights_of"):
        other = {
            "data": ", of another mixture",
            "world": ", of other scenes",
            "refine_layers": ", without all its convolutions",
        }
        which = "".join(text for part, text in other.items() if part in link)
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
