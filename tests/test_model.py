"""The model: two paths that must agree, strict storage, and the published implementation's own numbers where they are at hand."""

import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from minemu import sequence
from minemu.bench import speed
from minemu.causal_transformer import CausalTransformer
from minemu.config import BridgeConfig, EmuConfig, VisionConfig
from minemu.errors import MinemuError
from minemu.model import Emu, deepened
from minemu.objective import image_loss, text_loss
from minemu.training.loop import cpp_compiler

PRESETS = ["emu-nano", "emu2-nano"]


def make(preset, **changes):
    torch.manual_seed(0)
    config = EmuConfig.preset(preset).override(changes)
    return Emu(config).eval()


@pytest.fixture(scope="module")
def batch(processor):
    a, b = (Image.effect_noise((32, 32), 90).convert("RGB") for _ in range(2))
    return processor([["two dogs.", a, "three pandas.", b], ["dogs", b, "pandas and more"]])


@pytest.mark.parametrize("preset", PRESETS)
def test_forward_gives_both_losses_and_gradients_everywhere(preset, batch):
    model = make(preset)
    out = model(**batch)
    assert out.logits.shape == (*batch["input_ids"].shape, 1024)
    assert torch.isclose(out.loss, out.text_loss + out.image_loss)
    out.loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_equal_a_plain_loop_over_positions(preset, batch):
    model = make(preset, **{"objective.image_loss_weight": 0.5})
    out = model(**batch)
    embeds = model.encode_images(batch["images"])
    ids, words, distances, picture, slot = model.ids, [], [], 0, 0
    for b, row in enumerate(batch["input_ids"].tolist()):
        for t, token in enumerate(row[1:]):
            if token == ids.image:
                distances.append((out.predictions[b, t] - embeds[picture, slot]).square().mean())
                slot += 1
                if slot == embeds.shape[1]:
                    picture, slot = picture + 1, 0
            elif token == ids.image_end and model.config.objective.end_of_image_pair:
                word = model.llm.get_input_embeddings().weight[token]
                distances.append((out.predictions[b, t] - word).square().mean())
            elif token not in ids.structure:
                words.append(-out.logits[b, t].log_softmax(-1)[token])
    assert picture == 3
    torch.testing.assert_close(out.text_loss, torch.stack(words).mean())
    torch.testing.assert_close(out.image_loss, torch.stack(distances).mean())
    torch.testing.assert_close(out.loss, out.text_loss + 0.5 * out.image_loss)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_padded_batch_equals_its_rows_alone(preset, batch):
    model = make(preset)
    together = model(**batch)
    alone = model(
        input_ids=batch["input_ids"][1:], attention_mask=batch["attention_mask"][1:], images=batch["images"][2:]
    )
    real = batch["attention_mask"][1].bool()
    torch.testing.assert_close(together.logits[1, real], alone.logits[0, real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_packed_rows_equal_padded_ones(preset, batch):
    model = make(preset)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    packed = sequence.pack_rows(rows, model.ids, length=sum(map(len, rows)))
    assert len(packed["input_ids"]) == 1 and packed.pop("order").tolist() == [0, 1]
    out, padded = model(**packed, images=batch["images"]), model(**batch)
    torch.testing.assert_close(out.text_loss, padded.text_loss, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.image_loss, padded.image_loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("way", "allowed"),
    [
        ("packed", 1e-4),
        pytest.param("bf16", 1e-1, marks=pytest.mark.slow),
        pytest.param("compiled", 1e-1, marks=[pytest.mark.slow, pytest.mark.filterwarnings("default")]),
    ],
)
def test_a_timed_step_is_the_same_step(way, allowed):
    if way == "compiled" and not cpp_compiler():
        pytest.skip("torch.compile needs a C++ compiler")
    row = speed.train_step(way, documents=3)
    assert row["error"] < allowed and row["runs"] == 3 and row["min"] <= row["ratio"] <= row["max"]


@pytest.mark.parametrize(("preset", "kv_heads"), [*((preset, None) for preset in PRESETS), ("emu-nano", 1)])
def test_cached_embeddings_equal_recomputing_the_prefix(preset, kv_heads, batch):
    model = make(preset, **{"llm.kv_heads": kv_heads})
    cached = model.generate_image_embeds(**batch)
    assert cached.shape == (2, 4, model.config.embed_width)
    ids, mask = sequence.pad_left(batch["input_ids"], batch["attention_mask"])
    inputs = torch.cat(
        [
            model.embed(ids, model.encode_images(batch["images"])),
            model.embed(torch.full((2, 1), model.ids.image_start)),
        ],
        1,
    )
    for n in range(4):  # as the released code does: the whole prefix anew for each embedding
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        hidden = model.llm.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=sequence.positions(mask)
        ).last_hidden_state
        predicted = model.regression_head(hidden[:, -1:])
        torch.testing.assert_close(cached[:, n : n + 1], predicted, atol=1e-5, rtol=1e-4)
        inputs = torch.cat([inputs, model.into_llm(predicted)], 1)


def test_generating_does_not_depend_on_the_side_of_the_padding(processor, batch):
    model = make("emu-nano")
    ids, mask = sequence.pad_left(batch["input_ids"], batch["attention_mask"])
    kwargs = {"images": batch["images"], "max_new_tokens": 6, "num_beams": 2}
    assert torch.equal(model.generate(**batch, max_new_tokens=6, num_beams=2), model.generate(ids, mask, **kwargs))
    torch.testing.assert_close(
        model.generate_image_embeds(**batch), model.generate_image_embeds(ids, mask, batch["images"])
    )


def test_a_prompt_that_leaves_no_room_is_refused():
    model = make("emu-nano")  # a context of 256, pictures of 4
    full = torch.full((1, 256), 9)
    with pytest.raises(MinemuError, match=r"a prompt of 256 places leaves no room .* \(1\): this model reads 256"):
        model.generate(full)
    with pytest.raises(MinemuError, match=r"a prompt of 252 places leaves no room .* \(5\)"):
        model.generate_image_embeds(full[:, :252])
    assert model.generate(full[:, 1:], max_new_tokens=1).shape == (1, 1)
    assert model.generate_image_embeds(full[:, :251]).shape == (1, 4, 48)
    with pytest.raises(MinemuError, match="max_new_tokens=0 asks for nothing; give 1 or more"):
        model.generate(full[:, :9], max_new_tokens=0)


def test_words_end_where_the_context_ends():
    model = make("emu-nano")
    for asked in ({}, {"max_new_tokens": 100}):
        assert model.generate(torch.full((1, 250), 9), eos_token_id=-1, **asked).shape == (1, 6)


def test_a_shorter_row_that_ends_with_img_has_room_too():
    """[PAD] stands behind it, and [IMG] need not be added."""
    model = make("emu-nano")
    ids = torch.full((2, 252), 9)
    ids[0, -1] = ids[1, -3] = model.ids.image_start
    ids[1, -2:] = model.ids.pad
    mask = (ids != model.ids.pad).long()
    both = model.generate_image_embeds(ids, mask)
    torch.testing.assert_close(both[1:], model.generate_image_embeds(ids[1:, :-2]), atol=1e-5, rtol=1e-4)


def test_every_picture_loses_queries_of_its_own():
    torch.manual_seed(0)
    bridge = BridgeConfig(n_image=6, width=32, heads=4, ff_width=64, layers=1, dropout=0.5)
    transformer = CausalTransformer(bridge, VisionConfig(width=24, head_width=8), 16)
    seen = []
    transformer.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    transformer(torch.randn(1, 65, 24).expand(2, -1, -1))
    assert not torch.equal(*seen[0])


def test_queries_are_lost_in_training_alone():
    torch.manual_seed(0)
    bridge = BridgeConfig(n_image=6, width=32, heads=4, ff_width=64, dropout=0.5)
    transformer, features = CausalTransformer(bridge, VisionConfig(width=24, head_width=8), 16), torch.randn(2, 10, 24)
    assert not torch.equal(transformer(features), transformer(features))
    transformer.eval()
    assert torch.equal(transformer(features), transformer(features))


def test_queries_begin_with_the_spread_that_is_set():
    torch.manual_seed(0)
    queries = CausalTransformer(BridgeConfig(n_image=64, width=64, query_std=0.02), VisionConfig(), 16).queries
    assert queries.std().item() == pytest.approx(0.02, rel=0.1)


def test_causal_embeddings_do_not_see_later_ones():
    torch.manual_seed(0)
    transformer = CausalTransformer(
        BridgeConfig(n_image=6, width=32, heads=4, ff_width=64), VisionConfig(width=24, head_width=8), 16
    ).eval()
    features = torch.randn(2, 10, 24)
    before = transformer(features)
    transformer.queries.data[:, 4] += 1.0
    changed = (transformer(features) - before).abs().amax((0, 2)) > 1e-7
    assert changed.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize(("targets", "reaches"), [("detached", False), ("attached", True)])
def test_regression_targets_are_detached_unless_asked_for(batch, targets, reaches):
    model = make("emu-nano", **{"objective.targets": targets})
    embeds = model.encode_images(batch["images"]).detach()
    aim = embeds.clone().requires_grad_(True)
    model(batch["input_ids"], batch["attention_mask"], image_embeds=embeds, image_targets=aim).image_loss.backward()
    assert (aim.grad is not None and bool(aim.grad.abs().sum() > 0)) is reaches


@pytest.mark.parametrize(("factor", "distance"), [(3, 0), (-1, 2)])
def test_cosine_loss_forgets_the_length_but_not_the_direction(factor, distance):
    objective = EmuConfig.preset("emu-nano").override({"objective.image_loss": "cosine"}).objective
    ids = sequence.TokenIds.of(EmuConfig.preset("emu-nano").llm)
    row = torch.tensor([sequence.interleave([sequence.PICTURE], ids, 4)])
    found = sequence.targets(row, ids, objective)
    embeddings = torch.randn(1, row.shape[1], 8)
    predictions = torch.cat([factor * embeddings[:, 1:], embeddings[:, :1]], 1)
    assert image_loss(predictions, embeddings, found, objective).item() == pytest.approx(distance, abs=1e-5)


def test_text_alone_has_no_image_loss_and_nothing_is_not_a_number(processor):
    model = make("emu-nano")
    out = model(**processor([["two dogs"]]))
    assert out.image_loss == 0 and torch.isfinite(out.loss)
    only = sequence.targets(torch.tensor([[model.ids.image_start, model.ids.image]]), model.ids, model.config.objective)
    assert text_loss(torch.full((1, 2, 1024), torch.inf), only) == 0  # half precision has infinities


def test_no_row_begins_twice(processor):
    """With padding on the left <s> has a token before it, and is still nothing that is said."""
    model = make("emu-nano")
    texts = [["two dogs and three pandas"], ["dogs"]]
    right, left = processor(texts), processor(texts, padding_side="left")
    assert left["input_ids"][1, 0] == model.ids.pad
    torch.testing.assert_close(model(**left).text_loss, model(**right).text_loss)


def test_inputs_that_would_go_wrong_silently(batch):
    model = make("emu-nano")
    with pytest.raises(MinemuError, match="reads CLIP-normalised pictures, not torch.uint8"):
        model.encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(MinemuError, match="packed rows need position_ids beside segment_ids"):
        model(batch["input_ids"], images=batch["images"], segment_ids=torch.zeros_like(batch["input_ids"]))
    with pytest.raises(MinemuError, match="scored after one prompt without padding, not 2 rows"):
        model.log_likelihoods([[5]], **batch)
    for texts in ([], [[5], []]):
        with pytest.raises(MinemuError, match="there is no text to score, or an empty one"):
            model.log_likelihoods(texts, torch.full((1, 3), 9))


def test_the_length_of_an_answer_may_be_said_in_any_of_transformers_ways(processor):
    model, batch = make("emu-nano"), processor([["two dogs"]])
    length = batch["input_ids"].shape[1] + 3
    for asked in ({"max_length": length}, {"generation_config": GenerationConfig(max_new_tokens=3, eos_token_id=-1)}):
        assert model.generate(**batch, **asked).shape[1] <= 3
    assert model.generate(**batch, max_new_tokens=None).shape[1] <= 32
    with pytest.raises(MinemuError, match="asks for nothing; give 1 or more, or a max_length beyond the prompt's 3"):
        model.generate(torch.full((1, 3), 9), max_length=3)
    forever = {"max_length": 300, "eos_token_id": -1}  # a context of 256
    assert model.generate(torch.full((1, 3), 9), **forever).shape == (1, 253)


def test_a_generation_config_is_kept_to(processor, caplog):
    model, batch = make("emu-nano", **{"objective.say_image": True}), processor([["two dogs"]])
    said = model.generate(**batch, max_new_tokens=9, eos_token_id=-1)[0].tolist()
    first, never = said[0], min(set(range(9, 99)) - set(said))
    given = GenerationConfig(max_new_tokens=9, eos_token_id=first)
    room = GenerationConfig(max_length=batch["input_ids"].shape[1] + 4, eos_token_id=never)
    caplog.clear()
    assert model.generate(**batch, generation_config=given).tolist() == [[first]]  # it ends where it is told to
    assert model.generate(**batch, generation_config=given, eos_token_id=never, max_new_tokens=2).shape == (1, 2)
    assert model.generate(**batch, generation_config=room).shape == (1, 4)
    assert not caplog.records  # transformers warns of what is said twice
    assert (given.max_new_tokens, given.eos_token_id, room.max_new_tokens) == (9, first, None)  # a copy is set


def test_what_a_generation_config_leaves_open_is_set(processor, monkeypatch):
    model, passed = make("emu-nano", **{"objective.say_image": True}), {}
    monkeypatch.setattr(model.llm, "generate", lambda **kwargs: passed.update(kwargs))
    model.generate(**processor([["two dogs"]]), generation_config=GenerationConfig(num_beams=2), streamer=None)
    assert set(passed) == {"inputs_embeds", "attention_mask", "generation_config", "streamer"}
    found = passed["generation_config"]
    assert (found.max_new_tokens, found.num_beams) == (32, 2)
    assert found.eos_token_id == [model.ids.eos, model.ids.image_start]


def test_more_or_fewer_pictures_than_slots(batch):
    model = make("emu-nano")
    for images in (batch["images"][:2], None):
        with pytest.raises(
            MinemuError, match=r"room for 3 pictures of 4, but \d pictures were given; give as many pictures as there"
        ):
            model(batch["input_ids"], batch["attention_mask"], images=images)
    with pytest.raises(
        MinemuError, match=r"image_embeds of shape \(6, 2, 48\) have 2 a picture, and this model reads 4"
    ):
        model(batch["input_ids"], batch["attention_mask"], image_embeds=torch.zeros(6, 2, 48))


def test_save_and_load_is_bit_equal_and_strict(tmp_path, batch):
    model = make("emu-nano")
    model.save_pretrained(tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # whoever may read the configuration may read the weights
    again = Emu.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = tensors.pop("regression_head.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        MinemuError, match="1 tensors missing and 0 unexpected \\(first: missing regression_head.weight\\)"
    ):
        Emu.from_pretrained(tmp_path)
    save_file({**tensors, "regression_head.weight": lost[:5]}, tmp_path / "model.safetensors")
    with pytest.raises(
        MinemuError, match=r"regression_head.weight has shape \(5, 48\) but this configuration needs \(48, 48\)"
    ):
        Emu.from_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MinemuError, match="model.safetensors is damaged"):
        Emu.from_pretrained(tmp_path)


@pytest.mark.parametrize("layers", [3, 5])
def test_a_deepened_model_says_what_it_said_with_fewer_layers(layers):
    model, ids = make("emu-nano"), torch.arange(3, 20)[None]
    deeper = deepened(model, layers).eval()
    assert (len(model.llm.model.layers), len(deeper.llm.model.layers)) == (2, layers)
    torch.testing.assert_close(deeper(ids).logits, model(ids).logits)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(MinemuError, match="there is no checkpoint folder .*nowhere; check the path, or train one"):
        Emu.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MinemuError, match="config.json is missing"):
        Emu.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(MinemuError, match="is not of a minemu model"):
        Emu.from_pretrained(tmp_path)


