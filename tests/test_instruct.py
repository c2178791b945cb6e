"""Emu-I: LoRA by stage `instruct`, saved alone in peft's format, loaded on its base and merged."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from minemu import adapters, cli
from minemu.chat import user_message
from minemu.data.conversations import SYSTEM_VIDEO, Conversation, Turn, conversation
from minemu.data.formats import DataConfig
from minemu.data.mixture import SOURCES, toy_mixture
from minemu.data.sources import DataFiles, ToyTalks, open_talks
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation.tasks import check_trained, trained_on
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor, normalise
from minemu.sequence import IGNORE
from minemu.training import checkpoint
from minemu.training.export import export_adapter
from minemu.training.instruct import ALIKE, InstructStage
from minemu.training.recipe import build_stage, make_processor, train_stage
from minemu.training.recipes import resolve, sources_of
from minemu.visual_decoder import VisualDecoder

SETTINGS = {"train.source": "mixture", "train.instruct.steps": 4, "train.instruct.checkpoint_every": 2}
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": Image.new("RGB", (32, 32), "red")},
            {"type": "text", "text": "what is this?"},
        ],
    }
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run whose stage `emu` is a random model, with a pipeline of it in `checkpoint`, and an adapter of 4 steps."""
    runs = tmp_path_factory.mktemp("runs")
    root = runs / "emu-nano"
    config, recipe = resolve("emu-nano", SETTINGS)
    torch.manual_seed(0)
    base = Emu(config)
    base.save_pretrained(root / "emu")
    (root / "emu" / "done.json").write_text("{}")
    processor = make_processor(root, config, recipe)
    EmuPipeline(base, processor, VisualDecoder(config.decoder)).save_pretrained(root / "checkpoint", torch.float16)
    assert train_stage("emu-nano", "instruct", runs, SETTINGS)
    return root


@pytest.fixture(scope="module")
def stage(root):
    config, recipe = resolve("emu-nano", SETTINGS)
    return InstructStage(config, recipe.instruct, root, ToyTalks(ToyWorld("seen", image_size=32)))


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_the_loss_acts_on_answers_alone(stage):
    """The batches of a group hold its conversations, each once, whatever their order."""
    world, processor = ToyWorld("seen", image_size=32), stage.processor
    said, wanted = [], []
    for index in range(2 * ALIKE):
        batch, again = stage.batch(index), stage.batch(index)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        said += [row[row != IGNORE].tolist() for row in batch["answers"]]
    for number in range(2 * ALIKE * 4):
        turns = conversation(world, number).turns
        wanted.append([i for turn in turns for i in [*processor.encode(turn.answer), processor.ids.eos]])
    assert sorted(said) == sorted(wanted)
    assert sorted(said[: ALIKE * 4]) == sorted(wanted[: ALIKE * 4])
    batch = stage.batch(0)
    out = logits(stage.emu, {name: batch[name] for name in ("input_ids", "attention_mask", "images")})
    loss = F.cross_entropy(out[:, :-1].transpose(1, 2), batch["answers"][:, 1:], ignore_index=IGNORE)
    torch.testing.assert_close(stage.loss(dict(batch))["loss"].detach(), loss)


def test_a_batch_holds_conversations_of_like_length(stage):
    rows = [stage.batch(index)["attention_mask"] for index in range(ALIKE)]
    padded = sum(row.numel() for row in rows)
    together = 4 * ALIKE * max(row.shape[1] for row in rows)
    assert padded < 0.85 * together


def test_every_fourth_batch_rehearses_pretraining(root, stage):
    config, recipe = resolve("emu-nano", SETTINGS)
    world = ToyWorld("seen", image_size=32)
    rehearsing = InstructStage(config, recipe.instruct, root, ToyTalks(world), toy_mixture(world), every=4)
    for index, without in ((0, 0), (1, 1), (2, 2), (4, 3), (5, 4)):
        assert torch.equal(rehearsing.batch(index)["input_ids"], stage.batch(without)["input_ids"])
    documents = rehearsing.batch(3)
    assert "answers" not in documents and len(documents["pixels"]) == len(documents["after_text"]) >= 4
    loss = rehearsing.loss(documents)["loss"]
    loss.backward()
    learnt = {name for name, parameter in rehearsing.emu.named_parameters() if parameter.grad is not None}
    assert torch.isfinite(loss) and learnt and all("lora_" in name for name in learnt)


