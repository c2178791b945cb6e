"""Checks of the model against other implementations, and of paths through it that must agree."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from minemu import sequence
from minemu.causal_transformer import CausalTransformer
from minemu.config import BridgeConfig, EmuConfig, VisionConfig
from minemu.model import Emu
from minemu.official import RULES, rename
from minemu.parity import Recording
from minemu.weights import load_strict

GOLDEN = Path(__file__).parent / "golden"
PRESETS = ["emu-nano", "emu2-nano"]


def make(preset="emu-nano", **changes):
    torch.manual_seed(0)
    return Emu(EmuConfig.preset(preset).override(changes)).eval()


def batch_of(model, lengths=((5, 7), (3, 0)), seed=0):
    """Rows of words, a picture, more words, of the lengths given; right-padded, with random pictures."""
    generator = torch.Generator().manual_seed(seed)
    words = lambda n: torch.randint(3, model.config.llm.words, (n,), generator=generator).tolist()  # noqa: E731
    n = model.config.bridge.n_image
    rows = [sequence.interleave([words(a), sequence.PICTURE, words(b)], model.ids, n) for a, b in lengths]
    images = torch.randn(len(rows), 3, 32, 32, generator=generator)
    return {**sequence.pad_rows(rows, model.ids), "images": images}


# ---- against transformers -------------------------------------------------------------------------------------------------


def test_the_llm_is_llama():
    """Built from the published names by transformers alone: same logits on real positions, same greedy text."""
    recording = Recording(GOLDEN / "emu1")
    model, llm = recording.model, recording.values["llm"]
    llama = LlamaForCausalLM(
        LlamaConfig(**{**llm, "vocab_size": recording.values["vocab_total"], "bos_token_id": 1, "eos_token_id": 2})
    )
    load_strict(llama, model.llm.state_dict(), "the LLM")
    llama.eval()
    row = torch.randint(3, 420, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(row)
    mask[1, 15:] = 0
    with torch.no_grad():
        expected, ours = llama(input_ids=row, attention_mask=mask).logits, model(row, mask).logits
    torch.testing.assert_close(ours[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    said = llama.generate(row[:1], max_new_tokens=8, do_sample=False)[:, row.shape[1] :]
    assert torch.equal(model.generate(row[:1], max_new_tokens=8), said)


@pytest.mark.parametrize(
    ("n", "buckets", "distance", "key_width"), [(6, 32, 128, None), (40, 8, 20, None), (12, 6, 7, 5)]
)
def test_the_causal_transformer_is_a_t5_decoder(n, buckets, distance, key_width):
    """Where the encoder is as wide as the decoder, which is all that T5 knows; also far beyond the exact distances."""
    torch.manual_seed(0)
    config = BridgeConfig(
        n_image=n, width=32, heads=4, head_width=key_width, ff_width=48, layers=3, position_buckets=buckets, position_distance=distance
    )  # fmt: skip
    ours = CausalTransformer(config, VisionConfig(width=32, head_width=16), 24).eval()
    for block in ours.blocks:
        torch.nn.init.uniform_(block.self_norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(block.cross_norm.weight, 0.5, 1.5)
    theirs = T5Stack(
        T5Config(
            d_model=32,
            d_kv=config.key_width,
            num_heads=4,
            d_ff=48,
            num_layers=3,
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=distance,
            feed_forward_proj="relu",
            is_decoder=True,
            use_cache=False,
            is_encoder_decoder=False,
            vocab_size=8,
        )  # fmt: skip
    ).eval()
    back = [(own, published.removeprefix("cformer.cformer.")) for published, own in RULES["causal"]]
    named = {rename(f"causal_transformer.{name}", back): tensor for name, tensor in ours.state_dict().items()}
    weights = {name: tensor for name, tensor in named.items() if not name.startswith("cformer.")}
    load_strict(theirs, {**weights, "embed_tokens.weight": theirs.embed_tokens.weight}, "T5")
    features = torch.randn(2, 10, 32)
    with torch.no_grad():
        hidden = theirs(inputs_embeds=ours.queries.expand(2, -1, -1), encoder_hidden_states=features).last_hidden_state
        torch.testing.assert_close(ours(features), ours.projection(hidden), atol=1e-5, rtol=1e-5)


# ---- two paths that must agree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_generated_alone_is_generated_in_a_padded_batch(preset):
    model = make(preset)
    batch = batch_of(model)
    together = model.generate_image_embeds(**batch)
    words = model.generate(**batch, max_new_tokens=6)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {"input_ids": batch["input_ids"][row : row + 1, :length], "images": batch["images"][row : row + 1]}
        torch.testing.assert_close(model.generate_image_embeds(**alone)[0], together[row], atol=1e-5, rtol=1e-4)
        assert torch.equal(model.generate(**alone, max_new_tokens=6)[0], words[row])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("beams", [1, 3])
def test_words_with_a_cache_equal_words_without(preset, beams):
    model = make(preset)
    batch = batch_of(model)
    cached, plain = (model.generate(**batch, max_new_tokens=8, num_beams=beams, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("family", ["emu1", "emu2"])
def test_bfloat16_stays_near_float32(family):
    """Within 5 % of the spread of each stage's numbers in the mean, and 30 % at the worst: 8 bits of precision through every layer."""
    recording = Recording(GOLDEN / family)
    ids, mask, images = (recording.outputs[name] for name in ("input_ids", "attention_mask", "images"))
    real = mask.bool()

    def stages():
        dtype = recording.model.regression_head.weight.dtype
        out = recording.model(ids, mask, images=images.to(dtype))
        parts = (
            recording.model.encode_images(images.to(dtype)),
            out.hidden[real],
            out.logits[real],
            out.predictions[real],
        )
        return [part.float() for part in parts]

    with torch.no_grad():
        exact = stages()
        recording.model.to(torch.bfloat16)
        rough = stages()
    for one, other in zip(exact, rough, strict=True):
        error = (one - other).abs() / one.std()
        assert error.mean() < 0.05 and error.max() < 0.3


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("lengths", [((4, 6), (4, 6), (4, 6)), ((2, 9), (7, 1), (4, 6))])
def test_accumulated_gradients_equal_those_of_one_large_batch(preset, lengths):
    """Each part counts as often as it has targets: a mean of means is the mean only where all parts have equally many."""
    model = make(preset, **{"objective.image_loss_weight": 0.5})
    batch = batch_of(model, lengths)

    def gradients():
        found = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        model.zero_grad()
        return found

    model(**batch).loss.backward()
    expected = gradients()
    targets = sequence.targets(batch["input_ids"], model.ids, model.config.objective)
    words, pairs = (targets.text != sequence.IGNORE).sum(1), targets.image.sum(1)
    for row in range(len(lengths)):
        out = model(**{name: tensor[row : row + 1] for name, tensor in batch.items()})
        share = words[row] / words.sum() * out.text_loss + 0.5 * pairs[row] / pairs.sum() * out.image_loss
        share.backward()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-6, rtol=1e-3, msg=name)
