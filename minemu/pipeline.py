"""`EmuPipeline`: a list of text and pictures in, text or a picture out; a checkpoint folder is all it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minemu import adapters
from minemu.data.video import is_clip
from minemu.errors import MinemuError
from minemu.generation import asked, default_to
from minemu.loading import check_placing, main_device
from minemu.model import LOGS, Emu, local_folder, push
from minemu.processor import EmuProcessor, PictureLike, is_picture_path
from minemu.prompts import DESCRIBE
from minemu.retrieval import rices
from minemu.sequence import Video, picture_ids
from minemu.visual_decoder import Generators, VisualDecoder

Sample = Sequence[str | PictureLike | Video]
BATCH = 32  # pictures encoded at a time, where there may be many
DECODER_FOLDER = "visual_decoder"


@dataclass
class EmuPipelineOutput:
    """`images`, in the form of `output_type`; `embeds`: what they were decoded from."""

    images: list[Image.Image] | np.ndarray | Tensor
    embeds: Tensor  # (B, N, E)


@dataclass
class EmuText:
    text: str
    ids: Tensor  # (new,)


class EmuPipeline:
    """All four stages together.

    pipe([words and pictures]).images[0]   draw what comes next;  one picture alone: rebuild it (autoencode)
    pipe.chat([words and pictures]).text   say what comes next
    pipe.continue_document([words and pictures])   go on with both, as they come
    """

    def __init__(self, model: Emu, processor: EmuProcessor, decoder: VisualDecoder | None):
        if processor.ids != model.ids:
            raise MinemuError(
                f"the tokenizer's special tokens {processor.ids} are not where the model expects them, {model.ids}; "
                "use the tokenizer of this checkpoint"
            )
        self.model, self.processor = model.eval(), processor
        self.decoder = None if decoder is None else decoder.eval()  # without one it reads and speaks, and does not draw
        self.logs: list[Path] = []  # where the records of its training lie, which go with it when it is saved
        # The model's own decoder settings may be of another decoder: stage `emu` does not depend on them.
        if decoder is not None:
            model.config = replace(model.config, decoder=decoder.config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        dtype: torch.dtype | str = torch.float32,
        revision: str | None = None,
        adapter: str | os.PathLike | None = None,
        merge: bool = False,
        token: str | None = None,
        **placing,
    ) -> EmuPipeline:
        """Load a folder or hub repository; `dtype` and `placing` as in `Emu.from_pretrained`. The decoder is whole, on the first device.

        Without a folder visual_decoder, as with Emu2-Chat, it reads and speaks but cannot draw.

        adapter   folder or repository of what `minemu train instruct` wrote on this base; as `source` it is loaded on
                  the base that lies beside it
        merge     add the adapter to the weights: the same answers, faster, and no need of peft afterwards
        """
        check_placing(**placing)
        folder = local_folder(source, revision, token)
        if adapter is None and adapters.is_adapter(folder):
            folder, adapter = adapters.base_folder(folder), folder
        if merge and adapter is None:
            raise MinemuError("merge=True needs an adapter to merge: adapter='folder'")
        draws = (folder / DECODER_FOLDER).exists()
        decoder = VisualDecoder.from_pretrained(folder / DECODER_FOLDER, dtype) if draws else None
        device_map = placing.get("device_map")
        if device_map is None and placing.get("quantization_config") is not None:
            device_map = "auto"
        if decoder is not None:
            decoder.to(main_device(device_map))  # before the model, so that "auto" knows what is left
        model = Emu.from_pretrained(folder, dtype, **placing)
        if adapter is None:
            pipe = cls(model, EmuProcessor.from_pretrained(folder), decoder)
            pipe.logs = [folder / LOGS]
            return pipe
        adapter = local_folder(adapter, token=token)
        config = adapters.read_settings(adapter, model.config)
        processor = EmuProcessor.of(config, folder)
        adapters.load_adapter(model, processor, adapter, config)
        pipe = cls(adapters.merge(model) if merge else model, processor, decoder)
        pipe.logs = [folder / LOGS, adapter / LOGS]
        return pipe

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | str | None = None) -> None:
        """Write model, processor and decoder (in `dtype`, default: as they are), in place of those that lay here before."""
        self.model.save_pretrained(folder, dtype)
        self.processor.save_pretrained(folder)
        if self.decoder is not None:
            self.decoder.save_pretrained(Path(folder) / DECODER_FOLDER, dtype)
        else:
            # Else another pipeline's decoder would be loaded with this one.
            shutil.rmtree(Path(folder) / DECODER_FOLDER, ignore_errors=True)
        own = Path(folder) / LOGS
        for logs in self.logs:
            if logs.is_dir() and logs.resolve() != own.resolve():
                shutil.copytree(logs, own, dirs_exist_ok=True)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload model, processor and decoder; returns the address of the commit."""
        return push(self, repo_id, private, token)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device: str | torch.device) -> EmuPipeline:
        if hasattr(self.model, "hf_device_map"):
            raise MinemuError("a device map has placed this model; load it again with another device_map to move it")
        if isinstance(device, torch.dtype):
            raise MinemuError(
                f"load the pipeline in that precision: EmuPipeline.from_pretrained(folder, dtype='{str(device).split('.')[1]}')"
            )
        try:
            self.model.to(device)
            if self.decoder is not None:
                self.decoder.to(device)
        except (AssertionError, RuntimeError) as error:  # what torch raises for a device that is not there
            raise MinemuError(
                f"could not move to {device} ({str(error).splitlines()[0]}); give cpu, or a GPU that is here"
            ) from None
        return self

    # ---- pictures ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sample | Sequence[Sample],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        progress: bool = False,
    ) -> EmuPipelineOutput:
        """Draw the next picture of one sample, or of each sample of a list of lists.

        Unlike in diffusers a list of texts is *one* prompt, `["a dog", picture, "a cat"]`; for two pictures: `[["a dog"], ["a cat"]]`.
        A sample that is one picture alone is rebuilt from its own embeddings; put "" beside it to have the model predict
        a next picture instead. Two pictures blend. Step count and guidance default to the checkpoint's own.
        A list of generators has one for each picture, which is then the same alone and in a batch.

        output_type   as in diffusers: "pil"; "np", an array (B, S, S, 3) in [0, 1]; "pt", a tensor (B, 3, S, S) in [0, 1]
        """
        if output_type not in OUTPUTS:
            raise MinemuError(f"output_type={output_type!r} is not one of {', '.join(OUTPUTS)}")
        self.check_draws()
        samples = _as_batch(prompt)
        alone = [_is_one_picture(sample) for sample in samples]
        if any(alone) and not all(alone):
            raise MinemuError(
                "a batch holds both single pictures (to rebuild) and prompts (to draw); call once for each kind"
            )
        embeds = self.encode([sample[0] for sample in samples]) if all(alone) else self.imagine(samples)
        pixels = self._draw(embeds, all(alone), num_inference_steps, guidance_scale, generator, progress)
        return EmuPipelineOutput(OUTPUTS[output_type](pixels), embeds)

    def check_draws(self) -> None:
        """Refuse what needs the visual decoder where there is none."""
        if self.decoder is None:
            raise MinemuError(
                "this checkpoint has no visual decoder, so it cannot draw; convert one beside it, into the same folder: "
                f"minemu official DIFFUSERS_FOLDER --preset {self.model.config.name} --out FOLDER"
            )

    def _draw(
        self, embeds: Tensor, autoencode: bool, steps: int | None, scale: float | None, generator, progress=False
    ) -> Tensor:
        """Pictures of visual embeddings (B, N, E): (B, 3, S, S). What guidance steers away from is only found where it steers."""
        guided = (self.decoder.config.guidance_scale if scale is None else scale) != 1
        null = self.null_embeds(autoencode) if guided else None
        return self.decoder.decode(embeds, null, steps, scale, generator, progress)

    @torch.no_grad()
    def encode(self, pictures: Sequence[PictureLike]) -> Tensor:
        """Visual embeddings of pictures: (n, N, E)."""
        if not isinstance(pictures, (list, tuple)) or not pictures:
            raise MinemuError("give a list of pictures: pipe.encode([picture])")
        return self.model.encode_images(
            torch.stack([self.processor.preprocess(picture) for picture in pictures]).to(self.model.device)
        )

    def features(self, pictures: Sequence[PictureLike]) -> Tensor:
        """The mean of each picture's visual embeddings as a unit vector: (n, E)."""
        parts = [self.encode(pictures[i : i + BATCH]).float().mean(1).cpu() for i in range(0, len(pictures), BATCH)]
        return F.normalize(torch.cat(parts), dim=1)

    def nearest(self, picture: PictureLike, pool: Sequence[PictureLike], shots: int) -> list[int]:
        """RICES: the numbers of the `shots` pictures of `pool` most like this one, the most similar last (arXiv 2109.05014).

        For a few-shot prompt: `[part for k in pipe.nearest(picture, pool, 2) for part in (pool[k], answers[k])]`, then the question.
        """
        if not 0 <= shots <= len(pool):
            raise MinemuError(f"shots={shots} examples of a pool of {len(pool)}: ask for 0 to {len(pool)}")
        return rices(self.features([picture]), self.features(pool), shots)[0] if shots else []

    @torch.no_grad()
    def imagine(self, samples: Sequence[Sample]) -> Tensor:
        """Visual embeddings that the LLM predicts to come next after each sample: (B, N, E)."""
        batch = self.processor([list(sample) for sample in samples]).to(self.model.device)
        return self.model.generate_image_embeds(**batch)

    @torch.no_grad()
    def null_embeds(self, autoencode: bool) -> Tensor:
        """What guidance steers away from, as published: the embeddings of an all-zero picture, or those imagined from "". (1, N, E)."""
        if not autoencode:
            return self.imagine([[""]])
        size = self.processor.image_size
        return self.model.encode_images(torch.zeros(1, 3, size, size, device=self.model.device))

    # ---- words ---------------------------------------------------------------------------------------------------------

    def chat(self, sample: Sample | Sequence[dict], **kwargs) -> EmuText:
        """Say what comes next after words and pictures; takes transformers' generation keywords.

        Emu-I answers messages, which are put into its template: pipe.chat([{"role": "user", "content": [...]}]).
        """
        return self.chat_batch([sample], **kwargs)[0]

    def chat_batch(self, samples: Sequence[Sample | Sequence[dict]], **kwargs) -> list[EmuText]:
        _refuse_dict(kwargs)
        if self.model.config.objective.say_image:  # words are asked for, even where it would rather draw
            default_to(kwargs, begin_suppress_tokens=[self.model.ids.image_start])
        batch = self.processor([self._as_asked(sample) for sample in samples]).to(self.model.device)
        ids = self.model.generate(**batch, **kwargs)
        return [EmuText(self.processor.decode(row), row) for row in ids]

    def _as_asked(self, sample: Sample | Sequence[dict]) -> list:
        _refuse_bare(sample)
        return self.processor.read_messages(sample) if isinstance(sample[0], dict) else list(sample)

    def caption(self, shown: PictureLike | Video | str, **kwargs) -> str:
        """What is in a picture or happens in a clip (frames as a `Video`, or a path: of a long one 8 frames are read).

        Decoded as published, with beams: they weigh whole texts, where greedy decoding is bound to its first word.
        """
        sample = [Path(shown) if isinstance(shown, str) else shown]
        default_to(kwargs, **DESCRIBE)
        return self.chat(sample, **kwargs).text

    def log_likelihoods(self, sample: Sample | Sequence[dict], texts: Sequence[str], mean: bool = False) -> Tensor:
        """log P(text | sample) of each text as what comes next: (R,). With `mean` per token, so that long texts do not lose."""
        if isinstance(texts, str):
            raise MinemuError(f"likelihoods are of several texts: give a list of them, such as [{texts!r}, ...]")
        rows = [self.processor.encode(text) for text in texts]
        return self.model.log_likelihoods(
            rows, **self.processor([self._as_asked(sample)]).to(self.model.device), mean=mean
        )

    def rank(self, sample: Sample | Sequence[dict], answers: Sequence[str]) -> list[tuple[str, float]]:
        """Answers with their mean log-likelihood per token, the likeliest first, as the paper ranks those of VisDial."""
        scores = self.log_likelihoods(sample, answers, mean=True).tolist()
        return sorted(zip(answers, scores, strict=True), key=lambda pair: -pair[1])

    # ---- words and pictures --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def continue_document(
        self,
        sample: Sample,
        max_pictures: int = 4,
        max_new_tokens: int = 64,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> list[str | Image.Image]:
        """Go on with words and pictures in the order in which the model says them.

        It ends at </s>, when the tokens are used up (each [IMG] is one), or where a picture beyond `max_pictures` would begin.

        Where it says [IMG], a picture is drawn, and its predicted embeddings are read on as if they had been given.
        At most `max_pictures`, drawn as `pipe(...)` draws, and `max_new_tokens` tokens of text in all; kwargs are transformers'
        generation keywords.
        """
        _refuse_dict(kwargs)
        model, ids = self.model, self.model.ids
        batch = self._document(sample, max_pictures, max_new_tokens)
        pieces: list[str | Image.Image] = []
        while max_new_tokens > 0:
            said = model.generate(**batch, max_new_tokens=max_new_tokens, **kwargs)
            max_new_tokens -= said.shape[1]
            draws = int(said[0, -1]) == ids.image_start
            if text := self.processor.decode(said[0]):
                pieces.append(text)
            if not draws or max_pictures == 0:
                break
            batch["input_ids"] = torch.cat([batch["input_ids"], said], 1)
            embeds = model.generate_image_embeds(**batch)
            pieces += to_pil(self._draw(embeds, False, num_inference_steps, guidance_scale, generator))
            max_pictures -= 1
            slots = said.new_tensor([picture_ids(ids, self.processor.n_image)[1:]])
            batch["input_ids"] = torch.cat([batch["input_ids"], slots], 1)
            shown = batch["image_embeds"]
            batch["image_embeds"] = embeds if shown is None else torch.cat([shown, embeds])
        return pieces

    def _document(self, sample: Sample, max_pictures: int, max_new_tokens: int) -> dict[str, Tensor | None]:
        """A sample to go on with, its pictures and frames as embeddings; refused where the model cannot, or has no room for it."""
        _refuse_bare(sample)
        if not self.model.config.objective.say_image:
            raise MinemuError(
                "this model was not trained to say [IMG] itself; draw with pipe([...]) and speak with pipe.chat([...]), "
                "or train one with --set objective.say_image=true"
            )
        if max_new_tokens < 1:
            raise MinemuError(f"max_new_tokens={max_new_tokens} asks for nothing; give 1 or more")
        if max_pictures < 0:
            raise MinemuError(f"max_pictures={max_pictures} is negative; give 0 to stop where a picture would begin")
        if max_pictures:
            self.check_draws()
        batch = self.processor([list(sample)]).to(self.model.device)
        images = batch.get("images")
        room = self.model.config.llm.context - batch["input_ids"].shape[1]
        needed = max_new_tokens + max_pictures * (self.processor.n_image + 1)
        if needed > room:
            raise MinemuError(
                f"max_pictures={max_pictures} and max_new_tokens={max_new_tokens} take {needed} places, and after what is given "
                f"{room} are left; lower them, or give less"
            )
        frames = batch.get("frames")
        return {
            "input_ids": batch["input_ids"],
            "image_embeds": None if images is None else self.model.encode_images(images),
            "frame_embeds": None if frames is None else self.model.encode_images(frames, frames=True),
        }


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, S, S) in [-1, 1] -> PIL pictures."""
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in array]


def to_shares(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> the same in [0, 1]."""
    return (pixels.clamp(-1, 1) + 1) / 2


