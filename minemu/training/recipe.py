"""The recipes: which stages make a preset, in which order, with which settings; and how a stage is started or resumed."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from minemu.config import DecoderConfig, EmuConfig, from_dict, override
from minemu.data.captions import tokenizer_corpus
from minemu.data.corpus import corpus
from minemu.data.mixture import SOURCES, MixtureConfig
from minemu.data.sources import DataFiles, listings, open_mixture, open_talks, tell_of_cuts
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.files import atomic_dir, atomic_write, read_json, write_json
from minemu.model import Emu, local_folder, read_config
from minemu.pipeline import DECODER_FOLDER
from minemu.processor import EmuProcessor
from minemu.sketch import grown
from minemu.tokenizer import train_tokenizer
from minemu.training import checkpoint
from minemu.training.decoder import CodecStage, DecoderStage, SketchStage
from minemu.training.emu import CONDITIONS, EmuStage, LanguageStage
from minemu.training.encoder import BridgeStage, EncoderStage
from minemu.training.instruct import InstructStage
from minemu.training.loop import Stage, TrainConfig, train
from minemu.training.run import LOGS, RunLog, SkipList, describe, refuse_other_files
from minemu.visual_decoder import VisualDecoder
from minemu.weights import save_tensors

STAGES = ("encoder", "bridge", "language", "emu", "codec", "sketch", "decoder")
TRAINABLE = (*STAGES, "instruct")  # Emu-I, an adapter on stage `emu`, is trained when it is asked for


@dataclass(frozen=True)
class Recipe:
    """Settings of every stage of one preset, and the world it learns from."""

    encoder: TrainConfig
    bridge: TrainConfig
    language: TrainConfig
    emu: TrainConfig
    codec: TrainConfig
    sketch: TrainConfig
    decoder: TrainConfig
    instruct: TrainConfig
    core: bool = True  # the 250 common concepts, or all
    world_seed: int = 0
    source: Literal["captions", "mixture"] = "captions"  # of stage `emu`: pictures with captions, or the mixture
    mixture: MixtureConfig = MixtureConfig()
    data: DataFiles = DataFiles()


RECIPES: dict[str, Recipe] = {
    "emu-nano": Recipe(
        encoder=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        bridge=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        language=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        emu=TrainConfig(steps=20, batch_size=8, warmup=4, checkpoint_every=10, log_every=5),
        codec=TrainConfig(steps=0),
        sketch=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5, optimizer="muon"),
        decoder=TrainConfig(steps=20, batch_size=8, warmup=4, checkpoint_every=10, log_every=5, ema_decay=0.99),
        instruct=TrainConfig(steps=20, batch_size=4, warmup=4, checkpoint_every=10, log_every=5),
    ),
    "emu-tiny": Recipe(
        source="mixture",
        mixture=MixtureConfig(  # full captions say most
            labels=1, scenes=12, interleaved=4, clips=1, storyboards=1, names=1, questions=4, in_context=2, texts=1
        ),
        encoder=TrainConfig(
            steps=1000,
            batch_size=128,
            lr=3e-3,
            warmup=100,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=100,
        ),
        bridge=TrainConfig(
            steps=600,
            batch_size=128,
            lr=3e-3,
            warmup=50,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=100,
        ),
        language=TrainConfig(
            steps=400,
            batch_size=128,
            lr=3e-3,
            warmup=50,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=200,
        ),
        emu=TrainConfig(
            steps=12000,
            restarts=(2600, 5600, 8800, 9500, 10000),
            batch_size=64,
            lr=3e-3,
            lr_vision=0.0,
            lr_bridge=0.0,
            warmup=100,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=200,
        ),
        codec=TrainConfig(steps=0),  # the linear codec is fitted, not trained
        sketch=TrainConfig(
            steps=32000,
            restarts=(8000, 17000, 25000),
            batch_size=128,
            lr=5e-3,
            warmup=100,
            final_lr=0.01,
            weight_decay=0.01,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=1000,
            log_every=100,
            preview_every=2000,
        ),
        decoder=TrainConfig(
            steps=1000,
            batch_size=64,
            lr=1e-3,
            warmup=100,
            final_lr=0.02,
            beta2=0.99,
            weight_decay=1e-3,
            precision="bfloat16",
            ema_decay=0.999,
            checkpoint_every=500,
            log_every=50,
            preview_every=1000,
        ),
        instruct=TrainConfig(
            steps=1400,
            restarts=(700,),
            batch_size=32,
            lr=2e-3,
            warmup=50,
            weight_decay=0.0,
            precision="bfloat16",
            checkpoint_every=200,
            log_every=25,  # no multiple of 4: every fourth batch is rehearsal
        ),
    ),
}


RECIPES["emu2-nano"] = RECIPES["emu-nano"]  # the same with pooling in place of the Causal Transformer


NEEDS = {
    "encoder": (),
    "bridge": ("encoder",),
    "language": (),
    "emu": ("encoder", "bridge", "language"),
    "codec": (),
    "sketch": ("emu", "codec"),
    "decoder": ("emu", "codec", "sketch"),
    "instruct": ("emu",),
}


def needs(stage: str, config: EmuConfig) -> tuple[str, ...]:
    """The stages before it that the configuration has."""
    return tuple(name for name in NEEDS[stage] if exists(name, config))


def exists(stage: str, config: EmuConfig) -> bool:
    """Without decoder.condition_grid there is no sketch; pooling has no Causal Transformer to begin with."""
    without = {"sketch": not config.decoder.condition_grid, "bridge": config.bridge.kind == "pool"}
    return not without.get(stage, False)


# What a run had whose version of the code knew no such setting.
AT_FIRST = {"train": asdict(TrainConfig()), "data": {"mixture": asdict(MixtureConfig())}}
SECTIONS = {  # parts of the configuration that a stage depends on; it may go on while others change
    "encoder": ("vision",),
    "bridge": ("vision", "bridge"),
    "language": ("llm",),
    "emu": ("vision", "bridge", "llm", "objective"),
    "codec": ("decoder",),
    "sketch": ("vision", "bridge", "llm", "decoder"),
    "decoder": ("vision", "bridge", "llm", "decoder"),
    "instruct": ("vision", "bridge", "llm"),
}


def settings_of(stage: str, config: EmuConfig) -> dict[str, Any]:
    """What of the model a stage depends on. How pictures are drawn may change after training; the U-Net comes last."""
    later = ("sampler", "guidance_scale", "inference_steps", *(("unet_",) if stage in ("codec", "sketch") else ()))
    settings = {section: values for section, values in config.to_dict().items() if section in SECTIONS[stage]}
    if "decoder" in settings:
        settings["decoder"] = {key: value for key, value in settings["decoder"].items() if not key.startswith(later)}
    return settings


def build_stage(
    name: str, config: EmuConfig, recipe: Recipe, processor: EmuProcessor, world: ToyWorld, root: Path
) -> Stage:
    """The stage `name`, reading what earlier stages left in `root`."""
    settings: TrainConfig = getattr(recipe, name)

    def length(text: str) -> int:
        return len(processor.encode(text))

    if name == "encoder":
        return EncoderStage(config, settings, processor, world)
    if name == "bridge":
        return BridgeStage(config, settings, processor, world, root)
    if name == "language":
        return LanguageStage(config, settings, processor, world, wordings(world) if recipe.source == "mixture" else ())
    mixture, skipped = None, SkipList(root / name / "skipped.jsonl")
    n_image, seed = config.bridge.n_image, settings.seed
    if name in ("emu", "instruct") and recipe.source == "mixture":
        mixture = open_mixture(recipe.mixture, recipe.data, world, length, n_image, seed, skipped)
        tell_of_cuts(recipe.data, config.llm.context)
    if name == "emu":
        return EmuStage(config, settings, processor, world, root, mixture)
    if name == "instruct":
        talks = open_talks(recipe.data.conversations, world, length, n_image, seed, skipped)
        return InstructStage(config, settings, root, talks, mixture)
    if name == "codec":
        return CodecStage(config, settings, processor, world)
    if name == "sketch":
        return SketchStage(config, settings, processor, world, root)
    return DecoderStage(config, settings, processor, world, root)


def wordings(world: ToyWorld) -> list[str]:
    """All that is said in the sources, questions and conversations, but for captions, of which there is no end."""
    return corpus(world, each=500)


OF_MIXTURE, OF_TALKS = ("mixture.", "data."), "data.conversations."  # settings of the recipe


def recipe_of(preset: str) -> Recipe:
    if preset not in RECIPES:
        EmuConfig.preset(preset)  # an unknown preset is told apart from one too large to train here
        raise MinemuError(f"preset '{preset}' has no recipe on the toy world; with one: {', '.join(RECIPES)}")
    return RECIPES[preset]


def resolve(preset: str, overrides: dict[str, Any]) -> tuple[EmuConfig, Recipe]:
    """Model and recipe with `llm.layers=6` (model) and `train.emu.steps=100` (recipe) applied."""
    config, recipe = EmuConfig.preset(preset), recipe_of(preset)
    of_recipe = {key.removeprefix("train."): value for key, value in overrides.items() if key.startswith("train.")}
    of_model = {key: value for key, value in overrides.items() if not key.startswith("train.")}
    resolved = override(recipe, of_recipe)
    unread = [key for key in of_recipe if key.startswith(OF_MIXTURE) and not key.startswith(OF_TALKS)]
    if unread and resolved.source != "mixture":
        raise MinemuError(f"train.{unread[0]} is read only with a mixture: add --set train.source=mixture")
    return config.override(of_model), resolved


def train_stage(
    preset: str,
    stage: str,
    run_dir: str | Path = "runs",
    overrides: dict[str, Any] | None = None,
    log_to: str | None = None,
    stop_after: int | None = None,
    base: str | Path | None = None,
    world: ToyWorld | None = None,
) -> bool:
    """Train one stage of a preset, or go on where it stopped. True when it is complete. Its folder: run_dir/preset/stage.

    base    a finished checkpoint that takes the place of the stages before (see `begin_from`); stages `emu` and `sketch` go on
            with its weights where the schedule begins anew at its last step
    world   another world than the recipe's, such as one with fewer things in it
    """
    if stage not in TRAINABLE:
        raise MinemuError(f"unknown stage '{stage}': {suggest(stage, TRAINABLE)}")
    config, recipe = resolve(preset, overrides or {})
    settings: TrainConfig = getattr(recipe, stage)
    root = Path(run_dir) / preset
    folder = root / stage
    facts = facts_of(preset, stage, config, recipe, world)
    if base is not None:
        longer = lengthens(base, facts)
        begin_from(base, root, config, stage, longer)
        if longer:
            lengthen(base, folder, facts)
    if is_complete(folder, facts):
        return True
    for needed in needs(stage, config):
        if not (root / needed / "done.json").exists():
            where = "" if str(run_dir) == "runs" else f" --run-dir {run_dir}"
            raise MinemuError(
                f"stage {stage} needs stage {needed} first: minemu train {needed} --preset {preset}{where}"
            )
    _refuse_other_settings(folder, facts)
    listed = listings(recipe.data, sources_of(stage, recipe))  # of a finished stage they may be gone
    refuse_other_files(folder, listed)
    _refuse_stale_stages(stage, root, config)
    processor = make_processor(root, config, recipe, world)
    if world is None:
        world = ToyWorld("seen", core=recipe.core, seed=recipe.world_seed, image_size=config.vision.image_size)
    started = time.time()
    built, log = build_stage(stage, config, recipe, processor, world, root), RunLog(folder / "log.jsonl", log_to)
    (folder / "done.json").unlink(missing_ok=True)  # it stood for a shorter run
    describe(folder, **facts, **({"listed": listed} if listed else {}))
    try:
        complete = train(built, settings, folder, log, stop_after)
    finally:
        log.close()
    if complete:
        write_json(folder / "done.json", {**facts, "seconds_of_last_run": round(time.time() - started, 1)})
    return complete


def facts_of(preset: str, stage: str, config: EmuConfig, recipe: Recipe, world: ToyWorld | None) -> dict[str, Any]:
    """All that decides what a stage becomes: it goes on only with the same."""
    of_world = {"core": recipe.core, "seed": recipe.world_seed, "source": recipe.source}
    facts: dict[str, Any] = {
        "preset": preset,
        "stage": stage,
        "model": settings_of(stage, config),
        "train": asdict(getattr(recipe, stage)),
        "world": of_world if world is None else {**of_world, "things": len(world.labels)},
    }
    mixed = {"mixture": asdict(recipe.mixture), "files": asdict(recipe.data)} if recipe.source == "mixture" else {}
    if stage == "emu" and mixed:
        facts["data"] = mixed
    if stage == "instruct":  # conversations, and the mixture as rehearsal
        facts["data"] = {**asdict(recipe.data.conversations), **mixed}
    return facts


def sources_of(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """The sources that a stage reads and that may be on disk."""
    mixed = SOURCES if recipe.source == "mixture" and stage in ("emu", "instruct") else ()
    return (*mixed, "conversations") if stage == "instruct" else mixed


def run_recipe(
    preset: str,
    run_dir: str | Path = "runs",
    overrides: dict[str, Any] | None = None,
    log_to: str | None = None,
    instruct: bool = False,
    base: str | Path | None = None,
) -> Path:
    """All stages in order; complete ones are skipped, a half-done one goes on. Returns the folder of the finished checkpoint.

    With `base`, a finished checkpoint, only what comes after its stage `emu`; its sketch goes on where its schedule begins anew.

    With `instruct` Emu-I too: its adapter is exported beside the checkpoint, in checkpoint-instruct.
    """
    from minemu.training.export import export, export_adapter, is_exported

    root, config = Path(run_dir) / preset, resolve(preset, overrides or {})[0]
    if base is not None:
        begin_from(base, root, config)
    for stage in TRAINABLE if instruct else STAGES:
        if exists(stage, config):
            train_stage(preset, stage, run_dir, overrides, log_to, base=base if stage == "sketch" else None)
    if instruct and not is_exported(root, ("instruct",), root / "checkpoint-instruct"):
        export_adapter(root)
    return root / "checkpoint" if is_exported(root, STAGES, root / "checkpoint") else export(root)


LEFT_BY = {"encoder": "contrastive.safetensors", "bridge": "bridge.safetensors", "language": "llm.safetensors"}
LENGTHENED = ("emu", "sketch")  # stages that go on with the weights of a finished checkpoint


def begin_from(base: str | Path, root: Path, config: EmuConfig, stage: str = STAGES[-1], longer: bool = False) -> None:
    """Put a finished checkpoint in the place of stages before `stage`, with the logs of their training.

    Of those up to `emu`; for `language` and `emu` themselves it brings the visual side: `encoder` and `bridge`. An `emu` that
    goes on with its weights (`longer`) has its `language` too.
    """
    if stage in ("encoder", "bridge"):
        raise MinemuError(f"stage {stage} begins with nothing that a finished checkpoint has: leave out --base")
    base = os.path.normpath(base)
    in_part = stage in ("language", "emu")
    trained_here = ("emu" if longer else "language") if in_part else "codec"
    stands_for = [name for name in STAGES[: STAGES.index(trained_here)] if exists(name, config)]
    folder, done = local_folder(base), root / stands_for[-1] / "done.json"
    if done.exists():
        if read_json(done).get("base") == base:
            return
        raise MinemuError(
            f"{root} has a stage {stands_for[-1]} of its own already: leave out --base, or use another --run-dir"
        )
    own, its = config.to_dict(), read_config(folder).to_dict()
    sections = SECTIONS["bridge" if trained_here == "language" else "emu"]
    differing = [section for section in sections if _flat(own[section]) != _flat(its[section])]
    if differing:
        raise MinemuError(
            f"{base} differs from preset {root.name} in '{differing[0]}'; train with the preset that it was made by"
        )
    EmuProcessor.from_pretrained(folder).save_pretrained(root)
    model = Emu.from_pretrained(folder)
    for name in stands_for:
        for record, log in (("run.json", f"{name}.json"), ("log.jsonl", f"{name}.jsonl")):
            if (folder / LOGS / log).exists():
                (root / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / LOGS / log, root / name / record)
    if in_part:
        visual = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("llm.")}
        for name in stands_for:
            with atomic_write(root / name / LEFT_BY[name]) as temporary:
                save_tensors(model.llm.state_dict() if name == "language" else visual, temporary)
    else:
        model.save_pretrained(root / "emu")
        (root / "emu" / CONDITIONS).unlink(missing_ok=True)
    for name in stands_for:
        write_json(root / name / "done.json", {"base": base})


def lengthens(base: str | Path, facts: dict[str, Any]) -> bool:
    """Whether `facts` are of a longer run of the stage than the finished checkpoint `base` had."""
    record = local_folder(base) / LOGS / f"{facts['stage']}.json"
    if facts["stage"] not in LENGTHENED or not record.exists():
        return False
    return is_lengthened(read_json(record)["train"], facts["train"])


def lengthen(base: str | Path, folder: Path, facts: dict[str, Any]) -> None:
    """Let a stage begin, in `folder`, where that of a finished checkpoint ended.

    Its weights were rounded to half precision and its optimizer was not kept, so the bits are others than those of one long run.
    Other settings and another mixture may hold from here on.
    """
    if folder.exists():
        return
    source, stage = local_folder(base), facts["stage"]
    its = read_json(source / LOGS / f"{stage}.json")
    weights_of = {"commit": its["commit"], "steps": its["train"]["steps"], "train": its["train"]}
    weights_of |= {part: its.get(part) for part in ("data", "world") if its.get(part) != facts.get(part)}
    if "weights_of" in its:
        weights_of["weights_of"] = its["weights_of"]
    length = {key: its["train"][key] for key in ("steps", "restarts")}
    module: torch.nn.Module
    if stage == "emu":
        module = Emu.from_pretrained(source)
    else:
        sketch = VisualDecoder.from_pretrained(source / DECODER_FOLDER).sketch
        module = grown(sketch, from_dict(DecoderConfig, facts["model"]["decoder"]))
    with atomic_dir(folder) as temporary:  # a half one would be begun anew
        checkpoint.save(temporary / "checkpoints", weights_of["steps"], module, [], {}, {"stage": stage})
        run = {**its, "train": {**facts["train"], **length}, "weights_of": weights_of}
        run |= {part: facts[part] for part in ("data", "world") if part in facts}
        run.pop("listed", None)  # it was of other files
        if stage == "sketch":
            grew = {key: value for key, value in facts["model"]["decoder"].items() if key.startswith("refine_")}
            run["model"] = {**its["model"], "decoder": {**its["model"]["decoder"], **grew}}
        write_json(temporary / "run.json", run)
        shutil.copy(source / LOGS / f"{stage}.jsonl", temporary / "log.jsonl")


def make_processor(root: Path, config: EmuConfig, recipe: Recipe, world: ToyWorld | None = None) -> EmuProcessor:
    """The tokenizer, trained on the world's captions (or on every wording) in seconds, kept beside the stages."""
    if not (root / "tokenizer.json").exists():
        world = world or ToyWorld("seen", core=recipe.core, seed=recipe.world_seed)
        texts = tokenizer_corpus(world.labels)
        if recipe.source == "mixture":
            texts += corpus(world)
        tokenizer = train_tokenizer(texts, config.llm.vocab_size)
        EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image).save_pretrained(root)
    return EmuProcessor.from_pretrained(root)


