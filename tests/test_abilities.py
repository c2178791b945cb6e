"""Every task of the abilities with an oracle, which is right, and with a fool, who is right as often as chance has it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minemu import retrieval
from minemu.config import EmuConfig
from minemu.data import episodes, movies, questions
from minemu.data.conversations import FORMS
from minemu.data.world import SIZES, SPLITS, Group, Scene, ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation import abilities, composing, efficientnet, judge, tasks
from minemu.evaluation.judge import Judge
from minemu.evaluation.metrics import mean_interval, ndcg, ndcg_by_chance
from minemu.files import write_json
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.prompts import DESCRIBE
from minemu.tokenizer import USER

SEED, N = 5, 24


def key(sample):
    """What a prompt shows and says, as a dictionary key."""
    return tuple(piece if isinstance(piece, str) else np.asarray(piece).tobytes() for piece in sample)


class Pipe:
    """A pipeline of which a test replaces what it needs; `special` decides whether it is asked as Emu or as Emu-I."""

    def __init__(self, special=(), context=4096):
        self.shown_alone = []  # pictures of the prompts after which answers were weighed
        self.processor = SimpleNamespace(image_size=32, special=special, n_image=4, encode=str.split)
        self.model = SimpleNamespace(config=SimpleNamespace(llm=SimpleNamespace(context=context)))

    features, nearest = EmuPipeline.features, EmuPipeline.nearest

    def log_likelihoods(self, prompt, texts, mean=False):
        """All answers are as likely, so the first one is chosen."""
        self.shown_alone.append(prompt[:-1])
        return torch.zeros(len(texts))

    def encode(self, pictures):
        return torch.stack([torch.from_numpy(np.array(picture)).float().view(-1, 3) for picture in pictures])


class Knower(Pipe):
    """Answers a question right when it sees the pictures that it was asked about, and else says nothing."""

    def __init__(self, made, say):
        super().__init__()
        self.known = {(key(abilities.as_sample(one.pictures)), one.text): say(one) for one in made}

    def chat_batch(self, prompts, **_):
        return [SimpleNamespace(text=self.answer(prompt)) for prompt in prompts]

    def answer(self, prompt):
        for shown in (1, 8):
            if found := self.known.get((key(prompt[-1 - shown : -1]), prompt[-1])):
                return found
        return "silence"


class Listener(Pipe):
    """Says nothing, and notes what it was asked."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def chat_batch(self, prompts, **_):
        self.seen.extend(prompts)
        return [SimpleNamespace(text="") for _ in prompts]


class Scorer(Pipe):
    """Finds texts as likely as `log_likelihoods` says."""

    def __init__(self, log_likelihoods):
        super().__init__()
        self.log_likelihoods = log_likelihoods


class Guesser(Pipe):
    """Any of the answers that a question can have, without a look."""

    def __init__(self, made):
        super().__init__()
        self.rng, self.candidates = np.random.default_rng(0), {one.text: one.candidates for one in made}

    def chat_batch(self, prompts, **_):
        return [SimpleNamespace(text=self.rng.choice(self.candidates[prompt[-1]])) for prompt in prompts]


def asked_of(task, split="seen", n=N):
    world = ToyWorld(split, seed=SEED, image_size=32, held_out=split == "seen")
    asks, make = (
        (questions.CLIP_ASKS, questions.clip_question) if task == "video-qa" else (questions.ASKS, questions.question)
    )
    return [make(world, i, list(asks)[i % len(asks)]) for i in range(n)]


ASKED = [("vqa", "seen"), ("vqa", "new-drawing"), ("video-qa", "seen"), ("few-shot-vqa", "seen")]
PHRASINGS = [lambda one: f" {one.answer.capitalize()}. and more", lambda one: one.sentence + " and more words."]


