"""Questions, dialogues, episodes and conversations: true answers, balanced so that a blind guesser is near chance."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from minemu.data import kinds, questions
from minemu.data.captions import noun_phrase, parse
from minemu.data.conversations import (
    FORMS,
    SYSTEM_IMAGE,
    SYSTEM_VIDEO,
    Conversation,
    Turn,
    conversation,
    follows,
    inventory,
)
from minemu.data.corpus import Unpainted, corpus
from minemu.data.dialogues import dialogue
from minemu.data.episodes import ALL_NAMES, NAMES, TEST_NAMES, WISHES, blend, blends, in_context, names_episode
from minemu.data.questions import ASKS, CLIP_ASKS, clip_question, question
from minemu.data.scene import BACKGROUNDS, STYLE_NAMES, Group, Scene
from minemu.data.world import ToyWorld, is_held_out
from minemu.errors import MinemuError


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return ToyWorld()


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    """Most of these tests read texts alone; those that look at pictures are marked by using `pictures`."""
    if "pictures" not in request.fixturenames:
        blank = np.zeros((64, 64, 3), np.uint8)
        monkeypatch.setattr(ToyWorld, "_paint", lambda self, scene: (blank, []))
        monkeypatch.setattr(ToyWorld, "place", lambda self, *args: None)


@pytest.fixture
def pictures() -> None:
    """Really draw."""


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask, asks", [(question, asks) for asks in ASKS] + [(clip_question, asks) for asks in CLIP_ASKS]
)
def test_a_blind_guesser_is_near_chance(ask, asks, world):
    """The best that can be done from the question's text, learnt on half of the questions, tried on the other half."""
    n = 300
    asked = [ask(world, i, asks) for i in range(2 * n)]
    seen = defaultdict(Counter)
    for one in asked[:n]:
        seen[one.text][one.answer] += 1
        seen["any"][one.answer] += 1
    blind = np.mean([(seen.get(one.text) or seen["any"]).most_common(1)[0][0] == one.answer for one in asked[n:]])
    chance = np.mean([1 / len(one.candidates) for one in asked])
    assert blind < chance + 4 * np.sqrt(chance * (1 - chance) / n), (blind, chance)
    assert all(one.answer in one.candidates and len(set(one.candidates)) == len(one.candidates) for one in asked)


def test_answers_are_equally_likely(world):
    for asks, answers in (("count", 3), ("colour", 8), ("style", 4), ("relation", 4), ("yes-no", 2), ("group", 5)):
        counts = Counter(question(world, i, asks).answer for i in range(600))
        assert len(counts) == answers
        assert max(counts.values()) < 600 / answers + 4 * np.sqrt(600 / answers), counts


def test_yes_and_no_are_balanced_for_what_is_named(world):
    """ "is the background green?": knowing the colour that is asked for does not help."""
    answers = defaultdict(Counter)
    for i in range(1500):
        one = question(world, i, "yes-no")
        word = next((colour for colour in BACKGROUNDS if f"background {colour}?" in one.text), None)
        side = next((side for side in questions.RELATION_OF.values() if f" {side} the " in one.text), None)
        answers[word or side or "label"][one.answer] += 1
    assert len(answers) == 8 + 4 + 1
    for named, counts in answers.items():
        share, n = counts["yes"] / counts.total(), counts.total()
        expected = 0.5
        if named in questions.RELATION_OF.values() or named in BACKGROUNDS:
            assert abs(share - expected) < 4 * np.sqrt(0.25 / n), (named, counts)


def asked_of_what_is_true(scene: Scene) -> set[str]:
    """Every question whose answer is yes."""
    asked = {f"is the background {scene.background}?"}
    if not scene.relation:
        return asked | {f"is this {noun_phrase(Group(scene.groups[0].label))}?"}
    for told in (scene, scene.turned()):
        first, second = told.groups
        asked.add(f"{questions.verb(first)} {questions.the(first)} {told.relation} {questions.the(second)}?")
    return asked


def test_answers_are_true(world):
    for i in range(300):
        one = question(world, i)
        scene = one.about
        match one.asks:
            case "what":
                assert one.answer == scene.groups[0].label
            case "count":
                assert ["one", "two", "three"][scene.groups[0].count - 1] == one.answer
            case "colour":
                assert one.answer == scene.background
            case "style":
                assert one.answer == STYLE_NAMES[scene.style]
            case "relation":
                told = parse(one.sentence.removesuffix("."), world.labels)
                if told is None:  # "the llama is left of the fox": only without the verb is it a caption
                    text = one.sentence.removesuffix(".").replace(" is ", " ", 1).replace(" are ", " ", 1)
                    told = parse(text.replace("the two", "two"), world.labels)
                assert told is not None, one.sentence
                assert told.shows()[:2] == scene.shows()[:2]
            case "kind":
                assert one.answer == kinds.kind(scene.groups[0].label)
            case "group":
                assert one.answer == kinds.group(scene.groups[0].label)
            case "yes-no":
                assert one.answer == ("yes" if one.text in asked_of_what_is_true(scene) else "no"), one.text
            case _:
                pytest.fail(f"is {one.asks} true?")


