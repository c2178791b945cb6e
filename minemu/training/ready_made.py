"""A LLaMA that others have trained, where stage `language` would begin at random: LLaMA-13B in the paper, SmolLM2 in `emu-small`.

--set train.llm=HuggingFaceTB/SmolLM2-135M-Instruct      a repository of the hub, or a folder with config.json,
                                                         safetensors and tokenizer.json, as transformers writes them
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig

from minemu.config import LLMConfig
from minemu.errors import MinemuError
from minemu.files import read_json
from minemu.model import local_folder
from minemu.processor import EmuProcessor
from minemu.tokenizer import load_tokenizer, special_tokens
from minemu.weights import load_folder

FILES = ("config.json", "tokenizer.json", "tokenizer.model", "*.safetensors", "*.safetensors.index.json")
SIZES = {  # transformers' names and ours
    "vocab_size": "words",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ff_width",
    "rms_norm_eps": "norm_eps",
}


def fetch(source: str) -> Path:
    """The folder of a checkpoint, fetched if need be; of a LLaMA, all of whose features `build_llama` has."""
    folder = local_folder(source, only=FILES)
    values = read_json(folder / "config.json")
    if (kind := values.get("model_type")) != "llama":
        raise MinemuError(
            f"train.llm={source} is of type '{kind}', and the LLM of Emu is a LLaMA; give one, such as SmolLM2"
        )
    its = LlamaConfig.from_dict(values)
    unknown = {
        "biases": its.attention_bias or its.mlp_bias,
        "stretched positions": its.rope_parameters.get("rope_type", "default") != "default",
        "heads of another width": its.head_dim != its.hidden_size // its.num_attention_heads,
    }
    if found := [name for name, present in unknown.items() if present]:
        raise MinemuError(f"train.llm={source} has {found[0]}, which `build_llama` does not build; give another LLaMA")
    return folder


def read_llama(source: str, config: LLMConfig, processor: EmuProcessor) -> dict[str, Tensor]:
    """Its weights for `build_llama(config)`, in float32. The special tokens begin as any word might: drawn with the words' mean and
    deviation. A head that shared its weights with the embeddings begins as a copy of them.
    """
    folder = fetch(source)
    its = LlamaConfig.from_pretrained(folder)
    _check_sizes(source, its, config)
    words = load_tokenizer(folder, special_tokens(config.special_tokens)).get_vocab()
    if words != processor.tokenizer.get_vocab():
        raise MinemuError(f"the stages beside have another tokenizer than train.llm={source}; use another --run-dir")
    tensors = {name: tensor.float() for name, tensor in load_folder(folder).items()}
    if its.tie_word_embeddings:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = with_new_rows(tensors[name], config.special_tokens)
    return tensors


def with_new_rows(table: Tensor, count: int) -> Tensor:
    """(words, D) -> (words + count, D)."""
    new = table.mean(0) + table.std(0) * torch.randn(count, table.shape[1])
    return torch.cat([table, new])


def _check_sizes(source: str, its: LlamaConfig, config: LLMConfig) -> None:
    own = {**asdict(config), "kv_heads": config.key_heads}
    wanted = {name: getattr(its, key) for key, name in SIZES.items()}
    wanted["rope_theta"] = its.rope_parameters["rope_theta"]
    if differing := [f"--set llm.{name}={value}" for name, value in wanted.items() if own[name] != value]:
        raise MinemuError(f"train.llm={source} has other sizes than llm: {' '.join(differing)}")
