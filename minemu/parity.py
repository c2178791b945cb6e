"""Our numbers against a recording of the published implementation: every stage, both losses, and everything generated.

A recording is a folder with config.json (sizes, token ids, prompts), weights.safetensors (under the published names),
outputs.safetensors (inputs, and what came out) and a tokenizer. It may be of any size: all that is needed is read from it.

Where the two differ by design, the recording is followed: Emu's published class builds its rotary tables in bfloat16, which alone
moves hidden states by 1e-3; recordings are made with float32 tables, as they are here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minemu import sequence
from minemu.config import EmuConfig
from minemu.convert import load_official
from minemu.errors import MinemuError
from minemu.files import read_object
from minemu.model import EmuOutput
from minemu.objective import image_loss
from minemu.official import WORD_TABLE, canonical
from minemu.processor import EmuProcessor
from minemu.shards import Shards
from minemu.tokenizer import load_tokenizer
from minemu.weights import load_tensors

TOLERANCE = 1e-4
NEW_TOKENS = 12  # of every recorded text
PICTURE, FRAME = "[<IMG_PLH>]", "[<VID_PLH>]"  # how recorded prompts mark their places
INPUTS = ("images", "video", "attention_mask")
# Recordings of Emu name its tokens without their brackets.
TOKENS = {
    "PAD": "[PAD]",
    "IMG": "[IMG]",
    "IMG_END": "[/IMG]",
    "image": "<image>",
    "USER": "[USER]",
    "ASSISTANT": "[ASSISTANT]",
}


@dataclass(frozen=True)
class Comparison:
    """One recorded tensor: the largest absolute error of floats, and whether ids are equal."""

    name: str
    shape: tuple[int, ...]
    error: float  # 0 or 1 for ids; infinite where shapes differ or a number is not finite
    ids: bool

    @property
    def passed(self) -> bool:
        return self.error == 0 if self.ids else self.error <= TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        error = self.error if math.isfinite(self.error) else None  # JSON has no infinity
        return {"shape": self.shape, "error": error, "ids": self.ids, "passed": self.passed}


def compare(folder: str | os.PathLike) -> list[Comparison]:
    """Run this implementation on a recording and compare every tensor that it holds."""
    recording = Recording(Path(folder))
    if not set(recording.outputs) - set(INPUTS):
        raise MinemuError(f"the recording {folder} holds no output to compare with")
    return [_compared(recording, name) for name in recording.outputs if name not in INPUTS]


def _compared(recording: Recording, name: str) -> Comparison:
    expected = recording.outputs[name]
    ours = recording.ours(name).to(expected.dtype)
    ids = not expected.is_floating_point()
    if ours.shape != expected.shape:
        return Comparison(name, tuple(expected.shape), 1.0 if ids else float("inf"), ids)
    if ids:
        return Comparison(name, tuple(expected.shape), float(not torch.equal(ours, expected)), ids)
    difference = (ours - expected).abs()
    if name in ("hidden", "logits", "regress_all"):  # what stands at padding is arbitrary
        difference = difference[recording.outputs["attention_mask"].bool()]
    error = difference.max().item() if torch.isfinite(difference).all() else float("inf")
    return Comparison(name, tuple(expected.shape), error, ids)


class Recording:
    """A recording, and our model with its weights. `ours(name)` computes what we give for one of its outputs."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise MinemuError(f"there is no recording {folder}; name a folder with config.json, weights and outputs")
        self.values = read_object(folder / "config.json")
        self.outputs = load_tensors(folder / "outputs.safetensors")
        weights = Shards(folder / "weights.safetensors")
        try:
            self.config = config_of(self.values, weights.shapes)
            tokens = self.values["special_tokens"]
            self.prompts = self.values["gen_prompts"]
        except (KeyError, TypeError, IndexError) as error:
            raise MinemuError(f"{folder / 'config.json'} is not of a recording of Emu or Emu2: no {error}") from None
        special = [TOKENS.get(name, name) for name in sorted(tokens, key=tokens.get)]
        vision, bridge = self.config.vision, self.config.bridge
        self.processor = EmuProcessor(
            load_tokenizer(folder, special), vision.image_size, bridge.n_image, bridge.n_frame
        )
        self.model = load_official(folder / "weights.safetensors", self.config)

    def ours(self, name: str) -> Tensor:
        """What this implementation gives for the output `name`."""
        kind = re.sub(r"^(gen|textgen)_(?!prompt_ids).*", r"\1", name)
        if kind not in _OURS:
            raise MinemuError(f"the recording holds '{name}', which minemu does not compute; known: {', '.join(_OURS)}")
        with torch.no_grad():
            try:
                return _OURS[kind](self, name)
            except KeyError as error:
                raise MinemuError(f"the recording lacks {error}, which '{name}' needs") from None

    @property
    def images(self) -> Tensor:
        return self.outputs["images"]

    @cached_property
    def forward(self) -> EmuOutput:
        """The forward pass over the recorded texts, with their pictures."""
        mask = self.outputs["attention_mask"]
        return self.model(self.outputs["input_ids"], mask, images=self.images)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Regressed embeddings and what really comes next, of all N + 1 pairs of each picture: both (pairs, E)."""
        input_ids = self.outputs["input_ids"]
        embeds = self.model.encode_images(self.images)
        following = self.model.embed(input_ids, embeds)[:, 1:]
        chosen = sequence.targets(input_ids, self.model.ids, self.config.objective).image
        return self.forward.predictions[:, :-1][chosen], following[chosen]

    def regression_loss(self, end_of_image_pair: bool) -> Tensor:
        objective = replace(self.config.objective, end_of_image_pair=end_of_image_pair)
        input_ids = self.outputs["input_ids"]
        inputs = self.model.embed(input_ids, self.model.encode_images(self.images))
        targets = sequence.targets(input_ids, self.model.ids, objective)
        return image_loss(self.forward.predictions, inputs, targets, objective).reshape(1)

    def tokenise(self, texts: list[str], side: str) -> dict[str, Tensor]:
        """Ids and mask (B, L) as the published code gives them."""
        bridge = self.config.bridge
        places = {
            PICTURE: "[IMG]" + "<image>" * bridge.n_image + "[/IMG]",
            FRAME: "[IMG]" + "[gIMG]" * bridge.n_frame + "[/IMG]",
        }
        rows = []
        for text in texts:
            for place, tokens in places.items():
                text = text.replace(place, tokens)
            rows.append([self.model.ids.bos, *_ids_of(text, self.processor)])
        return sequence.pad_rows(rows, self.model.ids, side)

    def image_embeds(self, name: str) -> Tensor:
        """Visual embeddings generated one after another for a recorded prompt: (B, N, E)."""
        texts = self.prompts[name]
        batch = self.tokenise(texts, "left")
        count = sum(text.count(PICTURE) for text in texts)
        return self.model.generate_image_embeds(**batch, images=self.images[:count] if count else None)

    def text(self, name: str) -> Tensor:
        """Ids of a generated text, the leading <s> included: (1, 1 + new)."""
        beams, penalty = _decoding(name)
        prompt = self.outputs["textgen_prompt_ids"]
        count = int((prompt == self.model.ids.image_start).sum()) - len(self.outputs.get("video", ()))
        new = self.model.generate(
            prompt,
            images=self.images[:count] if count else None,
            frames=self.outputs.get("video"),
            max_new_tokens=max(NEW_TOKENS, self.outputs[name].shape[1] - 1),
            num_beams=beams,
            do_sample=False,
            **penalty,
        )
        return torch.cat([prompt[:, :1], new], 1)


_OURS: dict[str, Callable[[Recording, str], Tensor]] = {
    "visual_features": lambda r, _: r.model.visual_encoder(r.images),
    "causal_embeds": lambda r, _: r.model.encode_images(r.images),
    "encode_image": lambda r, _: r.model.encode_images(r.images),
    "encode_video_frames": lambda r, _: r.model.encode_images(r.outputs["video"], frames=True),
    "input_ids": lambda r, _: r.tokenise(r.values["texts"], r.values.get("padding_side", "right"))["input_ids"],
    "textgen_prompt_ids": lambda r, _: r.tokenise([r.values["textgen_prompt"]], "left")["input_ids"],
    "hidden": lambda r, _: r.forward.hidden,
    "logits": lambda r, _: r.forward.logits,
    "regress_all": lambda r, _: r.forward.predictions,
    "text_loss": lambda r, _: r.forward.text_loss.reshape(1),
    "regress_pred": lambda r, _: r.pairs[0],
    "regress_label": lambda r, _: r.pairs[1],
    "regress_mse_33": lambda r, _: r.regression_loss(end_of_image_pair=True),
    "regress_mse_image_only": lambda r, _: r.regression_loss(end_of_image_pair=False),
    "gen": Recording.image_embeds,
    "textgen": Recording.text,
}


def _ids_of(text: str, processor: EmuProcessor) -> list[int]:
    """Special tokens by their ids, and the text between them as the processor encodes any text."""
    special = processor.special
    pieces = re.split(f"({'|'.join(map(re.escape, special))})", text)
    return [
        number for piece in pieces for number in ([special[piece]] if piece in special else processor.encode(piece))
    ]


def _decoding(name: str) -> tuple[int, dict[str, float]]:
    """`textgen_greedy` or `textgen_beam5_lpm1` (m: minus) as number of beams and length penalty."""
    if name == "textgen_greedy":
        return 1, {}
    match = re.fullmatch(r"textgen_beam(\d+)_lp(m?)([\d.]+)", name)
    if match is None:
        raise MinemuError(f"the recording holds '{name}', whose way of decoding minemu does not know")
    return int(match[1]), {"length_penalty": float(match[3]) * (-1 if match[2] else 1)}


def config_of(values: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> EmuConfig:
    """The sizes of a recording as our configuration; those that its config.json leaves out are read off the weights."""
    shapes = {canonical(name): shape for name, shape in shapes.items()}
    vision, llm, emu2 = values["vision"], values["llm"], values["family"] == "emu2"
    bridge = (
        {"kind": "pool", "n_image": values["n_query"], "n_frame": values["v_query"]}
        if emu2
        else _causal(values["causal"])
    )
    return EmuConfig.from_dict({
        "name": f"recorded {values['family']}",
        "vision": {
            "image_size": vision["image_size"], "patch_size": vision["patch_size"], "width": vision["width"],
            "layers": vision["layers"], "head_width": vision["head_width"], "norm_eps": vision["ln_eps"],
            "mlp_width": shapes["visual.blocks.0.mlp.fc1.weight"][0], "post_norm": vision["postnorm"],
        },
        "bridge": bridge,
        "llm": {
            "words": llm["vocab_size"], "special_tokens": shapes[WORD_TABLE][0] - llm["vocab_size"], "frame_slot": emu2,
            "width": llm["hidden_size"], "layers": llm["num_hidden_layers"], "heads": llm["num_attention_heads"],
            "ff_width": llm["intermediate_size"], "rope_theta": llm["rope_theta"], "norm_eps": llm["rms_norm_eps"],
            "context": llm.get("max_position_embeddings", 2048),
        },
        "objective": {"end_of_image_pair": not emu2},
        "decoder": {"condition_width": vision["width"] if emu2 else llm["hidden_size"]},
    })  # fmt: skip


def _causal(causal: dict[str, Any]) -> dict[str, Any]:
    if causal["feed_forward"] != "relu":
        raise MinemuError(
            f"the recording has a '{causal['feed_forward']}' feed-forward; the published Causal Transformer has relu"
        )
    return {
        "n_image": causal["n_causal"], "n_frame": causal["n_causal"], "width": causal["d_model"], "heads": causal["num_heads"],
        "head_width": causal["d_kv"], "layers": causal["num_layers"], "ff_width": causal["d_ff"], "norm_eps": causal["layer_norm_eps"],
        "position_buckets": causal["relative_attention_num_buckets"],
        "position_distance": causal["relative_attention_max_distance"],
    }  # fmt: skip
