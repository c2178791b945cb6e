"""Text, PIL pictures and paths -> the tensors that `Emu` takes; and back from ids to text."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast

from minemu import sequence
from minemu.errors import MinemuError
from minemu.files import atomic_write, read_json, write_json

CLIP_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))
CLIP_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))
MIN_SIDE, MAX_PIXELS = 8, 100_000_000
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

PictureLike = Image.Image | os.PathLike


def read_picture(source: Image.Image | str | os.PathLike) -> Image.Image:
    """Any picture as upright RGB: palette, grey, 16 bit, alpha (on white) and EXIF rotation are taken care of.

    Unreadable, truncated, tiny and huge files raise a `MinemuError` that names the file and the fix.
    """
    name = "the picture" if isinstance(source, Image.Image) else str(source)
    try:
        picture = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(Path(source).read_bytes()))
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise MinemuError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; make it smaller first")
        if min(width, height) < MIN_SIDE:
            raise MinemuError(
                f"{name} is only {width} x {height} pixels; a picture needs at least {MIN_SIDE} on each side"
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith(("I", "F")):  # 16 or 32 bit grey
            grey = np.asarray(picture, dtype=np.float32)
            picture = Image.fromarray((grey / max(grey.max(), 1.0) * 255).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        return picture.convert("RGB")
    except FileNotFoundError:
        raise MinemuError(f"{name} does not exist; check the path") from None
    except Image.DecompressionBombError:
        raise MinemuError(f"{name} is larger than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise MinemuError(f"{name} cannot be read as a picture ({error}); it may be truncated, save it again") from None


def train_tokenizer(corpus: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A small LLaMA-like tokenizer: byte-pair encoding with byte fallback, so that any text has ids; ours last, as in Emu."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    words = vocab_size - len(sequence.SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core = _bytes_as_words(core)
    if (
        core.get_vocab_size() < words
    ):  # a small corpus has too few pairs; unused places keep the sizes of model and tokenizer equal
        core.add_tokens([f"<unused{i}>" for i in range(words - core.get_vocab_size())])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=sequence.PAD
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(sequence.SPECIAL_TOKENS[1:])})
    return tokenizer


def _bytes_as_words(core: Tokenizer) -> Tokenizer:
    """The trainer only takes byte tokens as special ones, which decoding would drop: make them plain entries of the vocabulary."""
    state = json.loads(core.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


class EmuProcessor:
    """`processor([["two dogs.", img, "three pandas.", img]])` -> input_ids, attention_mask, images."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_size: int, n_image: int):
        self.tokenizer, self.image_size, self.n_image = tokenizer, image_size, n_image
        known = tokenizer.get_vocab()
        if lacking := [token for token in sequence.SPECIAL_TOKENS if token not in known]:
            raise MinemuError(
                f"the tokenizer lacks {', '.join(lacking)}; add them as special tokens, in this order, after its words"
            )
        self.ids = sequence.TokenIds(
            tokenizer.bos_token_id, tokenizer.eos_token_id, *(known[token] for token in sequence.SPECIAL_TOKENS)
        )
        self._special = {*sequence.SPECIAL_TOKENS, tokenizer.bos_token, tokenizer.eos_token}

    def preprocess(self, picture: Image.Image | str | os.PathLike) -> Tensor:
        """One picture, CLIP-normalised: float32 (3, S, S)."""
        picture = read_picture(picture)
        if picture.size != (self.image_size, self.image_size):
            picture = picture.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return normalise(torch.from_numpy(np.array(picture))[None])[0]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without <s>; a special token inside it is refused, since it would forge structure."""
        for token in self._special:
            if token in text:
                raise MinemuError(
                    f"the text contains the special token {token!r}; give pictures as list items and leave such tokens out"
                )
        return self.tokenizer.encode(text.strip(), add_special_tokens=False) if text.strip() else []

    def tokens(self, sample: Sequence[str | PictureLike], eos: bool = False) -> tuple[list[int], list[Tensor]]:
        """One sample as token ids and its pictures (each (3, S, S)), in order."""
        if isinstance(sample, (str, Image.Image, os.PathLike)):
            sample = [sample]
        pieces: list[list[int] | sequence.Picture] = []
        pictures: list[Tensor] = []
        for item in sample:
            if isinstance(item, (Image.Image, os.PathLike)) or (isinstance(item, str) and _is_picture_path(item)):
                pictures.append(self.preprocess(item))
                pieces.append(sequence.PICTURE)
            elif isinstance(item, str):
                pieces.append(self.encode(item))
            else:
                raise MinemuError(f"a sample holds a {type(item).__name__}; give text, PIL pictures or paths")
        return sequence.interleave(pieces, self.ids, self.n_image, eos=eos), pictures

    def __call__(
        self,
        samples: Sequence[str | PictureLike | Sequence[str | PictureLike]],
        return_tensors: str = "pt",
        padding_side: str = "right",
        eos: bool = False,
        max_length: int | None = None,
    ) -> BatchFeature:
        """One list a sample; a picture is a PIL image or a path. `eos` closes the samples with </s>, as in training.

        Returns input_ids and attention_mask (B, L), and images (pictures, 3, S, S) in reading order where there are any.
        """
        if return_tensors != "pt":
            raise MinemuError(f"return_tensors={return_tensors!r} is not supported; use 'pt'")
        if padding_side not in ("left", "right"):
            raise MinemuError(f"padding_side={padding_side!r} is not one of left, right")
        if isinstance(samples, (str, Image.Image, os.PathLike)) or not samples:
            raise MinemuError(
                'give a list of samples, each a list of text and pictures: processor([["two dogs.", img]])'
            )
        encoded = [self.tokens(sample, eos) for sample in samples]
        rows = [row for row, _ in encoded]
        if max_length:
            rows = [sequence.truncate(row, self.ids, max_length) for row in rows]
        batch: dict[str, Tensor] = sequence.pad_rows(rows, self.ids, padding_side)
        kept = [
            picture
            for row, (_, pictures) in zip(rows, encoded, strict=True)
            for picture in pictures[: row.count(self.ids.image_start)]
        ]
        if kept:
            batch["images"] = torch.stack(kept)
        return BatchFeature(batch)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def batch_decode(self, batch: Sequence[Sequence[int]] | Tensor) -> list[str]:
        return [self.decode(ids) for ids in batch]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        with atomic_write(folder / "tokenizer.json") as temporary:
            self.tokenizer.backend_tokenizer.save(str(temporary))
        write_json(folder / "processor.json", {"image_size": self.image_size, "n_image": self.n_image})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> EmuProcessor:
        folder = Path(folder)
        settings = read_json(folder / "processor.json")
        read_json(folder / "tokenizer.json")  # a damaged file is named here
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token=sequence.PAD,
        )
        return cls(tokenizer, settings["image_size"], settings["n_image"])


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (n, S, S, 3) -> float32 (n, 3, S, S) with CLIP's mean and standard deviation."""
    return ((pixels.float() / 255 - CLIP_MEAN) / CLIP_STD).permute(0, 3, 1, 2).contiguous()


def _is_picture_path(text: str) -> bool:
    return text.lower().endswith(PICTURE_SUFFIXES) and not text.isspace() and "\n" not in text and len(text) < 1024
