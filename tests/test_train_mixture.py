"""Stage `emu` on the five-source mixture: documents in reading order, what is hidden, exact resuming, real formats."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from minemu.config import EmuConfig
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.sequence import PICTURE, picture_ids, targets
from minemu.training import checkpoint, loop
from minemu.training.emu import LanguageStage, follow_text, tokenise
from minemu.training.recipe import build_stage, make_processor, train_stage
from minemu.training.recipes import resolve
from minemu.visual_decoder import VisualDecoder

BEFORE = ("encoder", "bridge", "language")
SETTINGS = {
    "train.source": "mixture",
    "objective.hide_written": 0.5,
    "objective.say_image": True,
    **{f"train.{stage}.steps": 2 for stage in BEFORE},
    "train.emu.steps": 4,
    "train.emu.checkpoint_every": 2,
    "train.emu.log_every": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with all that stage `emu` needs, and a whole stage `emu` of 4 steps."""
    folder = tmp_path_factory.mktemp("runs")
    assert all(train_stage("emu-nano", stage, folder, SETTINGS) for stage in (*BEFORE, "emu"))
    return folder


def emu_stage(root, **changes):
    config, recipe = resolve("emu-nano", {**SETTINGS, **changes})
    world = ToyWorld("seen", image_size=config.vision.image_size)
    processor = make_processor(root / "emu-nano", config, recipe)
    return build_stage("emu", config, recipe, processor, world, root / "emu-nano")


def test_a_batch_is_a_pure_function_and_holds_every_picture_in_reading_order(root):
    stage = emu_stage(root)
    for index in (5, 0):
        batch, again = stage.batch(index), emu_stage(root).batch(index)
        assert batch.keys() == again.keys() and all(torch.equal(batch[name], again[name]) for name in batch)
        ids, size = stage.processor.ids, stage.train.batch_size
        documents = [stage.mixture.document(i) for i in range(index * size, (index + 1) * size)]
        assert len(batch["pixels"]) == int((batch["input_ids"] == ids.image_start).sum()) == len(batch["after_text"])
        first = {piece.tobytes() for piece in documents[0] if not isinstance(piece, str)}
        assert first <= {picture.numpy().tobytes() for picture in batch["pixels"]}
        shown = iter(batch["pixels"])
        for row, segments in zip(batch["input_ids"], batch["segment_ids"], strict=True):
            for segment in range(1, int(segments.max()) + 1):
                told = row[segments == segment].tolist()
                mine = [next(shown).numpy().tobytes() for _ in range(told.count(ids.image_start))]
                assert mine in [[p.tobytes() for p in d if not isinstance(p, str)] for d in documents]
    assert {stage.mixture.place(i)[0] for i in range(22)} == {"labels", "scenes", "interleaved", "clips", "storyboards"}
    assert (batch["input_ids"] == ids.eos).sum() == size


def test_pictures_are_written_where_a_picture_ends_the_document():
    p = np.zeros((32, 32, 3), np.uint8)
    assert follow_text([p, "a"]) == [False] and follow_text(["a", p]) == [True]
    assert follow_text(["a", p, p, "b", p]) == [True] * 3 and follow_text([p, "a", p]) == [False, True]
    assert follow_text(["fruits:", p, "a banana", p, "a pear"]) == [False, False]


def test_texts_alone_are_learnt_from_too(root, monkeypatch):
    stage = emu_stage(root)
    monkeypatch.setattr(stage, "documents", lambda index: [["a llama"], ["two foxes"]])
    losses = stage.loss(stage.batch(0))
    losses["loss"].backward()
    assert losses["text_loss"] > 1 and losses["image_loss"] == 0
    assert stage.module.llm.lm_head.weight.grad.abs().sum() > 0


