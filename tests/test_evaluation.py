"""The judge on real pictures, the metrics against their definitions, and every task with an oracle and with a fool."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minemu import generation
from minemu.config import EmuConfig
from minemu.data import captions
from minemu.data.world import Group, Scene, ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation import efficientnet, judge, report, tasks
from minemu.evaluation.judge import Judge
from minemu.evaluation.likelihood import concept_scores
from minemu.evaluation.metrics import frechet_distance, newcombe, rate, ratio_interval, wilson
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.visual_decoder import VisualDecoder

# ---- the judge's eye -------------------------------------------------------------------------------------------------


def test_efficientnet_sees_what_the_published_network_sees():
    """Golden: logits of the network in PyPI's efficientnet-lite-pytorch 0.1.0, equal to ours bit for bit when this was written."""
    ramp = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    wave = torch.sin(torch.arange(224) / 9.0)
    net = efficientnet.pretrained()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    logits = net(0.5 * ramp + 0.5 * wave * wave[:, None])[0]
    torch.testing.assert_close(
        logits[:6], torch.tensor([-1.1662, 1.7120, -1.6739, -2.5592, -3.9216, -1.0118]), atol=1e-3, rtol=0
    )


def test_crop_finds_the_content_and_keeps_the_background():
    picture = torch.full((3, 64, 64), 0.5)
    assert judge.crop_to_content(picture) is picture
    picture[:, 10:30, 40:50] = -1.0  # 20 high, 10 wide
    cut = judge.crop_to_content(picture)
    assert cut.shape[1] == cut.shape[2] and 20 < cut.shape[1] < 30
    assert (cut == -1).sum() == 3 * 20 * 10
    assert cut[0, 0, 0] == 0.5
    assert judge.background_name(torch.tensor([158, 162, 170.0])[:, None, None].expand(3, 8, 8) / 127.5 - 1) == "gray"


@pytest.mark.parametrize(
    ("relation", "first"), [("left of", "left"), ("right of", "right"), ("above", "top"), ("below", "bottom")]
)
def test_halves_are_where_the_relation_says(relation, first):
    picture = torch.zeros(3, 4, 4)
    spot = {
        "left": (slice(None), slice(0, 2)),
        "right": (slice(None), slice(2, 4)),
        "top": (slice(0, 2),),
        "bottom": (slice(2, 4),),
    }
    picture[(slice(None), *spot[first])] = 1
    ours, others = judge.halves(picture, relation)
    assert ours.mean() == 1 and others.mean() == 0


LABELS = ["llama", "ox", "hammer", "violin", "pizza", "anchor", "rocket", "cactus", "strawberry", "guitar"]


def test_judge_names_real_drawings_of_any_size_style_and_background():
    labels = [label for label in LABELS if label in ToyWorld("seen").labels]
    assert len(labels) >= 5
    eye = Judge(labels=labels, cache="")
    worlds = [ToyWorld("seen"), ToyWorld("new-drawing")]
    scenes, pictures = [], []
    for world in worlds:
        for seed, (label, style) in enumerate(key for key in world.keys if key[0] in labels):
            size, ground = ("small", "medium", "big")[seed % 3], ("pink", "gray", "green", "yellow")[seed % 4]
            scenes.append(Scene((Group(label),), None, size, ground, style, seed))
            pictures.append(world.render(scenes[-1])[0])
    assert rate(eye.shows(pictures, scenes)) >= 0.9
    assert rate(eye.shows(pictures, scenes[1:] + scenes[:1])) <= 0.8  # and not everything is called right
    assert rate([found[1] == scene.style for found, scene in zip(eye.nearest(pictures), scenes, strict=True)]) >= 0.7

    world = worlds[0]
    pairs = [
        Scene((Group(a), Group(b)), relation, None, "orange", style, i)
        for i, relation in enumerate(["left of", "right of", "above", "below"] * 2)
        for style in ("noto", "twemoji")
        for a, b in [(labels[i % len(labels)], labels[(i + 1) % len(labels)])]
        if {(a, style), (b, style)} <= set(world.keys)
    ]
    pictures = [world.render(scene)[0] for scene in pairs]
    assert len(pairs) >= 4 and rate(eye.shows(pictures, pairs)) >= 0.9
    turned = [Scene(scene.groups[::-1], scene.relation, None, scene.background, scene.style) for scene in pairs]
    assert rate(eye.shows(pictures, turned)) == 0  # both concepts right but in the wrong halves is wrong