def test_a_yes_is_said_of_what_is_true_and_of_nothing_else(world):
    for i in range(200):
        one = question(world, i, "yes-no")
        assert one.answer == ("yes" if one.text in asked_of_what_is_true(one.about) else "no"), (one.text, one.about)


def test_answers_about_clips_are_true(world):
    for i in range(60):
        for asks, truth in (
            ("direction", lambda movie: movie.direction),
            ("order", lambda movie: movie.first.groups[0].label),
            ("change", lambda movie: questions.CHANGE_NAMES[movie.change]),
        ):
            one = clip_question(world, i, asks, frames=1)
            assert one.answer == truth(one.about), (one.text, one.about)


def test_the_picture_of_a_question_is_what_it_asks_about(world, pictures):
    for i in range(20):
        one = question(world, i)
        assert np.array_equal(one.pictures[0], np.asarray(world.render(one.about)[0]))


def test_words_of_questions_and_sentences():
    class Lot:
        """Draws the first item always."""

        def random(self) -> float:
            return 0.0

    world, lot = ToyWorld(), Lot()
    pair = Scene((Group("llama", 2), Group("grapes")), "left of", None, "green", "noto")
    one = questions.relation(world, pair, lot)
    assert (one.text, one.answer) == ("where are the two llamas, seen from the grapes?", "left")
    assert one.say("below") == "the two llamas are below the grapes."
    assert questions.yes_no(world, pair, lot).text == "is the background green?"
    llama = Scene((Group("llama"),), None, "big", "green", "noto")
    assert questions.what(world, llama, lot).say("ox") == "this is an ox."
    assert questions.count(world, llama, lot).say("one") == "there is one llama."
    assert questions.count(world, llama, lot).say("two") == "there are two llamas."
    assert questions.kind(world, llama, lot).say("mammal") == "this is a mammal."


@pytest.mark.parametrize("ask", [question, clip_question, dialogue, conversation, in_context])
def test_everything_is_a_pure_function_of_its_number(ask, world, pictures):
    for i in range(4):
        assert repr(ask(world, i)) == repr(ask(ToyWorld(), i))
    assert repr(ask(world, 0)) != repr(ask(world, 1))


@pytest.mark.parametrize("split", ["new-drawing", "new-concept"])
def test_questions_of_other_splits(split):
    new = ToyWorld(split, kinds=("single", "pair", "count"))
    for asks in ASKS:
        one = question(new, 0, asks)
        assert one.answer in one.candidates
    for asks in CLIP_ASKS:
        assert clip_question(new, 0, asks).answer


def test_evaluation_asks_about_its_own_scenes():
    held_out = ToyWorld(held_out=True)
    assert all(is_held_out(question(held_out, i).about) for i in range(20))
    assert all(is_held_out(clip_question(held_out, i).about.first) for i in range(20))


def test_training_asks_about_no_scene_of_evaluation(world):
    assert not any(is_held_out(question(world, i).about) for i in range(300))
    assert not any(is_held_out(scene) for i in range(300) for scene in in_context(world, i).scenes)
    for i in range(300):
        movie = clip_question(world, i).about
        assert not is_held_out(movie.first) and not is_held_out(movie.last)


@pytest.mark.parametrize("draw", [conversation, dialogue, lambda world, i: names_episode(world, i, 2)])
def test_training_conversations_show_no_scene_of_evaluation(draw, world, shown):
    for i in range(60):
        draw(world, i)
    assert len(shown) >= 40 and not any(is_held_out(scene) for scene in shown)


def test_frames_of_a_clip_question(world, pictures):
    one = clip_question(world, 0, "direction")
    assert len(one.pictures) == 8 and one.pictures[0].shape == (64, 64, 3)
    again = clip_question(world, 0, "direction", frames=3, random_frames=True)
    assert len(again.pictures) == 3 and again.text == one.text


@pytest.mark.parametrize("ask, known", [(question, "colour"), (clip_question, "change")])
def test_unknown_questions(ask, known, world):
    with pytest.raises(MinemuError, match=f"no questions that ask for '{known}x': did you mean '{known}'?"):
        ask(world, 0, known + "x")


# ---- dialogues -------------------------------------------------------------------------------------------------------