def test_micro_batches_count_by_what_they_teach_as_in_one_large_batch(root, monkeypatch, tmp_path):
    """Few words and two pictures, then many words and one: each loss is a mean over other numbers of targets."""
    picture = [np.full((32, 32, 3), shade, np.uint8) for shade in (20, 120, 220)]
    documents = [
        [["a llama", picture[0], picture[1]], ["two foxes"]],
        [[picture[2], "a small llama on a yellow background, Noto style"], ["a big fox above a llama, Flat style"]],
    ]

    def gradients(dealt, **changes):
        stage = emu_stage(root, **{"objective.hide_written": 0.0, "train.emu.accumulate": len(dealt)})
        for name, change in {"documents": lambda index: dealt[index], **changes}.items():
            monkeypatch.setattr(stage, name, change)
        loop.backward(stage, stage.train, 0, map(stage.batch, range(len(dealt))), tmp_path)
        return {name: p.grad for name, p in stage.module.named_parameters() if p.grad is not None}

    small, large = gradients(documents), gradients([documents[0] + documents[1]])
    assert len(small) > 20
    torch.testing.assert_close(small, large, atol=2e-6, rtol=1e-3)
    alike = gradients(documents, targets=lambda batch: {"text_loss": 1, "image_loss": 1})  # a mean of means
    wrong, right = (found["regression_head.weight"] for found in (alike, large))
    assert (wrong - right).norm() > 0.1 * right.norm()


def test_what_does_not_fit_the_context_is_cut_between_pictures(root):
    processor = emu_stage(root).processor
    picture = Image.new("RGB", (50, 40), "red")
    pieces, pictures, whole = tokenise([picture, "a llama", picture], processor, 100)
    assert (
        whole and len(pictures) == 2 and pictures[0].shape == (32, 32, 3) and pictures[0][0, 0].tolist() == [255, 0, 0]
    )
    words = len(pieces[1])
    assert tokenise([picture, "a llama", picture], processor, 2 + 6 + words + 5)[0] == pieces[:2]
    cut, _, whole = tokenise([picture, "a llama", picture], processor, 2 + 6 + words - 1)
    assert cut == [PICTURE, pieces[1][:-1]] and not whole


def test_the_tokenizer_knows_the_wordings(root):
    processor = make_processor(root / "emu-nano", *resolve("emu-nano", SETTINGS))
    assert len(processor.encode("based on the given video")) < 12
    assert len(processor.encode("which way does the snail move?")) < 12


def test_the_language_stage_reads_captions_and_wordings_in_turn(tmp_path):
    config, recipe = resolve("emu-nano", {})
    world = ToyWorld("seen", image_size=32)
    processor = make_processor(tmp_path, config, recipe)
    stage = LanguageStage(config, recipe.language, processor, world, ["what is this?"])
    said = [stage.text(world.scene(i)) for i in range(200)]
    assert 70 < said.count("what is this?") < 130 and len(set(said)) > 60
    alone = LanguageStage(config, recipe.language, processor, world)
    assert "what is this?" not in [alone.text(world.scene(i)) for i in range(50)]


def test_a_stopped_run_ends_with_the_same_bits(root, tmp_path):
    shutil.copytree(root / "emu-nano", tmp_path / "emu-nano")
    shutil.rmtree(tmp_path / "emu-nano" / "emu")
    assert not train_stage("emu-nano", "emu", tmp_path, SETTINGS, stop_after=3)
    assert train_stage("emu-nano", "emu", tmp_path, SETTINGS)
    whole, parts = (checkpoint.latest(folder / "emu-nano" / "emu" / "checkpoints") for folder in (root, tmp_path))
    a, b = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("stage", "changes", "setting"),
    [
        ("emu", {"train.mixture.clips": 3}, "another data setting of 'mixture.clips'"),
        ("emu", {"train.data.clips.format": "webvid"}, "another data setting of 'files.clips.format'"),
        ("encoder", {"train.source": "captions"}, "another world setting of 'source'"),
    ],
)
def test_a_run_goes_on_only_with_the_data_that_it_began_with(root, stage, changes, setting):
    with pytest.raises(MinemuError, match=f"was begun with {setting}"):
        train_stage("emu-nano", stage, root, {**SETTINGS, **changes})