def test_judge_refuses_labels_without_a_drawing():
    with pytest.raises(MinemuError, match="no drawing of 'flying teapot'"):
        Judge(labels=["flying teapot"], cache="")


def test_judge_keeps_its_gallery(tmp_path, monkeypatch):
    first = Judge(labels=["llama"], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Judge, "features", None)  # the second time nothing is looked at
    assert torch.equal(Judge(labels=["llama"], cache=tmp_path).gallery, first.gallery)
    monkeypatch.undo()
    for labels in (["llama"], ["llama", "rocket"]):  # of another network, or of other drawings, another one
        monkeypatch.setattr(judge, "LOOK_SIZE", 64)
        Judge(labels=labels, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_judge_among_all_core_concepts():
    eye = Judge()
    for split, kind in (("seen", "single"), ("new-drawing", "single"), ("seen", "pair")):
        world = ToyWorld(split, kinds=(kind,), held_out=split == "seen", seed=3)
        samples = [world.sample(i) for i in range(200)]
        samples = [sample for sample in samples if all(group.count == 1 for group in sample.scene.groups)]
        assert rate(eye.shows([s.picture for s in samples], [s.scene for s in samples])) > 0.95


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_newcombes_interval_is_that_of_his_paper():
    """Statistics in Medicine 17, table II: of 56/70 and 48/80 the difference lies between 0.0524 and 0.3339."""
    first, second = ([True] * right + [False] * (n - right) for right, n in ((56, 70), (48, 80)))
    low, high = newcombe((rate(second), *wilson(second)), (rate(first), *wilson(first)))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_wilson_interval_equals_the_textbook_formula():
    low, high = wilson([True] * 8 + [False] * 2)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson([]) == (0.0, 1.0)
    assert wilson([True] * 5)[1] == 1.0 and wilson([False] * 5)[0] == 0.0


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.98), (0.9, 0.95), (0.2, 0.6)])
def test_the_interval_of_a_share_holds_the_true_one_in_95_of_100_samplings(p, q):
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        right, real = ((rng.random(200) < share).tolist() for share in (p, q))
        low, high = ratio_interval(right, real)
        held.append(low <= p / q <= high)
    assert 0.93 < np.mean(held) < 0.975


def test_the_interval_of_a_share_of_a_sure_judge_is_nearly_that_of_the_rate():
    right, sure = [True] * 120 + [False] * 80, [True] * 200
    assert np.allclose(ratio_interval(right, sure), wilson(right), atol=0.006)
    assert ratio_interval(right, sure)[0] <= 0.6 <= ratio_interval(right, sure)[1]
    assert ratio_interval([], []) == ratio_interval(right, [False] * 200) == (0.0, 1.0)
    assert ratio_interval([False] * 200, sure)[0] == 0.0 and ratio_interval(sure, sure)[1] == 1.0


def test_frechet_distance_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=generator)
    a, b = torch.randn(400, 5, generator=generator), torch.randn(300, 5, generator=generator) @ mix + 1
    cov_a, cov_b = (torch.from_numpy(np.cov(x.double().numpy().T)) for x in (a, b))
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()
    expected = (a.mean(0) - b.mean(0)).double().square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum()
    assert math.isclose(frechet_distance(a, b), float(expected), rel_tol=1e-4)
    assert abs(frechet_distance(a, a)) < 1e-6
    assert math.isclose(frechet_distance(a, a + 2), 20.0, rel_tol=1e-4)


