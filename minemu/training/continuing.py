"""How a stage goes on: from a finished checkpoint (`--base`), or where it stopped, then only with its old settings."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from minemu.config import EmuConfig
from minemu.data.mixture import MixtureConfig
from minemu.errors import MinemuError
from minemu.files import atomic_dir, read_json, write_json
from minemu.model import LOGS, Emu, deepened, local_folder, read_config
from minemu.pipeline import DECODER_FOLDER
from minemu.processor import EmuProcessor
from minemu.sketch import grown
from minemu.training import checkpoint
from minemu.training.emu import CONDITIONS
from minemu.training.loop import TrainConfig
from minemu.training.recipes import STAGES, TRAINABLE, Recipe, exists, needs, settings_of
from minemu.visual_decoder import VisualDecoder

# Which conditions a sketch learns from; it may go on with others.
IMAGINED = ("captioned", "imagined", "in_context", "averaged", "laps", "condition_noise")
WEIGHED = ("image_loss_weight", "hide_written")  # and what of the objective an `emu` may weigh otherwise from then on
GROWN = ("cell_maps",)  # parts that a sketch may get
LENGTHENED = ("emu", "sketch")  # stages that go on with the weights of a finished checkpoint
# What runs had before the code knew these settings.
AT_FIRST = {
    "train": asdict(TrainConfig()),
    "data": {"mixture": asdict(MixtureConfig()), "llm": ""},
    "model": {"decoder": {"cell_maps": False, "imagined": 1, "in_context": 0.0, "averaged": 1, "laps": 0}},
}


def begin_from(
    base: str | Path, root: Path, config: EmuConfig, recipe: Recipe, stage: str = STAGES[-1], longer: bool = False
) -> None:
    """Put a finished checkpoint in the place of stages before `stage`, with the logs of their training.

    It replaces all up to `emu`; for `language`, `imagine` and `emu` only the visual side: `encoder` and `bridge`. An `emu`
    that goes on with its weights (`longer`) has the others too.
    """
    if stage in ("encoder", "bridge"):
        raise MinemuError(f"stage {stage} begins with nothing that a finished checkpoint has: leave out --base")
    base = os.path.normpath(base)
    in_part = stage in ("language", "imagine", "emu")
    trained_here = ("emu" if longer else "language") if in_part else "codec"
    folder = local_folder(base)
    before = [name for name in STAGES[: STAGES.index(trained_here)] if exists(name, config, recipe)]
    stands_for = [name for name in before if not goes_on_from(root / name, folder)]
    if own := [name for name in stands_for if is_own(root / name, folder, base)]:
        raise MinemuError(f"{root} has a stage {own[0]} of its own already: leave out --base, or use another --run-dir")
    if all((root / name / "done.json").exists() for name in stands_for):
        return
    if not (folder / LOGS / "emu.json").exists():
        raise MinemuError(
            f"{base} has no records of its training; copy its folder {LOGS}/ from where it was made: what is made of it names them"
        )
    stage = "bridge" if trained_here == "language" else "emu"
    own, its = settings_of(stage, config), settings_of(stage, read_config(folder))
    if longer:
        its = goes_on_as(its, own)
    differing = [section for section in own if _flat(own[section]) != _flat(its[section])]
    if differing:
        raise MinemuError(
            f"{base} differs from preset {root.name} in '{differing[0]}'; train with the preset that it was made by"
        )
    EmuProcessor.from_pretrained(folder).save_pretrained(root)
    model = Emu.from_pretrained(folder)
    if longer:
        model = deepened(model, config.llm.layers)
    for name in stands_for:
        _bring_log(folder, root / name)
    if in_part:
        visual = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("llm.")}
        left = {"language": model.llm.state_dict(), "imagine": model.state_dict()}
        for name in stands_for:
            checkpoint.leave(name, root / name, left.get(name, visual))
    else:
        model.save_pretrained(root / "emu")
        (root / "emu" / CONDITIONS).unlink(missing_ok=True)
    for name in stands_for:
        write_json(root / name / "done.json", {"base": base})


def goes_on_from(stage: Path, folder: Path) -> bool:
    """Whether what is trained in a stage's folder began with the weights that the finished checkpoint in `folder` has of it."""
    run, brought = stage / "run.json", folder / LOGS / f"{stage.name}.json"
    if not (run.exists() and brought.exists()):
        return False
    its, weights_of = read_json(brought), read_json(run).get("weights_of", {})
    return (its["commit"], its["train"]) == (weights_of.get("commit"), weights_of.get("train"))


