"""Ablations: what is shared between variants, what is measured, what is called a difference, and how it is drawn."""

import json

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minemu import ablations, cli
from minemu.ablations import QUESTIONS, VARIANTS, FewThings, Variant, differs, measures, own_stages, study, variants_of
from minemu.ablations.variants import SETTINGS, THINGS
from minemu.data import movies
from minemu.data.samples import data_dir
from minemu.errors import MinemuError
from minemu.figures.ablations import show_ablation
from minemu.model import Emu
from minemu.processor import EmuProcessor
from minemu.training.recipe import train_stage
from minemu.training.recipes import needs, resolve

STAGES = ("encoder", "language", "bridge", "emu")
SHORT = [part for stage in STAGES for part in ("--set", f"train.{stage}.steps=2")]
NAMED = {variant.name: variant for variant in VARIANTS}


@pytest.fixture(scope="module")
def small():
    """Few scenes and questions to measure on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HELD_OUT": 64, "KNOWN": 16, "ASKED": 4}.items():
            patch.setattr(measures, name, value)
        yield


@pytest.fixture(scope="module")
def ran(small, tmp_path_factory):
    """Two questions of short trainings, by the command: folder and results file."""
    folder = tmp_path_factory.mktemp("ablations")
    line = [
        "ablate",
        "loss",
        "bridge",
        "--run-dir",
        str(folder / "runs"),
        "--seeds",
        "1",
        "--out",
        str(folder / "all.json"),
    ]
    assert cli.run([*line, *SHORT]) == 0
    return folder, line, json.loads((folder / "all.json").read_text())


def test_the_file_says_what_was_run_and_by_what(ran):
    _, _, results = ran
    assert results["seeds"] == [0] and results["things"] == 12 and results["commit"] and results["versions"]["torch"]
    assert results["settings"]["train.emu.steps"] == "2" and set(results["questions"]) == {"loss", "bridge"}
    assert set(results["variants"]) == {"base", "cosine", "random", "pool"}
    numbers = results["variants"]["pool"]["runs"]["0"]
    assert len(numbers["free_by_index"]) == len(numbers["forced_by_index"]) == 16
    assert 0 <= numbers["nearest"] <= 1 and numbers["nearest_chance"] == 1 / 64 and numbers["caption_blind"] > 0
    assert numbers["free_by_index"][0] == pytest.approx(numbers["forced_by_index"][0], rel=1e-3)  # words alone are read


def test_numbers_that_other_code_measured_are_said_to_be(ran):
    folder, _, results = ran
    kept = json.loads((folder / "runs/seed-0/pool/emu-nano/measured.json").read_text())
    assert (kept["commit"], kept["versions"]) == (results["commit"], results["versions"])
    assert "commit" not in results["variants"]["pool"]["runs"]["0"] and "earlier_commits" not in results
    now = {"command": "from Python", "commit": "new", "versions": {"torch": "2"}}
    runs = {"0": {"nearest": 0.5}, "1": {"nearest": 0.5, "commit": "old", "versions": {"torch": "1"}}, "2": {**now}}
    found = ablations.collect({"base": runs, "cosine": runs}, ["loss"], made_by=now)
    assert found["commit"] == "new" and found["earlier_commits"] == ["unknown", "old"]
    assert found["earlier_versions"] == ["unknown", {"torch": "1"}]
    assert found["variants"]["base"]["runs"]["1"] == {"nearest": 0.5}


def test_stages_are_shared_unless_a_variant_changes_them(ran):
    folder, _, _ = ran
    seed = folder / "runs" / "seed-0"
    shared = {
        name: {s for s in STAGES if (seed / name / "emu-nano" / s).is_symlink()} for name in ("base", "random", "pool")
    }
    assert shared == {"base": set(STAGES[:3]), "random": {"encoder", "language"}, "pool": {"encoder", "language"}}
    assert not (seed / "pool" / "emu-nano" / "bridge").exists()
    assert own_stages(NAMED["n-4"]) == {"bridge"} and own_stages(NAMED["cosine"]) == own_stages(NAMED["pool"]) == set()
    assert own_stages(Variant("wide", "", "", {"vision.layers": 3})) == {"encoder", "bridge"}


def test_the_world_of_few_things_shows_no_others():
    world = FewThings(0)
    shown = [movies.animation(world, world.generator(i, "clip"))[1] for i in range(30)]
    assert all("cat" in text or "whale" in text for text in shown)  # of whom there are animations


def test_examples_do_not_hold_the_answer():
    for i in range(40):
        row = measures.unlike(FewThings(1000, held_out=True), i, measures.ASKS[i % 4])
        assert len(row) == measures.SHOTS + 1 == len({one.about.shows() for one in row})


def test_what_is_finished_is_not_run_again(ran, monkeypatch, capsys):
    folder, line, results = ran
    monkeypatch.setattr("minemu.training.recipe.train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("measured again"))
    assert cli.run([*line, *SHORT]) == 0
    assert json.loads((folder / "all.json").read_text())["variants"] == results["variants"]
    assert "Causal Transformer or pooling?" in capsys.readouterr().out


def test_a_stopped_run_keeps_what_is_known(ran, monkeypatch):
    folder, line, _ = ran
    (folder / "runs/seed-0/cosine/emu-nano/measured.json").unlink()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "measure", stop)
    part = folder / "part.json"
    with pytest.raises(KeyboardInterrupt):
        ablations.ablate(
            ["loss"],
            folder / "runs",
            1,
            dict(s.split("=") for s in SHORT[1::2]),
            lambda known: part.write_text(json.dumps(ablations.collect(known, ["loss"]))),
        )
    assert list(json.loads(part.read_text())["variants"]["base"]["runs"]) == ["0"]


def test_other_settings_are_refused(ran, capsys):
    _, line, _ = ran
    assert cli.run([*line, *SHORT[:-1], "train.emu.steps=3"]) == cli.BAD_INPUT
    assert "was begun with another train setting of 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ablate los", "no question 'los' among the ablations: did you mean 'loss'?"),
        ("ablate loss --seeds 0", "--seeds 0 is too few; give 1 or more"),
        ("ablate loss --set llm.layer=2", "unknown configuration key 'llm.layer'"),
        (
            "ablate loss --set train.world_seed=7",
            "train.world_seed is set anew for each training: leave it out, and give --seeds",
        ),
    ],
)
def test_bad_input_is_one_line(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(line.split(" ")) == cli.BAD_INPUT
    assert message in capsys.readouterr().err


def test_the_list_of_questions_is_written_too(tmp_path, capsys):
    assert cli.run(["ablate", "loss", "weight", "--list", "--json", str(tmp_path / "list.json")]) == 0
    listed = json.loads((tmp_path / "list.json").read_text())
    assert list(listed) == ["loss", "weight"] and listed["loss"]["variants"] == ["base", "cosine"]
    assert listed["loss"]["asks"] in capsys.readouterr().out


def test_pooling_has_no_bridge_to_train(tmp_path):
    pooled = {**SETTINGS, **NAMED["pool"].settings}
    assert needs("emu", *resolve("emu-nano", pooled)) == ("encoder", "language")
    world = FewThings()
    train_stage("emu-nano", "encoder", tmp_path, {**pooled, "train.encoder.steps": 1}, world=world)
    with pytest.raises(MinemuError, match="pool has nothing to pretrain; leave out stage bridge"):
        train_stage("emu-nano", "bridge", tmp_path, pooled, world=world)


def test_every_variant_is_a_model_and_answers_a_question():
    for variant in VARIANTS:
        assert variant.question in QUESTIONS or variant.name == "base"
        resolve("emu-nano", {**SETTINGS, **variant.settings})
    for name, question in QUESTIONS.items():
        assert variants_of(name)[0].name == question.baseline and len(variants_of(name)) > 1
        assert set(question.measures) <= set(ablations.MEASURES)


def test_the_small_world_shows_its_things_only_and_keeps_scenes_back():
    world, kept = FewThings(), FewThings(held_out=True)
    shown = [world.scene(i) for i in range(200)]
    assert {group.label for scene in shown for group in scene.groups} == set(THINGS)
    assert len(world.keys) == 4 * len(world.labels) == len(world.countable_keys) == 48
    mine = {sample.scene.shows() for sample in ablations.distinct(kept, 100)}
    assert len(mine) == 100 and not mine & {scene.shows() for scene in shown}


def test_documents_are_measured_too(ran, small):
    folder, _, _ = ran
    root = folder / "runs/seed-0/base/emu-nano"
    model, processor = Emu.from_pretrained(root / "emu").eval(), EmuProcessor.from_pretrained(root)
    found = measures.measure(model, processor, documents=True)
    assert found["clip_loss"] > 0 and 0 <= found["direction"] <= 1
    assert found["gain"] == pytest.approx(found["sentence_loss"] - found["sentence_loss_4"])
    text = "a fox on a green background"
    alone = measures.last_text_loss(model, processor, [["a pig", text], [text]])
    ids = processor([["a pig", text]])["input_ids"]
    words = len(processor.encode(text))
    logits = model(ids).logits[0, -words - 1 : -1]
    assert alone[0].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, ids[0, -words:]).item(), rel=1e-4)
    total = measures.last_text_loss(model, processor, [["a pig", text]], total=True)
    assert total.item() == pytest.approx(words * alone[0].item(), rel=1e-4)


def test_nearest_minds_neither_length_nor_offset():
    true = torch.randn(64, 4, 8, generator=torch.Generator().manual_seed(0))
    assert measures.nearest(0.01 * true + 5, true) == 1.0
    assert measures.nearest(true.roll(1, 0), true) == 0.0


def test_a_difference_is_more_than_the_spread_of_seeds():
    assert differs([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert not differs([1.0, 1.1, 0.9], [1.2, 1.3, 1.1])
    assert not differs([1.0], [2.0])


def fake():
    """Three seeds of two questions, as the command would have written them."""
    found = {}
    for v, name in enumerate(["base", "shown", "pool", "random"]):
        runs = {}
        for seed in range(3):
            run = dict.fromkeys(
                ("caption_loss", "explained_free", "explained_forced", "nearest"), 0.1 * v + 0.01 * seed
            )
            curves = {"free_by_index": [0.1 * v] * 16, "forced_by_index": [0.5] * 16}
            runs[str(seed)] = {**run, **curves, "caption_blind": 2.0, "nearest_chance": 1 / 64}
        found[name] = runs
    return ablations.collect(found, ["exposure", "bridge"])


@pytest.mark.parametrize(("question", "panels"), [("bridge", 3), ("exposure", 6)])
def test_the_figure_has_a_panel_a_measure_and_a_point_a_seed(question, panels):
    figure = show_ablation(fake(), question)
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == panels
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(points) == 3 * len(variants_of(question))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][0] == QUESTIONS[question].says


def test_variants_called_by_a_number_stand_in_its_order():
    assert list(ablations.in_order({"base": "N = 16", "a": "N = 4", "b": "N = 64"})) == ["a", "base", "b"]
    assert list(ablations.in_order({"base": "1", "a": "0", "b": "0.1"})) == ["a", "b", "base"]
    assert list(ablations.in_order({"base": "with", "a": "2"})) == ["base", "a"]


def test_a_number_beyond_all_meaning_is_not_printed():
    results = fake()
    results["variants"]["pool"]["runs"]["1"]["explained_free"] = -9000.0
    (line,) = (line for line in ablations.lines(results, "bridge") if line.startswith("  pooling"))
    assert "explained_free far below 0;" in line and "9000" not in line


def test_a_number_far_below_is_marked_at_the_edge():
    results = fake()
    results["variants"]["pool"]["runs"]["1"]["explained_free"] = -9000.0
    figure = show_ablation(results, "bridge")
    assert [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_marker() == "<"] == [
        -0.5
    ] * 2  # and the mean
    assert "further below" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.axes[1].get_xlim()[0] > -1


def test_what_was_not_run_is_not_drawn():
    with pytest.raises(MinemuError, match="no question 'lss' in these results"):
        show_ablation(fake(), "lss")
    results = fake()
    del results["variants"]["base"]
    with pytest.raises(MinemuError, match="no run of variant 'base'"):
        show_ablation(results, "bridge")


def test_the_committed_results_are_whole(tmp_path):
    results = ablations.read_ablations(data_dir() / "ablations" / "results.json")
    assert results["seeds"] == [0, 1, 2] and set(results["questions"]) == set(QUESTIONS)
    assert "+changes" not in results["commit"] and results["command"].startswith("minemu ablate")
    for variant in VARIANTS:
        assert len(ablations.values(results, variant.name, "caption_loss")) == 3
        assert results["variants"][variant.name]["settings"] == json.loads(json.dumps(variant.settings))
    with pytest.raises(MinemuError, match="there is no results file"):
        ablations.read_ablations(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MinemuError, match="holds no ablations"):
        ablations.read_ablations(tmp_path / "other.json")