@pytest.mark.parametrize(("task", "split"), ASKED)
def test_questions_answered_by_an_oracle_and_by_a_fool(task, split):
    made = asked_of(task, split)
    for say in PHRASINGS:
        result = tasks.evaluate(Knower(made, say), task, split, N, SEED)
        assert result.score == result.upper_bound == 1.0 and result.details["interval"][1] > 0.999
        assert result.blind < 0.2 and 0.1 < result.chance < 0.6  # a clip in which nothing changes may be the same twice
    fool = tasks.evaluate(Guesser(made), task, split, N, SEED)
    assert abs(fool.score - fool.chance) < 0.3 and abs(fool.blind - fool.chance) < 0.3
    parts = fool.details["parts"]
    assert set(parts) == {one.asks for one in made} and sum(part["n"] for part in parts.values()) == N
    for name in ("chance", "blind"):  # of the parts, weighed, that of all
        weighed = sum(part["n"] * part[name] for part in parts.values()) / N
        assert weighed == pytest.approx(getattr(fool, name))
    assert set(fool.details["examples"][0]) == {"asked", "true", "said"}


def test_one_frame_is_measured_beside_eight():
    made = asked_of("video-qa")
    # Where nothing changes, a still is all there is to see.
    still = [all(map(np.array_equal, one.pictures[1:], one.pictures[:-1])) for one in made]
    result = tasks.evaluate(Knower(made, PHRASINGS[0]), "video-qa", None, N, SEED)
    assert result.details["single_frame"] == pytest.approx(np.mean(still)) and 0 < sum(still) < N / 4
    low, high = result.details["single_frame_interval"]
    assert 0 < low < result.details["single_frame"] < high
    for sort, part in result.details["parts"].items():
        assert part["single_frame"] == pytest.approx(
            np.mean([mark for mark, one in zip(still, made, strict=True) if one.asks == sort])
        )


def test_a_frame_alone_may_choose_between_the_answers_that_there_are():
    made, pipe = asked_of("video-qa"), Knower(asked_of("video-qa"), PHRASINGS[0])
    result = tasks.evaluate(pipe, "video-qa", None, N, SEED)
    assert [key(shown) for shown in pipe.shown_alone] == [key(abilities.as_sample(one.pictures[4:5])) for one in made]
    first = np.mean([one.answer == one.candidates[0] for one in made])
    assert result.details["ranked_frame"] == pytest.approx(first) and first < 1
    tuned = Listener([])
    tuned.processor.special = {USER: 5}
    assert abilities._chosen(tuned, made[0]) == made[0].candidates[0]
    assert FORMS["word"] in "".join(piece for piece in tuned.shown_alone[0] if isinstance(piece, str))


class Captioner(Pipe):
    """Says what happens in a clip of which it sees all frames, or in the one `turn` further on; of any other nothing."""

    def __init__(self, turn=0, change=str):
        super().__init__()
        world = ToyWorld("seen", seed=SEED, image_size=32, held_out=True)
        made = [movies.any_movie(world, world.generator(i, "clip caption")) for i in range(N + 8)]
        told = [change(movies.caption(movie)) for movie in made]
        self.known = {
            key(abilities.as_sample(movies.frames(world, movie))): told[(i + turn) % len(made)]
            for i, movie in enumerate(made)
        }

    def chat_batch(self, prompts, **settings):
        assert settings["num_beams"] == DESCRIBE["num_beams"] and all(len(one.frames) == 8 for (one,) in prompts)
        return [SimpleNamespace(text=self.known.get(key(one.frames), "a video")) for (one,) in prompts]


def test_clips_captioned_by_an_oracle_and_by_a_fool():
    still = [len(set(frames)) == 1 for frames in list(Captioner().known)[:N]]  # there is nothing more to see
    for change in (str, lambda text: f"The {text.split(' ', 1)[1].upper()}."):
        result = tasks.evaluate(Captioner(change=change), "video-caption", None, N, SEED)
        assert result.score == result.upper_bound == 1.0 and result.blind == 0.0 and 0 < result.chance < 1e-5
        assert result.details["parts"] == dict.fromkeys(movies.PARTS, 1.0)
        assert result.details["single_frame"] == pytest.approx(np.mean(still)) and sum(still) < N / 2
    low, high = result.details["single_frame_interval"]
    assert 0 <= low <= result.details["single_frame"] < high
    fool = tasks.evaluate(Captioner(turn=5), "video-caption", None, N, SEED)
    assert fool.score == 0.0 and fool.details["is_caption"] == 1.0 and fool.details["parts"]["thing"] < 0.2
    assert set(fool.details["examples"][0]) == {"true", "said"}


