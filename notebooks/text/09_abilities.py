# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/09_abilities.ipynb)
#
# # What one model can do
#
# Emu has no captioning head, no question head and no video module. It has one sequence, and one question about it: what comes next? Each ability in this notebook is a way to *write the sequence*, and one call.
#
# After it you can
#
# * caption, draw, answer, watch a clip, blend, draw in context and continue a document, each with one call;
# * compare every answer with a **blind** one, to tell seeing from guessing;
# * write few-shot prompts with and without pictures, choose examples by RICES, and name the baselines that they must beat;
# * say which abilities follow from which training data, and what a tiny model cannot do.
#
# It needs about a minute on two CPU cores, half a minute on a T4 (a guess), and 2 GB of memory. The exercises take a quarter of an hour. The judge of drawn pictures and the adapter that answers questions need two packages more: `pip install -e ".[evaluate,finetune]"` (on Colab the next cell does it).

# %%
try:  # on Colab: fetch and install; anywhere else: nothing to do
    import google.colab  # noqa: F401
except ImportError:
    print("not on Colab: nothing to install")
else:
    import os
    import sys

    home = "." if os.path.exists("pyproject.toml") else "minemu"  # "." where the cell is run again
    # !test -e {home}/pyproject.toml || git clone --quiet --depth 1 https://github.com/minemu/minemu
    # %cd {home}
    # %pip install --quiet --editable ".[evaluate,finetune]"
    sys.path.insert(0, ".")

# %% [markdown]
# ## Choose a model
#
# `emu-tiny` is trained, and an adapter comes with it. `emu-nano` has random weights: each cell runs, but no answer is better than a blind one.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %%
# %matplotlib inline
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import torch
import torch.nn.functional as F
from minemu.course import check, start
from minemu.data.world import ToyWorld
from PIL import Image

pipe, world = start(PRESET)
talker = (
    start("emu-tiny-instruct")[0] if PRESET == "emu-tiny" else pipe
)  # Emu-I: the same model and an adapter
singles = ToyWorld("seen", kinds=("single",), held_out=True, image_size=pipe.processor.image_size)
print("one scene that training never showed:", world.sample(0).caption)

# %% [markdown]
# ## What was it trained for?
#
# Ask the checkpoint, not its README. Each stage of training leaves a record of its data, and `trained_on` reads them. Each task of `minemu evaluate` names the sources that it `needs`; a task that needs none follows from pairs of pictures and captions alone.

# %%
from minemu.course import CHECKPOINT
from minemu.data.samples import data_dir
from minemu.evaluation.tasks import TASKS, trained, trained_on

folder = os.environ.get(CHECKPOINT, str(data_dir() / "emu-tiny"))
base, tuned = (
    trained_on(folder + end) if PRESET == "emu-tiny" else set() for end in ("", "-instruct")
)
print("base knows     ", ", ".join(sorted(base)))
print("Emu-I adds     ", ", ".join(sorted(tuned - base)))
for name, task in TASKS.items():
    if task.run:
        knows = {"base": base and trained(base), "Emu-I": tuned and trained(tuned)}
        who = next((who for who, known in knows.items() if name in known), "nobody")
        print(
            f"{name:16} {who:7} needs {' or '.join(task.needs) or 'pairs of pictures and captions'}"
        )

# %% [markdown]
# Keep this table in mind. Some of what the base knows came from *lessons* (notebook 06), documents that the paper does not have. Where the table says *nobody*, as it does for `emu-nano`, the model is asked for something that no training document looked like: if it is right more often than chance and than a blind answer, that is generalisation, and if not, noise. The last figure of this notebook tells which.
#
# ## Captions
#
# The sequence: a picture, and then? In training a caption came next.

# %% alt="Six pictures that training never showed, below each the model's caption with a tick or a cross, and the true caption where they differ."
from minemu.data import captions
from minemu.figures.abilities import Card, show_gallery
from minemu.prompts import DESCRIBE

torch.set_grad_enabled(False)  # until something is trained below
samples = [world.sample(i) for i in range(25)]
said = [one.text for one in pipe.chat_batch([[sample.picture] for sample in samples], **DESCRIBE)]
read = [
    captions.parse(text, world.labels) for text in said
]  # words back to a scene, as far as they name one
named = [captions.same(sample.scene, scene) for sample, scene in zip(samples, read, strict=True)]
cards = [
    Card(sample.picture, text, "text", right, "" if right else f"truth: {sample.caption}")
    for sample, text, right in zip(samples, said, named, strict=True)
]
show_gallery([cards[:6]])

# %% [markdown]
# A caption counts as right only if *all* of it is right: things, number, size, place, background and style. That is decided by reading the caption back into a scene and comparing it with the one that was painted.
#
# `pipe.caption(picture)` is the one call; the cell used `pipe.chat_batch`, the same for many. Both decode as published (`DESCRIBE`): five beams weigh whole texts against each other. After a picture a caption is likeliest, but now and then a question, a label or the next frame of a clip followed in training, and the likeliest first word need not begin the likeliest text.
#
# ### The blind baseline
#
# A model that has learnt how captions look, and sees nothing, also writes plausible captions. So compare each caption with the *next* picture too: what is still right then was right without looking.

# %%
blind_named = [
    captions.same(sample.scene, scene)
    for sample, scene in zip(samples[1:] + samples[:1], read, strict=True)
]
print(f"right of {len(named)} captions: {sum(named)} for their own picture,", end=" ")
print(f"{sum(blind_named)} for the next one")

# %% [markdown]
# ## Drawing
#
# The sequence: words, then `[IMG]`, which the pipeline appends. N embeddings are predicted one after another and decoded.
#
# Who says what a drawing shows? Not the model. `Judge` compares the picture with real drawings, by the features of a network that has never seen this model's data, and names the nearest concept. Notebook 11 says when not to trust it. Here it chooses among a few dozen concepts only, so that its gallery is quick to make.

