"""Emu: a visual encoder, a Causal Transformer (or pooling), and a LLaMA with two heads that predicts the next element.

    pictures --EVA ViT, LayerNorm, Causal Transformer--> N visual embeddings --+
                                                                               +--> one sequence --LLaMA--> LM head: next token
    words --embedding table----------------------------------------------------+                       +--> regression head: next embedding

Emu2 is the same class with another configuration: mean pooling in stage 2, and the encoder's own space as the one that is
regressed, with `project_up` into the LLM and the regression head as its way back.

Axes   B rows   L positions   n pictures in the batch   N embeddings a picture   V encoder width   E regressed width   D LLM width
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import ModelOutput

from minemu import sequence
from minemu.causal_transformer import CausalTransformer, pool_features
from minemu.config import EmuConfig, LLMConfig
from minemu.errors import MinemuError
from minemu.files import atomic_write, read_object, write_json
from minemu.generation import EmuGeneration
from minemu.loading import check_savable, load_module, main_device, read_dtype
from minemu.objective import image_loss, text_loss, unified_loss
from minemu.shards import INDEX, RECORD
from minemu.visual_encoder import EVAVisionTransformer
from minemu.weights import load_folder, load_strict, part_of, save_tensors

LOGS = "training"  # folder beside the weights of a checkpoint: each stage's settings and log
LAYERS = "llm.model.layers."
WRITES = ("self_attn.o_proj.weight", "mlp.down_proj.weight")  # what a layer of the LLM adds to its stream
LORA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")  # what Emu-I adapts, in every layer of the LLM


@dataclass
class EmuOutput(ModelOutput):
    """What one forward pass gives; losses are scalars."""

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    image_loss: Tensor | None = None
    logits: Tensor | None = None  # (B, L, vocabulary)
    predictions: Tensor | None = None  # (B, L, E) regressed next embeddings
    hidden: Tensor | None = None  # (B, L, D)


def build_llama(config: LLMConfig, ids: sequence.TokenIds) -> LlamaForCausalLM:
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ff_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_heads,
            max_position_embeddings=config.context,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=False,
            bos_token_id=ids.bos,
            eos_token_id=ids.eos,
            pad_token_id=ids.pad,
        )
    )
    return add_lora(llama, config) if config.lora_rank else llama


def add_lora(llama: LlamaForCausalLM, config: LLMConfig) -> LlamaForCausalLM:
    """Low-rank adapters (arXiv 2106.09685) on the self-attention, as in Emu-I; all else of the LLM is frozen."""
    lora = lora_config(config)
    from peft import inject_adapter_in_model

    return inject_adapter_in_model(lora, llama)


def lora_config(config: LLMConfig):
    """peft's own settings for these adapters."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise MinemuError("llm.lora_rank needs peft: pip install 'minemu[finetune]', or merge the adapters (lora_rank=0)") from None
    return LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=list(LORA_LAYERS)
    )