def test_what_is_rehearsed_is_hidden_where_it_is_written_and_regressed_as_it_is(root, monkeypatch):
    config, recipe = resolve("emu-nano", SETTINGS)
    world = ToyWorld("seen", image_size=32)
    stage = InstructStage(config, recipe.instruct, root, ToyTalks(world), toy_mixture(world), every=4)
    stage.config = stage.config.override({"objective.hide_written": 1.0})
    batch, given, forward = stage.batch(3), {}, stage.emu.forward
    monkeypatch.setattr(stage.emu, "forward", lambda **batch: given.update(batch) or forward(**batch))
    with torch.no_grad():
        true = stage.emu.encode_images(normalise(batch["pixels"]))
        stage.loss(dict(batch))
    torch.testing.assert_close(given["image_targets"], true)
    changed = (given["image_embeds"] - true).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == batch["after_text"].tolist()


def test_training_and_asking_write_the_same_rows(stage):
    talk = Conversation("", (Turn(("what is red?",), "a colour."),))
    asked = stage.processor.apply_chat_template(talk.messages()[:1], add_generation_prompt=True, tokenize=True)
    stage_talks, stage.talks = stage.talks, type("One", (), {"document": lambda self, number: talk})()
    batch, stage.talks = stage.batch(100 * ALIKE), stage_talks  # a group that was not dealt yet
    row = batch["input_ids"][0].tolist()
    assert row[: asked["input_ids"].shape[1]] == asked["input_ids"][0].tolist() and "images" not in batch
    assert torch.isfinite(stage.loss(batch)["loss"])


def test_the_frames_of_a_clip_are_a_video(stage):
    picture = Image.new("RGB", (32, 32))
    talk = Conversation(SYSTEM_VIDEO, (Turn((picture,) * 8 + ("which way?",), "left"),))
    system, user, answer = talk.messages()
    assert (
        user["content"][0]["type"] == "video" and len(user["content"][0]["video"]) == 8 and answer["content"] == "left"
    )
    assert stage.processor.apply_chat_template(talk.messages()).startswith(
        "You are a helpful assistant and you will be"
    )