# %%
from minemu.data.episodes import WISHES, in_context
from minemu.evaluation.judge import Judge

wanted = [singles.sample(i) for i in range(14)]  # twelve to draw now, two for a document
wishes = [in_context(world, i, wish) for i in range(3) for wish in WISHES]  # for later
scenes = [sample.scene for sample in wanted] + [scene for one in wishes for scene in one.scenes]
labels = {group.label for scene in scenes for group in scene.groups} | {
    label for label, _ in world.keys[::31]
}
judge = Judge(labels=sorted(labels), cache="")
print(len(judge.labels), "concepts to choose from,", len(judge.gallery), "real drawings of them")

# %% alt="Six drawings made from captions, each with what the judge takes it for and a tick or a cross; below each the real drawing of the same scene."
drawn = pipe(
    [[sample.caption] for sample in wanted[:12]], generator=torch.Generator().manual_seed(0)
).images
names = judge.names(drawn)
verdicts = [
    name == sample.scene.groups[0].label for name, sample in zip(names, wanted[:12], strict=True)
]
made = [
    Card(picture, sample.caption, "picture", right, f"the judge: {name}")
    for picture, sample, right, name in zip(
        drawn[:6], wanted[:6], verdicts[:6], names[:6], strict=True
    )
]
real = [Card(sample.picture, "", note="real") for sample in wanted[:6]]
print(f"the judge names {sum(verdicts)} of {len(verdicts)} as meant; the first six:")
show_gallery([made, real])

# %% [markdown]
# The verdict is about the *concept*. A drawing can be named right and still be blurred, or have the wrong number of legs. And the judge may miss a drawing that you would recognise: it forgives blur, but specks mislead it. Why pictures that are predicted from words lose detail is notebook 07's subject.
#
# ## Questions
#
# The sequence of the base model: picture, question, and then? Emu-I, the instruction-tuned model, was taught a template around them, and answers in the form that is asked for. `asking` writes whichever the model was taught:

# %%
from minemu.data import questions
from minemu.evaluation.abilities import asking, is_right

one = questions.question(world, 0, asks="colour")
prompt = asking(talker, one)
text = talker.processor.as_text(prompt) if talker is not pipe else "<picture> " + one.text
print(text.replace("<image>" * talker.processor.n_image, "<image> ..."))

# %% [markdown]
# When is an answer right? After the published cleaning, in lower case and without an article, it must be the true word or the true sentence. Nothing else is forgiven.

# %% tags=["same-as:minemu.evaluation.abilities.clean"]
from minemu import prompts

ARTICLES = ("a", "an", "the")


def clean(answer):
    words = prompts.first_sentence(answer).lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


for text in ("A llama.", "llama. it is on a green background", "the green", "two llamas"):
    print(f"{text!r:40} counts as {clean(text)!r}")

# %% [markdown]
# > **Predict.** Below, each question is asked twice: about its own picture (left), and about the picture of another question of the same sort (right). The truth is that of the left picture. For which sort will the answer from the *right* picture be true most often?

# %% alt="Eight questions, one of each sort, each with its own picture and another one; the true answer, the answer about its own picture and the answer about the other, marked right or wrong."
from dataclasses import replace

from minemu.figures.abilities import Answer, Asked, show_questions


def reply(pipe, asked):
    """What the model says to each question, by the likeliest word each time."""
    prompts = [asking(pipe, one) for one in asked]
    return [one.text for one in pipe.chat_batch(prompts, max_new_tokens=20)]


def pictures_of(one):
    return tuple(Image.fromarray(picture) for picture in one.pictures)


asked = [questions.question(world, i, asks) for i, asks in enumerate(questions.ASKS)]
swapped = [
    replace(one, pictures=questions.question(world, 100 + i, one.asks).pictures)
    for i, one in enumerate(asked)
]
blind = reply(talker, swapped)
shown = []
for one, other, own, unseen in zip(asked, swapped, reply(talker, asked), blind, strict=True):
    pairs = (("left, its own", own), ("right, another", unseen))
    marked = tuple(Answer(condition, text, is_right(one, text)) for condition, text in pairs)
    shown.append(Asked(pictures_of(one), one.text, one.answer, marked, pictures_of(other)))
luck = sum(1 / len(one.candidates) for one in asked)
hits = sum(is_right(one, text) for one, text in zip(asked, blind, strict=True))
print(f"right about another picture: {hits} of {len(asked)}, by luck {luck:.1f} on average")
show_questions(shown)

# %% [markdown]
# Where the second answer has a tick, look at the picture on the right: the model has answered about that one, and it merely has the same answer. That is what luck means here. It depends on the sort: with two possible answers it strikes far more often than with all things. `len(question.candidates)` says how many answers are equally likely. Eight questions are too few to tell luck from seeing, so ask ten of each sort:

# %%
from minemu.evaluation.tasks import evaluate

vqa = evaluate(talker, "vqa", n=80, seed=1)
print("right of ten   by luck   another picture   its own")
for sort, part in vqa.details["parts"].items():
    chance, blind, own = (part["n"] * part[name] for name in ("chance", "blind", "rate"))
    print(f"{sort:12} {chance:9.1f} {round(blind):17} {round(own):9}")