def test_the_parts_of_a_clips_caption_are_told_apart():
    wrong = lambda text: text.replace("Noto", "Fluent").replace("Flat", "Fluent").replace("Twemoji", "Fluent")  # noqa: E731
    result = tasks.evaluate(Captioner(change=wrong), "video-caption", None, N, SEED)
    parts = result.details["parts"]
    assert parts["thing"] == parts["event"] == 1.0 and parts["look"] == result.score < 0.6
    nothing = tasks.evaluate(Captioner(change=lambda text: "what changes? nothing"), "video-caption", None, N, SEED)
    assert nothing.details["is_caption"] == nothing.score == 0.0
    assert set(nothing.details["parts"].values()) == {0.0}


class Former(Pipe):
    """Answers in the asked form, or always in the form `only`."""

    SAID = {"word": "two.", "sentence": "there are two dogs.", "list": "1. two dogs 2. a green background"}

    def __init__(self, only=None):
        super().__init__(special=("[USER]", "[ASSISTANT]"))
        self.only = only

    def chat_batch(self, prompts, **_):
        asked = [next(form for form, text in FORMS.items() if text in str(prompt)) for prompt in prompts]
        return [SimpleNamespace(text=self.SAID[self.only or form]) for form in asked]


def test_the_form_of_an_answer_is_seen_for_itself():
    result = tasks.evaluate(Former(), "form", None, 24, SEED)
    assert result.score == 1.0 and result.blind == 0.0 and set(result.details["parts"]) == set(FORMS)
    for only in FORMS:
        result = tasks.evaluate(Former(only), "form", None, 24, SEED)
        assert result.score == pytest.approx(result.chance) and result.details["parts"][only] == 1.0


def test_one_frame_of_a_clip_is_asked_about_as_a_clip():
    pipe = Pipe(special=("[USER]", "[ASSISTANT]"))
    one = asked_of("video-qa", n=1)[0]
    for pictures in (one.pictures, one.pictures[:1]):
        assert "video consisting of" in str(abilities.asking(pipe, replace(one, pictures=pictures)))


def test_answers_are_compared_after_cleaning():
    for said in ("A Llama.", "llama", " llama. this is", "the llama\nand more"):
        assert abilities.clean(said) == "llama"
    assert abilities.clean("a") == "a" and abilities.clean("") == ""


def test_emu_i_is_asked_in_its_template_and_in_the_form_that_fits():
    pipe = Pipe(special=("[USER]", "[ASSISTANT]"))
    for task, frames in (("vqa", 1), ("video-qa", 8)):
        for one in asked_of(task, n=8):
            prompt = abilities.asking(pipe, one)
            words = " ".join(piece for piece in prompt if isinstance(piece, str))
            short = all(" " not in answer for answer in one.candidates)
            assert f"{one.text} answer in {'one word' if short else 'a sentence'}." in words
            pictures = [piece for piece in prompt if isinstance(piece, Image.Image)]
            pictures += [frame for piece in prompt for frame in getattr(piece, "frames", ())]
            assert len(pictures) == frames


# ---- dialogue --------------------------------------------------------------------------------------------------------


def test_ndcg_equals_its_definition():
    assert ndcg([1.0, 0.5, 0.0]) == 1.0
    assert ndcg([0.0, 1.0, 0.0]) == 0.0  # one answer is relevant, so one place counts
    assert abs(ndcg([0.5, 1.0, 0.0]) - (0.5 + 1 / np.log2(3)) / (1 + 0.5 / np.log2(3))) < 1e-12
    rng = np.random.default_rng(0)
    relevance = [1.0, 1.0, 0.5, *[0.0] * 7]
    at_random = np.mean([ndcg(rng.permutation(relevance).tolist()) for _ in range(4000)])
    assert abs(ndcg_by_chance(relevance) - at_random) < 0.02
    low, high = mean_interval([0.4, 0.6] * 50)
    assert 0.47 < low < 0.5 < high < 0.53 and mean_interval([1.0]) == (1.0, 1.0)