def test_only_the_adapter_learns_and_is_saved(root, stage):
    folder = root / "instruct" / "adapter"
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 2  # A and B of q, k, v, o in two layers
    assert all(t.abs().max() > 0 for t in tensors.values())  # B begins at zero
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (16, 16, 0.05)
    assert sorted(settings["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    base, tuned = Emu.from_pretrained(root / "emu"), stage.emu
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in tuned.state_dict().items()}
    assert all(torch.equal(kept[n][: len(t)], t) for n, t in base.state_dict().items())
    words = stage.processor.encode("user")
    row = tuned.llm.get_input_embeddings().weight[stage.processor.special["[USER]"]]
    torch.testing.assert_close(row, base.llm.get_input_embeddings().weight[words].mean(0))


def test_a_stopped_run_ends_with_the_same_bits(root, tmp_path):
    for name in ("emu", "tokenizer.json", "processor.json"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        (tmp_path / "emu-nano").mkdir(exist_ok=True)
        copy(root / name, tmp_path / "emu-nano" / name)
    assert not train_stage("emu-nano", "instruct", tmp_path, SETTINGS, stop_after=3)
    assert train_stage("emu-nano", "instruct", tmp_path, SETTINGS)
    whole, parts = (checkpoint.latest(f / "instruct" / "checkpoints") for f in (root, tmp_path / "emu-nano"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = load_file(whole / name), load_file(parts / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_an_adapter_loads_on_its_base_merges_and_answers(root, tmp_path):
    folder = root / "instruct" / "adapter"
    plain = EmuPipeline.from_pretrained(root / "checkpoint")
    tuned = EmuPipeline.from_pretrained(root / "checkpoint", adapter=folder)  # half precision is the same base
    merged = EmuPipeline.from_pretrained(root / "checkpoint", adapter=folder, merge=True)
    rounded = EmuPipeline.from_pretrained(root / "checkpoint", "bfloat16", adapter=folder).model
    assert rounded.config.llm.lora_rank == 16 and {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    assert torch.equal(rounded.llm.model.rotary_emb.inv_freq, plain.model.llm.model.rotary_emb.inv_freq)
    batch = tuned.processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=True)
    before, after = logits(tuned.model, batch), logits(merged.model, batch)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert merged.model.config.llm.lora_rank == 0 and not any("lora" in n for n in merged.model.state_dict())
    bare = {"input_ids": torch.tensor([plain.processor.encode("a llama")])}
    assert (logits(tuned.model, bare)[..., :1024] - logits(plain.model, bare)).abs().max() > 1e-4
    for name, pipe in (("tuned", tuned), ("merged", merged)):  # a model of its own
        pipe.save_pretrained(tmp_path / name)
        again = EmuPipeline.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(again.model, batch), before, atol=1e-4, rtol=1e-4)
    assert tuned.model.generate(**batch, max_new_tokens=3).shape[0] == 1


def test_an_exported_adapter_finds_the_base_beside_it(root, tmp_path):
    shutil.copytree(root / "checkpoint", tmp_path / "emu-nano")
    exported = export_adapter(root, tmp_path / "emu-nano-instruct")
    tuned = EmuPipeline.from_pretrained(exported)
    trained = root / "instruct" / "adapter"
    full, half = (load_file(folder / "adapter_model.safetensors") for folder in (trained, exported))
    assert half.keys() == full.keys() and all(torch.equal(half[name], full[name].half()) for name in full)
    named = EmuPipeline.from_pretrained(root / "checkpoint", adapter=trained)
    batch = tuned.processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=True)
    torch.testing.assert_close(logits(tuned.model, batch), logits(named.model, batch), atol=1e-3, rtol=1e-3)
    assert trained_on(exported) == {"conversations", *SOURCES}  # those that it rehearsed
    assert trained_on(tmp_path / "emu-nano") == set()
    with pytest.raises(
        MinemuError, match="'vqa' is not trained yet in .*emu-nano: .* adapter is trained for it: .*-instruct$"
    ):
        check_trained("vqa", tmp_path / "emu-nano")
    card = (exported / "README.md").read_text()
    assert "# emu-nano-instruct" in card and "| instruct | 4 | 4 |" in card and str(root) not in card
    beside = EmuPipeline.from_pretrained(root / "checkpoint", adapter=exported, merge=True)  # its records go along
    beside.save_pretrained(tmp_path / "merged")
    assert trained_on(tmp_path / "merged") == trained_on(exported)
    shutil.copytree(exported, tmp_path / "run" / "checkpoint-instruct")  # as the recipe names them
    shutil.copytree(root / "checkpoint", tmp_path / "run" / "checkpoint")
    assert torch.equal(
        logits(EmuPipeline.from_pretrained(tmp_path / "run" / "checkpoint-instruct").model, batch),
        logits(tuned.model, batch),
    )
    shutil.rmtree(tmp_path / "emu-nano")
    with pytest.raises(MinemuError, match="is an adapter alone, and its base is not beside it"):
        EmuPipeline.from_pretrained(exported)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_peft_itself_reads_the_adapter(root):
    peft = pytest.importorskip("peft")
    tuned = EmuPipeline.from_pretrained(root / "checkpoint", adapter=root / "instruct" / "adapter")
    ids = torch.tensor([tuned.processor.encode("what is this?")])
    base = EmuPipeline.from_pretrained(root / "checkpoint").model.llm
    theirs = peft.PeftModel.from_pretrained(base, str(root / "instruct" / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, tuned.model.llm(ids).logits[..., :1024], atol=1e-5, rtol=1e-5)


def test_an_adapter_of_another_base_is_refused(root):
    folder = root / "instruct" / "adapter"
    model = Emu(resolve("emu-nano", {})[0])
    processor = EmuProcessor.from_pretrained(root)
    config = adapters.read_settings(folder, model.config)
    with pytest.raises(
        MinemuError, match="was trained on another base .an emu-nano. than this emu-nano; load it on that"
    ):
        adapters.load_adapter(model, processor, folder, config)


def test_the_command_line_refuses_an_adapter_of_another_base(root, tmp_path, capsys):
    config, _ = resolve("emu-nano", SETTINGS)
    other = EmuPipeline(Emu(config), EmuProcessor.from_pretrained(root / "checkpoint"), VisualDecoder(config.decoder))
    other.save_pretrained(tmp_path / "emu-nano")
    shutil.copytree(root / "instruct" / "adapter", tmp_path / "adapter")
    assert cli.run(["generate", str(tmp_path / "adapter"), "what is this?"]) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "was trained on another base" in error


def test_what_is_no_adapter_is_said(root, tmp_path):
    with pytest.raises(MinemuError, match="merge=True needs an adapter"):
        EmuPipeline.from_pretrained(root / "checkpoint", merge=True)
    with pytest.raises(MinemuError, match="adapter_config.json is missing"):
        EmuPipeline.from_pretrained(root / "checkpoint", adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "use_rslora": true}')
    with pytest.raises(MinemuError, match="has use_rslora, which is not read here"):
        EmuPipeline.from_pretrained(root / "checkpoint", adapter=tmp_path)
    with pytest.raises(MinemuError, match="an adapter needs its base on one device"):
        EmuPipeline.from_pretrained(root / "checkpoint", adapter=root / "instruct" / "adapter", device_map={"": "disk"})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(MinemuError, match="is of no LoRA; give the folder that minemu train instruct wrote"):
        EmuPipeline.from_pretrained(root / "checkpoint", adapter=tmp_path)
    with pytest.raises(MinemuError, match="has no adapters to save"):
        adapters.save_adapter(Emu(resolve("emu-nano", {})[0]), tmp_path)
    tuned = EmuPipeline.from_pretrained(root / "checkpoint", adapter=root / "instruct" / "adapter")
    with pytest.raises(MinemuError, match="has adapters already; merge them first"):
        adapters.prepare(tuned.model, tuned.processor, tuned.model.config)


def test_conversations_on_disk(tmp_path):
    talk = {
        "id": "1",
        "conversations": [{"from": "human", "value": "what is red?"}, {"from": "gpt", "value": "a colour."}],
    }
    (tmp_path / "talks.json").write_text(json.dumps([talk]))
    recipe = resolve(
        "emu-nano",
        {"train.data.conversations.format": "chats", "train.data.conversations.path": str(tmp_path / "*.json")},
    )[1]
    talks = open_talks(recipe.data.conversations, ToyWorld(), len, 4, 0)
    assert talks.document(3).turns[0].answer == "a colour."
    assert isinstance(open_talks(DataFiles().conversations, ToyWorld(), len, 4, 0), ToyTalks)


@pytest.mark.parametrize(
    ("stage", "source", "read"),
    [
        ("emu", "captions", ()),
        ("emu", "mixture", SOURCES),
        ("instruct", "captions", ("conversations",)),
        ("instruct", "mixture", (*SOURCES, "conversations")),
        ("decoder", "mixture", ()),
    ],
)
def test_which_sources_a_stage_reads(stage, source, read):
    assert sources_of(stage, resolve("emu-nano", {"train.source": source})[1]) == read


def test_bad_conversations_are_told_of(tmp_path):
    records = [{"instruction": "what is red?", "output": "a colour."}, {"instruction": "what is blue?", "output": ""}]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    told = []
    data = DataConfig("chats", str(tmp_path / "talks.json"))
    talks = open_talks(data, ToyWorld(), len, 4, 0, lambda *skipped: told.append(skipped))
    assert {talks.document(number).turns[0].answer for number in range(4)} == {"a colour."}
    assert told == [("conversations", 1, f"record 1 of {tmp_path / 'talks.json'} has no text")]


def test_conversations_that_hold_the_tokens_of_turns_are_bad(root, tmp_path):
    """The base's tokenizer has none; the stage adds them."""
    asked = ["what is red?", "what is [USER]?", "what is [ASSISTANT]?"]
    talks = [{"instruction": text, "output": "a colour."} for text in asked]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    own = {"format": "chats", "path": str(tmp_path / "talks.json"), "max_bad": 1}
    config, recipe = resolve("emu-nano", {**SETTINGS, **{f"train.data.conversations.{k}": v for k, v in own.items()}})
    world = ToyWorld("seen", image_size=32)
    stage = build_stage("instruct", config, recipe, make_processor(root, config, recipe), world, root)
    assert {stage.talks.document(number).turns[0].user for number in range(3)} == {("what is red?",)}
    assert len(stage.talks.bad) == 2


def test_emu_i_answers_messages_in_its_template(root):
    tuned = EmuPipeline.from_pretrained(root / "checkpoint", adapter=root / "instruct" / "adapter")
    picture = ToyWorld(image_size=32).picture(0)
    messages = [user_message([picture, "what is this? answer in one word."])]
    batch = tuned.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    said = tuned.model.generate(**batch, max_new_tokens=4)
    assert tuned.chat(messages, max_new_tokens=4).ids.tolist() == said[0].tolist()
    base = EmuPipeline.from_pretrained(root / "checkpoint")
    with pytest.raises(MinemuError, match="ask a base model with a plain list of text and pictures"):
        base.chat(messages)
    with pytest.raises(MinemuError, match="give a list of text and pictures"):
        tuned.chat(messages[0])


def test_without_rehearsal_there_are_conversations_alone(root, stage):
    config, recipe = resolve("emu-nano", SETTINGS)
    world = ToyWorld("seen", image_size=32)
    plain = InstructStage(config, recipe.instruct, root, ToyTalks(world), toy_mixture(world), every=0)
    assert all(torch.equal(plain.batch(i)["input_ids"], stage.batch(i)["input_ids"]) for i in range(4))
    with pytest.raises(MinemuError, match="train.rehearse=1 leaves no conversations: give 2 or more, or 0"):
        resolve("emu-nano", {"train.rehearse": 1})


def test_a_refused_adapter_leaves_its_base_as_it_was(root, tmp_path):
    """What does not fit is seen before anything is changed, so that the right one still loads."""
    folder = root / "instruct" / "adapter"
    pipe = EmuPipeline.from_pretrained(root / "checkpoint")
    model, before = pipe.model, {name: t.clone() for name, t in pipe.model.state_dict().items()}
    config = adapters.read_settings(folder, model.config)
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "base.json").unlink()  # peft's own has none
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, tmp_path / "bare" / "adapter_model.safetensors")
    processor = EmuProcessor.of(config, root)
    with pytest.raises(MinemuError, match="is of another base: its tensors do not fit emu-nano's layers"):
        adapters.load_adapter(model, processor, tmp_path / "bare", config)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    assert model.config.llm.lora_rank == 0 and all(p.requires_grad for p in model.parameters())
    adapters.load_adapter(model, processor, folder, config)
    assert model.config.llm.lora_rank == adapters.RANK


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"target_modules": ["q_proj", "v_proj"]},
            r"adapts .*q_proj.*, and here it is q_proj, k_proj, v_proj, o_proj; train",
        ),
        ({"bias": "all"}, "has bias=all, which is not read here"),
    ],
)
def test_adapters_of_other_layers_are_refused_by_name(root, tmp_path, setting, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, **setting}))
    with pytest.raises(MinemuError, match=message):
        adapters.read_settings(tmp_path, resolve("emu-nano", SETTINGS)[0])