# %% [markdown]
# The middle column should be near the left one. The toy questions are made so that nothing in their words gives the answer away: each answer is drawn first, and then a scene that has it. Even so single questions differ: to "is the background purple?" the answer is *no* for most other pictures, so a true *no* is often right blindly and a true *yes* seldom, which averages to one half. Questions that people wrote are not so even: "what colour is the banana?" needs no picture.
#
# All of these sorts occur in pretraining's lessons, though not equally often (`minemu.data.lessons.ASKED` lists them, and what is learnt late stands there twice), and in the conversations that the adapter was tuned on, where colour, style and yes or no come more often. The rate below is over all of them.
#
# ### Your turn: the blind twin (5 minutes)
#
# Write the control yourself. `asked` is a list of questions; return the same questions, each with the pictures of the next one, the last with those of the first. Everything else stays.
#
# <details><summary>Hint</summary>
#
# A `Question` is a frozen dataclass: `dataclasses.replace(one, pictures=...)` makes a changed copy.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# from dataclasses import replace
#
#
# def answer(asked):
#     return [replace(one, pictures=after.pictures) for one, after in zip(asked, asked[1:] + asked[:1])]
# ```
# </details>


# %%
def blind_twin(asked):
    return None  # your line here


check("09.blind", blind_twin)

# %% [markdown]
# ## Clips
#
# A clip is eight pictures one after another, and then a question. Nothing in the model is made for time: which frame came first follows from its place in the sequence, as with words.
#
# > **In the paper** eight frames: at random moments in pretraining, evenly spread when asked. **In the released code** each frame is a picture of its own with all its N embeddings. **Here** the same, so a clip costs eight pictures of context.
#
# > **Predict.** Given only the *middle* frame, how often can the direction of a movement be answered? And why was the middle frame chosen for the control, and not the first?