def dialogue_scores(knows):
    """Likelihoods by relevance, where the picture is the one that was talked about; else at random."""
    made = [abilities.dialogue(ToyWorld("seen", seed=SEED, image_size=32, held_out=True), i) for i in range(N)]
    known = {(one.picture.tobytes(), one.candidates): one.relevance for one in made}
    rng = np.random.default_rng(0)

    def scores(prompt, texts, mean):
        relevance = known.get((np.asarray(prompt[0]).tobytes(), texts)) if knows else None
        return torch.tensor(relevance if relevance else rng.random(len(texts)).tolist())

    return scores


def test_dialogue_ranks_by_likelihood():
    result = tasks.evaluate(Scorer(dialogue_scores(knows=True)), "dialogue", None, N, SEED)
    assert result.score == result.upper_bound == 1.0 and result.details["interval"] == [1.0, 1.0]
    assert result.blind < 0.15 and result.chance < 0.1
    fool = tasks.evaluate(Scorer(dialogue_scores(knows=False)), "dialogue", None, N, SEED)
    assert abs(fool.score - fool.chance) < 0.1


def test_dialogue_prompt_is_emus_or_the_published_one():
    world = ToyWorld("seen", seed=SEED, image_size=32, held_out=True)
    asked = next(one for one in (abilities.dialogue(world, i) for i in range(9)) if len(one.history) == 2)
    plain = abilities.dialogue_prompt(Pipe(), asked)
    assert len(plain) == 2 and plain[1].endswith(asked.question) and asked.history[0].answer in plain[1]
    published = abilities.dialogue_prompt(Pipe(special=("[USER]",)), asked)
    words = "".join(piece if isinstance(piece, str) else f"<{type(piece).__name__}>" for piece in published)
    assert words.count("?") == 3 and ".." not in words and words.endswith(":")


# ---- learning from the prompt ----------------------------------------------------------------------------------------


def names_scores(knows):
    """Which name is right for the last picture, by the drawings that the prompt shows before it."""
    world = ToyWorld("new-concept", seed=SEED, image_size=32)
    made = [episodes.names_episode(world, i, 2) for i in range(N)]
    known = {key(abilities.as_sample(one.prompt)): one.answer for one in made}
    rng = np.random.default_rng(0)

    def scores(prompt, texts, mean):
        answer = known.get(key(prompt)) if knows else None
        return torch.tensor([float(text == f"{answer}.") if answer else rng.random() for text in texts])

    return scores


def test_new_names_are_learnt_from_the_prompt():
    result = tasks.evaluate(Scorer(names_scores(knows=True)), "few-shot-names", None, N, SEED, shots=2)
    assert result.score == result.upper_bound == 1.0 and result.chance == 0.5 and 0.25 < result.blind < 0.75
    assert result.split == "new-concept" and result.details["shots"] == 2
    fool = tasks.evaluate(Scorer(names_scores(knows=False)), "few-shot-names", None, N, SEED, shots=2)
    assert 0.25 < fool.score < 0.75


def test_few_shot_prompts_hold_their_examples():
    seen = []
    tasks.evaluate(Listener(seen), "few-shot-vqa", None, 3, SEED, shots=4)
    shapes = ["".join("t" if isinstance(piece, str) else "p" for piece in prompt) for prompt in seen]
    assert shapes == ["pt" * 5] * 9  # RICES, the other picture, at random
    said, world = {}, ToyWorld("seen", seed=SEED, image_size=32)
    for i in range(512):
        one = questions.question(world, abilities.POOL_FROM + i)
        said.setdefault(key(abilities.as_sample(one.pictures)), set()).add(f"{one.text} {one.answer}.")
    for prompt in seen:
        for picture, text in zip(prompt[:-2:2], prompt[1:-2:2], strict=True):
            assert text in said[key([picture])]  # each with its own answer
    near, far = (
        np.mean([np.abs(np.asarray(p[-4], float) - np.asarray(p[-2], float)).mean() for p in part])
        for part in (seen[:3], seen[6:9])
    )
    assert near < far
    seen.clear()
    tasks.evaluate(Listener(seen), "few-shot-vqa", None, 3, SEED, shots=0)
    shapes = ["".join("t" if isinstance(piece, str) else "p" for piece in prompt) for prompt in seen]
    assert shapes == ["pt"] * 6 + ["ttpt"] * 3  # without examples, the other picture; two without their pictures