def test_a_run_from_before_there_was_a_choice_learnt_from_captions(root, tmp_path):
    shutil.copytree(root / "emu-nano", tmp_path / "emu-nano")
    path = tmp_path / "emu-nano" / "encoder" / "run.json"
    run = json.loads(path.read_text())
    del run["world"]["source"]
    path.write_text(json.dumps(run))
    with pytest.raises(MinemuError, match="was begun with another world setting of 'source'"):
        train_stage("emu-nano", "encoder", tmp_path, SETTINGS)
    assert train_stage("emu-nano", "encoder", tmp_path, {**SETTINGS, "train.source": "captions"})


def write_pairs(path, count=6, broken=()):
    """A tar shard of red pictures, each redder than the one before; the captions of `broken` ones are empty."""
    with tarfile.open(path, "w") as tar:
        for k in range(count):
            encoded = io.BytesIO()
            Image.new("RGB", (40, 30), (k * 40, 0, 0)).save(encoded, "PNG")
            caption = b" " if k in broken else f"a llama {k}".encode()
            for suffix, data in (("png", encoded.getvalue()), ("txt", caption)):
                info = tarfile.TarInfo(f"{k:05}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


ONLY_LABELS = {f"train.mixture.{name}": 0 for name in ("scenes", "interleaved", "clips", "storyboards")}


def labels_of(pattern):
    return {**ONLY_LABELS, "train.data.labels.format": "webdataset", "train.data.labels.path": str(pattern)}


def begun_anew(root, folder):
    """A copy of the run without its stage `emu`."""
    shutil.copytree(root / "emu-nano", folder / "emu-nano")
    shutil.rmtree(folder / "emu-nano" / "emu")
    return folder


def test_bad_samples_stand_in_a_file_once_however_often_a_run_is_resumed(root, tmp_path):
    write_pairs(tmp_path / "0.tar", broken=(1, 4))
    settings, runs = {**SETTINGS, **labels_of(tmp_path / "*.tar")}, begun_anew(root, tmp_path)
    path = runs / "emu-nano" / "emu" / "skipped.jsonl"
    wanted = [
        {"source": "labels", "sample": k, "why": f"sample {k} of {tmp_path / '0.tar'} has no text"} for k in (1, 4)
    ]
    assert not train_stage("emu-nano", "emu", runs, settings, stop_after=2)
    assert sorted(read_lines(path), key=lambda line: line["sample"]) == wanted
    with path.open("a") as file:
        file.write('{"source": "lab')  # killed while it wrote
    assert train_stage("emu-nano", "emu", runs, settings)
    assert sorted(read_lines(path), key=lambda line: line["sample"]) == wanted
    assert not (root / "emu-nano" / "emu" / "skipped.jsonl").exists()  # of a run with nothing to skip


def test_a_run_goes_on_only_with_the_files_that_it_began_with(root, tmp_path):
    write_pairs(tmp_path / "0.tar")
    settings, runs = {**SETTINGS, **labels_of(tmp_path / "*.tar")}, begun_anew(root, tmp_path)
    assert not train_stage("emu-nano", "emu", runs, settings, stop_after=2)
    write_pairs(tmp_path / "1.tar")
    other = r"emu was begun with other files of labels: 1 with 20,480 bytes, now 2 with 40,960 \(names count too\); put back"
    with pytest.raises(MinemuError, match=other):
        train_stage("emu-nano", "emu", runs, settings)
    (tmp_path / "0.tar").unlink()  # as many, as large, of another name
    with pytest.raises(MinemuError, match=r"1 with 20,480 bytes, now 1 with 20,480 \(names count too\); put back"):
        train_stage("emu-nano", "emu", runs, settings)
    (tmp_path / "1.tar").rename(tmp_path / "0.tar")
    assert train_stage("emu-nano", "emu", runs, settings)
    (tmp_path / "0.tar").unlink()
    assert train_stage("emu-nano", "emu", runs, settings)  # a finished one reads nothing


def test_a_run_from_before_files_were_listed_goes_on(root, tmp_path):
    write_pairs(tmp_path / "0.tar")
    settings, runs = {**SETTINGS, **labels_of(tmp_path / "*.tar")}, begun_anew(root, tmp_path)
    assert not train_stage("emu-nano", "emu", runs, settings, stop_after=2)
    path = runs / "emu-nano" / "emu" / "run.json"
    run = json.loads(path.read_text())
    listed = run.pop("listed")
    path.write_text(json.dumps(run))
    assert train_stage("emu-nano", "emu", runs, settings)
    assert json.loads(path.read_text())["listed"] == listed and listed["labels"]["files"] == 1
    assert "listed" not in json.loads((root / "emu-nano" / "emu" / "run.json").read_text())  # of the toy world


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pages_that_are_cut_to_the_context_are_told_of(root, tmp_path, caplog):
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    info = {"image_name": "0.png", "matched_text_index": 39, "matched_sim": 0.5}
    page = {"text_list": ["a llama and two foxes."] * 40, "image_info": [info]}
    (tmp_path / "docs.jsonl").write_text(json.dumps(page))
    data = {"format": "mmc4", "path": str(tmp_path / "docs.jsonl"), "folder": str(tmp_path)}
    pages = {f"train.data.interleaved.{key}": value for key, value in data.items()}
    alone = {**ONLY_LABELS, "train.mixture.labels": 0, "train.mixture.interleaved": 1}

    stage = emu_stage(root, **alone, **pages)
    assert [record.getMessage() for record in caplog.records] == [
        "interleaved: parts of pages of up to 1024 tokens are cut to the model's context of 256; "
        "to take parts that fit: --set train.data.interleaved.mmc4.tokens=254"
    ]
    batch = stage.batch(0)
    assert batch["input_ids"].shape[1] < 256 and "pixels" not in batch  # the picture stood beyond the context

    caplog.clear()
    stage = emu_stage(root, **alone, **pages, **{"train.data.interleaved.mmc4.tokens": 254})
    assert not caplog.records and len(stage.batch(0)["pixels"]) == stage.train.batch_size


def test_real_data_by_configuration(root, tmp_path):
    write_pairs(tmp_path / "0.tar")
    real = labels_of(tmp_path / "*.tar")
    batch = emu_stage(root, **real).batch(0)
    reds = sorted(picture[0, 0, 0].item() for picture in batch["pixels"])
    assert len(reds) == 8 and set(reds) <= {k * 40 for k in range(6)}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train.data.labels.path": "x.tar"}, "train.data.labels.path is set without a format: add --set train.data.l"),
        (
            {"train.data.clips.format": "webvid", "train.mixture.clips": 0},
            "train.data.clips would not be read, as train.mixture.clips is 0: give it a weight",
        ),
        (
            {"train.data.scenes.format": "chats"},
            "train.data.scenes.format=chats: 'chats' is the format of conversations",
        ),
    ],
)
def test_data_settings_that_would_be_ignored(root, settings, says):
    with pytest.raises(MinemuError, match=says):
        emu_stage(root, **settings)