def test_candidates_of_a_dialogue(world):
    best = []
    for i in range(60):
        one = dialogue(world, i)
        assert len(set(one.candidates)) == len(one.candidates) == 100
        assert set(one.relevance) <= {0.0, 0.5, 1.0} and one.relevance.count(1.0) == 2
        assert len(one.history) == 2
        assert all(turn.user[0].endswith("?") and turn.answer.endswith(".") for turn in one.history)
        best.append(one.relevance.index(1.0))
    assert 5 < np.mean(best) < 60  # not always at the same place
    assert len(dialogue(world, 0, candidates=10).candidates) == 10
    with pytest.raises(MinemuError, match="0 turns with 3 candidates: use 1 turn or more, and 4 to 100 candidates"):
        dialogue(world, 0, turns=0, candidates=3)


def test_the_picture_of_a_dialogue_is_that_of_its_scene(world, pictures):
    for i in range(20):
        one = dialogue(world, i)
        assert np.array_equal(one.picture, np.asarray(world.render(one.scene)[0]))


# ---- episodes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_names_are_given_by_the_examples_alone(shots, pictures):
    new = ToyWorld("new-concept")
    for i in range(5):
        one = names_episode(new, i, shots)
        drawn = [piece.tobytes() for piece in one.prompt if not isinstance(piece, str)]
        said = [piece for piece in one.prompt if isinstance(piece, str)]
        assert len(set(drawn)) == len(drawn) == 2 * shots + 1
        assert said[0] == "new names:" and said[-1] == "this is a" and isinstance(one.prompt[-2], np.ndarray)
        assert Counter(said[1:-1]) == Counter({f"this is a {name}.": shots for name in one.candidates if shots})
        assert one.answer in one.candidates and set(one.candidates) <= set(TEST_NAMES)
        assert not set(one.labels) & set(ToyWorld().labels)


def test_the_name_that_is_asked_for_is_the_one_its_drawing_was_given(shown):
    new = ToyWorld("new-concept")
    for i in range(20):
        shown.clear()
        one = names_episode(new, i, 2)
        *examples, asked = [scene.groups[0].label for scene in shown]
        told = {text for label, text in zip(examples, one.prompt[2:-2:2], strict=True) if label == asked}
        assert told == {f"this is a {one.answer}."}


def test_names_cannot_be_guessed():
    """Neither the name shown last, nor the one shown first, nor any one name is right more often than one time in two."""
    new = ToyWorld("new-concept")
    episodes = [names_episode(new, i, 2) for i in range(200)]
    last = np.mean([one.answer in one.prompt[-3] for one in episodes])
    first = np.mean([one.answer in one.prompt[2] for one in episodes])
    named_first = np.mean([one.answer == one.candidates[0] for one in episodes])
    assert max(abs(share - 0.5) for share in (last, first, named_first)) < 0.14


def test_names_of_no_world(world):
    assert not {*ALL_NAMES, *TEST_NAMES} & {word for label in ToyWorld(core=False).labels for word in label.split()}
    assert (
        not set(ALL_NAMES) & set(TEST_NAMES)
        and len(set(ALL_NAMES)) == len(ALL_NAMES)
        and set(names_episode(world, 0, 1).candidates) <= set(ALL_NAMES)
    )
    with pytest.raises(MinemuError, match="2 shots of 1 names: use 0 shots or more, and 2 to 250 names"):
        names_episode(world, 0, 2, ways=1)
    with pytest.raises(MinemuError, match="there are not enough pictures of '.+' for so many shots: use fewer"):
        names_episode(world, 0, 200)


def test_every_blend_is_a_sum_that_was_drawn(pictures):
    assert len(blends()) > 60
    labels = {triple.result for triple, _ in blends()}
    assert {"polar bear", "phoenix", "black cat", "lime"} <= labels
    for i in (0, len(blends()) - 1):
        one = blend(i)
        assert one.first.shape == one.second.shape == one.target.shape == (64, 64, 3)
        assert not np.array_equal(one.first, one.target)
    with pytest.raises(MinemuError, match=f"there is no blend {len(blends())}: use 0 to {len(blends()) - 1}"):
        blend(len(blends()))


@pytest.mark.parametrize("wish", WISHES)
def test_in_context_wishes_come_true(wish, pictures):
    held_out = ToyWorld(held_out=True)
    for i in range(10):
        one = in_context(held_out, i, wish)
        first, second, wanted = one.scenes
        assert is_held_out(wanted) and first.style == second.style == wanted.style
        assert one.prompt[-1] == WISHES[wish] and sum(isinstance(piece, np.ndarray) for piece in one.prompt) == 2
        match wish:
            case "background":
                assert (wanted.groups, wanted.size, wanted.background) == (first.groups, first.size, second.background)
            case "size":
                assert (wanted.groups, wanted.size, wanted.background) == (first.groups, second.size, first.background)
            case "beside":
                assert wanted.groups == first.groups + second.groups and wanted.relation == "left of"
        assert np.array_equal(one.target, np.asarray(held_out.render(wanted)[0]))