class Emu(nn.Module, EmuGeneration):
    """`Emu(config)` has random weights; `Emu.from_pretrained(folder_or_hub_id)` has trained ones."""

    def __init__(self, config: EmuConfig):
        super().__init__()
        self.config = config
        self.ids = sequence.TokenIds.of(config.llm)
        vision, bridge, llm = config.vision, config.bridge, config.llm
        self.visual_encoder = EVAVisionTransformer(vision)
        if bridge.kind == "causal":
            self.ln_visual = nn.LayerNorm(vision.width, eps=vision.norm_eps)
            self.causal_transformer = CausalTransformer(bridge, vision, llm.width)
        else:
            self.project_up = nn.Linear(vision.width, llm.width, bias=False)
        self.llm = build_llama(llm, self.ids)
        self.regression_head = nn.Linear(llm.width, config.embed_width, bias=False)

    @property
    def device(self) -> torch.device:
        """Where its inputs go; a device map may have spread the weights."""
        spread = getattr(self, "hf_device_map", None)
        return self.regression_head.weight.device if spread is None else main_device(spread)

    @property
    def dtype(self) -> torch.dtype:
        return self.regression_head.weight.dtype

    def encode_images(self, images: Tensor, frames: bool = False) -> Tensor:
        """CLIP-normalised pictures (n, 3, S, S) -> visual embeddings (n, N, E), the space that is regressed."""
        if not images.is_floating_point():
            raise MinemuError(
                f"the model reads CLIP-normalised pictures, not {images.dtype}; use EmuProcessor, or minemu.processor.normalise"
            )
        side = self.config.vision.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise MinemuError(f"the model reads pictures of shape (n, 3, {side}, {side}), not {tuple(images.shape)}; use EmuProcessor")
        images = images.to(self.visual_encoder.pos_embed.dtype)                  # a processor gives float32
        features = self.visual_encoder(images)                                   # (n, 1 + P, V)
        bridge = self.config.bridge
        if bridge.kind == "causal":
            return self.causal_transformer(self.ln_visual(features))             # (n, N, D)
        return pool_features(features, bridge.n_frame if frames else bridge.n_image, self.config.vision)  # (n, N, V)

    def into_llm(self, embeds: Tensor) -> Tensor:
        """Visual embeddings as the LLM reads them: unchanged (Emu) or projected up (Emu2). (..., E) -> (..., D)."""
        return embeds if self.config.bridge.kind == "causal" else self.project_up(embeds.to(self.project_up.weight.dtype))

    def embed(self, input_ids: Tensor, image_embeds: Tensor | None = None, frame_embeds: Tensor | None = None) -> Tensor:
        """Word embeddings with the <image> slots overwritten, and Emu2's [gIMG] slots of video frames, each in reading order.

        (B, L), (n, N, E), (frames, n_frame, E) -> (B, L, D).
        """
        x = self.llm.get_input_embeddings()(input_ids)                           # (B, L, D)
        x = self._overwrite(x, input_ids, image_embeds)
        return self._overwrite(x, input_ids, frame_embeds, frames=True)

    def _overwrite(self, x: Tensor, input_ids: Tensor, embeds: Tensor | None, frames: bool = False) -> Tensor:
        n = self.config.bridge.n_frame if frames else self.config.bridge.n_image
        if embeds is not None and embeds.shape[1] != n:
            what = "frame_embeds" if frames else "image_embeds"
            raise MinemuError(
                f"{what} of shape {tuple(embeds.shape)} have {embeds.shape[1]} a picture, and this model reads {n}; "
                "make them with encode_images"
            )
        sequence.check_slots(input_ids, self.ids, n, 0 if embeds is None else len(embeds), frames)
        if embeds is None:
            return x
        slots = (input_ids == (self.ids.frame if frames else self.ids.image))[..., None]  # (B, L, 1)
        return x.masked_scatter(slots, self.into_llm(embeds).to(x))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_targets: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        frames: Tensor | None = None,
        frame_embeds: Tensor | None = None,
    ) -> EmuOutput:
        """Losses, logits and regressed embeddings of a batch.

        input_ids, attention_mask (B, L) and images (n, 3, S, S) come from `EmuProcessor`; frames (n, 3, S, S) are those of videos,
        which Emu2-Chat pools to fewer embeddings (Emu reads them as images). `image_embeds` (n, N, E) replace
        `images` where they are known, as `frame_embeds` (n, n_frame, E) do `frames`; `image_targets` (n, N, E) replace
        `image_embeds` as regression targets (a frozen teacher's).
        For packed rows (`sequence.pack_rows`) give position_ids and segment_ids (B, L) in place of the attention mask.
        """
        if image_embeds is None and images is not None:
            image_embeds = self.encode_images(images)                            # (n, N, E)
        if frame_embeds is None and frames is not None:
            frame_embeds = self.encode_images(frames, frames=True)
        inputs = self.embed(input_ids, image_embeds, frame_embeds)               # (B, L, D)
        if segment_ids is not None:
            if position_ids is None:
                raise MinemuError("packed rows need position_ids beside segment_ids: sequence.pack_rows gives both")
            attention_mask = sequence.block_mask(segment_ids)                    # (B, 1, L, L)
        elif attention_mask is not None and position_ids is None:
            position_ids = sequence.positions(attention_mask)                    # (B, L)
        hidden = self.llm.model(
            inputs_embeds=inputs, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state                                                      # (B, L, D)
        logits = self.llm.lm_head(hidden)                                        # (B, L, vocabulary)
        predictions = self.regression_head(hidden)                               # (B, L, E)
        targets = sequence.targets(input_ids, self.ids, self.config.objective, segment_ids)
        following = self._regression_targets(inputs, input_ids, image_embeds if image_targets is None else image_targets)
        text = text_loss(logits, targets)
        image = image_loss(predictions, following, targets, self.config.objective)
        return EmuOutput(unified_loss(text, image, self.config.objective), text, image, logits, predictions, hidden)

    def _regression_targets(self, inputs: Tensor, input_ids: Tensor, embeds: Tensor | None) -> Tensor:
        """What the regression head should say at the position before: (B, L, E)."""
        if embeds is None:
            return inputs.new_zeros(*input_ids.shape, self.config.embed_width)
        base = inputs if self.config.bridge.kind == "causal" else inputs.new_zeros(*input_ids.shape, self.config.embed_width)
        return base.masked_scatter((input_ids == self.ids.image)[..., None], embeds.to(base))

    # ---- storage -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | str | None = None) -> None:
        """Write config.json and model.safetensors (in `dtype`, default: as it is)."""
        check_savable(self)
        folder, dtype = Path(folder), None if dtype is None else read_dtype(dtype)
        with atomic_write(folder / "model.safetensors") as temporary:
            save_tensors(self.state_dict(), temporary, dtype)
        (folder / INDEX).unlink(missing_ok=True)  # of shards that lay here before, which would be read instead
        write_json(folder / "config.json", {"model_type": "emu", **self.config.to_dict()})

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        dtype: torch.dtype | str = torch.float32,
        revision: str | None = None,
        token: str | None = None,
        **placing,
    ) -> Emu:
        """Load a folder, or a repository of the Hugging Face hub. Strict: every tensor has its place and its shape.

        `dtype` "auto" is the file's own. `revision` and `token` are for the hub; `placing` are device_map, max_memory and
        quantization_config, as in transformers: see `minemu.loading.load_module`.
        """
        folder = local_folder(source, revision, token)
        config = read_config(folder)
        return load_module(lambda: cls(config), load_folder(folder), str(source), dtype, **placing)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload config and weights; returns the address of the commit."""
        return push(self, repo_id, private, token)


def push(saved: Any, repo_id: str, private: bool, token: str | None) -> str:
    """Upload what `save_pretrained` of a model, a processor or a pipeline writes."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload Emu"))


