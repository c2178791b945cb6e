"""The recipes: which stages make a preset, with which settings, and what each stage depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from minemu.config import PRESETS, EmuConfig, override
from minemu.data.mixture import SOURCES, MixtureConfig
from minemu.data.sources import DataFiles
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.training.loop import TrainConfig

STAGES = ("encoder", "bridge", "language", "imagine", "emu", "codec", "sketch", "decoder")
TRAINABLE = (*STAGES, "instruct")  # Emu-I, an adapter on stage `emu`, is trained when it is asked for


@dataclass(frozen=True)
class Recipe:
    """Settings of every stage of one preset, and the world it learns from."""

    encoder: TrainConfig
    bridge: TrainConfig
    language: TrainConfig
    imagine: TrainConfig  # steps=0: stage `emu` begins with what there was before
    emu: TrainConfig
    codec: TrainConfig
    sketch: TrainConfig
    decoder: TrainConfig
    instruct: TrainConfig
    llm: str = ""  # a LLaMA that others have trained, for stage `language` to begin with: see `ready_made`
    core: bool = True  # the 250 common concepts, or all
    world_seed: int = 0
    source: Literal["captions", "mixture"] = "captions"  # of stage `emu`: pictures with captions, or the mixture
    mixture: MixtureConfig = MixtureConfig()
    data: DataFiles = DataFiles()
    rehearse: int = (
        4  # of stage `instruct`: every so many batches one of pretraining's documents; 0: none, as in the paper
    )

    def __post_init__(self) -> None:
        if self.rehearse < 0 or self.rehearse == 1:
            raise MinemuError(
                f"train.rehearse={self.rehearse} leaves no conversations: give 2 or more, or 0 for no rehearsal"
            )


RECIPES: dict[str, Recipe] = {
    "emu-nano": Recipe(
        encoder=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        bridge=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        language=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5),
        imagine=TrainConfig(steps=0, batch_size=8, warmup=4, checkpoint_every=10, log_every=5),
        emu=TrainConfig(steps=20, batch_size=8, warmup=4, checkpoint_every=10, log_every=5),
        codec=TrainConfig(steps=0),
        sketch=TrainConfig(steps=20, batch_size=16, warmup=4, checkpoint_every=10, log_every=5, optimizer="muon"),
        decoder=TrainConfig(steps=20, batch_size=8, warmup=4, checkpoint_every=10, log_every=5, ema_decay=0.99),
        instruct=TrainConfig(steps=20, batch_size=4, warmup=4, checkpoint_every=10, log_every=5),
    ),
    "emu-tiny": Recipe(
        source="mixture",
        mixture=MixtureConfig(  # full captions say most
            labels=1,
            scenes=14,
            interleaved=4,
            clips=4,
            storyboards=1,
            copying=1,
            recall=8,
            names=12,
            questions=12,
            in_context=6,
            drawings=52,
            texts=1,
        ),
        encoder=TrainConfig(
            steps=1500,
            batch_size=128,
            lr=3e-3,
            warmup=100,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=100,
        ),
        bridge=TrainConfig(
            steps=1500,
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
        imagine=TrainConfig(steps=0),  # the checkpoint that is here was trained without
        emu=TrainConfig(
            steps=12_300,  # the shipped checkpoint's parts had other mixtures
            restarts=(6500, 8500, 9300, 9800, 10_200, 11_200, 11_500),
            batch_size=128,
            lr=2e-3,
            lr_vision=0.0,
            lr_bridge=0.0,
            warmup=100,
            optimizer="muon",
            precision="bfloat16",
            checkpoint_every=200,
        ),
        codec=TrainConfig(steps=0),  # the linear codec is fitted, not trained
        sketch=TrainConfig(
            steps=42_500,
            restarts=(8000, 15_000, 21_000, 24_000, 32_000, 39_000),
            batch_size=128,
            lr=2e-3,
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


# For one GPU: a first guess, of which no full length was trained yet. All 1,412 things, twenty times the pictures of `emu-tiny`
# a stage, at a third of its rates; the LLM is ready-made, as the authors' was.
_TINY = RECIPES["emu-tiny"]
RECIPES["emu-small"] = replace(
    _TINY,
    llm="HuggingFaceTB/SmolLM2-135M-Instruct",
    core=False,
    encoder=replace(_TINY.encoder, steps=15_000, batch_size=256, lr=1e-3),
    bridge=replace(_TINY.bridge, steps=15_000, batch_size=256, lr=1e-3),
    language=TrainConfig(steps=0),
    imagine=replace(_TINY.emu, steps=20_000, restarts=(), batch_size=256, lr=3e-4, warmup=1000),
    emu=replace(_TINY.emu, steps=30_000, restarts=(), batch_size=440, lr=3e-4, warmup=1000),
    sketch=replace(_TINY.sketch, steps=50_000, restarts=(), batch_size=256, lr=2e-3),
    decoder=replace(_TINY.decoder, steps=20_000, batch_size=256, lr=3e-4, ema_decay=0.9995),
    instruct=replace(_TINY.instruct, steps=5_000, batch_size=64, lr=5e-4),
)
# The same with pooling in place of the Causal Transformer. Its way into the LLM begins at random, so it has to learn.
for _preset in ("emu-nano", "emu-tiny", "emu-small"):
    _own = RECIPES[_preset]
    RECIPES[_preset.replace("emu", "emu2")] = replace(
        _own, imagine=replace(_own.imagine, lr_bridge=None), emu=replace(_own.emu, lr_bridge=None)
    )


NEEDS = {  # the stages before it that each reads
    "encoder": (),
    "bridge": ("encoder",),
    "language": (),
    "imagine": ("encoder", "bridge", "language"),
    "emu": ("encoder", "bridge", "language", "imagine"),
    "codec": (),
    "sketch": ("emu", "codec"),
    "decoder": ("emu", "codec", "sketch"),
    "instruct": ("emu",),
}


def needs(stage: str, config: EmuConfig, recipe: Recipe) -> tuple[str, ...]:
    """The stages before it that the configuration and the recipe have."""
    return tuple(name for name in NEEDS[stage] if exists(name, config, recipe))


def exists(stage: str, config: EmuConfig, recipe: Recipe) -> bool:
    """Without decoder.condition_grid there is no sketch; pooling has no Causal Transformer to begin with; imagining is optional."""
    without = {
        "sketch": not config.decoder.condition_grid,
        "bridge": config.bridge.kind == "pool",
        "imagine": not recipe.imagine.steps,
    }
    return not without.get(stage, False)


SECTIONS = {  # parts of the configuration that a stage depends on; it may go on while others change
    "encoder": ("vision",),
    "bridge": ("vision", "bridge"),
    "language": ("llm",),
    "imagine": ("vision", "bridge", "llm", "objective"),
    "emu": ("vision", "bridge", "llm", "objective"),
    "codec": ("decoder",),
    "sketch": ("vision", "bridge", "llm", "decoder"),
    "decoder": ("vision", "bridge", "llm", "decoder"),
    "instruct": ("vision", "bridge", "llm"),
}


# Of the decoder's settings those that the codec is made by.
OF_CODEC = ("image_size", "codec", "patch", "latent_channels", "vae_width", "layers_per_block", "norm_groups")


def settings_of(stage: str, config: EmuConfig) -> dict[str, Any]:
    """What of the model a stage depends on: not on how pictures are drawn after training, nor a sketch on the U-Net, which is
    trained after it."""
    later = ("sampler", "guidance_scale", "inference_steps", *(("unet_",) if stage == "sketch" else ()))
    settings = {section: values for section, values in config.to_dict().items() if section in SECTIONS[stage]}
    if "llm" in settings and stage != "instruct":
        settings["llm"] = {key: value for key, value in settings["llm"].items() if not key.startswith("lora_")}
    if stage == "codec":
        settings["decoder"] = {key: settings["decoder"][key] for key in OF_CODEC}
    elif "decoder" in settings:
        settings["decoder"] = {key: value for key, value in settings["decoder"].items() if not key.startswith(later)}
    return settings


READ_BY = {  # settings of training that not all stages have a use for
    "only": ("imagine", "emu"),
    "lr_vision": ("imagine", "emu"),
    "lr_bridge": ("imagine", "emu"),
    "preview_every": ("sketch", "decoder"),
}
OF_MIXTURE, OF_TALKS = ("mixture.", "data."), "data.conversations."  # settings of the recipe


def recipe_of(preset: str) -> Recipe:
    if preset not in RECIPES:
        if preset not in PRESETS:  # told apart from one too large to train here
            raise MinemuError(f"unknown preset '{preset}': {suggest(preset, RECIPES)}")
        raise MinemuError(f"preset '{preset}' has no recipe on the toy world; with one: {', '.join(RECIPES)}")
    return RECIPES[preset]


def resolve(preset: str, overrides: dict[str, Any]) -> tuple[EmuConfig, Recipe]:
    """Model and recipe with `llm.layers=6` (model) and `train.emu.steps=100` (recipe) applied."""
    recipe = recipe_of(preset)  # first, so that an unknown name is answered with the presets that have a recipe
    config = EmuConfig.preset(preset)
    of_recipe = {key.removeprefix("train."): value for key, value in overrides.items() if key.startswith("train.")}
    of_model = {key: value for key, value in overrides.items() if not key.startswith("train.")}
    for key in of_model:
        sections = [*config.to_dict(), "train"]
        if (section := key.partition(".")[0]) not in sections:
            raise MinemuError(f"unknown configuration key '{section}': {suggest(section, sections)}")
    resolved = override(recipe, of_recipe, "train.")
    refuse_unread(of_recipe, resolved)
    return config.override(of_model), resolved


def refuse_unread(given: Iterable[str], recipe: Recipe) -> None:
    """A setting that nothing reads is a mistake."""
    for key in given:
        stage, _, setting = key.partition(".")
        if key.startswith(OF_MIXTURE) and not key.startswith(OF_TALKS) and recipe.source != "mixture":
            raise MinemuError(f"train.{key} is read only with a mixture: add --set train.source=mixture")
        if key == "rehearse" and recipe.source != "mixture" and recipe.rehearse:
            raise MinemuError("train.rehearse rehearses the mixture: add --set train.source=mixture")
        if stage in TRAINABLE and stage not in READ_BY.get(setting, TRAINABLE):
            raise MinemuError(f"train.{key} has no effect: only {' and '.join(READ_BY[setting])} read {setting}")


def facts_of(preset: str, stage: str, config: EmuConfig, recipe: Recipe, world: ToyWorld | None) -> dict[str, Any]:
    """All that decides what a stage becomes: it goes on only with the same."""
    seen = (recipe.core, recipe.world_seed) if world is None else (world.core, world.seed)
    of_world = {"core": seen[0], "seed": seen[1], "source": recipe.source}
    facts: dict[str, Any] = {
        "preset": preset,
        "stage": stage,
        "model": settings_of(stage, config),
        "train": asdict(getattr(recipe, stage)),
        "world": of_world if world is None else {**of_world, "things": len(world.labels)},
    }
    mixed = {"mixture": asdict(recipe.mixture), "files": asdict(recipe.data)} if recipe.source == "mixture" else {}
    if stage == "language":
        facts["data"] = {"llm": recipe.llm}
    if stage == "emu":
        facts["begins"] = {"imagined": exists("imagine", config, recipe)}
    if stage == "emu" and mixed:
        facts["data"] = mixed
    if stage == "instruct":  # conversations, and the mixture as rehearsal
        facts["data"] = {**asdict(recipe.data.conversations), **mixed, "rehearse": recipe.rehearse}
    return facts


def sources_of(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """The sources that a stage reads and that may be on disk."""
    mixed = SOURCES if recipe.source == "mixture" and stage in ("emu", "instruct") else ()
    return (*mixed, "conversations") if stage == "instruct" else mixed
