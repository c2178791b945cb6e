"""The five sources of the pretraining mixture: pure, true to their texts, and blind to what evaluation owns."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minemu.data import documents, kinds, movies, storyboards, world
from minemu.data.captions import noun_phrase, parse, plural, same, unsaid
from minemu.data.documents import by_time
from minemu.data.episodes import ALL_NAMES, NAMES
from minemu.data.lessons import LESSONS
from minemu.data.mixture import ALL_SOURCES, SOURCES, Mixture, MixtureConfig, ToySource, toy_mixture
from minemu.data.movies import DIRECTIONS, Movie
from minemu.data.scene import Group, Scene
from minemu.data.sources import DataFiles, open_mixture
from minemu.data.video import frame_numbers
from minemu.data.world import ToyWorld, is_held_out
from minemu.errors import MinemuError
from minemu.training.emu import follow_text
from minemu.training.recipes import RECIPES


@pytest.fixture(scope="module")
def training() -> ToyWorld:
    return ToyWorld()


def pictures(document: list) -> list[np.ndarray]:
    return [piece for piece in document if not isinstance(piece, str)]


def texts(document: list) -> list[str]:
    return [piece for piece in document if isinstance(piece, str)]


def equal(one: list, two: list) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, one, two))


# ---- the mixture -----------------------------------------------------------------------------------------------------


class Numbers:
    """A source whose documents say their numbers."""

    def document(self, number: int) -> list[str]:
        return [str(number)]


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from(ALL_SOURCES), st.integers(0, 9), min_size=1).filter(lambda w: any(w.values())),
    st.integers(0, 2**31),
    st.integers(0, 5),
)
def test_every_block_holds_each_source_in_its_share_and_in_order(weights, seed, first_block):
    mixture = Mixture({name: Numbers() for name in weights}, weights, seed)
    size = sum(mixture.weights.values())
    places = [mixture.place(i) for i in range(first_block * size, (first_block + 2) * size)]
    for name, weight in mixture.weights.items():
        numbers = [number for source, number in places if source == name]
        assert numbers == list(range(first_block * weight, (first_block + 2) * weight))
    assert mixture.document(first_block * size) == [str(places[0][1])]


def test_texts_are_of_conversations_and_have_no_pictures(training):
    said = [LESSONS["texts"](training, i) for i in range(40)]
    assert all(len(document) == 1 and isinstance(document[0], str) for document in said)
    words = " ".join(document[0] for document in said)
    assert "1. " in words and "answer in one word." in words and "that is not true." in words


def test_the_papers_weights(training):
    assert toy_mixture(training).weights == {"labels": 8, "scenes": 8, "interleaved": 4, "clips": 1, "storyboards": 1}
    halves = Mixture({"a": Numbers(), "b": Numbers()}, {"a": 128, "b": 128, "c": 0})
    assert halves.weights == {"a": 1, "b": 1}


def test_another_seed_is_another_order_of_documents(training):
    mixtures = [open_mixture(MixtureConfig(), DataFiles(), training, len, 4, seed) for seed in (0, 1)]
    one, other = ([mixture.place(i) for i in range(22)] for mixture in mixtures)
    assert one != other


@pytest.mark.parametrize(
    "weights, text",
    [
        ({"labels": 0}, "every source of the mixture has weight 0: give one of them more"),
        ({"labels": 0.5}, "the weight of source 'labels' is 0.5: give a whole number, 0 or more"),
        ({"labels": -1}, "the weight of source 'labels' is -1: give a whole number, 0 or more"),
        ({"lables": 1}, "source 'lables' has weight 1 but no data: did you mean 'labels'?"),
    ],
)
def test_bad_weights_are_refused_in_one_line(weights, text):
    with pytest.raises(MinemuError) as error:
        Mixture({"labels": Numbers()}, weights)
    assert str(error.value) == text


def test_a_negative_seed():
    with pytest.raises(MinemuError, match="seed -1 of the mixture is negative: use 0 or more"):
        Mixture({"labels": Numbers()}, {"labels": 1}, seed=-1)


def test_unknown_source(training):
    with pytest.raises(MinemuError, match="no source 'clip' in the mixture: did you mean 'clips'?"):
        ToySource("clip", training)


# ---- toy documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_SOURCES)
def test_a_document_depends_on_its_number_alone(name, training):
    source = ToySource(name, training)
    forward = [source.document(i) for i in range(6)]
    again = [ToySource(name, ToyWorld()).document(i) for i in reversed(range(6))][::-1]
    assert all(equal(one, two) for one, two in zip(forward, again, strict=True))
    assert not equal(forward[0], forward[1])
    assert not equal(ToySource(name, ToyWorld(seed=1)).document(0), forward[0])
    for document in forward:
        assert texts(document) and all(texts(document))
        for picture in pictures(document):
            assert torch.from_numpy(picture).shape == (64, 64, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize("name", SOURCES)
def test_pictures_stand_on_either_side_of_their_text(name, training):
    first = [isinstance(ToySource(name, training).document(i)[0], str) for i in range(40)]
    assert sum(first) > 5
    if name in ("interleaved", "storyboards"):  # they begin with a title; a picture follows it, or ends all
        last = [isinstance(ToySource(name, training).document(i)[-1], str) for i in range(40)]
        assert 5 < sum(last) < 35
    else:
        assert sum(first) < 35


def test_a_picture_or_a_clip_alone_is_mostly_followed_by_its_caption(training, monkeypatch):
    """Whatever else begins with one picture and goes on in words competes with it: labels, and what a dictionary says.

    The shares are 0.83 and 0.76, with standard errors of 0.012 and 0.023.
    """
    blank = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(ToyWorld, "_paint", lambda self, scene: (blank, []))
    mixture, followed, clips = toy_mixture(training, RECIPES["emu-tiny"].mixture), [], []
    for i in range(14_000):
        document = mixture.document(i)
        if len(document) == 9 and all(not isinstance(piece, str) for piece in document[:8]):
            clips.append("?" not in document[8])
        if not isinstance(document[0], str) and isinstance(document[1], str):
            followed.append(parse(document[1], training.labels))
    full = [scene for scene in followed if scene is not None and scene.style and scene.background]
    assert len(followed) > 1000 and len(full) / len(followed) > 0.75
    assert len(clips) > 180 and sum(clips) / len(clips) > 0.75


def test_how_many_pictures(training):
    counts = {name: [len(pictures(ToySource(name, training).document(i))) for i in range(30)] for name in SOURCES}
    assert set(counts["labels"]) == set(counts["scenes"]) == {1}
    assert set(counts["clips"]) == {8}
    assert max(counts["interleaved"]) == 5 and len(set(counts["interleaved"])) > 2
    assert set(counts["storyboards"]) == {3, 4, 5}
    assert len(pictures(ToySource("clips", training, frames=3).document(0))) == 3


def test_a_lesson_ends_with_what_its_first_pieces_teach(training):
    begins = {True: 0, False: 0}  # with a title
    for i in range(80):
        asked = LESSONS["questions"](training, i)
        begins[isinstance(asked[0], str)] += 1
        if isinstance(asked[0], str):
            assert asked.pop(0) == "questions:"
        assert not isinstance(asked[0], str) and all("? " in text and text.endswith(".") for text in texts(asked))
        assert len(pictures(asked)) in {len(texts(asked)), 8}
    assert min(begins.values()) > 5


def test_new_names_are_taught_by_one_picture_and_by_many(training):
    """What was named is named again: after the very same picture, after another one of it."""
    for i in range(0, 30, 3):
        title, *pieces = LESSONS["names"](training, i)
        shown = {(picture.tobytes(), told) for picture, told in zip(pieces[::2], pieces[1::2], strict=True)}
        assert title == "new names:" and pieces[-1] in pieces[1:-2:2] and len(shown) == len(set(pieces[1::2]))
        for other in (i + 1, i + 2):
            *examples, picture, told = LESSONS["names"](training, other)
            assert told in texts(examples) and all((picture != one).any() for one in pictures(examples))
    many = {len(pictures(LESSONS["names"](training, i))) for i in range(60)}
    assert many == {ways * shots + 1 for ways in (2, 3) for shots in (2, 3, 4)}


def test_a_row_says_few_words_again_and_again(training):
    rows = [LESSONS["copying"](training, i)[0].split() for i in range(80)]
    periods = [next(p for p in range(1, 20) if row[p:] == row[:-p]) for row in rows]
    assert {len(row) for row in rows} == {40} and len(set(periods)) > 8
    assert min(len(set(row)) for row in rows) <= 2 < 9 < max(len(set(row)) for row in rows)
    known = {word for label in training.labels for word in label.split()}
    assert set(chain(*rows[::2])) <= known and set(chain(*rows[1::2])) <= set(NAMES)


def test_a_key_is_followed_by_its_value_again_and_again(training):
    gaps, ways = set(), set()
    for i in filter(lambda i: i % 4 < 2, range(160)):
        row = LESSONS["recall"](training, i)[0].split()
        size = len(row) // 12
        told = [tuple(row[k : k + size]) for k in range(0, len(row), size)]
        keys, between, values = (
            {part(one) for one in told} for part in (lambda t: t[0], lambda t: t[1:-1], lambda t: t[-1])
        )
        assert len(set(told)) == len(keys) == len(values) and len(between) == 1 and min(map(told.count, told)) >= 2
        assert not keys & values and values <= (set(ALL_NAMES) if i % 2 else {*chain(*map(str.split, training.labels))})
        gaps.add(size - 2), ways.add(len(keys))
    assert gaps == set(range(5)) and ways == set(range(2, 7))
    for i in range(2, 80, 4):
        examples = LESSONS["recall"](training, i)[0].removeprefix("new names: ").removesuffix(".").split(". ")
        things, said = zip(*(example.split(": this is a ") for example in set(examples)), strict=True)
        assert (
            len(examples) == 12
            and len(set(things)) == len(set(said)) == len(things) > 1
            and set(said) <= set(ALL_NAMES)
        )
        assert {thing.removeprefix("an ").removeprefix("a ") for thing in things} <= set(training.labels)


def test_the_given_pictures_of_a_lesson_are_read_and_the_last_is_written(training):
    assert follow_text(LESSONS["in_context"](training, 0)) == [False, False, True]
    assert follow_text(LESSONS["drawings"](training, 0)) == [True]
    assert not any(follow_text(LESSONS["names"](training, 0)))
    assert not any(follow_text(LESSONS["questions"](training, 0)))


@pytest.mark.parametrize("name", ["labels", "scenes"])
def test_captions_tell_the_scene_that_is_shown(name, training, shown):
    for i in range(40):
        shown.clear()
        (text,) = texts(ToySource(name, training).document(i))
        (scene,), read = shown, parse(text, training.labels)
        assert same(scene, read, ignore=unsaid(read)), text


def test_sentences_tell_the_scenes_that_are_shown_in_their_order(training, shown):
    for i in range(20):
        shown.clear()
        _, *rest = documents._sentences(training, training.generator(i))
        for scene, text in zip(shown, texts(rest), strict=True):
            read = parse(text, training.labels)
            assert same(scene, read, ignore=unsaid(read)), text


@pytest.mark.parametrize(
    "name", [name for name in ALL_SOURCES if name not in ("copying", "recall")]
)  # which show nothing
def test_training_never_shows_a_scene_that_evaluation_owns(name, opened, shown, monkeypatch):
    training = ToyWorld()
    movie = movies.any_movie
    monkeypatch.setattr(movies, "any_movie", lambda *args: shown.append((it := movie(*args)).first) or it)
    compose = movies._on_background
    monkeypatch.setattr(movies, "_on_background", lambda *args: shown.append(args[-1]) or compose(*args))
    for i in range(60):
        ToySource(name, training).document(i)
    assert len(shown) >= 30
    assert not any(is_held_out(scene) for scene in shown)
    assert set(opened) == {"seen"}


@pytest.mark.parametrize("name", SOURCES)
def test_evaluation_draws_from_its_own_scenes(name, shown):
    held_out = ToyWorld(held_out=True)
    for i in range(4):
        ToySource(name, held_out).document(i)
    assert all(is_held_out(scene) for scene in shown)


def test_a_list_shows_things_of_its_kind(training):
    for i in range(20):
        heading, *rest = documents._list_of_kind(training, training.generator(i))
        labels = [text.split(" ", 1)[-1] if text.startswith(("a ", "an ")) else text for text in texts(rest)]
        assert len(set(labels)) == len(labels) == len(pictures(rest))
        many = documents.title(len(labels)).removesuffix(":")
        assert {f"{many} of {plural(kinds.kind(label))}:" for label in labels} == {heading}


# ---- clips -----------------------------------------------------------------------------------------------------------


def test_a_drawing_moves_where_its_caption_says(training):
    for i, (direction, (dx, dy)) in enumerate(list(DIRECTIONS.items()) * 3):
        movie = movies.moving(training, training.generator(i), direction)
        background = np.array(world.BACKGROUNDS[movie.first.background])
        centres = []
        for frame in movies.frames(training, movie):
            ys, xs = np.nonzero(np.abs(frame.astype(int) - background).max(-1) > 20)
            centres.append((xs.mean(), ys.mean()))
        (x0, y0), (x1, y1) = centres[0], centres[-1]
        assert (x1 - x0) * dx + (y1 - y0) * dy > 12 and abs((x1 - x0) * dy) + abs((y1 - y0) * dx) < 4
        assert f" moves {'to the ' if dx else ''}{direction} on a" in movies.caption(movie)


def test_the_frame_in_the_middle_says_nothing_about_the_direction(training):
    """One-frame baseline: the same drawing at the same place, wherever it is going."""
    movie = movies.moving(training, training.generator(0), "left")
    middle = [
        movies._moved(training, Movie(movie.first, movie.last, direction), movies.LENGTH // 2).astype(int)
        for direction in DIRECTIONS
    ]
    assert all(np.abs(frame - middle[0]).mean() < 12 for frame in middle[1:])
    ends = [movies._moved(training, Movie(movie.first, movie.last, d), 0).astype(int) for d in ("left", "right")]
    assert np.abs(ends[0] - ends[1]).mean() > 12


@pytest.mark.parametrize("change", [*movies.CHANGES, None])
def test_exactly_one_thing_changes(change, training):
    for i in range(10):
        movie = movies.changing(training, training.generator(i), change)
        assert movie.change == change
        frames = movies.frames(training, movie)
        assert len(frames) == 8
        assert np.array_equal(frames[0], frames[3]) and np.array_equal(frames[4], frames[7])
        assert np.array_equal(frames[0], frames[7]) == (change is None)


def test_captions_of_changes():
    llama = Scene((Group("llama"),), None, "small", "green", "noto")
    big, blue = (
        Scene((Group("llama"),), None, "big", "green", "noto"),
        Scene((Group("llama"),), None, "small", "blue", "noto"),
    )
    fox = Scene((Group("fox"),), None, "small", "green", "noto")
    assert movies.caption(Movie(llama, big)) == "a llama grows on a green background, Noto style"
    assert movies.caption(Movie(big, llama)) == "a llama shrinks on a green background, Noto style"
    assert movies.caption(Movie(llama, blue)) == "a llama on a green background, then on a blue background, Noto style"
    assert movies.caption(Movie(llama, fox)) == "a llama turns into a fox on a green background, Noto style"
    assert movies.caption(Movie(llama, llama)) == "a llama stays still on a green background, Noto style"
    assert movies.caption(Movie(llama, llama, "up")) == "a llama moves up on a green background, Noto style"


def test_captions_of_clips_tell_the_movie_that_is_shown(training, monkeypatch):
    made, any_movie = [], movies.any_movie
    monkeypatch.setattr(movies, "any_movie", lambda *args: made.append(any_movie(*args)) or made[-1])
    told = []
    for i in range(40):
        document = ToySource("clips", training, frames=1).document(i)
        if len(made) > len(told):  # and no shipped animation
            told += texts(document)
    assert len(told) > 20 and told == [movies.caption(movie) for movie in made]


def test_the_parts_of_a_caption_are_read_back(training):
    for i in range(60):
        movie = movies.any_movie(training, training.generator(i))
        thing, event, look = movies.parse(movies.caption(movie))
        assert thing + event + look == movies.caption(movie)
        assert thing == noun_phrase(movie.first.groups[0]) and (" moves " in event) == bool(movie.direction)
        assert look.startswith(" on a") and look.count("background") == 1
    assert movies.parse("a llama on a green background, Noto style") is None and movies.parse("") is None


def test_shipped_animations_move_on_a_coloured_background(training):
    frames, text = movies.animation(training, training.generator(3), count=8, random_frames=False)
    scene = parse(text, training.labels)
    assert tuple(frames[0][0, 0]) == world.BACKGROUNDS[scene.background]
    assert not np.array_equal(frames[0], frames[4])


@given(st.integers(1, 100), st.integers(1, 20), st.integers(0, 2**31))
def test_frame_numbers_are_ordered_and_inside(total, count, seed):
    uniform = frame_numbers(total, count)
    drawn = frame_numbers(total, count, np.random.default_rng(seed))
    for numbers in (uniform, drawn):
        assert len(numbers) == count and numbers == sorted(numbers)
        assert numbers[0] >= 0 and numbers[-1] < total
    if total >= count:
        assert len(set(drawn)) == len(set(uniform)) == count


def test_a_clip_without_frames():
    with pytest.raises(MinemuError, match="the clip has no frames; give one that has at least one"):
        frame_numbers(0)
    with pytest.raises(MinemuError, match="0 frames of a clip are wanted; take 1 or more"):
        frame_numbers(16, 0)


# ---- storyboards -----------------------------------------------------------------------------------------------------


def test_a_storyboard_tells_what_follows(training):
    for i in range(30):
        story = storyboards.storyboard(training, training.generator(i))
        scenes = [scene for _, scene in story.thumbnails]
        assert len(story.subtitles) == len(scenes)
        assert all(one.shows() != two.shows() for one, two in zip(scenes, scenes[1:], strict=False))
        assert len({scene.style for scene in scenes}) == 1
        document = storyboards.as_document(training, story)
        assert document[0].startswith("a story:")
        assert len(document) == 2 * len(scenes) + (document[0] == "a story:")  # picture and sentence in turn
        assert "this is a" in " ".join(texts(document)[:2])


def test_a_storyboard_says_where_its_things_stand(training):
    said = 0
    for i in range(30):
        story = storyboards.storyboard(training, training.generator(i))
        for (_, scene), (_, text) in zip(story.thumbnails, story.subtitles, strict=True):
            if scene.relation and "background" not in text:
                said += 1
                assert f" is {scene.relation} " in text
    assert said > 10


@given(st.lists(st.tuples(st.floats(0, 99), st.sampled_from(["a", "b"]))), st.lists(st.floats(0, 99)))
def test_pictures_and_subtitles_come_in_the_order_of_their_times(subtitles, times):
    document = by_time([(time, np.array(time)) for time in times], subtitles)
    assert [float(piece) for piece in pictures(document)] == sorted(times)
    assert " ".join(texts(document)).split() == [text for _, text in sorted(subtitles, key=lambda item: item[0])]
    assert not any(
        isinstance(one, str) and isinstance(two, str) for one, two in zip(document, document[1:], strict=False)
    )


def test_prompts_come_before_pictures_and_captions_after(training):
    for i in range(40):
        document = ToySource("scenes", training).document(i)
        read = parse(texts(document)[0], training.labels)
        assert isinstance(document[0], str) or not {"background", "style"} & set(unsaid(read))