def test_examples_are_none_that_training_shows(monkeypatch):
    numbers, draw = [], questions.question

    def noted(world, i, *asks):
        if not world.held_out:
            numbers.append(i)
        return draw(world, i, *asks)

    monkeypatch.setattr(questions, "question", noted)
    tasks.evaluate(Listener([]), "few-shot-vqa", None, 3, SEED, shots=2)
    assert numbers and min(numbers) >= 10**9


def test_rices_takes_the_nearest_and_puts_it_last():
    pool = torch.eye(4)
    queries = nn.functional.normalize(torch.tensor([[0.1, 0.9, 0.3, 0.0]]), dim=1)
    assert retrieval.rices(queries, pool, 2) == [[2, 1]]
    assert retrieval.rices(queries, pool, 0) == [[]]
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "maroon", "orange")]
    assert Pipe().nearest(pictures[0], pictures[1:], 2) == [2, 1]
    assert Pipe().nearest(pictures[0], pictures[1:], 0) == []
    with pytest.raises(MinemuError, match="shots=4 examples of a pool of 3: ask for 0 to 3"):
        Pipe().nearest(pictures[0], pictures[1:], 4)
    drawn = retrieval.at_random(5, 10, 4, seed=1)
    assert drawn == retrieval.at_random(5, 10, 4, seed=1) and all(len(set(row)) == 4 for row in drawn)


def test_too_many_shots_are_one_clear_line():
    for task in ("few-shot-names", "few-shot-vqa"):
        with pytest.raises(
            MinemuError, match="--shots 8 makes .* tokens with the answer, and this model reads 64; use"
        ):
            tasks.evaluate(Pipe(context=64), task, None, 2, SEED, shots=8)
    with pytest.raises(MinemuError, match="--shots 300 is more than the 256 examples there are"):
        tasks.evaluate(Pipe(), "few-shot-vqa", None, 2, SEED, shots=300)
    with pytest.raises(MinemuError, match="not enough pictures of .* for so many shots"):
        tasks.evaluate(Pipe(), "few-shot-names", None, 2, SEED, shots=200)


# ---- pictures out of two ---------------------------------------------------------------------------------------------


class Thumbnails(nn.Module):
    """An eye that costs nothing: the picture in 16 x 16."""

    def features(self, images):
        return nn.functional.avg_pool2d(images, 8).flatten(1)