# ---- tasks, with a cheap judge ---------------------------------------------------------------------------------------


class Thumbnails(nn.Module):
    """An eye that costs nothing: the picture in 16 x 16."""

    def features(self, images):
        return nn.functional.avg_pool2d(images, 8).flatten(1)


@pytest.fixture(scope="module")
def eye():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "pretrained", Thumbnails)
        return Judge(cache="")


class Oracle:
    """A pipeline that knows the right answer to everything in its worlds; `turn` answers each question with another's answer."""

    def __init__(self, turn=0):
        self.processor = SimpleNamespace(image_size=64)
        self.pictures, self.captions = {}, {}
        for split, kind in (("seen", "single"), ("seen", "pair"), ("new-drawing", "single")):
            world = ToyWorld(split, kinds=(kind,), held_out=split == "seen", seed=5)
            samples = [world.sample(i) for i in range(60)]
            for i, sample in enumerate(samples):
                answer = samples[(i + turn) % len(samples)]
                self.captions[sample.picture.tobytes()] = answer.caption
                self.pictures[sample.caption] = self.pictures[sample.picture.tobytes()] = answer.picture

    def chat_batch(self, prompts, **_):
        return [SimpleNamespace(text=self.captions[picture.tobytes()]) for (picture,) in prompts]

    def __call__(self, prompts, output_type, generator):
        keys = [item if isinstance(item, str) else item.tobytes() for (item,) in prompts]
        return SimpleNamespace(images=(torch.stack(judge.as_tensors([self.pictures[key] for key in keys])) + 1) / 2)


@pytest.fixture(scope="module")
def oracle():
    return Oracle()


@pytest.fixture(scope="module")
def fool():
    return Oracle(turn=7)


READING = [("caption", "seen"), ("scene-caption", "seen")]
DRAWING = [
    (name, split) for name in ("text-to-image", "scene-to-image", "autoencode") for split in tasks.TASKS[name].splits
]


@pytest.mark.parametrize(("task", "split"), READING + DRAWING)
def test_an_oracle_is_right_and_a_fool_is_not(task, split, oracle, fool, eye):
    result = tasks.evaluate(oracle, task, split, n=24, seed=5, judge=eye)
    assert (result.task, result.split, result.n, result.seed) == (task, split, 24, 5)
    assert result.score == 1.0 and result.upper_bound > 0.7
    assert result.blind <= 0.1 and 0 < result.chance < 0.01
    low, high = result.details["interval"]
    assert 0.7 < low < 1 and high == 1
    wrong = tasks.evaluate(fool, task, split, n=24, seed=5, judge=eye)
    assert wrong.score <= 0.1 and wrong.upper_bound == result.upper_bound


def test_caption_details_say_which_part_was_wrong(oracle):
    wrong = copy.copy(oracle)
    wrong.captions = {
        key: text.replace("small ", "").replace("Noto", "Fluent").replace("Flat", "Fluent")
        for key, text in oracle.captions.items()
    }
    result = tasks.evaluate(wrong, "caption", "seen", n=40, seed=5)
    parts = result.details["parts"]
    assert parts["groups"] == parts["background"] == 1.0 and 0 < parts["size"] < 1 and 0 < parts["style"] < 1
    assert result.score < min(parts.values()) + 1e-9
    assert set(result.details["examples"][0]) == {"true", "said"}


def test_chance_in_captions_is_every_part_guessed(oracle):
    result = tasks.evaluate(oracle, "caption", "seen", n=4, seed=5)
    assert result.chance == pytest.approx(1 / (250 * 3 * 8 * 4))


def test_style_and_background_of_a_drawing_are_those_asked_for(oracle, fool, eye):
    right, wrong = (
        tasks.evaluate(pipe, "text-to-image", "seen", n=24, seed=5, judge=eye).details for pipe in (oracle, fool)
    )
    assert right["style"] == right["background"] == 1
    assert wrong["style"] < 0.7 and wrong["background"] < 0.5


