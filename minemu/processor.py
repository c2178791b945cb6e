"""Text, PIL pictures and paths -> the tensors that `Emu` takes; and back from ids to text."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast

from minemu import sequence
from minemu.chat import ChatTemplates
from minemu.config import EmuConfig
from minemu.errors import MinemuError, suggest
from minemu.files import atomic_write, read_object, write_json
from minemu.model import local_folder, push, read_config
from minemu.tokenizer import VIDEO, load_tokenizer, special_tokens

CLIP_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))
CLIP_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))
MIN_SIDE, MAX_PIXELS = 8, 100_000_000
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")  # films, read by PyAV where that is installed

PictureLike = Image.Image | os.PathLike
Item = str | PictureLike | sequence.Special | sequence.Video
# What PIL raises for damaged files; a claimed size beyond reason is a warning first, then an error.
BROKEN_PICTURE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)


def read_picture(source: Image.Image | str | os.PathLike) -> Image.Image:
    """Any picture as upright RGB: palette, grey, 16 bit, alpha (on white) and EXIF rotation are taken care of.

    Unreadable, truncated, tiny and huge files raise a `MinemuError` that names the file and the fix.
    """
    name = "the picture" if isinstance(source, Image.Image) else str(source)
    try:
        picture = source if isinstance(source, Image.Image) else _open(Path(source).read_bytes())
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise MinemuError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; make it smaller first")
        if min(width, height) < MIN_SIDE:
            raise MinemuError(
                f"{name} is only {width} x {height} pixels; a picture needs at least {MIN_SIDE} on each side"
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith(("I", "F")):  # 16 or 32 bit grey
            grey = np.asarray(picture, dtype=np.float32).clip(min=0)
            white = _white(picture.mode, grey.max())
            picture = Image.fromarray((grey / white * 255).round().astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        return picture.convert("RGB")
    except MinemuError:  # a ValueError itself
        raise
    except FileNotFoundError:
        raise MinemuError(f"{name} does not exist; check the path") from None
    except Image.DecompressionBombError:
        raise MinemuError(f"{name} is larger than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise MinemuError(f"{name} is no picture; give one of {', '.join(PICTURE_SUFFIXES)}") from None
    except BROKEN_PICTURE as error:
        raise MinemuError(f"{name} cannot be read as a picture ({error}); it may be truncated, save it again") from None


def _white(mode: str, largest: float) -> float:
    """The value of white in grey of more than 8 bits; for floats, which have none, the largest."""
    if mode == "F":
        return max(largest, 1.0)
    return 255.0 if mode == "I" and largest <= 255 else 65535.0


def _open(data: bytes) -> Image.Image:
    """PIL warns of pictures it finds large; here the one limit is MAX_PIXELS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


