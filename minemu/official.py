"""The published checkpoints of Emu and Emu2: what each of their names is called here, and back.

Two tables of prefixes do all of it (`RULES`), read in either direction; the first rule that fits counts. What they do not say:

- the Hugging Face copies of Emu2 put `model.` before every name;
- Emu-I is wrapped by peft: `base_model.model.` inside the LLM, and low-rank factors beside q, k, v and o. Early peft leaves the
  name of the adapted weight alone, later versions insert `.base_layer`. The factors are merged into the weight, or kept;
- an instruct checkpoint has two more tokens, [USER] and [ASSISTANT]; Emu2-Chat also pools still pictures to 256 embeddings;
- some published tensors are never used (`UNUSED`). They are named in the report, so that every name is accounted for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.model import Emu

Shape = tuple[int, ...]

# Published prefix, our prefix; # stands for the number of a block.
_BLOCK, _OURS = "cformer.cformer.block.#.layer.", "causal_transformer.blocks.#."
_SHARED = (
    ("visual.patch_embed.proj.", "visual_encoder.patch_embed."),
    ("visual.", "visual_encoder."),
    ("decoder.lm.", "llm."),
)
RULES = {
    "causal": (
        ("ln_visual.", "ln_visual."),
        ("cformer.causal_tokens", "causal_transformer.queries"),
        # T5 keeps the bias that all layers share in the first of them.
        (
            "cformer.cformer.block.0.layer.0.SelfAttention.relative_attention_bias.",
            "causal_transformer.position_bias.bias.",
        ),
        (f"{_BLOCK}0.layer_norm.", f"{_OURS}self_norm."),
        (f"{_BLOCK}0.SelfAttention.", f"{_OURS}self_attention."),
        (f"{_BLOCK}1.layer_norm.", f"{_OURS}cross_norm."),
        (f"{_BLOCK}1.EncDecAttention.", f"{_OURS}cross_attention."),
        (f"{_BLOCK}2.layer_norm.", f"{_OURS}ff_norm."),
        (f"{_BLOCK}2.DenseReluDense.", _OURS),
        ("cformer.cformer.final_layer_norm.", "causal_transformer.norm."),
        ("cformer.projection.", "causal_transformer.projection."),
        ("decoder.lm.stu_regress_head.", "regression_head."),
        *_SHARED,
    ),
    "pool": (("project_up.", "project_up."), ("project_down.", "regression_head."), *_SHARED),
}
UNUSED = {
    "visual.norm.": "final norm of the ViT: Emu reads the raw last block",
    "visual.head.": "head of the ViT: Emu reads the raw last block",
    "cformer.cformer.embed_tokens.": "T5's table of words: learned queries take its place",
    "decoder.lm.model.layers.#.self_attn.rotary_emb.inv_freq": "rotary frequencies: computed, not learnt",
}
WORD_TABLE = "decoder.lm.model.embed_tokens.weight"
INSTRUCT_TOKENS = 2  # [USER], [ASSISTANT]
PROBLEMS_SHOWN = 20
CHAT_EMBEDS = 256  # Emu2-Chat, a still picture


@dataclass
class Mapping:
    """How every name of a published checkpoint is read into `config`; it is complete, or says what is in the way."""

    config: EmuConfig
    loaded: dict[str, str] = field(default_factory=dict)  # our name -> published name
    lora: dict[str, tuple[str, str]] = field(default_factory=dict)  # our name -> published A and B, merged into it
    unused: dict[str, str] = field(default_factory=dict)  # published name -> why
    missing: list[str] = field(default_factory=list)  # our names
    unexpected: list[str] = field(default_factory=list)  # published names
    wrong_shape: list[str] = field(default_factory=list)  # published names, with both shapes

    @property
    def problems(self) -> list[str]:
        """One line for each tensor that is in the way."""
        kinds = (("wrong shape", self.wrong_shape), ("missing", self.missing), ("unexpected", self.unexpected))
        return [f"{kind}: {name}" for kind, names in kinds for name in names]

    @property
    def complete(self) -> bool:
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        return {
            "loaded": len(self.loaded) + 2 * len(self.lora),
            "unused": len(self.unused),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "wrong shape": len(self.wrong_shape),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "complete": self.complete, "counts": self.counts, "loaded": self.loaded, "lora": self.lora, "unused": self.unused,
            "missing": self.missing, "unexpected": self.unexpected, "wrong_shape": self.wrong_shape,
        }  # fmt: skip

    def require_complete(self, what: str) -> Mapping:
        """Itself; raises `MinemuError` with the first problem where there is one."""
        if not self.complete:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
            raise MinemuError(
                f"{what} is not the checkpoint of a {self.config.name} ({counts}; first: {self.problems[0]}); name its own preset"
            )
        return self


def map_names(shapes: dict[str, Shape], config: EmuConfig, keep_lora: bool = False) -> Mapping:
    """Find the place of every published name. `shapes`: published name -> shape."""
    mapping = Mapping(fit(config, shapes, keep_lora))
    ours = our_shapes(mapping.config)
    renamed = {name: rename(canonical(name), RULES[config.bridge.kind]) for name in shapes}
    adapted = {name.partition(".lora_")[0] for name in renamed.values() if name and ".lora_" in name}
    # Our name of an adapted weight -> {"A": published name, "B": published name}.
    factors: dict[str, dict[str, str]] = {}
    absent = set(ours)
    for published, name in renamed.items():
        place, factor = place_of(name or "", adapted, keep_lora)
        if why := why_unused(published):
            mapping.unused[published] = why
        elif factor:
            factors.setdefault(place, {})[factor] = published
        elif place not in absent:
            mapping.unexpected.append(published)
        elif shapes[published] != ours[place]:
            absent.remove(place)
            mapping.wrong_shape.append(
                f"{published} is {list(shapes[published])}, this configuration needs {list(ours[place])}"
            )
        else:
            absent.remove(place)
            mapping.loaded[place] = published
    for name, pair in factors.items():
        _merge_into(mapping, name, pair, shapes, ours)
    mapping.missing = [name for name in ours if name in absent]
    return mapping


def place_of(name: str, adapted: set[str], keep_lora: bool) -> tuple[str, str]:
    """Where a renamed tensor goes: the name of a weight of ours, and "A" or "B" if it is a factor that is merged into that.

    Beside factors that are kept, the weight of an `adapted` module is that of its base layer.
    """
    module, _, factor = name.partition(".lora_")
    if factor and not keep_lora:
        return f"{module}.weight", factor[0]
    if keep_lora and name.removesuffix(".weight") in adapted:
        return f"{name.removesuffix('.weight')}.base_layer.weight", ""
    return name, ""


def _merge_into(
    mapping: Mapping, name: str, pair: dict[str, str], shapes: dict[str, Shape], ours: dict[str, Shape]
) -> None:
    """Note that the factors A (rank, in) and B (out, rank) belong to the weight `name` (out, in)."""
    if name not in ours or set(pair) != {"A", "B"} or any(len(shapes[factor]) != 2 for factor in pair.values()):
        mapping.unexpected += pair.values()
        return
    (rank, into), (out, rank_too) = shapes[pair["A"]], shapes[pair["B"]]
    if (out, into) != ours[name] or rank != rank_too:
        mapping.wrong_shape.append(f"{pair['A']} and its B do not multiply to {list(ours[name])}")
    else:
        mapping.lora[name] = pair["A"], pair["B"]


def report(mapping: Mapping, names: int) -> str:
    """The mapping in lines for people: counts, every kind of unused name with its reason, every problem."""
    lines = [f"{names:,} published names, read as {mapping.config.name}:"]
    lines += [f"  {kind:12} {count:6,}" for kind, count in mapping.counts.items()]
    if mapping.lora:
        lines[1] += f"   ({2 * len(mapping.lora):,} of them LoRA factors, merged into {len(mapping.lora):,} weights)"
    kinds: dict[tuple[str, str], int] = {}
    for name, why in mapping.unused.items():
        kind = re.sub(r"\.\d+\.", ".#.", name), why
        kinds[kind] = kinds.get(kind, 0) + 1
    lines += [f"unused: {name} ({count}): {why}" for (name, why), count in kinds.items()]
    lines += mapping.problems[:PROBLEMS_SHOWN]
    if len(mapping.problems) > PROBLEMS_SHOWN:
        lines.append(f"... and {len(mapping.problems) - PROBLEMS_SHOWN:,} more")
    verdict = (
        "complete"
        if mapping.complete
        else f"not complete: this is no checkpoint of {mapping.config.name}; name its own preset"
    )
    return "\n".join([*lines, verdict])


def fit(config: EmuConfig, shapes: dict[str, Shape], keep_lora: bool = False) -> EmuConfig:
    """The configuration of a checkpoint of this family: the preset's, or its instruct variant, with LoRA where it is kept."""
    changes = {}
    plain = {canonical(name): shape for name, shape in shapes.items()}
    if (plain.get(WORD_TABLE) or (0,))[0] == config.llm.vocab_size + INSTRUCT_TOKENS:
        changes["llm.special_tokens"] = config.llm.special_tokens + INSTRUCT_TOKENS
        if config.bridge.kind == "pool":
            changes["bridge.n_image"] = min(CHAT_EMBEDS, config.vision.patches)
    ranks = {shape[0] for name, shape in plain.items() if ".lora_A." in name}
    if keep_lora and ranks:
        changes["llm.lora_rank"] = max(ranks)
    return config.override(changes)