def test_frames_fill_slots_of_their_own(batch):
    emu2 = make("emu2-nano", **{"llm.special_tokens": 5, "llm.frame_slot": True, "bridge.n_frame": 1})
    ids = emu2.ids
    row = torch.tensor([[1, 9, *[ids.image_start, ids.frame, ids.image_end] * 2, *sequence.picture_ids(ids, 4), 7]])
    frames, images = batch["images"][:2], batch["images"][2:]
    x = emu2.embed(row, emu2.encode_images(images), emu2.encode_images(frames, frames=True))
    torch.testing.assert_close(x[0, [3, 6]], emu2.into_llm(emu2.encode_images(frames, frames=True))[:, 0])
    assert emu2(row, frames=frames, images=images).logits.shape == (1, row.shape[1], 1025)
    with pytest.raises(MinemuError, match=r"2 \[gIMG\] slots, room for 2 frames of 1, but 0 frames were given"):
        emu2(row, images=images)
    with pytest.raises(MinemuError, match="this model reads the frames of a video as pictures; give them as images"):
        make("emu-nano").generate(**batch, frames=frames)


def test_lora_without_peft_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MinemuError, match=r"llm.lora_rank needs peft: pip install 'minemu\[finetune\]', or merge"):
        make("emu-nano", **{"llm.lora_rank": 2})