# ---- words and pictures that come out ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(root):
    model = Emu.from_pretrained(root / "emu-nano" / "emu")
    torch.manual_seed(0)
    return EmuPipeline(model, EmuProcessor.from_pretrained(root / "emu-nano"), VisualDecoder(model.config.decoder))


class Script:
    """What the model is to say, in place of what it would: tokens up to each </s> or [IMG]."""

    def __init__(self, pipe, *turns):
        self.turns, self.model, self.seen = iter(turns), pipe.model, []

    def __call__(self, input_ids, image_embeds, frame_embeds, max_new_tokens, **kwargs):
        self.seen.append((input_ids, image_embeds))
        self.model.embed(input_ids, image_embeds)  # refuses pictures that are not in their places
        return torch.tensor([next(self.turns)])


def test_words_and_pictures_come_in_the_order_in_which_they_are_said(pipe, monkeypatch):
    ids, words = pipe.model.ids, pipe.processor.encode("a llama")
    script = Script(pipe, [*words, ids.image_start], [ids.image_start], [*words, ids.eos])
    monkeypatch.setattr(pipe.model, "generate", script)
    given = Image.new("RGB", (32, 32), "red")
    out = pipe.continue_document(["fruits:", given], generator=torch.Generator().manual_seed(0))
    assert [piece if isinstance(piece, str) else piece.size for piece in out] == [
        "a llama",
        (32, 32),
        (32, 32),
        "a llama",
    ]
    row, embeds = script.seen[-1]
    assert row[0].tolist() == [
        ids.bos, *pipe.processor.encode("fruits:"), *picture_ids(ids, 4), *words, *picture_ids(ids, 4) * 2,
    ]  # fmt: skip
    assert embeds.shape == (3, 4, 48)
    torch.testing.assert_close(embeds[:1], pipe.encode([given]))
    drawn = pipe.imagine([["fruits:", given, "a llama"]])  # the same as when it is asked for
    torch.testing.assert_close(embeds[1:2], drawn)


