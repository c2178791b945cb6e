"""Every size of every stage, in frozen dataclasses, and the presets.

`EmuConfig.preset("emu-tiny")` gives a whole configuration; `.override({"llm.layers": 6})` changes any field of it.
What can be derived is a property, so two fields can never disagree. Unknown keys and wrong types are refused.
"""

from __future__ import annotations

import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from minemu.errors import MinemuError, suggest


@dataclass(frozen=True)
class VisionConfig:
    """Stage 1, the EVA-CLIP ViT (Emu: EVA-01-CLIP-g; Emu2: EVA-02-CLIP-E-plus)."""

    image_size: int = 64
    patch_size: int = 8
    width: int = 192
    layers: int = 6
    head_width: int = 64
    mlp_width: int = 768
    post_norm: bool = False  # Emu2's tower: x + norm(f(x)) instead of x + f(norm(x))
    stem: Literal["patch", "conv"] = "patch"  # "conv" learns much faster from few pictures; the papers use "patch"
    norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def heads(self) -> int:
        return self.width // self.head_width

    def __post_init__(self) -> None:
        _at_least_one("vision", self, "image_size", "patch_size", "width", "layers", "head_width", "mlp_width")
        _divides("vision.image_size", self.image_size, "vision.patch_size", self.patch_size)
        _divides("vision.width", self.width, "vision.head_width", self.head_width)
        if self.stem == "conv":  # each convolution halves the picture and doubles the width, in groups of eight
            if self.patch_size & (self.patch_size - 1) or self.patch_size < 2:
                raise MinemuError(
                    f"vision.stem=conv needs a patch size that is a power of two, not {self.patch_size}; use stem=patch"
                )
            _divides("vision.width", self.width, "4 vision.patch_size (for vision.stem=conv)", 4 * self.patch_size)


@dataclass(frozen=True)
class BridgeConfig:
    """Stage 2: encoder features -> the visual embeddings that the LLM reads and regresses.

    `causal` is Emu's Causal Transformer (N learned queries); `pool` is Emu2's mean pooling and linear maps.
    """

    kind: Literal["causal", "pool"] = "causal"
    n_image: int = 16  # N, visual embeddings a picture; a square number for "pool"
    n_frame: int = 16  # the same for a video frame; read only where the LLM has slots for such (llm.frame_slot)
    width: int = 192
    layers: int = 3
    heads: int = 4
    head_width: int | None = None  # K; width / heads unless given
    ff_width: int = 768
    dropout: float = 0.0
    norm_eps: float = 1e-6
    position_buckets: int = 32  # T5 relative position bias
    position_distance: int = 128
    source_positions: bool = False  # learned ones for the encoder's tokens, which hardly say where they are
    query_std: float = 1.0  # deviation of the learned queries at the start; Emu: 0.02

    @property
    def key_width(self) -> int:
        return self.head_width or self.width // self.heads

    def __post_init__(self) -> None:
        _at_least_one("bridge", self, "n_image", "n_frame", "width", "layers", "heads", "ff_width")
        _share("bridge", self, "dropout")
        if self.kind == "pool" and any(round(n**0.5) ** 2 != n for n in (self.n_image, self.n_frame)):
            raise MinemuError(
                f"bridge.n_image={self.n_image} and bridge.n_frame={self.n_frame} must be square numbers for pooling"
            )
        if self.head_width is None:
            _divides("bridge.width", self.width, "bridge.heads", self.heads)
        else:
            _at_least_one("bridge", self, "head_width")
        if not 1 <= self.position_buckets // 2 < self.position_distance:
            raise MinemuError(
                f"bridge.position_buckets={self.position_buckets} needs 2 or more, and bridge.position_distance="
                f"{self.position_distance} more than half of them"
            )