def to_arrays(pixels: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [-1, 1] -> (B, S, S, 3) in [0, 1]."""
    return to_shares(pixels.float()).permute(0, 2, 3, 1).cpu().numpy()


OUTPUTS = {"pil": to_pil, "np": to_arrays, "pt": to_shares}


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of equally large pictures as one picture."""
    width, height = rows[0][0].size
    joined = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            joined.paste(picture, (x * width, y * height))
    return joined


def _as_batch(prompt: Sample | Sequence[Sample]) -> list[list]:
    _refuse_bare(prompt)
    nested = [isinstance(item, (list, tuple)) for item in prompt]
    return [list(item) for item in prompt] if all(nested) else [list(prompt)]


def _refuse_bare(prompt: Sample | Sequence[Sample]) -> None:
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise MinemuError('give a list of text and pictures: pipe(["a rocket on a purple background, Fluent style"])')


def _refuse_dict(kwargs: dict[str, Any]) -> None:
    if asked(kwargs, "return_dict_in_generate"):
        raise MinemuError(
            "return_dict_in_generate gives tensors, and the pipeline texts: leave it out, or ask the model itself: "
            "pipe.model.generate(...)"
        )


def _is_one_picture(sample: Sequence) -> bool:
    one = sample[0] if len(sample) == 1 else ""
    if isinstance(one, Image.Image):
        return True
    is_path = is_picture_path(one) if isinstance(one, str) else isinstance(one, os.PathLike)
    return is_path and not is_clip(one)