# %% alt="Three clips of eight frames with a question each, and below each another clip; the true answer, and the answers about all eight frames, about a still of the middle frame and about the other clip, marked right or wrong."
clips = [questions.clip_question(world, 4, asks) for asks in questions.CLIP_ASKS]
others = [
    replace(one, pictures=questions.clip_question(world, 50 + i, one.asks).pictures)
    for i, one in enumerate(clips)
]
stills = [
    replace(one, pictures=(one.pictures[len(one.pictures) // 2],) * len(one.pictures))
    for one in clips
]
replies = {
    "eight frames": reply(talker, clips),
    "a still": reply(talker, stills),
    "clip below": reply(talker, others),
}
shown = [
    Asked(
        pictures_of(one),
        one.text,
        one.answer,
        tuple(
            Answer(condition, texts[k], is_right(one, texts[k]))
            for condition, texts in replies.items()
        ),
        pictures_of(others[k]),
    )
    for k, one in enumerate(clips)
]
show_questions(shown)

# %% [markdown]
# The world is built so that one frame helps little. Halfway, a drawing that moves is nearly where it would be for any direction (in the frame taken here it is two pixels past its halfway point, and that point itself is drawn at random from a range of fourteen pixels, so the two pixels tell little). The *first* frame would give the direction away, since what starts at the right moves to the left. What changed shows only beside what was before. One sort is different: in "which comes first?" the middle frame shows the *second* thing, so whoever knows how these clips are made can name the other. Nothing teaches the model that.
#
# Three questions prove nothing. Let us count, in two controls with the middle frame:
#
# * **a still**, the frame eight times. That is a clip, but one in which nothing happens. A model that says so, or finds it strange, may do worse than a guess.
# * **the frame alone**. The model may take that for a question about a picture and give an answer of another kind. So here it need not say anything: the likeliest of the answers that the question has (`candidates`) counts.
#
# Neither is fair alone: the still may be too hard for reasons that have nothing to do with time, and choosing is easier than saying. So compare eight frames with the *best* of three: luck and these two.

# %%
video = evaluate(talker, "video-qa", n=48, seed=1)
columns = {
    "chance": "by luck",
    "blind": "another clip",
    "single_frame": "a still",
    "ranked_frame": "frame alone",
    "rate": "eight frames",
}
parts = video.details["parts"]
columns = {name: title for name, title in columns.items() if name in parts["order"]}
print("right of    n ", *columns.values(), sep="  ")
for sort, part in parts.items():
    cells = [f"{round(part['n'] * part[name]):>{len(title)}}" for name, title in columns.items()]
    print(f"{sort:10} {part['n']:2} ", *cells, sep="  ")


# %%
def marks(share, n):
    """A rate as the list of right and wrong answers that it came from."""
    right = round(share * n)
    return [True] * right + [False] * (n - right)


def rate_of(name, result):
    return Rate(name, marks(result.score, result.n), result.chance, marks(result.blind, result.n))


# %% alt="Shares of right answers about pictures and about clips with eight frames, with a still and with one frame alone, each with its interval, chance and, where it was measured, the blind share."
from minemu.figures.abilities import Rate, show_rates

rates = [
    rate_of("about a picture", vqa),
    rate_of("about a clip, eight frames", video),
]
for name, control in (("single_frame", "a still"), ("ranked_frame", "the frame alone, likeliest")):
    if name in video.details:
        right = marks(video.details[name], video.n)
        rates.append(Rate(f"about a clip, {control}", right, video.chance))
show_rates(rates)

# %% [markdown]
# Read it like this: if the interval covers the blind share, the model has not been shown to look. If the interval of eight frames lies above chance and above the dots of both controls, the model has been shown to use more than one of the frames.
#
# A share *below* luck is possible too, and the table says where it comes from. Asked which of two things comes first, a model that names what it sees is wrong whenever it sees the second one, as in both controls; and if it sees neither, as in another clip, it may name a third thing, which is no answer at all.
#
# With 48 questions the intervals are wide; notebook 11 says how many it takes.
#
# ## Few-shot: the prompt teaches
#
# So far the tuned model answered. Now we ask the *base* model, with examples in front of the question. The published format is plain concatenation, without any template:
#
# | | few-shot format |
# |---|---|
# | **In the papers** | Emu: examples one after another, without a template (the authors, thread 8). Emu2: each is `[image] based on the picture, [question] short answer: [answer]`, joined by ". " |
# | **In the released code** | no few-shot evaluation |
# | **Here** | picture, question, answer and a full stop, in the words that the lessons of pretraining have |

# %%
from minemu.evaluation.abilities import POOL_FROM, as_sample

examples = [
    questions.question(
        ToyWorld("seen", image_size=pipe.processor.image_size), POOL_FROM + i, "colour"
    )
    for i in (2, 3)
]
query = questions.question(world, 1, "colour")
with_pictures = [item for one in examples for item in (*one.pictures, f"{one.text} {one.answer}.")]
text_only = [item for item in with_pictures if isinstance(item, str)]
without, with_them = (
    as_sample([*before, *query.pictures, query.text]) for before in (text_only, with_pictures)
)
assert len(with_them) == len(without) + len(examples)

# %% alt="The prompt with two examples and their pictures, and the model's answer after it."
from minemu.figures.abilities import show_document

show_document(with_them, [pipe.chat(with_them, max_new_tokens=8).text or "(nothing)"])

# %% alt="The same prompt with the text of the two examples only, and the model's answer after it."
show_document(without, [pipe.chat(without, max_new_tokens=8).text or "(nothing)"])


# %% [markdown]
# The two prompts teach different things. Text alone can teach the *form*: after such a question comes one word and a full stop. Only pictures can teach what the words have to do with them. Some of Emu's published zero-shot numbers are marked with a star: they have two such text-only examples in front, since a base model without them may well describe the picture rather than answer. `emu-tiny` had such questions in its lessons, written in the same way, so it may answer without examples. (Most of those documents began with the title "questions:". What does it change to put that in front of `with_pictures`?)
#
# ### Your turn: write the prompt (5 minutes)
#
# `examples` are triples (picture, question, answer). Return the list that the pipeline takes; with `shown=False` leave the examples' pictures out, but never `picture`.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(examples, picture, question, shown):
#     prompt = []
#     for own, asked, said in examples:
#         prompt += [own] * shown + [f"{asked} {said}."]
#     return [*prompt, picture, question]
# ```
# </details>


# %%
def few_shot_prompt(examples, picture, question, shown=True):
    return None  # your line here


check("09.prompt", few_shot_prompt)

# %% [markdown]
# ### RICES: which examples?
#
# RICES rests on the idea that examples which resemble the question help more than random ones; the figures below test it. It takes those whose pictures are most similar to the picture that is asked about. Let the unit vectors $u_q, u_p \in \mathbb{R}^E$ be the mean embedding of the picture of question q and of the picture of example p. Then
#
# $$s_{qp} = u_q^\top u_p \qquad \text{and the } K \text{ largest } s_{qp} \text{ are the examples, the largest last.}$$
#
# Below, `queries` and `pool` are the questions and the examples themselves, `found` holds the $u_q$ and the $u_p$ of their pictures, and `rices(*found, K)` gives the indices of each question's examples.
#
# > **In the paper** RICES is named, the features it compares are not. **In the released code** there is no few-shot evaluation. **Here** the features are the model's own visual embeddings.

# %% alt="Two pictures that are asked about; for each the three pictures of the pool that RICES finds most similar, and two at random, with the answers that stand below them in a prompt."
from minemu.retrieval import at_random, rices

train = ToyWorld("seen", image_size=pipe.processor.image_size)
pool = [questions.question(train, POOL_FROM + i, "what") for i in range(128)]
queries = [questions.question(world, i, "what") for i in range(48)]
found = [pipe.features([pictures_of(one)[0] for one in part]) for part in (queries, pool)]
nearest, by_lot = rices(*found, 3), at_random(len(queries), len(pool), 3, seed=0)


def card(one, note):
    return Card(pictures_of(one)[0], one.answer, note=note)


rows = [
    [
        card(queries[q], "asked about"),
        *(card(pool[p], "RICES") for p in nearest[q][:2]),
        card(pool[nearest[q][2]], "RICES, last"),
    ]
    + [card(pool[p], "random") for p in by_lot[q][:2]]
    for q in range(2)
]
show_gallery(rows)


# %% [markdown]
# Look at the answers below the retrieved pictures. Where one of them is the right one, the prompt *contains the answer*, and the model only has to repeat it. So a few-shot score by RICES has a baseline that uses no language model at all: **copy the answer of the most similar example**.
#
# ### Your turn: the copying baseline (5 minutes)
#
# `u_q` (n, E) and `u_p` (P, E) are the unit vectors of questions and examples, `answers` the P answers of the pool. Return the n answers.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(u_q, u_p, answers):
#     return [answers[k] for k in (u_q @ u_p.T).argmax(dim=1).tolist()]
# ```
# </details>


# %%
def copy_nearest(u_q, u_p, answers):
    return None  # your line here


check("09.copy", copy_nearest)

# %% [markdown]
# Who needs the language model? The base model is asked "what is this?": without examples, after two at random, and after the two nearest by RICES. Beside it stands copying, which needs no model. Once this is asked about things that training has shown (in new pictures), and once about things that it never showed, with examples of such things too.
#
# > **Predict.** Where can examples help more: with known things, or with new ones?

# %%
from itertools import chain


def with_examples(chosen, queries, pool):
    """Each question after its examples."""
    prompts = []
    for row, one in zip(chosen, queries, strict=True):
        shots = ((*pool[k].pictures, f"{pool[k].text} {pool[k].answer}.") for k in row)
        prompts.append(as_sample([*chain(*shots), *one.pictures, one.text]))
    return prompts


def ways_of(queries, pool):
    """Which examples stand before each question, in three ways."""
    vectors = [pipe.features([pictures_of(one)[0] for one in part]) for part in (queries, pool)]
    return {
        "no example": [[]] * len(queries),
        "two at random": at_random(len(queries), len(pool), 2, seed=0),
        "two by RICES": rices(*vectors, 2),
    }


# %% alt="Shares of right answers to the question what is this, about known and about new things: without examples, with two random ones, with two by RICES and by copying the nearest example's answer, beside chance."
new = ToyWorld("new-concept", image_size=pipe.processor.image_size)
new_pool = [questions.question(new, POOL_FROM + i, "what") for i in range(len(pool))]
new_queries = [questions.question(new, i, "what") for i in range(len(queries))]
rows = []
for things, own, examples in (("known", queries, pool), ("new", new_queries, new_pool)):
    ways = ways_of(own, examples)
    texts = {
        way: [one.text for one in pipe.chat_batch(prompts, max_new_tokens=12)]
        for way, chosen in ways.items()
        for prompts in [with_examples(chosen, own, examples)]
    }
    texts["copy the nearest"] = [examples[row[-1]].answer for row in ways["two by RICES"]]
    for way, said in texts.items():
        right = [is_right(one, text) for one, text in zip(own, said, strict=True)]
        rows.append(Rate(f"{things} things, {way}", right, 1 / len(own[0].candidates)))
        print(f"{things:6}{way:18}{sum(right):3} of {len(right)}")
show_rates(rows)

# %% [markdown]
# A gain needs room. What the model can name without examples leaves none: `emu-tiny` was taught such questions in pretraining, and the upper lines are level where it has learnt them. It can get the names of new things only from the prompt. There the retriever often puts the right answer into it, and *copying* is the score to beat: a model that stays below it has not even used what stands in its prompt, and one that only reaches it may have done no more than copy.
#
# ### Another wording
#
# Examples can teach a second thing, the form. So let us ask about known things in a wording that no lesson has: each example is a picture and `answer llama.`, and the prompt ends with the picture in question and the word `answer`. How unlikely does the model find the true name there, per token? And how many of the 250 names does it find likelier? We compare five prompts: no examples; two examples as texts alone; the same two with their pictures; two by RICES; and those two with their answers *swapped*.
#
# > **Predict.** Which of the five helps most?


# %%
def score_after(chosen, swapped=False, pictures=True):
    """Of each question the loss per token of the true name after `answer`, and its rank among all names."""
    found = []
    for q in differing:
        names = [pool[k].answer for k in chosen[q]][:: -1 if swapped else 1]
        shots = [
            [*(pool[k].pictures if pictures else ()), f"answer {name}."]
            for k, name in zip(chosen[q], names, strict=True)
        ]
        one = queries[q]
        prompt = as_sample([*chain(*shots), *one.pictures, "answer"])
        scores = pipe.log_likelihoods(prompt, [f"{name}." for name in one.candidates], mean=True)
        mine = scores[one.candidates.index(one.answer)]
        found.append((-mine.item(), 1 + int((scores > mine).sum())))
    return found


# %% alt="Loss per token of the true name in a new wording: without examples, after two texts, after two random examples, after two by RICES, and after those with their answers swapped; below each bar the median rank of the true name, and a stroke at the loss of a uniform guess."
import math
from statistics import mean, median, stdev

from minemu.figures.scores import show_bars

ways = ways_of(queries, pool)
lot, near = ways["two at random"], ways["two by RICES"]
differing = [q for q, row in enumerate(near) if len({pool[k].answer for k in row}) > 1][:16]
scored = {  # of questions whose two nearest examples have different answers: else nothing to swap
    "no\nexample": score_after(ways["no example"]),
    "two\ntexts": score_after(lot, pictures=False),
    "two at\nrandom": score_after(lot),
    "two by\nRICES": score_after(near),
    "RICES,\nswapped": score_after(near, swapped=True),
}
losses = {name: [loss for loss, _ in found] for name, found in scored.items()}
names = [f"{name}\nrank {median(r for _, r in found):.0f}" for name, found in scored.items()]
uniform = math.log(pipe.model.config.llm.vocab_size)
better = sum(mean(each) < uniform for each in losses.values())
print(f"uniform guess: {uniform:.1f} a token; prompts that do better: {better} of {len(losses)}")
show_bars(
    names, {"true name": [mean(each) for each in losses.values()]}, "loss per token", [uniform] * 5
)

# %% [markdown]
# Two levels to compare with. The black strokes are a guess that finds every token of the vocabulary equally likely: a higher loss is worse than knowing nothing, since the model is sure of something else. And among 250 names luck gives a median rank of about 125.
#
# Which of these bars differ? The questions are the same in each, so compare question by question: the mean of the differences, with an interval of 1.96 standard errors to either side.

# %% alt="Four differences of the loss per token over the same questions, each with its interval beside zero: two texts minus no example, random examples minus texts, RICES minus random, swapped minus RICES."
from minemu.figures.scores import show_differences

steps = (
    "form: texts - none",
    "pictures: random - texts",
    "retrieval: RICES - random",
    "reading: swapped - RICES",
)
by_way = list(losses.values())
differences = {
    step: [a - b for a, b in zip(after, before, strict=True)]
    for step, before, after in zip(steps, by_way[:-1], by_way[1:], strict=True)
}
for step, each in differences.items():
    half = 1.96 * stdev(each) / math.sqrt(len(each))
    holds_zero = abs(mean(each)) <= half
    print(
        f"{step:26}",
        "no difference shown" if holds_zero else "lower" if mean(each) < 0 else "higher",
    )
show_differences(differences, "difference of the loss per token (below 0: a gain)")

# %% [markdown]
# Few-shot gains can depend on three things, and each has its line:
#
# * **form**: what texts alone gain is the wording. Pictures (second line) can add that such a text follows a picture and names it;
# * **retrieval**: what RICES gains beyond random examples. It may be the retriever's merit (its examples can hold the answer): compare with copying;
# * **reading the prompt**: if swapping the answers made the true one less likely, the last line would lie right of zero. If it does not, the model has not been shown to read which answer belongs to which picture. (Nor is it proof where it does: swapping also moves the answer of the most similar example away from the end, and a liking for what was said last would show here too.)
#
# Read the lines together with the bars. As long as every loss is above the strokes and the ranks are those of luck, the examples have not taught the wording, whatever a single difference says: shifts between bad prompts show no learning. Next comes a task that can be done only by reading the prompt.
#
# ### New names for new things
#
# Two concepts from a split that training never showed, each with a made-up name, and K drawings of each as examples. Which name comes after the last drawing? The names mean nothing, so they can only be learnt from the prompt.

# %% alt="A prompt that gives two made-up names to drawings of two concepts and ends with one more drawing to be named."
from minemu.data.episodes import names_episode

episode = names_episode(new, 0, shots=2)
show_document(as_sample(episode.prompt))


# %% [markdown]
# How does one ask a language model to choose? By the likelihood of each name $c$ (`candidates`) as the next words, per token, so that a long name does not lose by its length (a full stop stands behind each):
#
# $$\hat c = \operatorname{argmax}_c \frac{1}{|c|} \sum_{t=1}^{|c|} \log p(c_t \mid \text{prompt}, c_{<t})$$
#
# $\hat c$ is what `likeliest` returns, the prompt is `episode.prompt`, and `pipe.log_likelihoods(..., mean=True)` gives the mean for each $c$.
#
# But is the information there at all? Train something on it and see: **a probe**, one linear layer on the frozen visual embeddings of the same 2K drawings, by gradient descent, in a moment. It does with *weights* what the prompt should do with *attention*.


# %%
def probe(pipe, episode, steps=60):
    """The name that a linear layer, trained on the examples, gives to the last drawing."""
    *shown, query = [
        Image.fromarray(piece) for piece in episode.prompt if not isinstance(piece, str)
    ]
    words = [piece for piece in episode.prompt if isinstance(piece, str)][
        1:-1
    ]  # between the title and the question
    truth = torch.tensor(
        [next(k for k, name in enumerate(episode.candidates) if name in text) for text in words]
    )
    vectors = pipe.features([*shown, query])  # (2K + 1, E)
    torch.manual_seed(0)
    with torch.enable_grad():
        layer = torch.nn.Linear(vectors.shape[1], len(episode.candidates))
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        for _ in range(steps):
            loss = F.cross_entropy(layer(vectors[:-1]), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return episode.candidates[int(layer(vectors[-1]).argmax())]


# %% [markdown]
# > **Predict.** The model reads the same examples in its prompt. If the base knows `names` (the table at the top), it was taught to do this, with other things and other names. Will it come near the probe?

# %% alt="Share of right names against the number of examples of each name: the language model with the examples in its prompt, the probe trained on them, the language model with another query picture, and chance."
from minemu.figures.abilities import show_shots


def likeliest(pipe, episode):
    scores = pipe.log_likelihoods(
        as_sample(episode.prompt), [f"{name}." for name in episode.candidates], mean=True
    )
    return episode.candidates[int(scores.argmax())]


def with_query_of(own, other):
    """The same examples, and a drawing of another episode to be named."""
    return replace(own, prompt=(*own.prompt[:-2], *other.prompt[-2:]))


shots = (1, 2, 4)
curves = {"in the prompt": [], "a probe trained on them": [], "in the prompt, blind": []}
for number in shots:
    made = [names_episode(new, i, number) for i in range(41)]
    episodes = made[:-1]
    unseen = [with_query_of(own, other) for own, other in zip(episodes, made[1:], strict=True)]
    for name, way, asked_of in zip(
        curves, (likeliest, probe, likeliest), (episodes, episodes, unseen), strict=True
    ):
        curves[name].append([way(pipe, one) == one.answer for one in asked_of])
show_shots(shots, curves, chance=1 / 2)

# %% [markdown]
# The third line is the blind one: the same examples, but the drawing to be named is one of another episode, of a thing that no example shows. A model that compares must fall back to chance there. If the blind line runs where the first one does (it then hides it), nothing was read from the drawing: the choice depends on the names and on the order of the examples alone, and what stands above 50 % is the luck of these episodes.
#
# Forty episodes leave wide intervals. The shipped checkpoint was measured on more, and the file beside it says how it fared. To have learnt a name from the prompt, it must beat chance *and* the blind share.

# %%
from minemu.evaluation.report import read_results

measured = {
    (one["task"], one["details"].get("shots")): one
    for one in read_results(data_dir() / "emu-tiny" / "results.json")["results"]
}
for (task, number), one in measured.items():
    if task == "few-shot-names":
        low, high = one["details"]["interval"]
        print(
            f"{number} of each, n {one['n']}: {one['score']:.1%} [{low:.1%}, {high:.1%}],", end=" "
        )
        print(f"chance {one['chance']:.0%}, blind {one['blind']:.1%};", end=" ")
        print("beyond both:", low > max(one["chance"], one["blind"]))

# %% [markdown]
# Where the last word is *False*, the names have not been shown to be learnt from the prompt, even if the interval excludes 50 %: with another drawing after the same examples, as many answers were right. Where the probe is right and the prompt is not, the encoder has seen enough, and the language model has not learnt to look back and compare. That skill has to come from the pretraining data, from documents in which the same thing recurs with the same name; a base with `names` in that table had some, as lessons. Emu's authors credit interleaved documents and storyboards for it; a small model and the lessons of one recipe need not be enough.
#
# ## Blending
#
# The sequence: a picture, a picture, and then a picture. No words at all. The pipeline draws what the model expects third.
#
# | | blending |
# |---|---|
# | **In the paper** | we know of no score for it |
# | **In the released code** | two pictures and no word, at guidance 7.5 |
# | **Here** | the same prompt, at the checkpoint's own guidance, and a score: the task `blend` |
#
# Is there a right answer? Sometimes: Unicode has emoji that *are* sums, bear and snowflake make the polar bear, bird and fire the phoenix, and artists have drawn the parts and the sum in one style. So a blend can be compared with a person's.

# %% alt="Three rows: two given pictures, the model's blend, an artist's sum of the two, and bars of the cosine of the model's picture to each of the three, with a stroke where chance is."
from minemu.data.episodes import blend, blends
from minemu.figures.abilities import Blended, show_blends

results = [triple.result for triple, _ in blends()]
numbers = [results.index(name) for name in ("polar bear", "phoenix", "service dog")]
sums = [blend(i, "white", pipe.processor.image_size) for i in numbers]
given = [as_sample([one.first, one.second]) for one in sums]
mixed = pipe(given, generator=torch.Generator().manual_seed(0)).images
looks = judge.features(mixed)  # (3, F)
near = {}
for name, part in zip(
    ("the first", "the second", "the artist's"), ("first", "second", "target"), strict=True
):
    near[name] = (
        looks @ judge.features([Image.fromarray(getattr(one, part)) for one in sums]).T
    )  # (3, 3)
rows = []
for k, one in enumerate(sums):
    own = {name: float(cosines[k, k]) for name, cosines in near.items()}
    rest = {
        name: float((cosines[k].sum() - cosines[k, k]) / (len(sums) - 1))
        for name, cosines in near.items()
    }
    rows.append(Blended(*given[k], mixed[k], Image.fromarray(one.target), own, rest))
second = sum(row.near["the second"] > row.near["the first"] for row in rows)
print(f"nearer to the second picture than to the first: {second} of {len(rows)}")
show_blends(rows)

# %% [markdown]
# The bars say how near, in the judge's eyes, the drawn picture is to each; the stroke is the same for pictures of other rows. A blend that beats chance for both of its parents is nearer to both than to two others. One that beats it for one parent alone looks copied; if that is always the second, the model has gone on from the picture that it read last. Nothing in training asked for sums, so any similarity to the artist's picture is a bonus. The result file of the shipped checkpoint has all of these sums:

# %%
one = measured["blend", None]
print(f"the artist's sum among the judge's first five: {one['score']:.1%} of {one['n']}", end=" ")
print(f"(chance {one['chance']:.1%}, blind {one['blind']:.1%})")
near_both = one["details"]["nearer_than_chance"]
print(f"nearer to both given pictures than to two of another blend: {near_both:.1%}", end=" ")
copied = one["details"].get("nearer_than_chance_chance", 2 / 3)  # a copy of either is, mostly
print(f"(a copy of one of them: {copied:.1%})")

# %% [markdown]
# ## Drawing in context
#
# Words may say what to take from which picture.
#
# | | drawing in context |
# |---|---|
# | **In the papers** | Emu: we know of no score for it. Emu2: a given subject in a new scene, scored by DINO and CLIP on DreamBench, by a model that was tuned for it (Emu2-Gen) |
# | **In the released code** | "This is the first image: ", a picture, "This is the second image: ", a picture, and what is wanted: "The animal in the first image surrounded with the plant in the second image: "; guidance 10 |
# | **Here** | that prompt in the toy world's words, at the checkpoint's own guidance. Where the table at the top has `in_context`, lessons had this very form, with other wanted pictures, and the model is asked for what it was taught |

# %%
orders = [as_sample(one.prompt) for one in wishes]
fulfilled = pipe(orders, generator=torch.Generator().manual_seed(0)).images
for item in orders[0]:
    print(item if isinstance(item, str) else "[picture]")

# %% [markdown]
# Three things can be right or wrong about such a picture, and they are measured apart: the thing, the background, the size. The judge names the thing (in halves where two stand side by side); the background and the size are read off the pixels.

# %%
from minemu.evaluation.judge import as_tensors, background_name, halves, size_name


def kept(picture, scene):
    """What of the wanted scene a drawn picture shows."""
    pixels = as_tensors([picture])[0]
    parts = [pixels] if scene.relation is None else halves(pixels, scene.relation)
    return {
        "thing": judge.names(parts) == [group.label for group in scene.groups],
        "background": background_name(pixels) == scene.background,
        "size": scene.size in (None, size_name(pixels)),
    }


# %% alt="For each of the three wishes the first and the second given picture, the drawn picture with verdicts on thing, background and size, and the picture that was meant."
found = [kept(picture, one.scenes[2]) for one, picture in zip(wishes, fulfilled, strict=True)]
rows = []
for one, picture, parts in list(zip(wishes, fulfilled, found, strict=True))[: len(WISHES)]:
    verdict = ", ".join(f"{part} {'right' if good else 'wrong'}" for part, good in parts.items())
    first, second = (piece for piece in as_sample(one.prompt) if not isinstance(piece, str))
    mine = Card(picture, "drawn", "picture", all(parts.values()), verdict)
    rows.append(
        [
            Card(first, "first"),
            Card(second, "second"),
            mine,
            Card(Image.fromarray(one.target), "meant"),
        ]
    )
show_gallery(rows, [one.wish + ": " + WISHES[one.wish] for one in wishes[: len(WISHES)]])

# %% [markdown]
# Three pictures are no measure. The result file has more of them, where the judge knows all concepts and the right one has to be among its first five:

# %%
one = measured["in-context-draw", None]
print(f"all right: {one['score']:.1%} of {one['n']}, by another's wish {one['blind']:.1%}")
print({wish: f"{share:.1%}" for wish, share in sorted(one["details"]["wishes"].items())})

# %% [markdown]
# ## Words and pictures coming out
#
# So far the caller decided whether words or a picture come out. `continue_document` leaves it to the model: it says words until it says `[IMG]`, a picture is predicted, the model reads its own embeddings back, and so on until `</s>`. (A title such as "two pictures:" says how many pictures there will be, as it does in training; otherwise nothing in a document would tell where it ends.)
#
# | | who writes `[IMG]`? |
# |---|---|
# | In the paper | the model |
# | In the released code | the caller: `[IMG]` is never a target, so the model cannot say it. The authors confirm that interleaved output is not supported |
# | Here | with `objective.say_image` it is a target like any word, and the model decides |

# %% alt="A document that begins with a sentence, its picture and another sentence, and the words and pictures with which the model goes on."
# NBVAL_IGNORE_OUTPUT
from minemu import MinemuError

pair = wanted[12:]
begun = ["two pictures:", pair[0].caption + ".", pair[0].picture, pair[1].caption + "."]
try:
    went_on = pipe.continue_document(
        begun, max_pictures=3, generator=torch.Generator().manual_seed(0)
    )
except MinemuError as error:
    went_on = [f"({error})"]  # emu-nano does not say [IMG]
show_document(begun, went_on)

# %% [markdown]
# Two different things can fail here. The *order* may be wrong: no picture where one should follow, or no end. And the *content* may be wrong: a picture that does not fit its sentence. The task `interleaved` scores the first, and the judge can be asked about the second:

# %%
# NBVAL_IGNORE_OUTPUT
pieces = [*begun, *went_on]
for k in range(len(begun), len(pieces)):
    if not isinstance(pieces[k], str):
        before = next((piece for piece in reversed(pieces[:k]) if isinstance(piece, str)), "")
        print(f"after {before!r} the judge sees: {judge.names([pieces[k]])[0]}")

# %% [markdown]
# ## What it cannot do
#
# The model has seen drawings of a few hundred things, in the sentences of one small grammar. Outside of that world it does not say "I do not know"; it can only use the words of its world. Photographs, for example:

# %% alt="Four photographs with the captions that the model gives them."
from minemu.data.samples import load_photos

photos = load_photos()
chosen = [photos[k] for k in range(0, len(photos), len(photos) // 4)][:4]


def seen(photo):
    """As the model sees it."""
    return Image.fromarray(pipe.processor.pixels(photo["image"]).numpy())


told = pipe.chat_batch([[photo["image"]] for photo in chosen])
show_gallery(
    [
        [
            Card(seen(photo), one.text, "text", note=f"photo: {photo['subject']}")
            for photo, one in zip(chosen, told, strict=True)
        ]
    ]
)

# %% [markdown]
# And prompts that no caption resembles:

# %% alt="Three prompts outside of the toy world's grammar and what the model draws for each."
odd = ["seven llamas in a circle", "a llama reading a newspaper on the moon", "the number 42"]
sketches = pipe([[text] for text in odd], generator=torch.Generator().manual_seed(0)).images
show_gallery(
    [[Card(picture, text, "picture") for picture, text in zip(sketches, odd, strict=True)]]
)

# %% [markdown]
# Nothing here is a bug. A language model completes; it does not check whether it may. What a large model adds is a larger world and more kinds of documents, not another mechanism. That it answers fluently says nothing about whether it has looked, at any size; that is why the blind baseline belongs beside every score.
#
# ## What could go wrong
#
# Three mistakes and what the package says.

# %%
mistakes = {
    "a chat template for the base model": lambda: pipe.processor.apply_chat_template(
        [{"role": "user", "content": "hello"}]
    ),
    "bare words instead of a list": lambda: pipe("a llama"),
    "a sort of question that there is not": lambda: questions.question(world, 0, asks="color"),
}
for what, make in mistakes.items():
    try:
        make()
    except MinemuError as error:
        print(f"{what}:\n  {error}")

# %% [markdown]
# ## All of it, measured
#
# Most tasks of the table at the top, with a few samples each, so that it takes seconds. Captions, drawings, questions and wishes are those from above.

# %%
from minemu.data.world import BACKGROUNDS, SIZES, STYLES

looks = (
    len(world.labels) * len(SIZES) * len(BACKGROUNDS) * len(STYLES)
)  # captions of a single drawing
new_names = evaluate(pipe, "few-shot-names", n=40, shots=2)
document = evaluate(pipe, "interleaved", n=8) if pipe.model.config.objective.say_image else None
print("measured:", *(result.task for result in (new_names, document) if result))

# %% alt="Shares of right answers in captions, drawings, questions, clips, new names, drawing in context and documents, each with its 95 % interval, chance and the blind share."
summary = [
    Rate("caption, all of it right", named, 1 / looks, blind_named),
    Rate("drawing, named by the judge", verdicts, 1 / len(judge.labels)),
    rate_of("question about a picture (Emu-I)", vqa),
    rate_of("about a clip, eight frames (Emu-I)", video),
    rate_of("two new names, two examples", new_names),
    Rate(
        "drawing in context, all three right",
        [all(parts.values()) for parts in found],
        1 / len(judge.labels) / len(BACKGROUNDS),
    ),
]
if document:
    summary.append(rate_of("document, the right pieces follow", document))
show_rates(summary)

# %% [markdown]
# One mechanism, one objective, two sets of weights: the two rows with questions are of the adapter, all others of the base. The table at the top says which documents taught what. Where the blind mark lies inside an interval, the row has not shown that the model looks, however high it is. `minemu evaluate CHECKPOINT --all` measures each task with hundreds of samples.
#
# ## What next
#
# * What the adapter adds to a base that can answer already, and what that costs: notebook 10.
# * How many samples a claim needs, and when the judge is wrong: notebook 11.
# * `make demo` writes a page of such galleries.