def local_folder(
    source: str | os.PathLike, revision: str | None = None, token: str | None = None, only: Sequence[str] | None = None
) -> Path:
    """`source` itself if it is a folder, else a downloaded copy of the hub repository of that name, or of its files like `only`."""
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    if not isinstance(source, str) or name.count("/") != 1 or Path(name).parent.is_dir() or name.startswith(("/", "~")):
        raise MinemuError(f"there is no checkpoint folder {name}; check the path, or train one with: minemu recipe emu-tiny")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=only))
    except (OSError, ValueError) as error:
        raise MinemuError(f"there is no folder {name}, and it could not be fetched from the hub ({str(error).splitlines()[0]})") from None


def read_config(folder: Path) -> EmuConfig:
    if (folder / RECORD).exists() and not (folder / "config.json").exists():
        raise MinemuError(f"{folder} is a conversion that was stopped; run the same minemu official command again to finish it")
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise MinemuError(f"{folder} is an adapter: EmuPipeline.from_pretrained loads it on its base")
    values = read_object(folder / "config.json")
    if values.pop("model_type", None) != "emu":
        raise MinemuError(f"{folder / 'config.json'} is not of a minemu model (model_type is not 'emu'); convert one with minemu official")
    return EmuConfig.from_dict(values)


def deepened(model: Emu, layers: int) -> Emu:
    """The same model with `layers` layers in its LLM, the new ones spread among the old; no output changes.

    Block expansion (LLaMA Pro, arXiv 2401.02415): each new layer copies the one before it and adds nothing yet.
    """
    llm = model.config.llm
    if layers < llm.layers:
        raise MinemuError(f"the LLM has {llm.layers} layers, and layers are only added: give llm.layers={llm.layers} or more")
    larger = Emu(replace(model.config, llm=replace(llm, layers=layers)))
    had = model.state_dict()
    state = {name: tensor for name, tensor in had.items() if not name.startswith(LAYERS)}
    for i in range(layers):
        old = i * llm.layers // layers
        copied = i > 0 and (i - 1) * llm.layers // layers == old
        for name, tensor in part_of(had, f"{LAYERS}{old}").items():
            state[f"{LAYERS}{i}.{name}"] = tensor * 0 if copied and name in WRITES else tensor
    load_strict(larger, state, "the model to go on with")
    return larger
