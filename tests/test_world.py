"""The toy world: every sample a pure function of its number, true to its caption, on its side of the splits."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from minemu.data.captions import caption, parse, same, unsaid
from minemu.data.datasets import CaptionDataset, as_hf_dataset, batch_samples
from minemu.data.world import BACKGROUNDS, SIZES, STYLES, Group, Scene, ToyWorld, is_held_out
from minemu.errors import MinemuError


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return ToyWorld()


def fingerprint(world: ToyWorld, numbers: list[int]) -> str:
    digest = hashlib.sha256()
    for i in numbers:
        sample = world.sample(i)
        digest.update(sample.pixels.tobytes() + sample.caption.encode() + sample.prompt.encode())
        digest.update(repr(sample.boxes).encode())
    return digest.hexdigest()


# ---- determinism -----------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_number_alone(world):
    forward = [world.scene(i) for i in range(50)]
    assert [world.scene(i) for i in reversed(range(50))][::-1] == forward
    assert ToyWorld(seed=1).scene(0) != world.scene(0)
    assert ToyWorld(held_out=True).scene(0) != world.scene(0)
    assert len(set(forward)) == 50


def test_another_process_draws_the_same_samples(world):
    numbers = [0, 7, 123_456_789]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_world import ToyWorld, fingerprint\n"
        f"print(fingerprint(ToyWorld(), {numbers}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.split()[-1] == fingerprint(world, numbers)


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_held_out_scenes_never_meet_training():
    training, evaluation = ToyWorld(), ToyWorld(held_out=True)
    seen = {training.scene(i).shows() for i in range(20_000)}
    owned = {evaluation.scene(i).shows() for i in range(1_000)}
    assert not seen & owned
    assert not any(is_held_out(training.scene(i)) for i in range(2_000))
    assert all(is_held_out(evaluation.scene(i)) for i in range(1_000))


def test_what_is_left_open_is_filled_with_what_training_may_show(shown):
    training, rng = ToyWorld(), np.random.default_rng(0)
    for i in range(300):
        told = training.sample(i).told
        whole = training.completed(told, rng)
        assert not is_held_out(whole) and same(whole, told, ignore=unsaid(told))
        for field in ("size", "background", "style"):
            assert getattr(told, field) in (None, getattr(whole, field))
        if told.alone:  # of a drawing whose size nobody tells every one comes
            assert whole.size in SIZES
    shown.clear()
    training.mean_picture(Scene((Group("llama"),)), 200)
    assert {scene.background for scene in shown} == set(BACKGROUNDS) and {scene.size for scene in shown} == set(SIZES)
    assert {scene.style for scene in shown} == {style for label, style in training.keys if label == "llama"}
    assert not any(map(is_held_out, shown)) and len({scene.seed for scene in shown}) == 200


def test_the_mean_picture_of_a_full_caption_is_a_picture_with_its_drawing_in_the_middle():
    training = ToyWorld(kinds=("single",))
    moves = []
    for i in range(60):
        sample = training.sample(i)
        mean = training.mean_picture(sample.scene, 8)
        elsewhere = replace(sample.scene, seed=i)  # the sample's own drawing stands where its seed says
        assert np.array_equal(mean, training.mean_picture(elsewhere, 1))
        places = range(-2, 3)
        moved = {(x, y): np.roll(mean, (y, x), (0, 1)) for x in places for y in places}
        [move] = [move for move, picture in moved.items() if np.array_equal(picture, sample.pixels)]
        moves.append(move)
    assert set(map(abs, np.ravel(moves))) == {0, 1} and np.abs(np.mean(moves, 0)).max() < 0.3


def test_the_mean_picture_is_blurred_where_the_words_leave_something_open():
    training = ToyWorld(kinds=("single",))
    told = Scene((Group("llama"),), background="white", style="twemoji")
    sharp = [replace(told, size=size) for size in SIZES]
    assert not told.whole and all(scene.whole for scene in sharp)
    edges = [np.abs(np.diff(training.mean_picture(scene, 32).astype(int), axis=1)).max() for scene in (told, *sharp)]
    assert edges[0] < 0.8 * min(edges[1:])


def test_about_five_percent_are_held_out(world):
    scenes = [
        Scene((Group(label),), None, size, background, style)
        for label, style in world.keys
        for size in SIZES
        for background in BACKGROUNDS
    ]
    assert np.mean([is_held_out(scene) for scene in scenes]) == pytest.approx(0.05, abs=0.01)


def test_holding_out_is_blind_to_seed_and_side():
    for i in range(300):
        scene = ToyWorld(kinds=("pair",)).scene(i)
        again = Scene(scene.groups, scene.relation, scene.size, scene.background, scene.style, seed=scene.seed + 1)
        assert is_held_out(scene) == is_held_out(again) == is_held_out(scene.turned())


def test_training_opens_only_the_seen_drawings(opened):
    for core in (True, False):
        training = ToyWorld("seen", core=core)
        for i in range(100):
            training.sample(i)
    assert opened == ["seen", "seen"]


@pytest.mark.parametrize("split", ["new-drawing", "new-concept"])
def test_new_splits_show_only_their_own_drawings(split, opened, world):
    new = ToyWorld(split)
    for i in range(300):
        scene = new.scene(i)
        (group,) = scene.groups
        assert group.count == 1
        assert (group.label, scene.style) in new.drawings.files
        assert (group.label, scene.style) not in world.drawings.files
        assert (group.label in world.labels) == (split == "new-drawing")
        new.sample(i)
    assert opened == [split]


@pytest.mark.parametrize("split", ["new-drawing", "new-concept"])
def test_a_new_pair_has_one_new_drawing(split, world):
    new = ToyWorld(split, kinds=("pair",))
    for i in range(200):
        scene = new.scene(i)
        known = [(group.label, scene.style) in world.drawings.files for group in scene.groups]
        assert sorted(known) == [False, True]
        sample = new.sample(i)
        assert same(scene, parse(sample.caption, new.labels))


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_mixture_of_kinds(world):
    scenes = [world.scene(i) for i in range(4_000)]
    singles = np.mean([scene.alone for scene in scenes])
    pairs = np.mean([scene.relation is not None for scene in scenes])
    assert singles == pytest.approx(0.5, abs=0.03)
    assert pairs == pytest.approx(0.4, abs=0.03)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert all((scene.size in SIZES) == scene.alone for scene in scenes)
    assert max(sum(group.count for group in scene.groups) for scene in scenes) == 3


def test_boxes_lie_around_what_is_drawn(world):
    for i in range(150):
        sample = world.sample(i)
        background = np.array(BACKGROUNDS[sample.scene.background])
        drawn = np.abs(sample.pixels.astype(int) - background).max(-1) > 20
        inside = np.zeros_like(drawn)
        for label, x0, y0, x1, y1 in sample.boxes:
            assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
            assert label in {group.label for group in sample.scene.groups}
            inside[y0:y1, x0:x1] = True
        assert not (drawn & ~inside).any()
        assert len(sample.boxes) == sum(group.count for group in sample.scene.groups)


def test_a_box_is_as_long_as_the_size_says(world):
    for i in range(300):
        sample = world.sample(i)
        if sample.scene.alone:
            _, x0, y0, x1, y1 = sample.boxes[0]
            assert SIZES[sample.scene.size] - 3 <= max(x1 - x0, y1 - y0) <= SIZES[sample.scene.size]


def test_relations_are_true_of_the_boxes():
    pairs = ToyWorld(kinds=("pair",))
    for i in range(400):
        scene = pairs.scene(i)
        _, boxes = pairs.render(scene)
        first, second = boxes[: scene.groups[0].count], boxes[scene.groups[0].count :]
        axis = 1 if scene.relation in ("left of", "right of") else 2
        before, after = (first, second) if scene.relation in ("left of", "above") else (second, first)
        assert max(box[axis + 2] for box in before) <= min(box[axis] for box in after)


def test_counted_drawings_do_not_overlap():
    counts = ToyWorld(kinds=("count",))
    for i in range(200):
        boxes = sorted(counts.sample(i).boxes, key=lambda box: box[1])
        assert all(one[3] <= two[1] for one, two in zip(boxes, boxes[1:], strict=False))


def test_captions_and_prompts_of_the_world_are_read_back(world):
    for i in range(2_000):
        scene = world.scene(i)
        assert same(scene, parse(caption(scene), world.labels))
        if i < 500:
            read = parse(world.sample(i).prompt, world.labels)
            assert same(scene, read, ignore=unsaid(read))


def test_every_label_is_read_back_alone_and_counted():
    whole = ToyWorld(core=False)
    for label in whole.labels:
        for size in (None, *SIZES):
            scene = Scene((Group(label),), None, size, "blue", "flat")
            assert same(scene, parse(caption(scene), whole.labels)), caption(scene)
    for label in whole.countable:
        for count in (2, 3):
            scene = Scene((Group(label, count),), None, None, "blue", "flat")
            assert same(scene, parse(caption(scene), whole.labels)), caption(scene)


@pytest.mark.parametrize("side", [32, 128])
def test_other_picture_sizes_scale_everything(world, side):
    scaled = ToyWorld(image_size=side)
    for i in range(20):
        mine, base = scaled.sample(i), world.sample(i)
        assert mine.pixels.shape == (side, side, 3) and mine.picture.size == (side, side)
        assert mine.caption == base.caption
        for box, base_box in zip(mine.boxes, base.boxes, strict=True):
            assert np.allclose(np.array(box[1:]) * 64 / side, base_box[1:], atol=3)


def test_render_and_sample_agree(world):
    sample = world.sample(3)
    picture, boxes = world.render(sample.scene)
    assert picture.mode == "RGB" and boxes == sample.boxes
    assert np.array_equal(np.asarray(picture), sample.pixels)
    assert np.array_equal(np.asarray(world.picture(3)), np.asarray(sample.picture))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"split": "new_drawing"}, "no split 'new_drawing' in the toy world: did you mean 'new-drawing'?"),
        ({"split": "xyz"}, "no split 'xyz' in the toy world: known: seen, new-drawing, new-concept"),
        ({"kinds": ("singel",)}, "no kind of scene 'singel' in the toy world: did you mean 'single'?"),
        ({"kinds": ()}, "needs at least one kind of scene: single, pair, count"),
        ({"image_size": 8}, "image_size 8 is too small to draw in: use 16 or more"),
        ({"seed": -1}, "seed -1 of the toy world is negative: use 0 or more"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, text):
    with pytest.raises(MinemuError) as error:
        ToyWorld(**arguments)
    assert text in str(error.value) and "\n" not in str(error.value)


def test_scenes_that_cannot_be_drawn_are_refused(world):
    with pytest.raises(MinemuError, match="no drawing of 'lama': did you mean 'llama'"):
        world.render(Scene((Group("lama"),), None, "big", "blue", "noto"))
    with pytest.raises(MinemuError, match=r"no drawing of 'qqqq': choose one of the \d+ labels"):
        world.render(Scene((Group("qqqq"),), None, "big", "blue", "noto"))
    label, style = next(iter(ToyWorld("new-drawing").drawings.files))
    with pytest.raises(MinemuError, match=f"split 'seen' has no {style} drawing of '{label}': take another style"):
        world.render(Scene((Group(label),), None, "big", "blue", style))
    with pytest.raises(MinemuError, match="without background or style cannot be drawn: set both"):
        world.render(parse("a llama", world.labels))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", "huge", "a scene's size is 'huge': "),
        ("background", "mauve", "a scene's background is 'mauve': "),
        ("style", "note", "a scene's style is 'note': did you mean 'noto'"),
        ("relation", "beside", "a scene's relation is 'beside': "),
        ("relation", "above", "one group, or two and a relation, not 1 with above"),
        ("groups", (Group("llama"), Group("snail")), "one group, or two and a relation, not 2 with None"),
        ("groups", (Group("llama", 4),), "4 drawings of 'llama' do not fit the picture: take 1 to 3"),
        ("groups", (Group("llama", 0),), "0 drawings of 'llama' do not fit the picture: take 1 to 3"),
    ],
)
def test_scenes_that_fit_no_picture_are_refused(world, field, value, message):
    scene = Scene((Group("llama"),), None, "big", "blue", "noto")
    world.render(scene)
    with pytest.raises(MinemuError, match=message):
        world.render(replace(scene, **{field: value}))


def test_a_half_of_a_picture_holds_two_drawings(world):
    pair = Scene((Group("llama", 2), Group("snail")), "above", None, "blue", "noto")
    assert len(world.render(pair)[1]) == 3
    with pytest.raises(MinemuError, match="3 drawings of 'llama' do not fit the picture: take 1 to 2"):
        world.render(replace(pair, groups=(Group("llama", 3), Group("snail"))))


# ---- data sets -------------------------------------------------------------------------------------------------------


def test_batches_are_pure(world):
    batch = batch_samples(world, 40, 5)
    assert [sample.scene for sample in batch] == [world.scene(i) for i in range(40, 45)]


def test_caption_dataset_feeds_a_loader(world):
    data = CaptionDataset(world, length=10, start=100)
    assert len(data) == 10 and data[-1].scene == world.scene(109)
    with pytest.raises(IndexError, match="sample 10 of a data set of 10"):
        data[10]
    batches = list(DataLoader(data, batch_size=4, collate_fn=list))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    pixels = torch.stack([torch.from_numpy(sample.pixels) for sample in batches[0]])
    assert pixels.shape == (4, 64, 64, 3) and pixels.dtype == torch.uint8


def test_hugging_face_dataset_holds_the_same(world):
    table = as_hf_dataset(world, 6, start=2)
    assert table.num_rows == 6
    for row, sample in zip(table, batch_samples(world, 2, 6), strict=True):
        assert np.array_equal(np.asarray(row["image"]), sample.pixels)
        assert (row["caption"], row["prompt"]) == (sample.caption, sample.prompt)
        assert [(label, *box) for label, box in zip(row["labels"], row["boxes"], strict=True)] == sample.boxes
