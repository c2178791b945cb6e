"""Tokenisation as published: from a sentencepiece file and from a converted one, id for id."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from sentencepiece import SentencePieceNormalizer, SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer

from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.files import write_json
from minemu.model import Emu
from minemu.processor import EmuProcessor
from minemu.sequence import Special, Video
from minemu.tokenizer import SPECIAL_TOKEN_SETS, load_tokenizer, read_sentencepiece, special_tokens

GOLDEN = Path(__file__).parent / "golden" / "emu1"  # 420 pieces, trained on made-up words
IMG = Image.new("RGB", (8, 8), "red")


def whole_file() -> bytes:
    """The golden file, with the table of Unicode rules that it goes without and sentencepiece holds: byte for byte the recorded one."""
    model = ModelProto.FromString((GOLDEN / "tokenizer.model").read_bytes())
    rules = ModelProto.FromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto())
    model.normalizer_spec.precompiled_charsmap = rules.normalizer_spec.precompiled_charsmap
    return model.SerializeToString()


def read(file: bytes) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(file)
        return read_sentencepiece(Path(folder) / "tokenizer.model")


WHOLE = whole_file()
PIECES = SentencePieceProcessor(model_proto=WHOLE)
SLOW = read(WHOLE)


@pytest.fixture(params=["tokenizer.model", "tokenizer.json"])
def folder(request, tmp_path):
    """A folder with the tokenizer alone, in either form."""
    if request.param == "tokenizer.model":
        (tmp_path / "tokenizer.model").write_bytes(WHOLE)
    else:
        SLOW.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def processor_of(folder, name, n_image=8, n_frame=None):
    return EmuProcessor(load_tokenizer(folder, SPECIAL_TOKEN_SETS[name]), 8, n_image, n_frame)


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_any_text_has_the_ids_that_sentencepiece_gives(text):
    if "▁" not in text and "\0" not in text:  # the word-start mark itself, and what ends a text there
        assert SLOW.encode(text, add_special_tokens=False).ids == PIECES.encode(text)


@pytest.mark.parametrize("text", ["a small blue star on the tree", "  two   dog ", "½ ﬁne\tday", "日本 👍", "", " "])
def test_some_texts_have_the_ids_that_sentencepiece_gives(text):
    assert SLOW.encode(text, add_special_tokens=False).ids == PIECES.encode(text)


def test_llamas_own_rules_have_the_ids_that_sentencepiece_gives(tmp_path):
    """LLaMA's file normalises nothing: every space counts, and a text that begins with one gets a second."""
    model = ModelProto.FromString((GOLDEN / "tokenizer.model").read_bytes())
    model.normalizer_spec.precompiled_charsmap = b""
    model.normalizer_spec.remove_extra_whitespaces = False
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = read_sentencepiece(tmp_path / "tokenizer.model")
    for text in ("a red  cat", " one dog ", "½ ﬁne\tday", "日本 👍"):
        assert ours.encode(text, add_special_tokens=False).ids == pieces.encode(text)
        assert ours.decode(ours.encode(text).ids) == text


# [IMG] <image> x 8 [/IMG] is 421 423 ... 422; <s> is 1. Recorded from the published implementations.
PICTURE = [421, *[423] * 8, 422]
SENTENCE = [265, 403, 404, 275, 404, 380, 376]  # this is one dog


def test_the_ids_of_emu(folder):
    processor = processor_of(folder, "Emu")
    batch = processor([["this is one dog", IMG, " and two green apple", IMG, "above the tree"]])
    between, end = PIECES.encode("and two green apple"), PIECES.encode("above the tree")
    assert batch["input_ids"][0].tolist() == [1, *SENTENCE, *PICTURE, *between, *PICTURE, *end]
    assert processor.decode(batch["input_ids"][0]) == "this is one dog and two green apple above the tree"


def test_the_ids_of_emu2_with_a_video(folder):
    processor = processor_of(folder, "Emu2", n_image=16, n_frame=4)
    batch = processor([[Video([IMG] * 4), IMG, "what is this"]])
    frames = [427, *[421, 424, 424, 424, 424, 422] * 4]
    assert batch["input_ids"][0].tolist() == [1, *frames, 421, *[423] * 16, 422, *PIECES.encode("what is this")]
    assert batch["frames"].shape == (4, 3, 8, 8) and batch["images"].shape == (1, 3, 8, 8)


def test_emu_reads_the_frames_of_a_video_as_pictures(folder):
    batch = processor_of(folder, "Emu")([[Video([IMG, IMG]), "what is this"]])
    assert batch["input_ids"][0].tolist() == [1, *PICTURE, *PICTURE, *PIECES.encode("what is this")]
    assert batch["images"].shape == (2, 3, 8, 8) and "frames" not in batch


