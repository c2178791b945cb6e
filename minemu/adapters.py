"""Emu-I as an adapter: low-rank factors of the LLM's self-attention, saved alone in peft's format, loaded on their base.

    adapter_config.json, adapter_model.safetensors   as peft reads and writes them for a LLaMA
    base.json                                        which base they belong to

The tokens [USER] and [ASSISTANT], where a base has none, begin as the words "user" and "assistant", and stay so: an adapter
needs no embeddings of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.files import read_object, write_json
from minemu.model import LORA_LAYERS, Emu, add_lora, lora_config
from minemu.processor import EmuProcessor
from minemu.tokenizer import ASSISTANT, USER
from minemu.weights import load_tensors, save_tensors

RANK = 16  # of Emu-I; alpha 16 and dropout 0.05 are the configuration's own
CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
OTHER_LORA = (  # settings of peft
    "use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "modules_to_save", "lora_bias", "layers_to_transform",
)  # fmt: skip
_PEFT = "base_model.model."  # before the names of a model that peft wraps
_SAMPLED = 16  # embeddings of the base by which an adapter knows it again


def instruct_config(base: EmuConfig, rank: int = RANK, alpha: float = 16.0, dropout: float = 0.05) -> EmuConfig:
    """The configuration of a base with adapters, and with room for [USER] and [ASSISTANT] where it has none."""
    chat = base.llm.special_tokens in (6, 274)  # Emu-I and Emu2-Chat
    special = base.llm.special_tokens + (0 if chat else 2)
    return base.override(
        {
            "llm.special_tokens": special,
            "llm.lora_rank": rank,
            "llm.lora_alpha": float(alpha),
            "llm.lora_dropout": float(dropout),
        }
    )


def prepare(model: Emu, processor: EmuProcessor, config: EmuConfig) -> None:
    """Turn a base into what `config` (of `instruct_config`) says, in place: new adapters change nothing before they are trained."""
    if model.config.llm.lora_rank:
        raise MinemuError("this model has adapters already; merge them first (minemu.adapters.merge)")
    _refuse_placed(model)
    if config.llm.special_tokens > model.config.llm.special_tokens:
        _add_roles(model, processor, config.llm.vocab_size)
    model.requires_grad_(False)
    model.llm = add_lora(model.llm, config.llm)
    for name, factor in model.llm.named_parameters():
        if ".lora_" in name:
            factor.data = factor.data.to(model.regression_head.weight)
    model.config = config


def _refuse_placed(model: Emu) -> None:
    packed = any(p.is_meta or not p.is_floating_point() for p in model.parameters())
    if packed or hasattr(model, "hf_device_map"):
        raise MinemuError("an adapter needs its base on one device: load it without device_map='auto' and quantisation")


def _add_roles(model: Emu, processor: EmuProcessor, vocab_size: int) -> None:
    """Rows for [USER] and [ASSISTANT], both in the table and in the LM head: the mean of the tokens of their words."""
    model.llm.resize_token_embeddings(vocab_size, mean_resizing=False)
    for token, word in ((USER, "user"), (ASSISTANT, "assistant")):
        for table in (model.llm.get_input_embeddings().weight, model.llm.lm_head.weight):
            with torch.no_grad():
                table[processor.special[token]] = table[processor.encode(word)].mean(0)


# ---- storage ---------------------------------------------------------------------------------------------------------


def factors(model: Emu) -> dict[str, Tensor]:
    """The adapters' tensors under peft's names."""
    state = model.llm.state_dict()
    return {_PEFT + name.replace(".default.", "."): t for name, t in state.items() if ".lora_" in name}


def save_adapter(model: Emu, folder: str | os.PathLike) -> None:
    """Write the adapters alone."""
    if not model.config.llm.lora_rank:
        raise MinemuError("this model has no adapters to save; train some with: minemu train instruct")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = lora_config(model.config.llm)
    settings.base_model_name_or_path, settings.task_type = model.config.name, "CAUSAL_LM"
    settings.save_pretrained(str(folder))
    save_tensors(factors(model), folder / WEIGHTS)
    write_json(folder / BASE, {"name": model.config.name, "embeddings": _sampled(model)})


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


def base_folder(folder: Path) -> Path:
    """Where the base of an adapter lies: beside it, under its own name, or as X beside X-instruct."""
    whole = folder.resolve()
    name = read_object(folder / BASE, "name")["name"] if (folder / BASE).exists() else "?"
    for base in (whole.parent / name, whole.parent / whole.name.removesuffix("-instruct")):
        if (base / "config.json").exists():
            return base
    raise MinemuError(
        f"{folder} is an adapter alone, and its base is not beside it ({whole.parent / name}); "
        f"copy it there, or name both: EmuPipeline.from_pretrained(BASE, adapter='{folder}')"
    )


def read_settings(folder: Path, base: EmuConfig) -> EmuConfig:
    """The configuration of a base with the adapters of a folder."""
    settings = read_object(folder / CONFIG)
    if settings.get("peft_type") != "LORA" or not {"r", "lora_alpha"} <= settings.keys():
        raise MinemuError(f"{folder / CONFIG} is of no LoRA; give the folder that minemu train instruct wrote")
    others = [name for name in OTHER_LORA if settings.get(name)]
    if settings.get("bias", "none") != "none":
        others.append(f"bias={settings['bias']}")
    if set(settings.get("target_modules") or LORA_LAYERS) != set(LORA_LAYERS):
        raise MinemuError(
            f"{folder / CONFIG} adapts {settings['target_modules']}, and here it is {', '.join(LORA_LAYERS)}; train the adapter on these"
        )
    if others:
        raise MinemuError(f"{folder / CONFIG} has {others[0]}, which is not read here; train the adapter without it")
    return instruct_config(base, settings["r"], settings["lora_alpha"], settings.get("lora_dropout", 0.0))


def load_adapter(model: Emu, processor: EmuProcessor, folder: Path, config: EmuConfig) -> None:
    """Put the adapters of a folder on their base, in place; `config` is of `read_settings`. Refused on another base."""
    _refuse_placed(model)
    _check_base(model, folder)
    tensors = load_tensors(folder / WEIGHTS)
    if {name: tensor.shape for name, tensor in tensors.items()} != _shapes(model, config.llm.lora_rank):
        raise MinemuError(
            f"the adapter in {folder} is of another base: its tensors do not fit {model.config.name}'s layers"
        )
    prepare(model, processor, config)
    with torch.no_grad():
        for name, tensor in factors(model).items():
            tensor.copy_(tensors[name])


def _shapes(model: Emu, rank: int) -> dict[str, torch.Size]:
    """What `factors` will have once the model has adapters of this rank."""
    shapes = {}
    for name, layer in model.llm.named_modules():
        if name.rpartition(".")[2] in LORA_LAYERS:
            shapes[f"{_PEFT}{name}.lora_A.weight"] = torch.Size((rank, layer.in_features))
            shapes[f"{_PEFT}{name}.lora_B.weight"] = torch.Size((layer.out_features, rank))
    return shapes


def _check_base(model: Emu, folder: Path) -> None:
    """One base is told from another of the same sizes by some of its embeddings, in whatever precision it is loaded."""
    if not (folder / BASE).exists():
        return  # peft's own; shapes have to do
    told, own = read_object(folder / BASE, "name", "embeddings"), torch.tensor(_sampled(model))
    known = torch.tensor(told["embeddings"])
    if own.shape != known.shape or not torch.allclose(own, known, rtol=2e-2, atol=2e-2 * known.abs().mean().item()):
        raise MinemuError(
            f"the adapter in {folder} was trained on another base (an {told['name']}) than this {model.config.name}; "
            "load it on that one, or train one here with: minemu train instruct"
        )


def _sampled(model: Emu) -> list[float]:
    words = model.llm.get_input_embeddings().weight[: model.config.llm.words]
    return words[:: max(1, len(words) // _SAMPLED), 0][-_SAMPLED:].float().tolist()


# ---- merging ---------------------------------------------------------------------------------------------------------


def merge(model: Emu) -> Emu:
    """Add the adapters to the weights, in place: the same answers, without peft and at no cost."""
    for name, module in list(model.llm.named_modules()):
        if hasattr(module, "lora_A"):
            parent, _, child = name.rpartition(".")
            base: nn.Linear = module.get_base_layer()
            with torch.no_grad():
                base.weight = nn.Parameter(base.weight + module.get_delta_weight("default"))
            setattr(model.llm.get_submodule(parent), child, base)
    model.config = model.config.override({"llm.lora_rank": 0})
    return model
