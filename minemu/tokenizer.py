"""Tokenizers: a small one of our own, and the published ones, from a sentencepiece or a converted file.

Emu and Emu2 use LLaMA's sentencepiece vocabulary of 32,000 pieces and add their special tokens after it. Their code tokenises
in the *legacy* way: the text between two special tokens is stripped, and each such piece begins with a word-start space. Here a
special token never meets the tokenizer: `EmuProcessor` encodes the texts between them one by one, which gives the same ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from minemu.errors import MinemuError
from minemu.files import read_json
from minemu.sequence import FRAME, PAD, SPECIAL_TOKENS

USER, ASSISTANT, VIDEO, GROUNDING = "[USER]", "[ASSISTANT]", "[VIDEO]", "<grounding>"
_INSTRUCTION = (USER, ASSISTANT)
_PHRASES = ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>", "<REC>")
_PLACES = tuple(f"<patch_index_{place:04d}>" for place in range(257))
_EMU2 = (*SPECIAL_TOKENS, FRAME, "[/gIMG]", "[EOC]", VIDEO, GROUNDING, *_PHRASES, *_PLACES)

# Special tokens of each published model, in the order of their ids, the first one right after the words.
SPECIAL_TOKEN_SETS = {
    "Emu": SPECIAL_TOKENS,
    "Emu-I": (*SPECIAL_TOKENS, *_INSTRUCTION),
    "Emu2": _EMU2,
    "Emu2-Chat": (*_EMU2, *_INSTRUCTION),
}


def special_tokens(count: int) -> tuple[str, ...]:
    """The published set that has `count` tokens (`llm.special_tokens`)."""
    for tokens in SPECIAL_TOKEN_SETS.values():
        if len(tokens) == count:
            return tokens
    known = ", ".join(f"{len(tokens)} ({name})" for name, tokens in SPECIAL_TOKEN_SETS.items())
    raise MinemuError(f"no published model has llm.special_tokens={count}; set it to one of {known}")


def load_tokenizer(folder: str | os.PathLike, special: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder: its tokenizer.json, else its tokenizer.model (sentencepiece).

    Those of `special` that the file does not hold are added after its words, in their order.
    """
    folder = Path(folder)
    converted, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if converted.exists():
        core = _read_converted(converted)
    elif pieces.exists():
        core = read_sentencepiece(pieces)
    else:
        raise MinemuError(
            f"{folder} has neither tokenizer.json nor tokenizer.model; copy that of the checkpoint there, of a published one LLaMA's"
        )
    tokenizer = _llama_like(core)
    tokenizer.add_special_tokens({"additional_special_tokens": list((special or SPECIAL_TOKENS)[1:])})
    return tokenizer


def _read_converted(path: Path) -> Tokenizer:
    text = json.dumps(read_json(path))  # a damaged file is named here
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise MinemuError(f"{path} is no tokenizer ({error}); fetch or convert it again") from None


def read_sentencepiece(path: str | os.PathLike) -> Tokenizer:
    """A sentencepiece BPE model (arXiv 1808.06226) as a fast tokenizer that gives the same ids, normalisation included.

    transformers' own conversion leaves the normalisation rules of the file out, and its `LlamaTokenizer(vocab_file=...)` even
    the vocabulary.
    """
    model = _parse_sentencepiece(Path(path))
    if model.trainer_spec.model_type != model.trainer_spec.BPE:
        raise MinemuError(f"{path} is no BPE model, as LLaMA's is; use the tokenizer.model of the checkpoint")
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    by_score = sorted(model.pieces, key=lambda piece: -piece.score)  # sentencepiece joins what scores highest first
    joinable = [piece.piece for piece in by_score if piece.type == piece.NORMAL]
    merges = [
        (text[:cut], text[cut:])
        for text in joinable
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = _normalizer(model.normalizer_spec)
    words = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    core.decoder = decoders.Sequence(words)
    return core


def _parse_sentencepiece(path: Path):
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ImportError:
        raise MinemuError(f"reading {path} needs two more packages: pip install sentencepiece protobuf") from None
    try:
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise MinemuError(f"{path} is no sentencepiece model, or is damaged; fetch it again") from None
    if not model.pieces:
        raise MinemuError(f"{path} holds no pieces; fetch it again")
    return model


def _normalizer(rules) -> normalizers.Normalizer:
    """What sentencepiece does to a text before it splits it (LLaMA: only the last two)."""
    steps: list[normalizers.Normalizer] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def train_tokenizer(corpus: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A small LLaMA-like tokenizer: byte-pair encoding with byte fallback, so that any text has ids; ours last, as in Emu."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    words = vocab_size - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core = _bytes_as_words(core)
    # A small corpus has too few pairs; unused places keep the sizes of model and tokenizer equal.
    if core.get_vocab_size() < words:
        core.add_tokens([f"<unused{i}>" for i in range(words - core.get_vocab_size())])
    tokenizer = _llama_like(core)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    return tokenizer


def _bytes_as_words(core: Tokenizer) -> Tokenizer:
    """The trainer only takes byte tokens as special ones, which decoding would drop: make them plain entries of the vocabulary."""
    state = json.loads(core.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def _llama_like(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The first three ids are those of an unknown word, the beginning and the end: <unk>, <s> and </s>, or SmolLM2's names of them."""
    unknown, begin, end = (core.id_to_token(number) for number in range(3))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=begin, eos_token=end, unk_token=unknown, pad_token=PAD
    )
