"""Toy scenes as English and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minemu.data.captions import (
    article,
    caption,
    is_countable,
    is_uncounted,
    parse,
    plural,
    prompt,
    same,
    tokenizer_corpus,
    unsaid,
)
from minemu.data.scene import BACKGROUNDS, RELATIONS, SIZES, STYLES, Group, Scene
from minemu.errors import MinemuError

# Every way a label can be hard: plural only, mass, irregular, hyphen, colon, preposition, apostrophe, colour, number.
LABELS = (
    "llama", "kick scooter", "orange", "orange heart", "grapes", "scissors", "bread", "house", "houses", "musical note",
    "musical notes", "mouse", "ox", "fish", "tropical fish", "sheep", "wolf", "maple leaf", "cactus", "bus", "glass",
    "glasses", "t-rex", "jack-o-lantern", "person: red hair", "bowl with spoon", "heart on fire", "face in clouds",
    "couch and lamp", "unicorn", "hourglass done", "one o’clock", "man’s shoe", "piñata", "two-hump camel",
    "left arrow", "big cat", "game die", "strawberry",
)  # fmt: skip


WORDS = ["a", "an", "two", "big", "llama", "grapes", "left of", "above", "on", "blue", "background", ",", "style"]


@st.composite
def scenes(draw) -> Scene:
    groups = []
    many = draw(st.integers(1, 2))
    for _ in range(many):
        label = draw(st.sampled_from(LABELS))
        groups.append(Group(label, draw(st.integers(1, 4 - many)) if is_countable(label) else 1))
    return Scene(
        tuple(groups),
        draw(st.sampled_from(RELATIONS)) if len(groups) == 2 else None,
        draw(st.sampled_from(tuple(SIZES))) if len(groups) == 1 and groups[0].count == 1 else None,
        draw(st.sampled_from(tuple(BACKGROUNDS))),
        draw(st.sampled_from(STYLES)),
        draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=400, deadline=None)
@given(scenes())
def test_a_caption_is_read_back_whole(scene):
    read = parse(caption(scene), LABELS)
    assert same(scene, read)
    assert (read.groups, read.relation, read.background, read.style) == (
        scene.groups, scene.relation, scene.background, scene.style,
    )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(scenes(), st.integers(0, 2**32 - 1))
def test_all_that_a_prompt_says_is_read_back(scene, seed):
    text = prompt(scene, np.random.default_rng(seed))
    read = parse(text, LABELS)
    assert read is not None, text
    assert same(scene, read, ignore=unsaid(read)), text
    assert ("style" in unsaid(read)) == (" style" not in text)
    assert ("background" in unsaid(read)) == (" background" not in text)


@settings(max_examples=300, deadline=None)
@given(scenes(), scenes())
def test_different_scenes_have_different_captions(one, other):
    assert (caption(one) == caption(other)) <= same(one, other)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_read_or_refused(text):
    read = parse(text, LABELS)
    assert read is None or isinstance(read, Scene)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "llama", "a llamas", "two llama", "four llamas", "an unknown on a blue background",
        "a llama on a mauve background", "a llama left of", "a big llama left of a big ox", "two big llamas",
        "a llama, Cubist style", "a llama, Noto style, Noto style", "a llama a llama", "a grapes a", "a small grapes x",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text):
    assert parse(text, LABELS) is None


def test_reading_forgives_case_spaces_and_a_full_stop():
    read = parse("  A big  LLAMA on a green background, twemoji style. ", LABELS)
    assert read == Scene((Group("llama"),), None, "big", "green", "twemoji")


def test_the_captions_of_the_documentation():
    big = Scene((Group("llama"),), None, "big", "green", "twemoji")
    assert caption(big) == "a big llama on a green background, Twemoji style"
    pair = Scene((Group("llama", 2), Group("kick scooter")), "above", None, "blue", "noto")
    assert caption(pair) == "two llamas above a kick scooter on a blue background, Noto style"
    medium = Scene((Group("ox"),), None, "medium", "orange", "flat")
    assert caption(medium) == "an ox on an orange background, Flat style"


@pytest.mark.parametrize(
    "label, with_article, two",
    [
        ("llama", "a llama", "two llamas"), ("ox", "an ox", "two oxen"), ("mouse", "a mouse", "two mice"),
        ("maple leaf", "a maple leaf", "two maple leaves"), ("wolf", "a wolf", "two wolves"),
        ("tropical fish", "a tropical fish", "two tropical fish"), ("ewe", "an ewe", "two ewes"),
        ("unicorn", "a unicorn", "two unicorns"), ("hourglass", "an hourglass", "two hourglasses"),
        ("one-piece swimsuit", "a one-piece swimsuit", "two one-piece swimsuits"), ("onion", "an onion", "two onions"),
        ("x-ray", "an x-ray", "two x-rays"), ("umbrella", "an umbrella", "two umbrellas"), ("key", "a key", "two keys"),
        ("cherry blossom", "a cherry blossom", "two cherry blossoms"), ("butterfly", "a butterfly", "two butterflies"),
        ("bus", "a bus", "two buses"), ("box", "a box", "two boxes"), ("peach", "a peach", "two peaches"),
        ("cactus", "a cactus", "two cacti"), ("snowman", "a snowman", "two snowmen"),
        ("game die", "a game die", "two game dice"),
        ("bowl with spoon", "a bowl with spoon", "two bowls with spoon"), ("scarf", "a scarf", "two scarves"),
        ("person lifting weights", "a person lifting weights", "two people lifting weights"),
        ("rhinoceros", "a rhinoceros", "two rhinoceroses"), ("potato", "a potato", "two potatoes"),
    ],
)  # fmt: skip
def test_articles_and_plurals(label, with_article, two):
    assert f"{article(label)} {label}" == with_article
    assert f"two {plural(label)}" == two
    assert is_countable(label)


@pytest.mark.parametrize(
    "label", ["grapes", "scissors", "french fries", "bread", "bubble tea", "skis", "people hugging"]
)
def test_some_labels_take_no_article_and_are_never_counted(label):
    assert is_uncounted(label) and not is_countable(label)
    scene = Scene((Group(label),), None, "big", "pink", "noto")
    assert caption(scene) == f"big {label} on a pink background, Noto style"
    assert same(scene, parse(caption(scene), [label]))


def test_what_fits_no_picture_is_no_caption():
    assert parse("two llamas above an ox", LABELS) and parse("three llamas", LABELS)
    assert parse("three llamas above an ox", LABELS) is None and parse("an ox above three llamas", LABELS) is None


def test_several_notes_are_not_the_label_musical_notes():
    assert parse("two musical notes", LABELS).groups == (Group("musical note", 2),)
    assert parse("musical notes", LABELS).groups == (Group("musical notes"),)


def test_left_and_right_tell_the_same_picture():
    left = Scene((Group("ox"), Group("llama")), "left of", None, "blue", "noto")
    right = Scene((Group("llama"), Group("ox")), "right of", None, "blue", "noto")
    wrong = Scene((Group("llama"), Group("ox")), "left of", None, "blue", "noto")
    assert same(left, right) and same(right, left) and not same(left, wrong)
    assert same(left, Scene(wrong.groups, "right of", None, "pink", "noto"), ignore=["background"])


@pytest.mark.parametrize(
    "field, other",
    [
        ("groups", Scene((Group("ox"),), None, "big", "green", "twemoji")),
        ("groups", Scene((Group("llama", 2),), None, None, "green", "twemoji")),
        ("size", Scene((Group("llama"),), None, None, "green", "twemoji")),
        ("background", Scene((Group("llama"),), None, "big", "blue", "twemoji")),
        ("style", Scene((Group("llama"),), None, "big", "green", "flat")),
    ],
)
def test_each_difference_counts_unless_ignored(field, other):
    scene = Scene((Group("llama"),), None, "big", "green", "twemoji")
    assert not same(scene, other)
    assert same(scene, other, ignore=[field, "size"])
    assert not same(scene, None)


def test_ignoring_an_unknown_field_is_an_error():
    scene = Scene((Group("llama"),))
    with pytest.raises(MinemuError, match="cannot ignore 'colour'.*known: groups, relation, size, background, style"):
        same(scene, scene, ignore=["colour"])
    with pytest.raises(MinemuError, match="did you mean 'style'"):
        same(scene, scene, ignore=["styles"])


def test_prompts_leave_parts_out_at_the_stated_rate():
    scene = Scene((Group("llama"),), None, "big", "green", "twemoji")
    rng = np.random.default_rng(0)
    texts = [prompt(scene, rng) for _ in range(2000)]
    for part in ("big", "green background", "Twemoji style"):
        assert sum(part in text for text in texts) / len(texts) == pytest.approx(0.7, abs=0.04)
    assert len(set(texts)) == 8


def test_the_tokenizer_corpus_has_every_word():
    texts = " ".join(tokenizer_corpus(LABELS))
    for word in (
        "two",
        "three",
        "Twemoji style",
        "left of",
        "right of",
        "above",
        "below",
        "small",
        "oxen",
        *BACKGROUNDS,
    ):
        assert word in texts
    assert all(label in texts for label in LABELS)
