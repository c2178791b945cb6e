"""A LLaMA that others trained, in the place of stage `language`: its words, its weights, and what is said of one that does not fit."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from minemu.config import EmuConfig
from minemu.costs import count_parameters
from minemu.data.captions import tokenizer_corpus
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.model import build_llama
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.sequence import TokenIds
from minemu.training.recipe import run_recipe, train_stage
from minemu.training.recipes import resolve
from minemu.weights import load_tensors

SHORT = {
    f"train.{stage}.{key}": value
    for stage in ("encoder", "bridge", "emu", "sketch", "decoder")
    for key, value in {"steps": 2, "checkpoint_every": 2, "log_every": 1}.items()
}
SIZES = {"llm.words": 700, "llm.heads": 4, "llm.kv_heads": 2, "llm.norm_eps": 1e-5, "llm.rope_theta": 100000.0}


def settings(folder, **others):
    return {"train.llm": str(folder), "train.language.steps": 0, **SIZES, **SHORT, **others}


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """As transformers saves SmolLM2: bytes as words, ends with names of their own, grouped queries, a head tied to the embeddings."""
    folder = tmp_path_factory.mktemp("smollm")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(tokenizer_corpus(ToyWorld("seen").labels), trainer)
    core.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=700, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(smollm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder / "emu-nano", run_recipe("emu-nano", folder, settings(smollm))


def test_it_says_what_it_said(smollm, finished):
    its = LlamaForCausalLM.from_pretrained(smollm)
    config = resolve("emu-nano", settings(smollm))[0].llm
    ours = build_llama(config, TokenIds.of(config))
    ours.load_state_dict(load_tensors(finished[0] / "language" / "llm.safetensors"))
    ids = torch.tensor([[1, *Tokenizer.from_file(str(smollm / "tokenizer.json")).encode("a big dog").ids]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits[..., :700], its(ids).logits)


def test_its_special_tokens_begin_as_words_and_apart(smollm, finished):
    tensors = load_tensors(finished[0] / "language" / "llm.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        words, new = tensors[name][:700], tensors[name][700:]
        assert new.shape == (4, 48) and len(new.unique(dim=0)) == 4
        assert 0.5 < new.std() / words.std() < 2.0


def test_the_recipe_goes_on_with_it(finished):
    pipe = EmuPipeline.from_pretrained(finished[1])
    ids = pipe.processor.ids
    assert (ids.bos, ids.eos, ids.pad) == (1, 2, 700)
    assert pipe.processor.decode(pipe.processor.encode("a big dog on blue")) == "a big dog on blue"
    assert pipe.model.llm.config.num_key_value_heads == 2
    picture = pipe(["a dog"], generator=torch.Generator().manual_seed(0)).images[0]
    assert isinstance(pipe.caption(picture, max_new_tokens=3), str)
    card = (finished[1] / "README.md").read_text()
    assert "trained from the LLM `smollm" in card and "all else from nothing" in card


def test_llamas_names_of_the_ends_are_known_whatever_the_tokenizer_calls_them(finished):
    processor = EmuProcessor.from_pretrained(finished[1])
    assert processor.special["</s>"] == processor.special["<|im_end|>"] == 2
    for token in ("</s>", "<|im_start|>"):
        with pytest.raises(MinemuError, match="contains the special token"):
            processor.encode(f"a dog {token}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"llm.ff_width": 64, "llm.kv_heads": 4},
            r"has other sizes than llm: --set llm.kv_heads=2 --set llm.ff_width=96",
        ),
        ({"llm.words": 1020}, "has 700 words and the model 1020"),
        ({"llm.kv_heads": 3}, "llm.heads=4 is not a multiple of llm.kv_heads=3; change one of them"),
        ({"train.llm": "nowhere"}, "there is no checkpoint folder nowhere"),
    ],
)
def test_one_that_does_not_fit_is_one_clear_line(smollm, tmp_path, changes, message):
    with pytest.raises(MinemuError, match=message) as error:
        train_stage("emu-nano", "language", tmp_path, settings(smollm, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "is of type 'gpt2', and the LLM of Emu is a LLaMA"),
        ({"attention_bias": True}, "has biases, which"),
        ({"head_dim": 24}, "has heads of another width"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}}, "has stretched positions"),
    ],
)
def test_another_kind_of_model_is_refused(smollm, tmp_path, changes, message):
    other = tmp_path / "other"
    other.mkdir()
    for path in smollm.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(MinemuError, match=message):
        train_stage("emu-nano", "language", tmp_path / "runs", settings(other))


def test_damaged_weights_are_one_clear_line(smollm, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in smollm.iterdir():
        (other / path.name).write_bytes(path.read_bytes()[: 500 if path.suffix == ".safetensors" else None])
    with pytest.raises(MinemuError, match="model.safetensors is damaged .* fetch or copy it again"):
        train_stage("emu-nano", "language", tmp_path / "runs", settings(other))


def test_a_stage_goes_on_only_with_the_same_llm(smollm, finished):
    root = finished[0]
    with pytest.raises(MinemuError, match="begun with another data setting of 'llm'"):
        train_stage("emu-nano", "language", root.parent, settings(smollm, **{"train.llm": ""}))


@pytest.mark.parametrize("preset", ["emu-small", "emu2-small"])
def test_small_presets_have_the_sizes_of_smollm2(preset):
    counts = count_parameters(EmuConfig.preset(preset))
    assert (
        counts["llm"] - 49_156 * 576 == 134_515_008 + 4 * 576
    )  # published, and our four tokens; the head is no copy any more
    assert 150e6 < counts["total"] + counts["decoder"] < 400e6