class EmuProcessor(ChatTemplates):
    """`processor([["two dogs.", img, "three pandas.", img]])` -> input_ids, attention_mask, images.

    `processor.apply_chat_template(messages)` writes a conversation as Emu-I and Emu2-Chat were taught to read it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_size: int, n_image: int, n_frame: int | None = None):
        self.tokenizer, self.image_size, self.n_image = tokenizer, image_size, n_image
        self.n_frame = n_image if n_frame is None else n_frame
        known = tokenizer.get_vocab()
        if lacking := [token for token in sequence.SPECIAL_TOKENS if token not in known]:
            raise MinemuError(
                f"the tokenizer lacks {', '.join(lacking)}; add them as special tokens, in this order, after its words"
            )
        structure = (known[token] for token in sequence.SPECIAL_TOKENS)
        self.ids = sequence.TokenIds(
            tokenizer.bos_token_id, tokenizer.eos_token_id, *structure, frame=known.get(sequence.FRAME)
        )
        self.special = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special |= {tokenizer.bos_token: self.ids.bos, tokenizer.eos_token: self.ids.eos}
        self.special |= {"<s>": self.ids.bos, "</s>": self.ids.eos}  # LLaMA's names of them hold for any tokenizer

    def pixels(self, picture: Image.Image | str | os.PathLike) -> Tensor:
        """One picture at the model's size: uint8 (S, S, 3)."""
        picture = read_picture(picture)
        if picture.size != (self.image_size, self.image_size):
            picture = picture.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture))

    def preprocess(self, picture: Image.Image | str | os.PathLike) -> Tensor:
        """One picture, CLIP-normalised: float32 (3, S, S)."""
        return normalise(self.pixels(picture)[None])[0]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without <s>; a special token inside it is refused, since it would forge structure.

        Space at its ends is dropped, and it begins with a word-start space: what the published tokenisation does beside a
        picture or a special token.
        """
        for token in self.special:
            if token in text:
                raise MinemuError(
                    f"the text contains the special token {token!r}; give pictures as list items and leave such tokens out"
                )
        return self.tokenizer.encode(text.strip(), add_special_tokens=False) if text.strip() else []

    def tokens(self, sample: Sequence[Item], eos: bool = False) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """One sample as token ids, its pictures and the frames of its videos (each (3, S, S)), in order.

        Emu reads the frames of a video as pictures; Emu2, whose vocabulary has [gIMG], as [VIDEO] and frames of their own.
        A path to an animated picture, a film or a folder of frames is a video.
        """
        from minemu.data.video import as_item  # it reads its frames with this module

        if isinstance(sample, (str, Image.Image, os.PathLike, sequence.Video, sequence.Special)):
            sample = [sample]
        if not isinstance(sample, (list, tuple)):
            raise MinemuError(f"a sample is a {type(sample).__name__}; give a list of text and pictures")
        pieces: list[list[int] | sequence.Picture] = []
        pictures: list[Tensor] = []
        frames: list[Tensor] = []
        for item in map(as_item, sample):
            if isinstance(item, sequence.Special):
                pieces.append([self._special_id(item.token)])
            elif isinstance(item, sequence.Video) and self.ids.frame is not None:
                frames += [self.preprocess(frame) for frame in item.frames]
                block = [self.ids.image_start, *[self.ids.frame] * self.n_frame, self.ids.image_end]
                pieces.append([self._special_id(VIDEO), *block * len(item.frames)])
            elif isinstance(item, sequence.Video):
                pictures += [self.preprocess(frame) for frame in item.frames]
                pieces += [sequence.PICTURE] * len(item.frames)
            elif isinstance(item, (Image.Image, os.PathLike)) or is_picture_path(item):
                pictures.append(self.preprocess(item))
                pieces.append(sequence.PICTURE)
            elif isinstance(item, str):
                pieces.append(self.encode(item))
            else:
                raise MinemuError(f"a sample holds a {type(item).__name__}; give text, PIL pictures or paths")
        return sequence.interleave(pieces, self.ids, self.n_image, eos=eos), pictures, frames

    def _special_id(self, token: str) -> int:
        if token not in self.special:
            raise MinemuError(f"the tokenizer has no special token {token!r}: {suggest(token, self.special)}")
        return self.special[token]

    def __call__(
        self,
        samples: Sequence[Item | Sequence[Item]],
        return_tensors: str = "pt",
        padding_side: str = "right",
        eos: bool = False,
        max_length: int | None = None,
    ) -> BatchFeature:
        """One list a sample; a picture is a PIL image or a path, a clip a `Video` or a path.

        `eos` closes the samples with </s>, as in training.

        Returns input_ids and attention_mask (B, L), and in reading order, where there are any, images (pictures, 3, S, S)
        and Emu2's frames of videos (frames, 3, S, S).
        """
        if return_tensors != "pt":
            raise MinemuError(f"return_tensors={return_tensors!r} is not supported; use 'pt'")
        if padding_side not in ("left", "right"):
            raise MinemuError(f"padding_side={padding_side!r} is not one of left, right")
        if max_length is not None and max_length < 1:
            raise MinemuError(
                f"max_length={max_length} leaves nothing of a sample; give 1 or more, or None for no limit"
            )
        if not isinstance(samples, (list, tuple)) or not samples:
            raise MinemuError(
                'give a list of samples, each a list of text and pictures: processor([["two dogs.", img]])'
            )
        items = (Image.Image, os.PathLike, sequence.Video, sequence.Special)
        if any(isinstance(sample, items) or is_picture_path(sample) for sample in samples):
            raise MinemuError(
                'each sample is a list of its own: processor([["two dogs.", img]]), in two pairs of brackets'
            )
        rows: list[list[int]] = []
        seen: dict[str, list[Tensor]] = {"images": [], "frames": []}
        for sample in samples:
            row, pictures, frames = self.tokens(sample, eos)
            rows.append(row if max_length is None else sequence.truncate(row, self.ids, max_length))
            seen["images"] += pictures[: rows[-1].count(self.ids.image) // self.n_image]  # what a cut has left
            seen["frames"] += frames[: rows[-1].count(self.ids.frame) // self.n_frame]
        batch: dict[str, Tensor] = sequence.pad_rows(rows, self.ids, padding_side)
        batch |= {name: torch.stack(tensors) for name, tensors in seen.items() if tensors}
        return BatchFeature(batch)

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        """Text of ids; Emu2-Chat's places are special tokens, so keep them to see where it points."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens).strip()

    def batch_decode(self, batch: Sequence[Sequence[int]] | Tensor, skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in batch]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        with atomic_write(folder / "tokenizer.json") as temporary:
            temporary.write_text(self.tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8")
        settings = {"image_size": self.image_size, "n_image": self.n_image, "n_frame": self.n_frame}
        write_json(folder / "processor.json", settings)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload the tokenizer and the settings; returns the address of the commit."""
        return push(self, repo_id, private, token)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, revision: str | None = None, token: str | None = None
    ) -> EmuProcessor:
        """What `save_pretrained` wrote, in a folder or on the hub; or a config.json with LLaMA's tokenizer beside it."""
        folder = local_folder(source, revision, token)
        if (folder / "config.json").exists() and not (folder / "processor.json").exists():
            return cls.of(read_config(folder), folder)
        settings = read_object(folder / "processor.json", "image_size", "n_image")
        return cls(load_tokenizer(folder), settings["image_size"], settings["n_image"], settings.get("n_frame"))

    @classmethod
    def of(cls, config: EmuConfig, folder: str | os.PathLike) -> EmuProcessor:
        """The processor of a model, with the tokenizer of a folder; the model's special tokens are added where it has none."""
        special = special_tokens(config.llm.special_tokens)
        tokenizer = load_tokenizer(folder, special)
        if (found := tokenizer.convert_tokens_to_ids(special[0])) != config.llm.words:
            raise MinemuError(
                f"the tokenizer in {folder} has {found} words and the model {config.llm.words} (llm.words); "
                "use the tokenizer of this checkpoint"
            )
        return cls(tokenizer, config.vision.image_size, config.bridge.n_image, config.bridge.n_frame)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (n, S, S, 3) -> float32 (n, 3, S, S) with CLIP's mean and standard deviation."""
    mean, std = CLIP_MEAN.to(pixels.device), CLIP_STD.to(pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def unnormalise(images: Tensor) -> np.ndarray:
    """CLIP-normalised (n, 3, S, S) -> uint8 (n, S, S, 3): the inverse of `normalise`."""
    pixels = images.detach().float().cpu().permute(0, 2, 3, 1) * CLIP_STD + CLIP_MEAN
    return (pixels.clamp(0, 1) * 255).round().byte().numpy()


def is_picture_path(text: Any) -> bool:
    """Is this item of a sample a text that names a picture or film? One with spaces only if there is such a file: it may be a sentence."""
    if not isinstance(text, str):
        return False
    named = text.lower().endswith(PICTURE_SUFFIXES + VIDEO_SUFFIXES) and "\n" not in text and len(text) < 1024
    return named and (" " not in text or os.path.isfile(text))
