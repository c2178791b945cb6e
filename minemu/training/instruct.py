"""Stage `instruct`: Emu-I. Conversations in the published template, loss on the answers only, and only LoRA learns."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minemu.adapters import RANK, instruct_config, prepare, save_adapter
from minemu.chat import CHAT_TEMPLATES, read_conversation
from minemu.config import EmuConfig
from minemu.data.mixture import Mixture
from minemu.data.sources import Talks
from minemu.files import atomic_dir
from minemu.model import Emu
from minemu.objective import text_loss
from minemu.processor import EmuProcessor, normalise
from minemu.sequence import IGNORE, Targets
from minemu.tokenizer import ASSISTANT
from minemu.training.emu import hide, pack_documents
from minemu.training.loop import FUSED, Stage, TrainConfig

ADAPTER_FOLDER = "adapter"
ALIKE = 4  # batches that are made together: talks about clips are far longer than others


class InstructStage(Stage):
    """LoRA on the LLM's self-attention; the pretrained model is frozen and out of training mode."""

    name = "instruct"
    attention = FUSED

    def __init__(
        self,
        config: EmuConfig,
        train: TrainConfig,
        root: Path,
        talks: Talks,
        rehearsed: Mixture | None = None,
        every: int = 0,
    ):
        torch.manual_seed(train.seed)
        self.train, self.talks, self.rehearsed, self.every = train, talks, rehearsed, every
        self.emu = Emu.from_pretrained(root / "emu")
        self.config = instruct_config(
            self.emu.config, config.llm.lora_rank or RANK, config.llm.lora_alpha, config.llm.lora_dropout
        )
        self.processor = EmuProcessor.of(self.config, root)
        prepare(self.emu, self.processor, self.config)
        self.emu.eval()
        self.module = nn.ModuleList(
            part for name, part in self.emu.named_modules() if name.endswith(("lora_A", "lora_B", "lora_dropout"))
        )

    def layers(self) -> Iterable[nn.Module]:
        return self.emu.llm.model.layers

    def batch(self, index: int) -> dict[str, Tensor]:
        """Conversations of like length: those of ALIKE batches are sorted and dealt out, so that little is padded.

        Where pretraining is rehearsed, every `every`-th batch is of its documents: else the model forgets how to continue one.
        """
        if self.rehearsed is not None and self.every:
            if index % self.every == self.every - 1:
                first = index // self.every * self.train.batch_size
                documents = [self.rehearsed.document(i) for i in range(first, first + self.train.batch_size)]
                return pack_documents(documents, self.processor, self.config)
            index -= index // self.every
        group, place = divmod(index, ALIKE)
        batch = dict(self.processor(self.dealt(group)[place], max_length=self.config.llm.context))
        return {**batch, "answers": self.answers(batch["input_ids"])}

    @lru_cache(maxsize=2)  # noqa: B019 (lives as long as the run)
    def dealt(self, group: int) -> list[list[list[Any]]]:
        """The ALIKE batches of a group, each a list of samples; which comes first is drawn by lot."""
        size, template = self.train.batch_size, CHAT_TEMPLATES["emu-i"]
        talks = [self.talks.document(i) for i in range(group * ALIKE * size, (group + 1) * ALIKE * size)]
        samples = [read_conversation(talk.messages(), template) for talk in talks]
        samples.sort(key=lambda sample: len(self.processor.as_text(sample)))
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [batches[i] for i in np.random.default_rng(group).permutation(ALIKE)]

    def answers(self, input_ids: Tensor) -> Tensor:
        """The ids that are to be said, answers and the </s> after each; all else is IGNORE. (B, L) -> (B, L)."""
        ids, opens = self.processor.ids, self.processor.special[ASSISTANT]
        said = torch.full_like(input_ids, IGNORE)
        for row, wanted in zip(input_ids.tolist(), said, strict=True):
            for start in (place for place, token in enumerate(row) if token == opens):
                first = start + 1 + len(self.processor.encode(":"))
                stop = row.index(ids.eos, first) + 1 if ids.eos in row[first:] else len(row)
                wanted[first:stop] = input_ids.new_tensor(row[first:stop])
        return said.masked_fill(input_ids == ids.pad, IGNORE)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "answers" not in batch:
            rehearsal = self.unified_loss(batch)
            return {"loss": rehearsal, "rehearsal": rehearsal}
        answers, images = batch.pop("answers"), batch.pop("images", None)
        embeds = None
        if images is not None:
            with torch.no_grad():
                embeds = self.emu.encode_images(images)
        logits = self.emu(**batch, image_embeds=embeds).logits
        following = answers[:, 1:]
        said = text_loss(logits, Targets(text=following, image=torch.zeros_like(following, dtype=torch.bool)))
        return {"loss": said, "answers": said}

    def unified_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Pretraining's own, of packed documents."""
        shown = {}
        if "pixels" in batch:
            pixels, after = batch.pop("pixels"), batch.pop("after_text")
            with torch.no_grad():
                embeds = self.emu.encode_images(normalise(pixels))
            shown = {"image_embeds": hide(embeds, after, self.config.objective.hide_written), "image_targets": embeds}
        return self.emu(**batch, **shown).loss

    def finish(self, folder: Path) -> None:
        with atomic_dir(folder / ADAPTER_FOLDER) as temporary:
            save_adapter(self.emu, temporary)