def is_own(stage: Path, folder: Path, base: str) -> bool:
    """Whether something was trained in a stage's folder, so that a finished checkpoint must not take its place."""
    if (stage / "done.json").exists():
        return read_json(stage / "done.json").get("base") != base
    brought = folder / LOGS / f"{stage.name}.json"  # by a call that was stopped
    return (stage / "run.json").exists() and not (
        brought.exists() and read_json(stage / "run.json") == read_json(brought)
    )


def lengthens(base: str | Path, facts: dict[str, Any]) -> bool:
    """Whether `facts` are of a longer run of the stage than the finished checkpoint `base` had."""
    record = local_folder(base) / LOGS / f"{facts['stage']}.json"
    if facts["stage"] not in LENGTHENED or not record.exists():
        return False
    return is_lengthened(read_json(record)["train"], facts["train"])


def lengthen(base: str | Path, folder: Path, facts: dict[str, Any]) -> None:
    """Let a stage begin, in `folder`, where that of a finished checkpoint ended.

    Its weights were rounded to half precision and its optimizer was not kept, so the bits are others than those of one long run.
    Other settings, another mixture and other scenes may hold from here on. An `emu` gets the layers that it lacks; a sketch gets
    maps for its cells, and may learn from what is imagined otherwise.
    """
    if (folder / "run.json").exists():
        if (done := folder / "done.json").exists() and "base" in read_json(done):
            raise MinemuError(
                f"{folder.parent} has stage {folder.name} of {base} as it is; lengthen it in another --run-dir"
            )
        return
    source, stage = local_folder(base), facts["stage"]
    its = read_json(source / LOGS / f"{stage}.json")
    weights_of = {"commit": its["commit"], "steps": its["train"]["steps"], "train": its["train"]}
    other = {"data": its.get("data") != facts.get("data"), "world": _scenes(its) != _scenes(facts)}
    weights_of |= {part: its.get(part) for part, differs in other.items() if differs}
    if "weights_of" in its:
        weights_of["weights_of"] = its["weights_of"]
    length = {key: its["train"][key] for key in ("steps", "restarts")}
    module: torch.nn.Module
    if stage == "emu":
        now = goes_on_as(its["model"], facts["model"])
        module = deepened(Emu.from_pretrained(source), now["llm"]["layers"])
    else:
        decoder = VisualDecoder.from_pretrained(source / DECODER_FOLDER)
        own, had = facts["model"]["decoder"], asdict(decoder.config)
        grew = {key: own[key] for key in GROWN}
        weights_of |= {key: had[key] for key in (*GROWN, *IMAGINED) if own[key] != had[key]}
        module = grown(decoder.sketch, replace(decoder.config, **grew))
        now = its["model"] | {"decoder": its["model"]["decoder"] | grew | {key: own[key] for key in IMAGINED}}
        now |= {"llm": facts["model"]["llm"]}  # the base may have got layers since
        _bring_codec(base, decoder, folder.parent / "codec")
    for section, had in its["model"].items():
        was = {key: value for key, value in had.items() if now[section].get(key, value) != value}
        if was and section != "decoder":  # of that what matters is noted above
            weights_of[section] = was
    its["model"] = now
    with atomic_dir(folder) as temporary:  # a half one would be begun anew
        average = module.state_dict() if facts["train"].get("ema_decay") else {}
        checkpoint.save(temporary / "checkpoints", weights_of["steps"], module, [], average, {"stage": stage})
        run = {**its, "train": {**facts["train"], **length}, "weights_of": weights_of}
        run |= {part: facts[part] for part in ("data", "world") if part in facts}
        run.pop("listed", None)  # it was of other files
        write_json(temporary / "run.json", run)
        shutil.copy(source / LOGS / f"{stage}.jsonl", temporary / "log.jsonl")