def our_shapes(config: EmuConfig) -> dict[str, Shape]:
    """Name -> shape of every tensor of a minemu model; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Emu(config).state_dict().items()}


def canonical(name: str) -> str:
    """A published name without what varies between copies of one checkpoint."""
    name = name.removeprefix("model.").replace("decoder.lm.base_model.model.", "decoder.lm.")
    return name.replace(".base_layer.", ".")


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """`name` with its prefix exchanged by the first rule that fits; None where none does."""
    for before, after in rules:
        if match := _begins(name, before):
            return after.replace("#", match[1] if match.groups() else "") + name[match.end() :]
    return None


def why_unused(published: str) -> str | None:
    return next((why for prefix, why in UNUSED.items() if _begins(canonical(published), prefix)), None)


def published_name(name: str, config: EmuConfig) -> str:
    """The published name of one of our tensors; with LoRA in the style of early peft, which Emu-I was trained with."""
    if config.vision.stem != "patch":
        raise MinemuError(
            f"vision.stem={config.vision.stem} was never published, so its weights have no published names"
        )
    back = rename(name, [(ours, published) for published, ours in RULES[config.bridge.kind]])
    if back is None:
        raise MinemuError(f"{name} has no published name")
    if config.llm.lora_rank and name.startswith(("llm.", "regression_head.")):
        back = back.replace("decoder.lm.", "decoder.lm.base_model.model.", 1)
    return back.replace(".base_layer.", ".")


def _begins(name: str, prefix: str) -> re.Match | None:
    return re.match(re.escape(prefix).replace(r"\#", r"(\d+)"), name)