def test_new_drawing_ranks_all_core_labels(monkeypatch, oracle):
    labels = ToyWorld("seen").labels

    def scores(pipe, picture, of):
        assert of == labels
        true = captions.parse(pipe.captions[picture.tobytes()].replace("Fluent", "Noto"), labels).groups[0].label
        place = labels.index(true)
        return -torch.tensor(
            [abs(i - place + 2.1) for i in range(len(labels))]
        )  # the truth is third, or a little later

    monkeypatch.setattr(tasks, "concept_scores", scores)
    result = tasks.evaluate(oracle, "caption", "new-drawing", n=20, seed=5)
    assert result.score == 0.0 and result.details["top5"] >= 0.9 and result.details["top5_chance"] == 5 / 250
    assert result.chance == 1 / 250


def test_bad_questions_get_one_clear_line(oracle):
    for task, split, n, message in [
        ("captoin", None, None, "unknown task 'captoin': did you mean 'caption'"),
        ("edit", None, None, "task 'edit' is not trained yet; take one of caption"),
        ("caption", "sen", None, "has no split 'sen': did you mean 'seen'"),
        ("scene-caption", "new-drawing", None, "task 'scene-caption' has no split 'new-drawing'"),
        ("caption", "seen", 0, "--limit 0 is too few"),
    ]:
        with pytest.raises(MinemuError, match=message):
            tasks.evaluate(oracle, task, split, n)


def test_every_contract_task_is_listed():
    first = ["caption", "scene-caption", "text-to-image", "scene-to-image", "autoencode"]
    later = [
        "vqa",
        "video-qa",
        "video-caption",
        "form",
        "dialogue",
        "few-shot-names",
        "few-shot-vqa",
        "blend",
        "in-context-draw",
        "interleaved",
    ]
    last = ["attributes", "visual-prompt", "grounding", "subject", "edit"]
    assert list(tasks.TASKS) == first + later + last
    assert [name for name, task in tasks.TASKS.items() if task.run] == first + later
    assert tasks.trained(()) == first


# ---- likelihood ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano(processor):
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano")
    return EmuPipeline(Emu(config).eval(), processor, VisualDecoder(config.decoder))


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_likelihood_from_the_cache_equals_one_whole_pass(nano, monkeypatch, at_once):
    monkeypatch.setattr(generation, "SCORED", at_once)
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    texts = ["an ox", "a big llama on", "two kick scooters above grapes on a green background, Flat style"]
    found = nano.log_likelihoods([picture], texts)
    for text, value in zip(texts, found, strict=True):
        batch = nano.processor([[picture, text]])
        words = len(nano.processor.encode(text))
        with torch.no_grad():
            logits = nano.model(**batch).logits[0, -words - 1 : -1].log_softmax(-1)
        expected = logits.gather(-1, batch["input_ids"][0, -words:, None]).sum()
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-5)


def test_answers_are_ranked_by_their_mean_likelihood(nano):
    prompt = [Image.new("RGB", (32, 32), "red"), "what is this?"]
    answers = ["grapes", "an ox on a green background", "ox"]
    ranked = nano.rank(prompt, answers)
    scores = dict(zip(answers, nano.log_likelihoods(prompt, answers).tolist(), strict=True))
    lengths = {answer: len(nano.processor.encode(answer)) for answer in answers}
    assert dict(ranked) == pytest.approx({answer: scores[answer] / lengths[answer] for answer in answers}, abs=1e-5)
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    for nothing in ([], ["ox", ""]):
        with pytest.raises(MinemuError, match="no text to score, or an empty one; give at least one"):
            nano.rank(prompt, nothing)
    with pytest.raises(MinemuError, match="likelihoods are of several texts: give a list of them, such as .'abc', "):
        nano.log_likelihoods(prompt, "abc")
    for bare in (prompt[0], "dog.png", []):
        with pytest.raises(MinemuError, match=r"give a list of pictures: pipe.encode\(\[picture\]\)"):
            nano.encode(bare)
    with pytest.raises(MinemuError, match="leaves no room for what comes next"):
        nano.rank(prompt, ["ox " * 300])