def test_unknown_wish(world):
    with pytest.raises(MinemuError, match="no wish 'besides' to draw in context: did you mean 'beside'?"):
        in_context(world, 0, "besides")


# ---- conversations ---------------------------------------------------------------------------------------------------


def test_answers_have_the_asked_form(world):
    forms = Counter()
    for i in range(200):
        one = conversation(world, i)
        for turn in one.turns:
            form = next(form for form, words in FORMS.items() if turn.user[-1].endswith(words))
            assert follows(form, turn.answer), (form, turn)
            assert not any(follows(other, turn.answer) for other in FORMS if other != form)
            forms[form] += 1
        frames = sum(isinstance(piece, np.ndarray) for piece in one.turns[0].user)
        assert (one.system, frames) in ((SYSTEM_IMAGE, 1), (SYSTEM_VIDEO, 8))
        assert all(isinstance(turn.user[0], str) for turn in one.turns[1:])
    assert min(forms[form] for form in FORMS) > 30


def test_a_dialogue_about_a_clip_goes_on_with_what_stays_the_same(world):
    """The background is asked for only where it does not change."""
    asked, turns = Counter(), Counter()
    for i in range(400):
        one = conversation(world, i)
        if one.system == SYSTEM_VIDEO:
            turns[len(one.turns)] += 1
            texts = [turn.user[-1].split(" answer in")[0] for turn in one.turns]
            assert len(set(texts)) == len(texts)
            asked.update(texts[1:])
            assert "colour" not in " ".join(texts[1:]) or "the background" not in one.turns[0].answer
    assert set(turns) == {1, 2, 3} and min(turns.values()) > 10
    assert set(asked) == {"what colour is the background?", "which style is this drawn in?"}


def test_every_sort_of_question_is_asked_in_conversations(world):
    """As often first as any other, with answers that are equally likely."""
    first, texts = Counter(), Counter()
    for i in range(600):
        one = conversation(world, i)
        if one.system == SYSTEM_IMAGE:
            said = " ".join(piece for turn in one.turns for piece in turn.user if isinstance(piece, str))
            first[one.turns[0].user[1].split(" answer in")[0].split(" ")[0]] += 1
            texts.update(name for name in ("what is this", "what kind", "which group", "how many") if name in said)
    assert min(texts[name] for name in ("what is this", "what kind", "which group", "how many")) > 25
    assert first["how"] > 20


@pytest.mark.parametrize(
    "form, good, bad",
    [
        ("word", ["green", "Noto.", "t-rex"], ["a llama", "", "1. llama 2. fox"]),
        ("sentence", ["this is a llama."], ["llama", "green.", "this is a llama", "1. a llama 2. a fox."]),
        (
            "list",
            ["1. a llama 2. a fox", "1. a\n2. b\n3. c"],
            ["a llama, a fox", "1. a llama", "1. a 3. b", "2. a 1. b"],
        ),
    ],
)
def test_forms(form, good, bad):
    assert all(follows(form, answer) for answer in good)
    assert not any(follows(form, answer) for answer in bad)
    with pytest.raises(MinemuError, match="no form of answer 'wordy': did you mean 'word'?"):
        follows("wordy", "green")


def test_inventory():
    scene = Scene((Group("llama", 2), Group("ox")), "above", None, "orange", "flat")
    assert inventory(scene) == "1. two llamas 2. an ox 3. an orange background 4. Flat style"


def test_the_corpus_has_every_wording(world):
    texts = corpus(world, each=20)
    words = {word for text in texts for word in text.replace("?", " ").replace(".", " ").split()}
    assert {
        "moves",
        "grows",
        "turns",
        "into",
        "now",
        "belongs",
        *NAMES,
        "sentence",
        "image:",
        "true",
        "changes",
    } <= words
    assert not any("[" in text for text in texts)


def test_the_corpus_says_the_same_where_its_pictures_are_drawn(world, monkeypatch):
    said = corpus(world, each=5)
    monkeypatch.setattr(Unpainted, "place", ToyWorld.place)
    assert corpus(world, each=5) == said


def test_what_is_said_in_a_conversation():
    picture = np.zeros((8, 8, 3), np.uint8)
    one = Conversation("look.", (Turn((picture, "what is this?"), "llama"), Turn(("where?",), "here")))
    assert one.texts() == ["what is this?", "llama", "where?", "here"]
