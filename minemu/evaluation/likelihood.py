"""Which words does the model find likeliest after a picture, or after text and pictures?

Axis letters: R candidate texts, L tokens of a candidate, P tokens of the prompt with its pictures, D LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from minemu.data import captions
from minemu.data.world import SIZES, Group, Scene
from minemu.sequence import pad_rows

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

CHUNK = 256


@torch.no_grad()
def log_likelihoods(
    pipe: EmuPipeline, prompt: Image.Image | Sequence, texts: Sequence[str], mean: bool = False
) -> Tensor:
    """log P(text | prompt) of each text as the words right after a picture, or after text and pictures: (R,).

    With `mean` per token, so that long texts do not lose. The prompt is read once for `CHUNK` texts, which share its cache.
    """
    model, processor = pipe.model, pipe.processor
    read = processor([prompt]).to(model.device)
    embeds = model.encode_images(read["images"]) if "images" in read else None
    inputs = model.embed(read["input_ids"], embeds)  # (1, P, D)
    rows = [processor.encode(text) for text in texts]
    scores = []
    for start in range(0, len(rows), CHUNK):
        padded = pad_rows(rows[start : start + CHUNK], processor.ids)
        ids, mask = (padded[name].to(model.device) for name in ("input_ids", "attention_mask"))  # (R, L)
        cache = DynamicCache(config=model.llm.config)
        read_all = model.llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        first = read_all.logits[:, -1:]  # (1, 1, vocabulary)
        cache.batch_repeat_interleave(len(ids))
        seen = torch.cat([mask.new_ones(len(ids), inputs.shape[1]), mask], dim=1)  # (R, P + L)
        rest = model.llm(input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True).logits
        logits = torch.cat([first.expand(len(ids), 1, -1), rest[:, :-1]], dim=1)  # (R, L, vocabulary)
        of_tokens = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]  # (R, L)
        total = (of_tokens * mask).sum(1)
        scores.append(total / mask.sum(1) if mean else total)
    return torch.cat(scores)


def concept_scores(pipe: EmuPipeline, picture: Image.Image, labels: Sequence[str]) -> Tensor:
    """log P(the caption names this concept | picture) of each label, summed over the sizes that a caption can say: (labels,).

    A candidate is the start of a caption up to the word after the concept, "a big llama on", so that "cat" does not win
    whatever begins with it; what follows (background, style) plays no part.
    """
    texts = [captions.caption(Scene((Group(label),), size=size)) + " on" for label in labels for size in SIZES]
    return log_likelihoods(pipe, picture, texts).view(len(labels), len(SIZES)).logsumexp(1)