@pytest.fixture(scope="module")
def eye():
    results = sorted({triple.result for triple, _ in episodes.blends()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "pretrained", Thumbnails)
        return Judge(core=False, splits=SPLITS, labels=results, cache="")


class Painter(Pipe):
    """Draws what was made for a prompt, or for the one `turn` further on."""

    def __init__(self, made, turn=0):
        super().__init__()
        self.processor.image_size = 64
        targets = [one.target for one in made]
        prompts = [one.prompt if hasattr(one, "prompt") else (one.first, one.second) for one in made]
        self.known = {key(abilities.as_sample(p)): targets[(i + turn) % len(made)] for i, p in enumerate(prompts)}

    def __call__(self, prompts, output_type, generator):
        drawn = [Image.fromarray(self.known[key(prompt)]) for prompt in prompts]
        return SimpleNamespace(images=(torch.stack(judge.as_tensors(drawn)) + 1) / 2)


def test_blends_drawn_by_an_oracle_and_by_a_fool(eye):
    question = tasks.Question(Painter([]), "blend", "all", 24, SEED)
    pairs = composing._blends(question)
    assert all(one.style == other.style and not {*one.triple[:3]} & {*other.triple[:3]} for one, other in pairs)
    assert all((one.first[0, 0] == other.first[0, 0]).all() for one, other in pairs)  # on the same background
    made = [one for one, _ in pairs]
    result = tasks.evaluate(Painter(made), "blend", None, 24, SEED, eye)
    assert result.score == 1.0 and result.upper_bound > 0.9 and result.blind <= 0.25
    assert 0 < result.chance < 0.2
    told = result.details
    assert told["nearer_than_chance"] == told["nearer_than_chance_upper_bound"] and 0 <= told["copied"] < 0.5
    for one in made:  # whoever draws the second picture again
        one.target[:] = one.second
    copy = tasks.evaluate(Painter(made), "blend", None, 24, SEED, eye).details
    assert copy["rate"] <= told["copied"] and copy["nearer_than_chance"] <= told["nearer_than_chance_chance"]
    fool = tasks.evaluate(Painter(made, turn=7), "blend", None, 24, SEED, eye)
    assert fool.score <= 0.25 and fool.details["nearness"] < result.details["nearness"]
    with pytest.raises(MinemuError, match=r"--limit \d+ is more than the \d+ samples that task 'blend' has; use fewer"):
        tasks.evaluate(Painter([]), "blend", None, len(episodes.blends()) + 1, SEED, eye)


@pytest.fixture(scope="module")
def in_context():
    """What is to be drawn, its world, and an eye for it."""
    world = ToyWorld("seen", seed=SEED, held_out=True)
    made = [episodes.in_context(world, i) for i in range(24)]
    shown = sorted({group.label for one in made for scene in one.scenes for group in scene.groups})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "pretrained", Thumbnails)
        return made, world, Judge(labels=shown, cache="")


def test_drawn_in_context_by_an_oracle_and_by_a_fool(in_context):
    made, _, eye = in_context
    result = tasks.evaluate(Painter(made), "in-context-draw", None, 24, SEED, eye)
    assert result.score == 1.0 and result.upper_bound > 0.8
    assert result.blind <= 0.1 and 0 < result.chance < 0.02
    assert set(result.details["wishes"]) == set(episodes.WISHES) and result.details["nearer_than_chance"] > 0.5
    assert tasks.evaluate(Painter(made, turn=7), "in-context-draw", None, 24, SEED, eye).score <= 0.1


def rate_drawn_with(in_context, **other):
    """The share that is right of drawings that are as wished but for `other`."""
    made, world, eye = in_context
    drawn = [replace(one, target=np.asarray(world.render(replace(one.scenes[2], **other))[0])) for one in made]
    return tasks.evaluate(Painter(drawn), "in-context-draw", None, len(made), SEED, eye).details["rate"]


def test_what_is_drawn_in_context_has_to_have_the_background_that_was_told(in_context):
    right = [one.scenes[2].background == "gray" for one in in_context[0]]
    assert 0 < sum(right) < len(right)
    assert rate_drawn_with(in_context, background="gray") == np.mean(right)


def test_what_is_drawn_in_context_has_to_have_the_size_that_was_told(in_context):
    right = [one.scenes[2].size in (None, "small") for one in in_context[0]]
    assert rate_drawn_with(in_context, size="small") <= np.mean(right) < 1


def test_nothing_is_nearer_than_chance_when_it_is_as_near():
    x, y = torch.eye(2)
    eye = SimpleNamespace(features=lambda pictures: torch.stack(list(pictures)))
    found = composing.nearness(eye, torch.stack([x]), [y], [(x, y)], [(y, x)])
    assert found["nearness"] == found["chance_nearness"] == 0 and found["nearer_than_chance"] == 0


def test_copies_and_true_pictures_stand_beside_how_near_a_picture_is():
    x, y, z = torch.eye(3)
    both = (x + y) / 2**0.5
    eye = SimpleNamespace(features=lambda pictures: torch.stack(list(pictures)))
    found = composing.nearness(eye, torch.stack([x, both]), [both, x], [(x, y), (both, y)], [(z, x), (z, z)])
    assert found["nearer_than_chance"] == found["nearer_than_chance_upper_bound"] == 0.5
    assert found["nearer_than_chance_chance"] == 0.5  # copies of the first: of the second row's alone