def test_who_asks_for_words_gets_words(pipe, monkeypatch):
    ids, picture, plain = pipe.model.ids, Image.new("RGB", (32, 32), "red"), pipe.model.llm.lm_head.forward
    would_rather_draw = torch.nn.functional.one_hot(torch.tensor(ids.image_start), pipe.model.config.llm.vocab_size)
    monkeypatch.setattr(pipe.model.llm.lm_head, "forward", lambda hidden: plain(hidden) + 100 * would_rather_draw)
    assert pipe.model.generate(**pipe.processor([[picture]]), max_new_tokens=2).tolist() == [[ids.image_start]]
    assert pipe.chat([picture], max_new_tokens=1).ids[0] != ids.image_start


def test_pictures_and_words_are_limited(pipe, monkeypatch):
    ids = pipe.model.ids
    monkeypatch.setattr(pipe.model, "generate", Script(pipe, *[[5, ids.image_start]] * 9))
    assert sum(not isinstance(p, str) for p in pipe.continue_document(["a llama"], max_pictures=2)) == 2
    monkeypatch.setattr(pipe.model, "generate", Script(pipe, *[[5, ids.image_start]] * 9))
    assert sum(not isinstance(p, str) for p in pipe.continue_document(["a llama"], max_new_tokens=2)) == 1
    with pytest.raises(
        MinemuError, match="max_pictures=60 and max_new_tokens=64 take 364 places, and after what is given"
    ):
        pipe.continue_document(["a llama"], max_pictures=60)


def test_a_trained_model_goes_on_by_itself_and_alike(pipe):
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, two = (pipe.continue_document(["a llama"], max_pictures=1, max_new_tokens=8, generator=seed) for seed in seeds)
    assert [p if isinstance(p, str) else p.tobytes() for p in one] == [
        p if isinstance(p, str) else p.tobytes() for p in two
    ]


def test_words_end_where_a_picture_begins(pipe, monkeypatch):
    ids, asked = pipe.model.ids, {}
    monkeypatch.setattr(
        pipe.model.llm, "generate", lambda **kwargs: asked.update(kwargs) or torch.tensor([[5, ids.image_start]])
    )
    assert pipe.chat(["a llama"]).text == pipe.processor.decode(torch.tensor([5]))
    assert asked["eos_token_id"] == [ids.eos, ids.image_start]


def test_a_model_that_was_not_taught_to_say_img_says_so(pipe, monkeypatch):
    config = pipe.model.config.override({"objective.say_image": False})
    monkeypatch.setattr(pipe.model, "config", config)
    with pytest.raises(MinemuError, match=r"was not trained to say \[IMG\] itself; .* --set objective.say_image=true"):
        pipe.continue_document(["a llama"])


def test_say_image_teaches_where_pictures_begin(root):
    stage = emu_stage(root)
    batch, ids = stage.batch(0), stage.processor.ids
    found = targets(batch["input_ids"], ids, stage.config.objective, batch["segment_ids"])
    begins = (batch["input_ids"] == ids.image_start).sum()
    assert (found.text == ids.image_start).sum() == begins > 0
    silent = targets(batch["input_ids"], ids, EmuConfig.preset("emu-nano").objective, batch["segment_ids"])
    assert (silent.text == ids.image_start).sum() == 0