def goes_on_as(its: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model whose `emu` is lengthened: it may get layers, and weigh its losses otherwise."""
    more = {"layers": max(its["llm"]["layers"], own["llm"]["layers"])}
    weighed = {key: own["objective"][key] for key in WEIGHED}
    return its | {"llm": its["llm"] | more, "objective": its["objective"] | weighed}


def _scenes(run: dict[str, Any]) -> dict[str, Any]:
    """What decides which scenes a run saw; what is made of them (`source`) does not."""
    return {key: value for key, value in run.get("world", {}).items() if key != "source"}


def _bring_codec(base: str | Path, decoder: VisualDecoder, folder: Path) -> None:
    """The latents that the sketch was trained on: a codec that is fitted on other scenes has other axes and signs."""
    checkpoint.leave("codec", folder, decoder.codec.state_dict())
    _bring_log(local_folder(base), folder)
    write_json(folder / "done.json", {"base": os.path.normpath(base)})


def _bring_log(source: Path, folder: Path) -> None:
    """How a finished checkpoint's stage was trained, as if it had been trained in `folder`."""
    for record, log in (("run.json", f"{folder.name}.json"), ("log.jsonl", f"{folder.name}.jsonl")):
        if (source / LOGS / log).exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / LOGS / log, folder / record)


def is_complete(folder: Path, facts: dict[str, Any]) -> bool:
    if not (folder / "done.json").exists():
        return False
    done = read_json(folder / "done.json")
    if "base" in done:  # made elsewhere, by whatever settings; that the model is the same `begin_from` has seen
        return True
    refuse_other_settings(folder, facts)
    return not is_lengthened(done["train"], facts["train"])


def is_lengthened(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether `now` goes on where `before` ends: its schedule begins anew there, so the steps before are the same to the bit."""
    if now["steps"] <= before["steps"]:
        return False
    ends = [restart for restart in before.get("restarts", ()) if restart < before["steps"]] + [before["steps"]]
    return list(now["restarts"][: len(ends)]) == ends


def refuse_stale_stages(stage: str, root: Path, config: EmuConfig, recipe: Recipe) -> None:
    """Refuse what came of another run of `stage`, such as a shorter one: it would be taken for finished."""
    stale = {stage}
    for later in TRAINABLE:
        if stale & set(needs(later, config, recipe)):
            stale.add(later)
    found = [str(root / name) for name in TRAINABLE if name in stale - {stage} and (root / name / "run.json").exists()]
    if found:
        raise MinemuError(f"{', '.join(found)} came of an earlier run of stage {stage}; delete that to train {stage}")


PARTS = ("model", "train", "world", "data", "begins")


def refuse_other_settings(folder: Path, facts: dict[str, Any], parts: tuple[str, ...] = PARTS) -> None:
    """A run goes on only with the settings that it began with. Settings that the code did not know then had their defaults."""
    if not (folder / "run.json").exists():
        return
    before = read_json(folder / "run.json")
    for part in parts:
        if changed := changed_settings(before, facts, part):
            raise MinemuError(
                f"{folder} was begun with another {part} setting of '{changed[0]}'; "
                "use another --run-dir, or delete the folder to start anew"
            )


def changed_settings(run: dict[str, Any], facts: dict[str, Any], part: str) -> list[str]:
    """Settings that a recorded run had otherwise, in one part of its facts; that it is shorter is no change."""
    its = (
        {"source": "captions", **run.get(part, {})} if part == "world" else run.get(part, {})
    )  # there was no other once
    began, now = _flat(AT_FIRST.get(part, {})) | _flat(its), _flat(facts.get(part, {}))
    if part == "train" and is_lengthened(began, now):
        now = {path: value for path, value in now.items() if path not in ("steps", "restarts")}
    changed = [path for path, value in now.items() if path in began and began[path] != value]
    if part == "world" and part in run and began.get("things") != now.get("things"):
        changed.append("things")  # written only of a world of one's own
    return changed


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