def is_complete(folder: Path, facts: dict[str, Any]) -> bool:
    if not (folder / "done.json").exists():
        return False
    done = read_json(folder / "done.json")
    if "base" in done:  # made elsewhere, by whatever settings; that the model is the same `begin_from` has seen
        return True
    _refuse_other_settings(folder, facts)
    return not is_lengthened(done["train"], facts["train"])


def is_lengthened(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether `now` goes on where `before` ends: its schedule begins anew there, so the steps before are the same to the bit."""
    if now["steps"] <= before["steps"]:
        return False
    ends = [restart for restart in before.get("restarts", ()) if restart < before["steps"]] + [before["steps"]]
    return list(now["restarts"][: len(ends)]) == ends


def _refuse_stale_stages(stage: str, root: Path, config: EmuConfig) -> None:
    """What came of another run of `stage`, such as a shorter one, would be taken for finished."""
    stale = {stage}
    for later in TRAINABLE:
        if stale & set(needs(later, config)):
            stale.add(later)
    found = [str(root / name) for name in TRAINABLE if name in stale - {stage} and (root / name / "run.json").exists()]
    if found:
        raise MinemuError(f"{', '.join(found)} came of an earlier run of stage {stage}; delete that to train {stage}")


def _refuse_other_settings(folder: Path, facts: dict[str, Any]) -> None:
    """A run goes on only with the settings that it began with. One that its version of the code did not know had its default."""
    if not (folder / "run.json").exists():
        return
    before = read_json(folder / "run.json")
    before["world"] = {"source": "captions", **before.get("world", {})}  # there was no other once
    for part in ("model", "train", "world", "data"):
        began = _flat(AT_FIRST.get(part, {})) | _flat(before.get(part, {}))
        now = _flat(facts.get(part, {}))
        if part == "train" and is_lengthened(began, now):
            now = {path: value for path, value in now.items() if path not in ("steps", "restarts")}
        changed = [path for path, value in now.items() if path in began and began[path] != value]
        if changed:
            raise MinemuError(
                f"{folder} was begun with another {part} setting of '{changed[0]}'; "
                "use another --run-dir, or delete the folder to start anew"
            )


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{where}{key}.")
        else:
            flat[f"{where}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