@dataclass(frozen=True)
class LLMConfig:
    """Stage 3, LLaMA."""

    words: int = 2044  # plain vocabulary; [PAD], [IMG], [/IMG], <image> take the ids after it, in this order
    special_tokens: int = 4  # more for Emu-I ([USER], [ASSISTANT]) and Emu2 (grounding, video)
    frame_slot: bool = False  # Emu2 marks the slots of a video frame with [gIMG], the token after <image>
    lora_rank: int = 0  # 0: no LoRA. Emu-I: rank 16 and alpha 16 on q, k, v and o of every layer
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None  # of keys and values, for grouped queries (arXiv 2305.13245); `heads` unless given
    ff_width: int = 704
    context: int = 512
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    @property
    def vocab_size(self) -> int:
        return self.words + self.special_tokens

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def kv_width(self) -> int:
        """Of the keys, and of the values, of one position in one layer."""
        return self.width // self.heads * self.key_heads

    def __post_init__(self) -> None:
        _at_least_one("llm", self, "words", "width", "layers", "heads", "ff_width", "context")
        _divides("llm.width", self.width, "llm.heads", self.heads)
        if self.width // self.heads % 2:
            raise MinemuError(
                f"llm.width={self.width} with llm.heads={self.heads} makes heads {self.width // self.heads} wide, and rotary positions "
                "turn pairs; change one of them"
            )
        _share("llm", self, "lora_dropout")
        if self.lora_rank < 0:
            raise MinemuError(f"llm.lora_rank={self.lora_rank} is negative; give 0 for no LoRA")
        if self.special_tokens < 4:
            raise MinemuError(
                f"llm.special_tokens={self.special_tokens} leaves no ids for [PAD], [IMG], [/IMG] and <image>; give 4 or more"
            )
        _divides("llm.heads", self.heads, "llm.kv_heads", self.key_heads)
        if self.frame_slot and self.special_tokens < 5:
            raise MinemuError(
                f"llm.special_tokens={self.special_tokens} leaves no id for [gIMG]; set it to 5 or more, or frame_slot=false"
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The unified loss: classify the next token or regress the next visual embedding. Each choice the papers leave open is a field."""

    image_loss_weight: float = 1.0  # not published for Emu or Emu2; 1 is what the one open trainer used
    image_loss: Literal["mse", "cosine"] = "mse"
    # Released code: detached, so a moving target. "frozen": stage `emu` regresses what an initial copy of the visual side says;
    # in a loop of your own give the copy's embeddings as `image_targets`, as without them it is "detached".
    targets: Literal["detached", "attached", "frozen"] = "detached"
    end_of_image_pair: bool = True  # released code: the last of the N + 1 targets is the word embedding of [/IMG]
    say_image: bool = False  # released code never classifies [IMG]: the user appends it
    # 0: off. Above: every picture that is being written loses a random part of its signal, and this share of them all of it.
    hide_written: float = 0.0

    def __post_init__(self) -> None:
        _share("objective", self, "hide_written")
        _not_negative("objective", self, "image_loss_weight")


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 4, the latent diffusion decoder. Its cross-attention reads N visual embeddings in place of 77 words."""

    image_size: int = 64
    codec: Literal["patch", "vae"] = "patch"
    patch: int = 4  # pixels a latent position
    latent_channels: int = 20
    vae_width: int = 32
    unet_channels: tuple[int, ...] = (64, 128, 192)  # one value a level; each further one at half the resolution
    unet_attention: tuple[bool, ...] = (False, True, False)  # levels with cross-attention; the middle always has it
    unet_heads: tuple[int, ...] = (2, 4, 6)
    unet_depths: tuple[
        int, ...
    ] = ()  # transformer layers of each attention block, a value a level; empty: one (SDXL: more)
    linear_projection: bool = False  # SDXL: linear maps around them in place of 1x1 convolutions
    layers_per_block: int = 1
    norm_groups: int = 16
    condition_width: int = 256  # D; must equal the width of the visual embeddings
    pooled_condition: bool = True  # the mean embedding joins the time embedding, as in Emu2's decoder
    size_condition: bool = False  # SDXL: so do original size, crop and target size
    adaptive_norm: bool = False  # time scales what is normalised, not only shifts it (arXiv 2105.05233)
    position_channels: bool = True  # extra input channels that say where a latent position is
    condition_grid: int = 0  # g: the embeddings are g x g cells, from which the U-Net's sketch is regressed; 0: none
    sketch_layers: int = 0  # of the Transformer that adds to the linear sketch; 0: linear alone
    sketch_width: int = 256
    cell_maps: bool = False  # each cell of the sketch has an output map of its own, beside the one of all
    prediction: Literal["v", "epsilon", "sample"] = "sample"
    schedule: Literal["scaled_linear", "squaredcos_cap_v2", "linear"] = "squaredcos_cap_v2"
    zero_terminal_snr: bool = True
    min_snr_gamma: float | None = None
    conditions: Literal["generated", "encoder", "both"] = "both"  # what it learns from; Emu: generated, Emu2: encoder
    imagined: int = 1  # of "both": generated ones for each of the encoder
    captioned: float = 0.75  # share imagined from full captions, the others from prompts, which leave things open
    in_context: float = 0.0  # share imagined from two pictures and words (`lessons.in_context`), not from a text
    averaged: int = 1  # pictures that fit one text: a sketch learns their mean where embeddings are imagined from it
    cached: int = 16_384  # samples whose conditions are computed at once, before they are used
    laps: int = 0  # passes over a block of `cached` samples before the next block takes its place; 0: one block for all of the training
    condition_dropout: float = 0.1
    condition_noise: float = 0.1
    noise_offset: float = 0.0  # deviation of a further noise, one number a channel; Emu2: 0.1
    sampler: Literal["ddim", "pndm", "euler"] = "ddim"  # Emu draws with PNDM, Emu2 with Euler
    guidance_scale: float = 2.0
    inference_steps: int = 20

    def __post_init__(self) -> None:
        _at_least_one(
            "decoder",
            self,
            "image_size",
            "patch",
            "latent_channels",
            "layers_per_block",
            "norm_groups",
            "cached",
            "averaged",
        )
        _share("decoder", self, "captioned", "in_context", "condition_dropout")
        _not_negative("decoder", self, "condition_noise", "noise_offset", "laps", "condition_grid", "sketch_layers")


@dataclass(frozen=True)
class EmuConfig:
    """One Emu: four stages and the objective that ties them."""

    name: str = "emu-tiny"
    vision: VisionConfig = field(default_factory=VisionConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def embed_width(self) -> int:
        """Width of the space that is regressed: the LLM's (Emu) or the encoder's (Emu2)."""
        return self.llm.width if self.bridge.kind == "causal" else self.vision.width

    def __post_init__(self) -> None:
        if self.decoder.condition_width != self.embed_width:
            raise MinemuError(
                f"decoder.condition_width is {self.decoder.condition_width} but the visual embeddings are {self.embed_width} wide; "
                f"set decoder.condition_width={self.embed_width}"
            )
        if self.bridge.kind == "causal" and self.llm.frame_slot and self.bridge.n_frame != self.bridge.n_image:
            raise MinemuError(
                f"bridge.n_frame={self.bridge.n_frame} and bridge.n_image={self.bridge.n_image} differ, but the Causal Transformer "
                "has as many queries for a frame as for a picture; set both alike"
            )
        if self.bridge.kind == "pool":
            for name in ("n_image", "n_frame"):
                side = round(getattr(self.bridge, name) ** 0.5)
                _divides(
                    "vision.image_size / vision.patch_size", self.vision.grid, f"the square root of bridge.{name}", side
                )
            if not self.llm.frame_slot and self.bridge.n_frame != self.bridge.n_image:
                raise MinemuError(
                    f"bridge.n_frame={self.bridge.n_frame} and bridge.n_image={self.bridge.n_image} differ, but without "
                    "llm.frame_slot a frame is read as a picture; set both alike"
                )
            if self.objective.end_of_image_pair:
                raise MinemuError(
                    "objective.end_of_image_pair regresses the word embedding of [/IMG], which the encoder's space, regressed with "
                    "bridge.kind=pool, does not have; set objective.end_of_image_pair=false"
                )

    @classmethod
    def preset(cls, name: str) -> EmuConfig:
        if name not in PRESETS:
            raise MinemuError(f"unknown preset '{name}': {suggest(name, PRESETS)}")
        return from_dict(cls, {"name": name, **PRESETS[name]})

    def override(self, changes: dict[str, Any]) -> EmuConfig:
        """A copy with dotted keys changed: `{"llm.layers": 6}`. Strings are read as the field's type."""
        return override(self, changes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EmuConfig:
        return from_dict(cls, values)


_NANO_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "mlp_width": 64}
_NANO_LLM = {"words": 1020, "width": 48, "layers": 2, "heads": 2, "ff_width": 96, "context": 256}
_NANO_DECODER = {
    "image_size": 32,
    "unet_channels": (16, 32),
    "unet_attention": (False, True),
    "unet_heads": (1, 2),
    "norm_groups": 8,
    "vae_width": 8,
    "inference_steps": 4,
    "cached": 64,
}

_PUBLISHED_DECODER = {
    "codec": "vae", "patch": 8, "latent_channels": 4, "vae_width": 128, "layers_per_block": 2, "norm_groups": 32,
    "position_channels": False, "prediction": "epsilon", "schedule": "scaled_linear", "zero_terminal_snr": False,
    "condition_noise": 0.0, "inference_steps": 50,
}  # fmt: skip

_TINY_LLM = {"layers": 6}
_TINY_DECODER = {
    "adaptive_norm": True, "condition_grid": 4, "sketch_layers": 4, "sketch_width": 320, "cell_maps": True,
    "cached": 65_536, "laps": 23, "imagined": 7, "in_context": 0.2,  # the encoder's are learnt in a tenth of the steps
    "condition_noise": 0.0,  # 0.1 drew no better from words and rebuilt with a fifth more of an error (docs/lab-notes.md)
    "averaged": 8,  # what words leave open is noise in a single picture as target, two thirds of what it costs (docs/lab-notes.md)
    "unet_channels": (32, 48), "unet_attention": (False, True), "unet_heads": (2, 4),  # the sketch does most of it
    "inference_steps": 1, "guidance_scale": 1.0,  # more steps are sharper, but their grain costs the judge half (docs/lab-notes.md)
}  # fmt: skip
# Else each embedding is guessed from the true ones before it, and nothing is learnt about drawing from words.
_TOY_OBJECTIVE = {"hide_written": 0.5, "say_image": True}
_POOLED = {"end_of_image_pair": False, "targets": "frozen"}

_SMALL_VISION = {"width": 384, "layers": 12, "mlp_width": 1536}
_SMALL_LLM = {  # SmolLM2-135M
    "words": 49152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "ff_width": 1536, "context": 2048,
    "rope_theta": 100_000.0, "norm_eps": 1e-5,
}  # fmt: skip
_SMALL_DECODER = {
    **_TINY_DECODER, "sketch_layers": 8, "sketch_width": 640, "unet_channels": (128, 256), "unet_heads": (4, 8),
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "emu-nano": {
        "vision": {**_NANO_VISION, "stem": "conv"},
        "bridge": {"n_image": 4, "n_frame": 4, "width": 32, "layers": 2, "heads": 2, "ff_width": 64},
        "llm": _NANO_LLM,
        "decoder": {
            **_NANO_DECODER, "condition_width": 48,
            "condition_grid": 2, "sketch_layers": 1, "sketch_width": 64,
        },
    },
    "emu2-nano": {
        "vision": {**_NANO_VISION, "post_norm": True},
        "bridge": {"kind": "pool", "n_image": 4, "n_frame": 4},
        "llm": _NANO_LLM,
        "objective": _POOLED,
        "decoder": {**_NANO_DECODER, "condition_width": 32},
    },
    "emu-tiny": {
        "vision": {"stem": "conv"},
        "bridge": {"source_positions": True, "width": 256},  # 192 cannot hold what four patches say
        "llm": _TINY_LLM,
        # Imagining from words is learnt last and longest, and with a small weight the losses of words drown it.
        "objective": {**_TOY_OBJECTIVE, "image_loss_weight": 10.0},
        "decoder": _TINY_DECODER,
    },
    "emu2-tiny": {
        "vision": {"stem": "conv", "post_norm": True},
        "bridge": {"kind": "pool"},
        "llm": _TINY_LLM,
        "objective": {**_TOY_OBJECTIVE, **_POOLED},
        "decoder": {**_TINY_DECODER, "condition_width": 192},
    },
    "emu-small": {
        "vision": {**_SMALL_VISION, "stem": "conv"},
        "bridge": {"source_positions": True, "width": 512, "layers": 4, "heads": 8, "ff_width": 2048},
        "llm": _SMALL_LLM,
        "objective": {**_TOY_OBJECTIVE, "image_loss_weight": 10.0},
        "decoder": {**_SMALL_DECODER, "condition_width": 576},
    },
    "emu2-small": {
        "vision": {**_SMALL_VISION, "stem": "conv", "post_norm": True},
        "bridge": {"kind": "pool"},
        "llm": _SMALL_LLM,
        "objective": {**_TOY_OBJECTIVE, **_POOLED},
        "decoder": {**_SMALL_DECODER, "condition_width": 384},
    },
    "emu-14b": {
        "vision": {"image_size": 224, "patch_size": 14, "width": 1408, "layers": 40, "head_width": 88, "mlp_width": 6144},
        "bridge": {
            "n_image": 32, "n_frame": 32, "width": 768, "layers": 12, "heads": 12, "ff_width": 3072, "dropout": 0.1, "query_std": 0.02,
        },
        "llm": {"words": 32000, "width": 5120, "layers": 40, "heads": 40, "ff_width": 13824, "context": 2048},
        "decoder": {  # Stable Diffusion v1.5
            **_PUBLISHED_DECODER, "image_size": 512, "condition_width": 5120, "conditions": "generated",
            "unet_channels": (320, 640, 1280, 1280), "unet_attention": (True, True, True, False), "unet_heads": (8, 8, 8, 8),
            "pooled_condition": False, "sampler": "pndm", "guidance_scale": 7.5,
        },
    },
    "emu2-37b": {
        "vision": {
            "image_size": 448, "patch_size": 14, "width": 1792, "layers": 64, "head_width": 112, "mlp_width": 15360, "post_norm": True,
        },
        "bridge": {"kind": "pool", "n_image": 64, "n_frame": 64},
        "llm": {
            "words": 32000, "special_tokens": 272, "frame_slot": True,
            "width": 6656, "layers": 60, "heads": 52, "ff_width": 17920, "context": 2048,
        },
        "objective": _POOLED,
        "decoder": {  # SDXL
            **_PUBLISHED_DECODER, "image_size": 1024, "condition_width": 1792, "conditions": "encoder",
            "unet_channels": (320, 640, 1280), "unet_attention": (False, True, True), "unet_heads": (5, 10, 20),
            "unet_depths": (1, 2, 10), "linear_projection": True, "size_condition": True, "noise_offset": 0.1,
            "sampler": "euler", "guidance_scale": 3.0,
        },
    },
}  # fmt: skip


def from_dict(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """Build a config dataclass from plain values, refusing unknown keys and wrong types with the dotted path in the message."""
    return _merge(cls(), values, where)


def override(config: Any, changes: dict[str, Any], where: str = "") -> Any:
    """`from_dict` for a few dotted keys of an existing config (any frozen dataclass of this package), called `where` in messages."""
    values: dict[str, Any] = {}
    for path, value in changes.items():
        node = values
        *sections, key = path.split(".")
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise MinemuError(f"'{where}{section}' is given as a value, and with {where}{path}; give one of them")
        node[key] = value
    return _merge(config, values, where)


def _merge(config: Any, values: dict[str, Any], where: str) -> Any:
    known = typing.get_type_hints(type(config))
    changed = {}
    for key, value in values.items():
        path = f"{where}{key}"
        if key not in known:
            raise MinemuError(f"unknown configuration key '{path}': {suggest(key, [f.name for f in fields(config)])}")
        if is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise MinemuError(f"configuration key '{path}' is a section; give its fields as {path}.NAME=VALUE")
            changed[key] = _merge(getattr(config, key), value, f"{path}.")
        else:
            changed[key] = _typed(path, value, known[key])
    return replace(config, **changed)


def _typed(path: str, value: Any, kind: Any) -> Any:
    """`value` as the type `kind`; text (from a command line or JSON) is read, anything that does not fit is refused."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value in arguments:
            return value
        raise MinemuError(f"{path}={value!r} is not one of {', '.join(map(str, arguments))}")
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return _typed(path, value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        items = [item.strip() for item in value.strip("()[] ").split(",")] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise MinemuError(f"{path}={value!r} should be a list, such as {path}=96,192")
        return tuple(_typed(path, item, arguments[0]) for item in items if item != "")
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind in (int, float) and isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    raise MinemuError(f"{path}={value!r} should be of type {kind.__name__}")


def _at_least_one(section: str, values: Any, *names: str) -> None:
    for name in names:
        if getattr(values, name) < 1:
            raise MinemuError(f"{section}.{name}={getattr(values, name)} is too small: give 1 or more")


def _share(section: str, values: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(values, name) <= 1:
            raise MinemuError(f"{section}.{name}={getattr(values, name):g} is no share: give 0 to 1")


def _not_negative(section: str, values: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(values, name) < float("inf"):  # NaN is neither
            raise MinemuError(f"{section}.{name}={getattr(values, name):g} should be 0 or more")


def _divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or value % divisor:
        raise MinemuError(f"{name}={value} is not a multiple of {divisor_name}={divisor}; change one of them")
