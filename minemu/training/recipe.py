"""Start or resume one stage, or run all stages of a preset in order."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights

from minemu.adapters import instruct_config
from minemu.config import EmuConfig
from minemu.data.captions import tokenizer_corpus
from minemu.data.corpus import corpus
from minemu.data.sources import check_files, check_talks, listings, open_mixture, open_talks, tell_of_cuts
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.files import read_json, sweep, write_json
from minemu.loading import device_of
from minemu.model import Emu
from minemu.pipeline import DECODER_FOLDER
from minemu.processor import EmuProcessor
from minemu.sequence import SPECIAL_TOKENS, TokenIds
from minemu.tokenizer import train_tokenizer
from minemu.training.continuing import (
    begin_from,
    is_complete,
    lengthen,
    lengthens,
    refuse_other_settings,
    refuse_stale_stages,
)
from minemu.training.decoder import CodecStage, DecoderStage, SketchStage
from minemu.training.emu import CONDITIONS, EmuStage, ImagineStage, LanguageStage
from minemu.training.encoder import BridgeStage, EncoderStage, bridge_grid
from minemu.training.instruct import InstructStage
from minemu.training.loop import Stage, TrainConfig, train
from minemu.training.machine import forget_peak_memory
from minemu.training.ready_made import fetch
from minemu.training.recipes import STAGES, TRAINABLE, Recipe, exists, facts_of, needs, resolve, sources_of
from minemu.training.run import RunLog, SkipList, alone, check_logger, describe, refuse_other_files
from minemu.visual_decoder import check as check_decoder


def train_stage(
    preset: str,
    stage: str,
    run_dir: str | Path = "runs",
    overrides: dict[str, Any] | None = None,
    log_to: str | None = None,
    stop_after: int | None = None,
    base: str | Path | None = None,
    world: ToyWorld | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    compiled: bool = False,
) -> bool:
    """Train one stage of a preset, or go on where it stopped. True when it is complete. Its folder: run_dir/preset/stage.

    base    a finished checkpoint that takes the place of the stages before (see `begin_from`); stages `emu` and `sketch` go on
            with its weights where the schedule begins anew at its last step
    world   another world than the recipe's, such as one with fewer things in it
    device  where to compute; a GPU where there is one unless given. A GPU draws other random numbers: another model, as good
    workers processes that make the batches, where one thread does not keep up with the device; the batches are the same
    compiled the layers of an LLM: faster, with sums that differ in their last bits (see `loop.compile_layers`)
    """
    if stage not in TRAINABLE:
        raise MinemuError(f"unknown stage '{stage}': {suggest(stage, TRAINABLE)}")
    config, recipe = resolve(preset, overrides or {})
    if stage != "instruct":
        config = config.override({"llm.lora_rank": 0})  # the adapters come last
    settings: TrainConfig = getattr(recipe, stage)
    if stage in ("codec", "sketch", "decoder"):
        check_drawing(config, recipe)
    check_logger(log_to)
    root = Path(run_dir) / preset
    folder = root / stage
    facts = facts_of(preset, stage, config, recipe, world)
    at = device_of(device)
    if base is not None:
        longer = lengthens(base, facts)
        begin_from(base, root, config, recipe, stage, longer)
        if longer:
            lengthen(base, folder, facts)
    if is_complete(folder, facts):
        return True
    for needed in needs(stage, config, recipe):
        if not (root / needed / "done.json").exists():
            where = "" if str(run_dir) == "runs" else f" --run-dir {run_dir}"
            same = "".join(f" --set {key}={value}" for key, value in (overrides or {}).items())
            raise MinemuError(
                f"stage {stage} needs stage {needed} first: minemu train {needed} --preset {preset}{where}{same}"
            )
        if "base" not in read_json(root / needed / "done.json"):
            refuse_other_settings(root / needed, facts_of(preset, needed, config, recipe, world), ("model",))
    refuse_other_settings(folder, facts)
    listed = listings(recipe.data, sources_of(stage, recipe))  # of a finished stage they may be gone
    refuse_other_files(folder, listed)
    refuse_stale_stages(stage, root, config, recipe)
    processor = make_processor(root, config, recipe, world)
    if world is None:
        world = ToyWorld("seen", core=recipe.core, seed=recipe.world_seed, image_size=config.vision.image_size)
    started = time.time()
    with alone(folder):
        sweep(folder)
        sweep(folder / "checkpoints")
        if stage in ("sketch", "decoder"):
            sweep(root / "emu", CONDITIONS)
        forget_peak_memory()
        built = build_stage(stage, config, recipe, processor, world, root, imagine_on=at).to(at)
        log = RunLog(folder / "log.jsonl", log_to)
        try:
            (folder / "done.json").unlink(missing_ok=True)  # it stood for a shorter run
            describe(folder, **facts, device=at.type, **({"listed": listed} if listed else {}))
            complete = train(built, settings, folder, log, stop_after, workers, compiled)
        finally:
            log.close()
    if complete:
        write_json(folder / "done.json", {**facts, "seconds_of_last_run": round(time.time() - started, 1)})
    return complete


def run_recipe(
    preset: str,
    run_dir: str | Path = "runs",
    overrides: dict[str, Any] | None = None,
    log_to: str | None = None,
    instruct: bool = False,
    base: str | Path | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    compiled: bool = False,
) -> Path:
    """All stages in order; complete ones are skipped, a half-done one goes on. Returns the folder of the finished checkpoint.

    With `base`, a finished checkpoint, only what comes after its stage `emu`; that and its sketch go on if their schedules begin
    anew at their last steps.

    With `instruct` Emu-I too: its adapter is exported beside the checkpoint, in checkpoint-instruct.
    `device`, `workers`, `compiled`: see `train_stage`.
    """
    from minemu.training.export import export, export_adapter, is_exported

    root, (config, recipe) = Path(run_dir) / preset, resolve(preset, overrides or {})
    stages = TRAINABLE if instruct else STAGES
    check_recipe(config, recipe, [stage for stage in stages if not (root / stage / "done.json").exists()])
    longer = base is not None and lengthens(base, facts_of(preset, "emu", config, recipe, None))
    if base is not None:
        begin_from(base, root, config, recipe, *(("emu", True) if longer else ()))
    for stage in stages:
        if exists(stage, config, recipe):
            begun = base if stage == "sketch" or (stage == "emu" and longer) else None
            machine = {"device": device, "workers": workers, "compiled": compiled}
            train_stage(preset, stage, run_dir, overrides, log_to, base=begun, **machine)
    drawn = read_json(root / "decoder" / DECODER_FOLDER / "config.json")
    for name in ("sampler", "inference_steps", "guidance_scale"):
        if drawn[name] != (asked := getattr(config.decoder, name)):
            raise MinemuError(
                f"the decoder in {root} is finished, and draws with {name}={drawn[name]}: leave out decoder.{name}={asked}, "
                "and ask for it when you draw"
            )
    if instruct and not is_exported(root, ("instruct",), root / "checkpoint-instruct"):
        export_adapter(root)
    return root / "checkpoint" if is_exported(root, STAGES, root / "checkpoint") else export(root)


def check_drawing(config: EmuConfig, recipe: Recipe) -> None:
    """Refuse what the stages that draw cannot be built with."""
    check_decoder(config.decoder)
    grid, n = config.decoder.condition_grid, config.bridge.n_image
    if grid and grid**2 != n:
        raise MinemuError(
            f"decoder.condition_grid={grid} takes {grid**2} visual embeddings a picture, and bridge.n_image is {n}; "
            "change one of them, or leave the sketch out: decoder.condition_grid=0"
        )
    if config.decoder.image_size != config.vision.image_size:
        raise MinemuError(
            f"decoder.image_size={config.decoder.image_size} and vision.image_size={config.vision.image_size} differ, and both learn "
            "from the same pictures; set both alike"
        )
    if grid and config.decoder.image_size // config.decoder.patch % grid:
        raise MinemuError(
            f"decoder.condition_grid={grid} does not divide the {config.decoder.image_size // config.decoder.patch} latent positions "
            "of a side; change decoder.patch or decoder.image_size"
        )
    if (config.decoder.codec == "vae") != bool(recipe.codec.steps):
        raise MinemuError(
            "decoder.codec=vae has to be trained: add --set train.codec.steps=750, or more"
            if config.decoder.codec == "vae"
            else "train.codec.steps: the linear codec is fitted, not trained; set it to 0, or decoder.codec=vae"
        )


def check_recipe(config: EmuConfig, recipe: Recipe, stages: Iterable[str]) -> None:
    """Refuse now what one of the `stages` to come, hours away, would refuse."""
    check_drawing(config, recipe)
    if exists("bridge", config, recipe):
        bridge_grid(config)
    if recipe.source == "mixture":
        check_files(recipe.data, recipe.mixture)
    check_talks(recipe.data)
    for stage in stages:
        listings(recipe.data, sources_of(stage, recipe))
    for stage, only in (("imagine", recipe.imagine.only), ("emu", recipe.emu.only)):
        if only:
            with init_empty_weights():
                model = Emu(config)
            names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
            if only not in names:
                raise MinemuError(f"train.{stage}.only={only} is no module of Emu: {suggest(only, names)}")


def build_stage(
    name: str,
    config: EmuConfig,
    recipe: Recipe,
    processor: EmuProcessor,
    world: ToyWorld,
    root: Path,
    imagine_on: str | torch.device = "cpu",
) -> Stage:
    """The stage `name`, reading what earlier stages left in `root`. Its conditions, if it has some, are imagined on `imagine_on`."""
    settings: TrainConfig = getattr(recipe, name)

    if name == "encoder":
        return EncoderStage(config, settings, processor, world)
    if name == "bridge":
        return BridgeStage(config, settings, processor, world, root)
    if name == "language":
        said = wordings(world) if recipe.source == "mixture" else ()
        return LanguageStage(config, settings, processor, world, said, recipe.llm)
    mixture, skipped = None, SkipList(root / name / "skipped.jsonl")
    n_image, seed = config.bridge.n_image, settings.seed
    # The stage adds [USER] and [ASSISTANT], and its texts may not hold them.
    reads = EmuProcessor.of(instruct_config(config), root) if name == "instruct" else processor

    def length(text: str) -> int:
        return len(reads.encode(text))

    if name in ("emu", "instruct") and recipe.source == "mixture":
        mixture = open_mixture(recipe.mixture, recipe.data, world, length, n_image, seed, skipped)
        tell_of_cuts(recipe.data, config.llm.context)
    if name == "imagine":
        if not exists(name, config, recipe):
            raise MinemuError(
                "stage imagine has nothing to do: train.imagine.steps=0; go on with stage emu, or give it steps"
            )
        return ImagineStage(config, settings, processor, world, root)
    if name == "emu":
        return EmuStage(config, settings, processor, world, root, mixture, exists("imagine", config, recipe))
    if name == "instruct":
        talks = open_talks(recipe.data.conversations, world, length, n_image, seed, skipped)
        return InstructStage(config, settings, root, talks, mixture, recipe.rehearse)
    if name == "codec":
        return CodecStage(config, settings, processor, world)
    if name == "sketch":
        if not exists(name, config, recipe):
            raise MinemuError("stage sketch has nothing to train: decoder.condition_grid=0; go on with stage decoder")
        return SketchStage(config, settings, processor, world, root, imagine_on)
    return DecoderStage(config, settings, processor, world, root, imagine_on)


def wordings(world: ToyWorld) -> list[str]:
    """All that is said in the sources, questions and conversations, but for captions, of which there is no end."""
    return corpus(world, each=500)


def make_processor(root: Path, config: EmuConfig, recipe: Recipe, world: ToyWorld | None = None) -> EmuProcessor:
    """The tokenizer, trained on the world's captions (or on every wording) in seconds, kept beside the stages.

    A ready-made LLM brings its own.
    """
    if not (root / "processor.json").exists() and recipe.llm:
        EmuProcessor.of(config, fetch(recipe.llm)).save_pretrained(root)
    if not (root / "processor.json").exists():  # written last
        world = world or ToyWorld("seen", core=recipe.core, seed=recipe.world_seed)
        texts = tokenizer_corpus(world.labels)
        if recipe.source == "mixture":
            texts += corpus(world)
        if config.llm.special_tokens != len(SPECIAL_TOKENS):
            raise MinemuError(
                f"llm.special_tokens={config.llm.special_tokens}: a tokenizer that is trained here has {len(SPECIAL_TOKENS)}; "
                "stage instruct adds those of conversations"
            )
        tokenizer = train_tokenizer(texts, config.llm.vocab_size)
        if (taken := tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS[0])) != config.llm.words:
            raise MinemuError(
                f"llm.words={config.llm.words} is too few: bytes and letters alone take {taken}; give more"
            )
        EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image).save_pretrained(root)
    processor = EmuProcessor.from_pretrained(root)
    if processor.ids != TokenIds.of(config.llm):
        raise MinemuError(
            f"{root} has a tokenizer for another llm.words than {config.llm.words}; use another --run-dir"
        )
    sizes = (config.vision.image_size, config.bridge.n_image)
    if (processor.image_size, processor.n_image) != sizes:  # a stage that depends on neither came first
        processor = EmuProcessor(processor.tokenizer, *sizes)
        processor.save_pretrained(root)
    return processor