def test_drawings_of_a_task_are_of_its_seed():
    class Noting(Pipe):
        def __call__(self, prompts, output_type, generator):
            seeds.append(generator.initial_seed())
            return SimpleNamespace(images=torch.zeros(len(prompts), 3, 8, 8))

    seeds = []
    composing.draw(tasks.Question(Noting(), "blend", "all", 2, 7), [["a"], ["b"]])
    assert seeds == [7]


def test_judge_tells_sizes_apart():
    world = ToyWorld("seen")
    for size in SIZES:
        (picture,) = judge.as_tensors([world.render(Scene((Group("llama"),), None, size, "blue", "noto"))[0]])
        assert judge.size_name(picture) == size
    assert judge.size_name(torch.zeros(3, 64, 64)) is None


# ---- interleaved -----------------------------------------------------------------------------------------------------


class Writer(Pipe):
    """Goes on with a document with the kinds of pieces that are missing, or of the document `turn` further on."""

    def __init__(self, turn=0):
        super().__init__()
        world = ToyWorld("seen", seed=SEED, image_size=32, held_out=True)
        made = [composing._cut(world, i) for i in range(N + 8)]
        self.known = {key(prompt): made[(i + turn) % len(made)][1] for i, (prompt, _) in enumerate(made)}

    def continue_document(self, prompt, **_):
        picture = Image.new("RGB", (32, 32))
        return ["words" if kind == "text" else picture for kind in self.known[key(prompt)]]


def test_interleaved_documents_by_an_oracle_and_by_a_fool():
    result = tasks.evaluate(Writer(), "interleaved", None, N, SEED)
    assert result.score == result.upper_bound == result.details["right_number"] == 1.0
    assert result.chance == 1 / 12 and result.blind < 0.3
    assert tasks.evaluate(Writer(turn=5), "interleaved", None, N, SEED).score < 0.3


# ---- what a checkpoint was trained for, and a real model -------------------------------------------------------------


def test_a_checkpoint_says_what_it_was_trained_on(tmp_path):
    config = {"model_type": "emu", "name": "emu-nano"}
    write_json(tmp_path / "config.json", config)
    assert tasks.trained_on(tmp_path) == set()
    write_json(
        tmp_path / "training" / "emu.json",
        {"stage": "emu", "data": {"mixture": {"labels": 8, "questions": 2, "names": 0}}},
    )
    write_json(tmp_path / "training" / "codec.json", {"stage": "codec"})
    assert tasks.trained_on(tmp_path) == {"labels", "questions"}
    write_json(tmp_path / "training" / "instruct.json", {"stage": "instruct"})
    assert tasks.trained_on(tmp_path) == {"labels", "questions", "conversations"}
    for source in ("questions", "conversations"):
        assert "vqa" in tasks.trained({source}) and "few-shot-names" not in tasks.trained({source})
    write_json(tmp_path / "config.json", {**config, "objective": {"say_image": True}})
    assert "interleaved" in tasks.trained(tasks.trained_on(tmp_path))
    write_json(tmp_path / "training" / "else.json", {})
    with pytest.raises(MinemuError, match="else.json lacks 'stage': the file is damaged or of something else"):
        tasks.trained_on(tmp_path)
    (tmp_path / "training" / "else.json").unlink()
    tasks.check_trained("vqa", tmp_path)
    with pytest.raises(
        MinemuError, match="'few-shot-names' is not trained yet in .*: no training record of it names 'names'"
    ):
        tasks.check_trained("few-shot-names", tmp_path)


def test_an_untrained_nano_runs_every_task_in_words(processor):
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano").override({"llm.context": 512})
    pipe = EmuPipeline.__new__(EmuPipeline)
    pipe.model = Emu(config).eval()
    pipe.processor = processor
    for task, shots in (
        ("vqa", None),
        ("video-qa", None),
        ("video-caption", None),
        ("dialogue", None),
        ("few-shot-names", 1),
        ("few-shot-vqa", 1),
    ):
        result = tasks.evaluate(pipe, task, None, 4, SEED, shots=shots)
        for number in (result.score, result.chance, result.blind, *result.details["interval"]):
            assert 0 <= number <= 1