def test_concept_scores_are_one_a_label_and_add_up_the_sizes(nano):
    picture = Image.new("RGB", (32, 32), "red")
    scores = concept_scores(nano, picture, ["ox", "kick scooter", "grapes"])
    sizes = nano.log_likelihoods([picture], ["a small ox on", "an ox on", "a big ox on"])
    assert scores.shape == (3,)
    torch.testing.assert_close(scores[0], sizes.logsumexp(0), atol=1e-4, rtol=1e-5)


# ---- report ----------------------------------------------------------------------------------------------------------


def some_results():
    details = {
        "interval": [0.9, 0.98],
        "top5": 0.5,
        "top5_interval": [0.4, 0.6],
        "top5_chance": 0.02,
        "top5_blind": 0.01,
    }
    return [
        tasks.Result("caption", "seen", 400, 3, 0.955, 1e-5, 0.0, 1.0, {"interval": [0.93, 0.97]}),
        tasks.Result("caption", "new-drawing", 200, 3, 0.2, 0.004, 0.005, 1.0, details),
    ]


def test_table_shows_every_result_beside_its_baselines():
    text = report.table(report.collect(some_results(), "emu-tiny"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {9}
    assert rows[2][1:] == ["seen", "400", "≥ 95% ✓", "**95.5%**", "93.0% – 97.0%", "< 0.1%", "0.0%", "100.0%"]
    assert rows[4][3:5] == ["≥ 45% ✓", "**50.0%**"]
    assert "seed 3" in text and "commit `" in text


def test_all_of_a_task_is_what_there_is_of_it():
    there = tasks.TASKS["blend"].most()
    assert tasks.at_most("blend", 10_000) == there and tasks.at_most("blend", 5) == 5
    assert tasks.at_most("blend", None) is None and tasks.at_most("caption", 10_000) == 10_000
    tasks.check("blend", None, there)
    with pytest.raises(
        MinemuError, match=f"--limit {there + 1} is more than the {there} samples that task 'blend' has"
    ):
        tasks.check("blend", None, there + 1)


def test_details_stand_beside_the_score():
    details = {"interval": [0.8, 0.9], "single_frame": 0.3, "single_frame_interval": [0.2, 0.4]}
    result = tasks.Result("video-qa", "seen", 240, 3, 0.87, 1 / 3, 0.25, 1.0, details)
    rows = [line for line in report.table(report.collect([result], "emu-tiny")).splitlines() if line.startswith("| ")]
    assert "| ≥ 85% ✓ | **87.0%** | 80.0% – 90.0% | 33.3% | 25.0% | 100.0% |" in rows[1]
    assert (
        "the middle frame eight times" in rows[2]
        and "|  | **30.0%** | 20.0% – 40.0% | 33.3% |  |  |" in rows[2]  # blind and bound were not measured for it
    )
    assert report.line(result).endswith("; the middle frame eight times 30.0%")


def test_a_detail_with_baselines_of_its_own():
    """Those of the score do not fit it: what is not known is left empty, and a detail that is not there has no row."""
    direction = {"n": 80, "rate": 0.9, "interval": [0.8, 0.95]}
    of_one = {"single_frame": 0.3, "single_frame_interval": [0.2, 0.4]}
    nearer = {"nearer_than_chance": 0.7, "nearer_than_chance_interval": [0.6, 0.8]}
    for also, n, baselines in (
        ({}, 240, "25.0% |  |  |"),
        ({"chance": 0.2, "blind": 0.3}, 240, "20.0% | 30.0% |  |"),
    ):
        details = {"interval": [0.8, 0.9], "parts": {"direction": direction | also | of_one}}
        result = tasks.Result("video-qa", "seen", n, 3, 0.87, 1 / 3, 0.25, 1.0, details)
        rows = [one for one in report.table(report.collect([result], "emu-tiny")).splitlines() if one.startswith("| ")]
        assert "a still, the middle frame eight times | seen | 80 |  | **30.0%** | 20.0% – 40.0% | 25.0% |" in rows[3]
        assert len(rows) == 4 and rows[2].startswith(
            "| questions about 8 frames: which way a thing moves | seen | 80 | ≥ 85% ✓ |"
        )
        assert rows[2].endswith(f"**90.0%** | 80.0% – 95.0% | {baselines}")
    measured = {"nearer_than_chance_n": 199, "nearer_than_chance_chance": 0.6, "nearer_than_chance_upper_bound": 0.8}
    for also, n, beside in (({}, 200, "66.7% |  |  |"), (measured, 199, "60.0% |  | 80.0% |")):
        details = {"interval": [0.0, 0.1], **nearer, **also}
        result = tasks.Result("blend", "all", 200, 3, 0.05, 0.004, 0.0, 0.99, details)
        table = report.table(report.collect([result], "emu-tiny"))
        assert f"a copy of one of the two) | all | {n} |  | **70.0%** | 60.0% – 80.0% | {beside}" in table


def test_bench_table_shows_ratio_and_aim():
    row = {"ratio": 5.26, "min": 5.0, "max": 5.5, "runs": 3, "against": "recomputing", "error": 2e-6}
    text = report.bench_table({"rows": {"image-embeds-n32": row}, "command": "minemu bench", "commit": "abc"})
    assert "| `image-embeds-n32` | recomputing | ≥ 5 × ✓ | **5.3 ×** | 5.0 – 5.5 × | 3 | 2e-06 |" in text


def test_collected_results_say_where_they_come_from(monkeypatch):
    monkeypatch.setattr("minemu.training.run.given", ["evaluate", "c", "--all"])
    collected = report.collect(some_results(), "emu-tiny")
    assert collected["preset"] == "emu-tiny" and collected["command"] == "minemu evaluate c --all"
    assert {"command", "commit", "versions", "preset", "results"} <= set(collected)
    assert {"task", "split", "n", "seed", "score", "chance", "blind", "upper_bound", "details"} <= set(
        collected["results"][0]
    )


def test_fill_replaces_only_what_stands_between_the_marks(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    for text in ("new", "newer"):
        report.fill(page, {"results": text})
    assert page.read_text() == "before\n<!-- results:begin -->\nnewer\n<!-- results:end -->\nafter\n"
    page.write_text("nothing here")
    with pytest.raises(MinemuError, match="has no place for the table; write the two lines <!-- results:begin -->"):
        report.fill(page, {"results": "new"})
    with pytest.raises(MinemuError, match="there is no file"):
        report.fill(tmp_path / "missing.md", {"results": "new"})
    page.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    with pytest.raises(MinemuError, match="the two lines <!-- bench:begin -->"):
        report.fill(page, {"results": "new", "bench": "new"})
    assert "new" not in page.read_text()


def test_a_file_without_results_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(MinemuError, match="is no results file; write one with: minemu bench --json"):
        report.read_bench(tmp_path / "x.json")
    with pytest.raises(MinemuError, match="is no results file; write one with: minemu evaluate"):
        report.read_results(tmp_path / "x.json")
    (tmp_path / "parity-emu1.json").write_text('{"tensors": {}}')
    with pytest.raises(MinemuError, match="parity-emu1.json is no results file; write one with: minemu parity"):
        report.read_parity(tmp_path)


def test_a_bench_of_the_other_kind_is_refused():
    samples = Path(__file__).parents[1] / "data_samples"
    with pytest.raises(MinemuError, match="bench.json is no results file; write one with: minemu bench --full-scale"):
        report.read_full_scale(samples / "emu-tiny" / "bench.json")
    with pytest.raises(MinemuError, match="full-scale.json is of minemu bench --full-scale; give it as --full-scale"):
        report.read_bench(samples / "published" / "full-scale.json")