@pytest.mark.parametrize(("family", "name", "n_image", "n_frame"), [("emu1", "Emu", 8, None), ("emu2", "Emu2", 16, 4)])
def test_the_recordings(family, name, n_image, n_frame):
    recorded = load_file(GOLDEN.parent / family / "outputs.safetensors")
    processor = processor_of(GOLDEN.parent / family, name, n_image, n_frame)
    first = [IMG, "a photo of a red cat"]
    second = ["this is one dog", IMG, "and two green apple", IMG, "above the tree"]
    batch = processor([first, second], padding_side="left" if family == "emu2" else "right")
    assert torch.equal(batch["input_ids"], recorded["input_ids"].long())
    assert torch.equal(batch["attention_mask"], recorded["attention_mask"].long())
    prompt = [IMG, "this is one dog", IMG, "this is"] if family == "emu1" else [Video([IMG] * 4), IMG, "what is this"]
    assert torch.equal(processor([prompt])["input_ids"], recorded["textgen_prompt_ids"].long())


def test_special_tokens_follow_the_words_as_published(folder):
    """SPEC: 32000 ... 32005 of Emu-I, ... 32273 of Emu2-Chat, counted from the 420 words of this tokenizer."""
    places = {"[PAD]": 0, "[IMG]": 1, "[/IMG]": 2, "<image>": 3}
    emu2 = {"[gIMG]": 4, "[/gIMG]": 5, "[EOC]": 6, "[VIDEO]": 7, "<grounding>": 8, "<phrase>": 9, "<REC>": 14}
    published = {
        "Emu": places,
        "Emu-I": {**places, "[USER]": 4, "[ASSISTANT]": 5},
        "Emu2-Chat": {**places, **emu2, "<patch_index_0000>": 15, "<patch_index_0256>": 271, "[USER]": 272, "[ASSISTANT]": 273},
    }  # fmt: skip
    for name, tokens in published.items():
        tokenizer = load_tokenizer(folder, SPECIAL_TOKEN_SETS[name])
        assert {token: tokenizer.convert_tokens_to_ids(token) - 420 for token in tokens} == tokens
        assert len(tokenizer) == 420 + len(SPECIAL_TOKEN_SETS[name])
    assert [len(tokens) for tokens in SPECIAL_TOKEN_SETS.values()] == [4, 6, 272, 274]


def test_a_special_token_is_an_item_and_never_part_of_a_text(folder):
    processor = processor_of(folder, "Emu-I")
    row = processor([[Special("[USER]"), ": two dog ", Special("</s>")]])["input_ids"][0].tolist()
    assert row == [1, 424, *PIECES.encode(": two dog"), 2]
    with pytest.raises(MinemuError, match=r"the text contains the special token '\[USER\]'"):
        processor([["[USER]: two dog"]])
    with pytest.raises(MinemuError, match=r"the tokenizer has no special token '\[VIDEO\]'"):
        processor([[Special("[VIDEO]")]])


def test_a_model_folder_with_a_tokenizer_makes_a_processor(folder):
    config = EmuConfig.preset("emu-nano").override({"llm.words": 420, "llm.special_tokens": 6})
    write_json(folder / "config.json", {"model_type": "emu", **config.to_dict()})
    processor = EmuProcessor.from_pretrained(folder)
    assert (processor.image_size, processor.n_image) == (32, 4)
    assert processor.ids == Emu(config).ids and "[USER]" in processor.special
    processor.save_pretrained(folder / "saved")
    again = EmuProcessor.from_pretrained(folder / "saved")
    sample = [[Special("[USER]"), ": this is", IMG, "one  dog"]]
    assert torch.equal(again(sample)["input_ids"], processor(sample)["input_ids"])
    write_json(folder / "config.json", {"model_type": "emu", **config.override({"llm.words": 32000}).to_dict()})
    with pytest.raises(
        MinemuError, match=r"has 420 words and the model 32000 \(llm.words\); use the tokenizer of this"
    ):
        EmuProcessor.from_pretrained(folder)


def test_files_that_are_no_tokenizer(tmp_path, monkeypatch):
    with pytest.raises(MinemuError, match="has neither tokenizer.json nor tokenizer.model; copy that of the"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model at all")
    with pytest.raises(MinemuError, match="tokenizer.model is no sentencepiece model, or is damaged; fetch it again"):
        load_tokenizer(tmp_path)
    whole = WHOLE
    (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MinemuError, match="tokenizer.model is no sentencepiece model, or is damaged; fetch it again"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(MinemuError, match="tokenizer.model holds no pieces"):
        load_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(MinemuError, match="needs two more packages: pip install sentencepiece protobuf"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(MinemuError, match="tokenizer.json is no tokenizer .*; fetch or convert it again"):
        load_tokenizer(tmp_path)


def test_a_count_of_special_tokens_that_no_model_has():
    assert special_tokens(6)[4:] == ("[USER]", "[ASSISTANT]")
    with pytest.raises(
        MinemuError, match=r"llm.special_tokens=5; set it to one of 4 \(Emu\), 6 \(Emu-I\), 272 \(Emu2\), 274"
    ):
        special_tokens(5)
