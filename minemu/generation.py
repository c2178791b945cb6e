"""Generation: words by transformers' `generate`, visual embeddings one after another with a key-value cache.

The released Emu code runs the whole prefix anew for each of the N embeddings; with a cache each costs one position.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from minemu import sequence
from minemu.errors import MinemuError

SCORED = 256  # texts whose likelihood is found at once
NEW_TOKENS = 32  # unless said otherwise


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, with room for all positions to come; a `DynamicLayer` copies all it holds at every new one.

    B rows   H heads   L positions so far   K head width
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, heads, _, width = key_states.shape
        self.buffer = key_states.new_empty(2, rows, heads, self.room, width)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = start + key_states.shape[-2]
        self.buffer[0, :, :, start:stop], self.buffer[1, :, :, start:stop] = key_states, value_states
        self.keys, self.values = self.buffer[:, :, :, :stop]                           # views: (B, H, L, K) each
        return self.keys, self.values


class EmuGeneration:
    """The generating methods of `Emu`."""

    def _prompt(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        images: Tensor | None,
        image_embeds: Tensor | None,
        frames: Tensor | None,
        frame_embeds: Tensor | None,
        to_come: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Left-padded ids and mask (B, L) and their embeddings (B, L, D); refused where `to_come` more have no room.

        Pictures and frames that are embeddings already are not encoded again.
        """
        length, context = input_ids.shape[1], self.config.llm.context
        if length + to_come > context:
            raise MinemuError(
                f"a prompt of {length} places leaves no room for what comes next ({to_come}): this model reads {context}; give less"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if image_embeds is None and images is not None:
            image_embeds = self.encode_images(images)
        if frame_embeds is None and frames is not None:
            frame_embeds = self.encode_images(frames, frames=True)
        input_ids, attention_mask = sequence.pad_left(input_ids, attention_mask)
        return input_ids, attention_mask, self.embed(input_ids, image_embeds, frame_embeds)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        image_embeds: Tensor | None = None,
        frames: Tensor | None = None,
        frame_embeds: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Continue with words; takes transformers' keywords (max_new_tokens, num_beams, ...). Returns only the new ids (B, new).

        At most what the context has left: positions beyond it were never trained. A model that says [IMG] itself
        (`objective.say_image`) stops at it, as a picture has to follow.
        """
        _, attention_mask, inputs = self._prompt(input_ids, attention_mask, images, image_embeds, frames, frame_embeds, to_come=1)
        length, context = inputs.shape[1], self.config.llm.context
        kwargs["max_new_tokens"] = min(_new_tokens(kwargs, length), context - length)
        if self.config.objective.say_image:
            default_to(kwargs, eos_token_id=[self.ids.eos, self.ids.image_start])
        return self.llm.generate(inputs_embeds=inputs, attention_mask=attention_mask, **_in_one(kwargs))

    @torch.no_grad()
    def generate_image_embeds(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        image_embeds: Tensor | None = None,
        frames: Tensor | None = None,
        frame_embeds: Tensor | None = None,
    ) -> Tensor:
        """Regress the N visual embeddings of the next picture, each fed back as the next input. Returns (B, N, E).

        [IMG] is appended where a prompt does not end with it: published models are not taught to say it.
        """
        if attention_mask is not None:
            input_ids, attention_mask = sequence.pad_left(input_ids, attention_mask)  # [IMG] may stand before padding
        to_come = self.config.bridge.n_image + int(not (input_ids[:, -1] == self.ids.image_start).all())
        input_ids, attention_mask, inputs = self._prompt(
            input_ids, attention_mask, images, image_embeds, frames, frame_embeds, to_come
        )
        begun = input_ids[:, -1] == self.ids.image_start
        if begun.any() and not begun.all():
            raise MinemuError("some prompts of the batch end with [IMG] and some do not; end all of them alike")
        if not begun.any():
            start = input_ids.new_full((len(input_ids), 1), self.ids.image_start)
            inputs = torch.cat([inputs, self.embed(start)], 1)                         # (B, L + 1, D)
            attention_mask = torch.cat([attention_mask, torch.ones_like(start)], 1)
        room = inputs.shape[1] + self.config.bridge.n_image
        cache = Cache(layers=[RoomyLayer(room) for _ in range(self.config.llm.layers)])
        position_ids = sequence.positions(attention_mask)
        padded = not attention_mask.all()
        predicted = []
        for _ in range(self.config.bridge.n_image):
            hidden = self.llm.model(
                inputs_embeds=inputs,
                attention_mask=attention_mask if padded else None,  # without padding a mask would only cost time
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1:]                                                # (B, 1, D)
            predicted.append(self.regression_head(hidden))                             # (B, 1, E)
            inputs = self.into_llm(predicted[-1])                                      # (B, 1, D)
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(inputs), 1)], 1)
            position_ids = position_ids[:, -1:] + 1
        return torch.cat(predicted, 1)

    @torch.no_grad()
    def log_likelihoods(
        self,
        texts: Sequence[list[int]],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        image_embeds: Tensor | None = None,
        frames: Tensor | None = None,
        frame_embeds: Tensor | None = None,
        mean: bool = False,
    ) -> Tensor:
        """log P(text | prompt), (R,), of R texts (token ids, at most T each) that come right after one prompt (1, L).

        With `mean` per token, so that long texts do not lose. The prompt is read once for `SCORED` texts, which share its cache.
        """
        if len(input_ids) != 1 or (attention_mask is not None and not attention_mask.all()):
            raise MinemuError(f"texts are scored after one prompt without padding, not {len(input_ids)} rows; call once for each")
        if not texts or not all(texts):
            raise MinemuError("there is no text to score, or an empty one; give at least one, each of a word or more")
        to_come = max(map(len, texts))
        _, _, inputs = self._prompt(input_ids, attention_mask, images, image_embeds, frames, frame_embeds, to_come)
        scores = []
        for start in range(0, len(texts), SCORED):
            padded = sequence.pad_rows(list(texts[start : start + SCORED]), self.ids)
            ids, mask = (padded[name].to(inputs.device) for name in ("input_ids", "attention_mask"))  # (R, T)
            cache = DynamicCache(config=self.llm.config)
            first = self.llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True).logits[:, -1:]
            cache.batch_repeat_interleave(len(ids))
            seen = torch.cat([mask.new_ones(len(ids), inputs.shape[1]), mask], 1)      # (R, L + T)
            rest = self.llm(input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True).logits
            logits = torch.cat([first.expand(len(ids), 1, -1), rest[:, :-1]], 1)       # (R, T, vocabulary)
            ids, mask = ids.to(logits.device), mask.to(logits.device)
            of_tokens = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]  # (R, T)
            total = (of_tokens * mask).sum(1)
            scores.append(total / mask.sum(1) if mean else total)
        return torch.cat(scores)


def asked(kwargs: dict[str, Any], name: str) -> Any:
    """What transformers' keywords say, or else a generation_config among them; None where neither does."""
    return kwargs[name] if name in kwargs else getattr(kwargs.get("generation_config"), name, None)


def default_to(kwargs: dict[str, Any], **values: Any) -> None:
    """Add to the keywords what is not asked otherwise."""
    for name, value in values.items():
        if asked(kwargs, name) is None:
            kwargs.setdefault(name, value)


def _in_one(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords within a copy of the generation_config, where one is given: transformers takes the one or the other."""
    if kwargs.get("generation_config") is None:
        return kwargs
    config = copy.deepcopy(kwargs.pop("generation_config"))
    rest = config.update(**kwargs, max_length=None)                                    # max_new_tokens says it
    return {"generation_config": config, **rest}


def _new_tokens(kwargs: dict[str, Any], length: int) -> int:
    """How many tokens transformers' keywords ask for after `length` of a prompt; a max_length is taken out of them."""
    given = kwargs.get("generation_config")
    limit, longest = kwargs.pop("max_new_tokens", None), kwargs.pop("max_length", None)
    if limit is None and longest is None and given is not None:
        limit, longest = given.max_new_tokens, given.max_length
    if limit is None:
        limit = NEW_TOKENS if longest is None else longest - length
    if limit < 1:
        raise MinemuError(f"max_new_tokens={limit} asks for nothing; give 1 or more, or a max_length beyond the prompt's {length}")
    return limit
