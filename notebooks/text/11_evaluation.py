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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/11_evaluation.ipynb)
#
# # Evaluation: what a score is worth
#
# A model that reads and draws has to be measured on both, and each measure can be fooled. This notebook builds the measures that the papers use, checks two against their reference implementations, and shows what each of them ignores.
#
# After it you can
#
# * put an interval on a rate, and say how many samples a claim needs;
# * choose the rule by which a difference counts as one;
# * set a score beside chance, a blind baseline and an upper bound;
# * compute CIDEr, VQA accuracy, NDCG and the Frechet distance, and say what each ignores;
# * judge drawings by an independent network, and know when not to trust it;
# * explain how RICES chooses examples for a few-shot prompt, and what a gain from it proves.
#
# It needs about a minute on two CPU cores, less on a T4, and 2 GB of memory. The judge's weights and two reference implementations are an extra: `pip install -e ".[evaluate]"` (on Colab the next cell does it).

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
    # %pip install --quiet --editable ".[evaluate]"
    sys.path.insert(0, ".")

# %% [markdown]
# ## Choose a model
#
# `emu-tiny` is trained. `emu-nano` has random weights: every measure below works on it, and shows how little it knows.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %%
# %matplotlib inline
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import torch
from minemu.course import check, start
from minemu.data.world import ToyWorld

torch.set_grad_enabled(False)  # but for one linear layer nothing is trained here
pipe, world = start(PRESET)
singles = ToyWorld("seen", kinds=("single",), held_out=True, image_size=pipe.processor.image_size)
samples = [
    singles.sample(i) for i in range(17)
]  # one drawing each, in scenes that training never showed
print(len(samples), "held-out samples, the first:", samples[0].caption)

# %% [markdown]
# ## A rate is a guess
#
# k of n answers are right. The share $\hat p = k / n$ is known; the rate $p$ that further samples would show is not. Wilson's interval holds $p$ in about 95 % of samplings ($z = 1.96$, `z`):
#
# $$\frac{1}{1 + z^2/n}\left(\hat p + \frac{z^2}{2n} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}}\right)$$
#
# `right` is the list of answers, `True` where right; $\hat p$ is `p`, `centre` is the middle of the interval, and `half` what stands after the $\pm$, both times the fraction in front.

# %% tags=["same-as:minemu.evaluation.metrics.wilson"]
import math

from minemu.evaluation.metrics import rate


def wilson(right, z=1.96):
    n, p = len(right), rate(right)
    if n == 0:
        return 0.0, 1.0
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# %% [markdown]
# > **Predict.** A model gets 0 of 20 right. How high may its true rate still be? And at 0 of 200?

# %%
for n in (20, 200):
    print(f"0 of {n} right: the true rate may be as high as {100 * wilson([False] * n)[1]:.0f} %")

# %% alt="The 95 % interval against the number of samples for rates of 50, 90 and 100 %: at 10 samples it covers half of the axis, at 100 about ten points to either side, at 4000 almost nothing."
from minemu.figures.scores import show_intervals

counts = (10, 25, 50, 100, 200, 400, 1000, 4000)
shares = {"half right": 0.5, "nine in ten right": 0.9, "all right": 1.0}


def answers(share, n):
    return [True] * round(share * n) + [False] * (n - round(share * n))


show_intervals(
    counts, {name: [wilson(answers(share, n)) for n in counts] for name, share in shares.items()}
)

# %% [markdown]
# Four times the samples halve the interval. Two models that differ by three points cannot be told apart with a hundred samples each.
#
# Why not the textbook's $\hat p \pm z\sqrt{\hat p(1 - \hat p)/n}$? At $\hat p = 0$ or 1 it has no width, as if twenty answers could prove certainty. For n = 20 one can count how often each interval holds the true rate, without simulation.

# %% alt="For 20 samples, how often Wilson's and the textbook's interval hold the true rate: Wilson's stays near 95 % throughout, the textbook's collapses towards rates of 0 and 1."
from minemu.figures.scores import show_coverage


def textbook(right, z=1.96):
    p, n = rate(right), len(right)
    half = z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def coverage(interval, p, n=20):
    """The probability that the interval of n samples holds p."""
    ends = [interval([True] * k + [False] * (n - k)) for k in range(n + 1)]
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return sum(share for (low, high), share in zip(ends, chance, strict=True) if low <= p <= high)


rates = [i / 200 for i in range(1, 200)]
kinds = {"Wilson": wilson, "textbook": textbook}
show_coverage(
    rates, {name: [coverage(interval, p) for p in rates] for name, interval in kinds.items()}
)


# %% [markdown]
# ### Your turn: how many samples? (5 minutes)
#
# You want an interval narrower than `width` in the worst case, half of the answers right. Return the smallest even n.
#
# <details><summary>Solution</summary>
#
# ```python
# from minemu.evaluation.metrics import wilson
#
#
# def enough(width):
#     n = 2
#     while True:
#         low, high = wilson([True, False] * (n // 2))
#         if high - low < width:
#             return n
#         n += 2
#
#
# answer = enough
# ```
# </details>


# %%
def enough(width):
    return None  # your lines here


check("11.enough", enough)

# %% [markdown]
# ## When is a difference a difference?
#
# Two models answer 200 questions each, the old one 90 % right and the new one 82 %. The first rule that comes to mind: draw both intervals, and see whether they overlap.
#
# > **Predict.** Do they overlap? And is the new model worse, or is this the luck of the questions?
#
# Overlap is too strict. Each interval says how far *one* rate may be off. Both being off that far, in opposite directions, is much rarer than one in twenty. Independent errors add by their squares, as in Newcombe's interval of a difference (Statistics in Medicine 17, 873-890): with the rates $\hat p$ and $\hat q$ and Wilson's ends $l_p, u_p$ and $l_q, u_q$ it reaches from
#
# $$(\hat q - \hat p) - \sqrt{(\hat q - l_q)^2 + (u_p - \hat p)^2} \quad\text{to}\quad (\hat q - \hat p) + \sqrt{(u_q - \hat q)^2 + (\hat p - l_p)^2}.$$
#
# In the cell $\hat p$ is `p`, the rate of the answers `old`, and $\hat q$ is `q`, that of `new`.

# %%
old = [True] * 180 + [False] * 20
new = [False] * 20 + [True] * 164 + [False] * 16  # the same 200 questions, in the same order


def newcombe(old, new):
    p, q = rate(old), rate(new)
    (low_p, high_p), (low_q, high_q) = wilson(old), wilson(new)
    below, above = math.hypot(q - low_q, high_p - p), math.hypot(high_q - q, p - low_p)
    return q - p - below, q - p + above


print("the two intervals overlap:", wilson(new)[1] > wilson(old)[0])
print("Newcombe's interval of the difference: {:.1%} to {:.1%}".format(*newcombe(old, new)))

# %% [markdown]
# The intervals overlap, and still the interval of the difference does not hold 0. Which rule is right depends on what is compared, and thus on what else might have come out differently:
#
# | what is compared | what is left to luck | rule | used in |
# |---|---|---|---|
# | answers of one model with chance | which samples were drawn | Wilson's interval: does it hold chance? | here, [09](09_abilities.ipynb) |
# | answers of one model with its blind share | which samples were drawn, for both | paired, as in the next line | here |
# | two models, or two prompts, on the same questions | the same, but once for both | the differences question by question: does their mean $\pm$ 1.96 standard errors hold 0? | the next exercise, [09](09_abilities.ipynb) |
# | two models of which only the rates are known | which samples were drawn, for each | Newcombe's interval: does it hold 0? | [10](10_instruction_tuning.ipynb) |
# | two ways to train | the seed of the training too; samples say nothing about that | several seeds of each: do the seeds of one lie apart from those of the other? | [06](06_pretraining.ipynb), and with a rule [14](14_claims_and_open_questions.ipynb) |
#
# No rule here is safe when used often. Compare two equal models on twenty tasks, and with 95 % intervals one of the twenty is expected to look like a difference.
#
# ### Your turn: the same questions, twice (5 minutes)
#
# Both models answered the same questions. What is easy for both, or too hard for both, says nothing about their difference, but Newcombe's interval counts its scatter too. So compare question by question: 1 where only the new model is right, -1 where only the old one is, else 0. Write `paired(old, new)`, the two ends of the mean of these differences $\pm$ 1.96 standard errors. The standard error is the standard deviation (with n - 1) over $\sqrt n$. Then try it on `old` and `new` above.
#
# <details><summary>Solution</summary>
#
# ```python
# from statistics import mean, stdev
#
#
# def paired(old, new):
#     change = [b - a for a, b in zip(old, new, strict=True)]
#     half = 1.96 * stdev(change) / len(change) ** 0.5
#     return mean(change) - half, mean(change) + half
#
#
# answer = paired
# ```
# </details>


# %%
def paired(old, new):
    return None  # your lines here


check("11.paired", paired)

# %% [markdown]
# ## Captions, exactly
#
# The toy world's captions say all there is to say in a closed form, so they can be read back (`captions.parse`) and compared with the scene, part by part. This is stricter than the measures for real photos: one wrong word is a wrong caption.
#
# Every score in minemu stands beside three others:
#
# | | what it tells |
# |---|---|
# | **chance** | what a guess among all answers gets |
# | **blind** | what is right without having looked: captions and drawings are held against *another* sample's truth, questions are asked again about *another* picture |
# | **upper bound** | what the measure itself can reach, on real pictures |

# %%
from minemu.data import captions
from minemu.prompts import DESCRIBE

shown = samples[:16]
said = [
    answer.text for answer in pipe.chat_batch([[sample.picture] for sample in shown], **DESCRIBE)
]
read = [captions.parse(text, singles.labels) for text in said]
right = [captions.same(sample.scene, scene) for sample, scene in zip(shown, read, strict=True)]
blind = [
    captions.same(sample.scene, scene) for sample, scene in zip(samples[1:], read, strict=True)
]
print(len(right), "captions marked, each against its own scene and against the next one's")

# %% [markdown]
# The package asks the same question, of the same samples:

# %%
from minemu.evaluation.tasks import evaluate

result = evaluate(pipe, "caption", n=len(shown))
torch.testing.assert_close(result.score, rate(right))
torch.testing.assert_close(result.details["interval"], list(wilson(right)))
torch.testing.assert_close(result.blind, rate(blind))
print("Result:", ", ".join(name for name in result.to_dict() if name != "details"))

# %% alt="Six held-out pictures; below each the model's caption and whether all of it is right."
from minemu.figures import show_pictures

marks = [f"{'right' if ok else 'WRONG'}: {text}" for ok, text in zip(right, said, strict=True)]
show_pictures([sample.picture for sample in shown[:6]], marks[:6])

# %% [markdown]
# ## CIDEr
#
# Photos have no closed form: five people write five captions. CIDEr ([arXiv 1411.5726](https://arxiv.org/abs/1411.5726)) compares n-grams, weighted by how rare they are among the references of *all* pictures.
# For words $n = 1 \dots 4$ and a caption $c$ with references $r_j$:
#
# * `weigh`: $g_n(c)$, count of each n-gram times $\log N - \log \mathrm{df}$, with N pictures (`len(references)`), df (`df[gram]`) of which have the n-gram in a reference;
# * `like`: cosine of $g_n(c)$ (`a`), clipped to the reference, with $g_n(r_j)$ (`b`), times a penalty for length $e^{-\Delta^2 / 2\sigma^2}$, $\sigma = 6$, where $\Delta$ (`delta`) is the difference in words;
# * the mean over n and over references, times 10. Papers print 100 times that: 112.4 is 1.124.

# %%
from collections import Counter
from itertools import chain


def ngrams(text):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def cider(said, references):
    """CIDEr-D of each caption; `references` holds a list of texts for each."""
    df = Counter(gram for texts in references for gram in set(chain(*map(ngrams, texts))))

    def weigh(text, n):
        rare = {gram: math.log(len(references) / max(1, df[gram])) for gram in ngrams(text)}
        return {gram: count * rare[gram] for gram, count in ngrams(text).items() if len(gram) == n}

    def like(mine, theirs, n):
        a, b = weigh(mine, n), weigh(theirs, n)
        norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        delta = len(mine.split()) - len(theirs.split())
        dot = sum(min(a[gram], b[gram]) * b[gram] for gram in a.keys() & b.keys())
        return math.exp(-(delta**2) / 72) * dot / norm if norm else 0.0

    each = [
        [like(mine, theirs, n) for theirs in texts for n in (1, 2, 3, 4)]
        for mine, texts in zip(said, references, strict=True)
    ]
    return [10 * sum(values) / len(values) for values in each]


# %% [markdown]
# The reference implementation is `pycocoevalcap`, whose tokeniser is a Java program; its CIDEr is plain Python. These captions need only lower case and no commas.
#
# | | CIDEr of captions |
# |---|---|
# | **In the paper** | of COCO, NoCaps and Flickr30K, where five people or more described each picture |
# | **In the released code** | Karpathy's 5,000 test pictures of COCO; of what is said the first line and sentence, in lower case; then the reference implementation with its Java tokeniser |
# | **Here** | the same formula, words split at spaces. The toy captions are scored by exact match; CIDEr is here to be understood, and broken |

# %%
from pycocoevalcap.cider.cider import Cider

plain = lambda text: text.lower().replace(",", "")  # noqa: E731
references = [[plain(sample.caption), plain(sample.prompt)] for sample in shown]
candidates = [plain(text) for text in said]

mine = cider(candidates, references)
whole, each = Cider().compute_score(
    dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
)
torch.testing.assert_close(
    torch.tensor(mine).double(), torch.tensor(each).double(), rtol=1e-4, atol=1e-5
)
torch.testing.assert_close(sum(mine) / len(mine), float(whole), rtol=1e-4, atol=1e-5)
print("agrees on", len(mine), "captions")

# %% [markdown]
# > **Predict.** Take the true captions and make one mistake in each: the wrong thing, the wrong background, the wrong style, or the right words in another order. All of these are wrong by exact match. Which costs most in CIDEr?

# %% alt="CIDEr of true captions with one mistake each: a perfect caption gets 10; naming the wrong thing costs most, the wrong background or style less, and words in another order also cost."
from dataclasses import replace

from minemu.data.scene import BACKGROUNDS, STYLES, Group
from minemu.figures.scores import show_bars

after = lambda items, item: list(items)[(list(items).index(item) + 1) % len(items)]  # noqa: E731
mistakes = {
    "none": lambda s: s,
    "another\nthing": lambda s: replace(
        s, groups=(Group(after(singles.labels, s.groups[0].label)),)
    ),
    "another\nbackground": lambda s: replace(s, background=after(BACKGROUNDS, s.background)),
    "another\nstyle": lambda s: replace(s, style=after(STYLES, s.style)),
}
truth = [[plain(sample.caption)] for sample in shown]
values = {
    name: cider([plain(captions.caption(change(sample.scene))) for sample in shown], truth)
    for name, change in mistakes.items()
}
turned = [" ".join([*words[-2:], *words[:-2]]) for words in (text.split() for (text,) in truth)]
values["style\nsaid first"] = cider(turned, truth)
show_bars(
    list(values), {"CIDEr": [sum(v) / len(v) for v in values.values()]}, "CIDEr (perfect: 10)"
)

# %% [markdown]
# CIDEr follows rarity. "background" and "style" are in every reference and weigh nothing; a colour is shared by several; the name of the thing is rare and weighs much, together with every n-gram around it. A colour stands in the middle of the sentence, in more n-grams than the style at its end, so it costs more. And a turned sentence, true in every word, pays for the n-grams at the seam.
#
# ### When not to trust it
#
# The weights come from the pictures that are scored. With a single one, every n-gram is in every reference, so all weights are $\log 1 = 0$:

# %%
alone = Cider().compute_score(
    {0: ["a llama on a blue background"]}, {0: ["a llama on a blue background"]}
)[0]
print("a perfect caption, scored alone, gets 0:", float(alone) == 0)


# %% [markdown]
# So a CIDEr on a subset cannot be compared with one on the whole set, nor over data sets. It depends on the prompt as well: one reader measured much less than is published for Emu-I, until the prompt was the published one (baaivision/Emu, thread 33).
#
# ## Answers
#
# VQA ([arXiv 1505.00468](https://arxiv.org/abs/1505.00468)) asked ten people each question. An answer is right if four of them gave it; three count 0.9, one counts 0.3. To treat model and people alike, each person is left out once:
#
# $$\mathrm{acc}(a) = \frac{1}{10} \sum_{j=1}^{10} \min\!\left(\frac{\#\{i \ne j : a_i = a\}}{3},\; 1\right)$$
#
# ### Your turn: VQA accuracy (5 minutes)
#
# `people` are the ten answers $a_i$, already cleaned, and `said` is $a$.
#
# <details><summary>Solution</summary>
#
# ```python
# def vqa_accuracy(said, people):
#     total = 0.0
#     for j in range(len(people)):
#         others = people[:j] + people[j + 1 :]
#         total += min(others.count(said) / 3, 1.0)
#     return total / len(people)
#
#
# answer = vqa_accuracy
# ```
# </details>


# %%
def vqa_accuracy(said, people):
    return None  # your lines here


check("11.vqa", vqa_accuracy)

# %% [markdown]
# | | scoring an answer |
# |---|---|
# | **In the paper** | VQA accuracy on VQAv2, OKVQA and VizWiz; for questions about clips exact match |
# | **In the released code** | beams give an answer, a cleaning cuts it short, VQA accuracy compares it with the ten; VQAv2's test answers are on a server |
# | **Here** | one answer is true, so it is compared exactly, after the same cleaning; the word or the whole sentence is right |
#
# ### Right without looking
#
# A "model" that has never seen a picture: for each sort of question it says the answer that is most common in training. Ask it twice: first about scenes as they come, then as `minemu.data.questions` asks, which draws the answer first, each equally likely, and then a scene that has it.
#
# > **Predict.** Which sorts of question can be answered blindly, and by how much does balancing help?
#
# Here and below, the thin line on a bar is its 95 % interval by Wilson.

# %% alt="How often the most common answer is right, by sort of question, with 95 % intervals: for counting scenes as they come it is far above chance, and at chance where the answers are balanced."
from minemu.data import questions


def of_each(number, marks):
    """A number, such as the rate, of every list of right and wrong answers: name -> numbers."""
    return {name: [number(one) for one in lists] for name, lists in marks.items()}


def make(asks, balanced, held_out, n=200):
    """n questions of one sort with their answers: of scenes as they come, or answer first."""
    home = ToyWorld("seen", held_out=held_out)
    draw, ask = questions.ASKS[asks]
    rngs = [home.generator(i, asks) for i in range(n)]
    return [ask(home, draw(home, rng) if balanced else home.draw(rng), rng) for rng in rngs]


def blindly(asks, balanced):
    known = [one.answer for one in make(asks, balanced, held_out=False)]
    common = Counter(known).most_common(1)[0][0]
    return [one.answer == common for one in make(asks, balanced, held_out=True)]


sorts = ("count", "group", "style", "colour", "yes-no")
chances = [1 / len(make(s, True, True, 1)[0].candidates) for s in sorts]
ways = {"scenes as they come": False, "balanced": True}
marks = {name: [blindly(s, balanced) for s in sorts] for name, balanced in ways.items()}
ends = map(wilson, marks["balanced"])
assert all(low <= c <= high for (low, high), c in zip(ends, chances, strict=True))
show_bars(sorts, of_each(rate, marks), "right without looking", chances, of_each(wilson, marks))

# %% [markdown]
# Most scenes hold one thing of a kind, so "one" is a good answer to "how many" whatever the picture. Without a blind baseline that would read as counting. *Group* lies above chance too in scenes as they come, and by more than its interval: some kinds of things are more common than others. Balanced, the interval of every sort holds chance.
#
# The most common answer is a weak opponent. A stronger one *reads the question*, and is trained: a linear layer over counts of its words, on two thousand balanced questions with their answers. Wherever wording and answer go together, it finds out.
#
# > **Predict.** On which sorts can it get better than chance on the questions that it learns from? And on others?

# %%
learnt = [one for s in sorts for one in make(s, True, held_out=False, n=400)]
words = sorted({word for one in learnt for word in one.text.split()})
said = sorted({one.answer for one in learnt})


def bag(asked):
    """How often each word stands in each question: (n, words)."""
    return torch.tensor([[float(one.text.split().count(word)) for word in words] for one in asked])


torch.manual_seed(0)
reader = torch.nn.Linear(len(words), len(said))
optimizer = torch.optim.Adam(reader.parameters(), lr=0.05)
read, truth = bag(learnt), torch.tensor([said.index(one.answer) for one in learnt])
with torch.enable_grad():
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(reader(read), truth).backward()
        optimizer.step()
print("learnt from", len(learnt), "questions of", len(words), "words")


# %% alt="How often a model that reads the question alone is right, by sort, with 95 % intervals: above chance, where the wording varies, on the questions that it learnt from; on others near chance."
def right_on(asked):
    likeliest = reader(bag(asked)).argmax(1).tolist()
    return [said[k] == one.answer for k, one in zip(likeliest, asked, strict=True)]


marks = {
    "the questions it learnt from": [right_on(make(s, True, False, n=400)) for s in sorts],
    "held-out questions": [right_on(make(s, True, held_out=True)) for s in sorts],
}
show_bars(
    sorts, of_each(rate, marks), "right by the question alone", chances, of_each(wilson, marks)
)


# %% [markdown]
# For colour, style and group the question is the same sentence every time. There is nothing to learn by heart, and both bars stay near chance. For count and yes or no it names a thing or a colour, and the model has learnt by heart which answer went with which. On held-out questions that is worth nothing, so these questions need a picture. The test is cheap, and on a data set you did not make yourself, it is the first thing to run.
#
# | | blind baseline |
# |---|---|
# | **In the papers** | none beside the scores that are listed below; VQAv2 itself pairs similar pictures for which the same question has different answers, to lower it |
# | **In the released code** | none |
# | **Here** | in every result, in one of the two ways above |

# %% [markdown]
# ## Rankings
#
# VisDial ([arXiv 1611.08669](https://arxiv.org/abs/1611.08669)) gives a hundred candidate answers, of which several are relevant to a degree. The model ranks them by likelihood. With relevance $y_p$ at place p and k relevant candidates:
#
# $$\mathrm{NDCG} = \frac{\sum_{p=1}^{k} y_p / \log_2(p + 1)}{\text{the same for the best order}}$$
#
# $y_p$ is `ranked[p - 1]`, $k$ is `places`, and `place` counts from 0, so $p + 1$ is `place + 2`.
#
# | | NDCG |
# |---|---|
# | **In the paper** | of VisDial, whose relevances are people's |
# | **In the released code** | a hundred options ranked by the mean cross-entropy of their tokens, after the turns of the dialogue in Emu-I's template |
# | **Here** | the same ranking and the same turns (a base without the template reads the words one after another); relevance follows from the scene: 1 for what is true, a half for what is true and says less than was asked |


# %% tags=["same-as:minemu.evaluation.metrics.ndcg", "same-as:minemu.evaluation.metrics._gain"]
def _gain(ranked, relevance):
    places = sum(value > 0 for value in relevance)
    return sum(value / math.log2(place + 2) for place, value in enumerate(ranked[:places]))


def ndcg(ranked):
    ideal = _gain(sorted(ranked, reverse=True), ranked)
    return _gain(ranked, ranked) / ideal if ideal else 0.0


# %% [markdown]
# > **Predict.** Three of eight answers are relevant, so k = 3. Does it matter to NDCG whether the third of them stands at place 4 or at place 8?

# %%
best, fourth, last = (
    [1, 1, 0.5, 0, 0, 0, 0, 0],
    [1, 1, 0, 0.5, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0, 0.5],
)
turned = [1, 0.5, 1, 0, 0, 0, 0, 0]
print("the best order gets 1:", ndcg(best) == 1)
print("place 4 and place 8 get the same:", ndcg(fourth) == ndcg(last))
print("the right three in another order get less than 1:", ndcg(turned) < 1)
print("and more than with one of them missing:", ndcg(turned) > ndcg(last))

# %% [markdown]
# ## Pictures: an independent judge
#
# Does a drawing show a llama? The model's own encoder must not answer, for the decoder was trained on its embeddings. `Judge` asks EfficientNet-Lite0 with ImageNet weights, which has never been trained with anything here:
#
# 1. cut the picture to what differs from its background, and centre that;
# 2. features of it, a unit vector $f \in \mathbb R^{1280}$ (`judge.features`);
# 3. the real drawing with the highest cosine $f \cdot g$ gives the picture its name; the $g$ are the rows of `judge.gallery`.
#
# The gallery below holds the real drawings of 40 concepts, to save time. `minemu evaluate` takes all of them.

# %%
from minemu.data.world import Scene
from minemu.evaluation.judge import Judge

present = {sample.scene.groups[0].label for sample in shown}
labels = sorted(
    {*present, *[label for label in singles.labels if label not in present][: 40 - len(present)]}
)
judge = Judge(labels=labels, cache="")
print(len(judge.labels), "of", len(singles.labels), "concepts, gallery", tuple(judge.gallery.shape))

# %%
scenes = [sample.scene for sample in shown]
real = [sample.picture for sample in shown]
drawn = pipe(
    [[sample.caption] for sample in shown], generator=torch.Generator().manual_seed(0)
).images

seen_in_real = judge.shows(real, scenes)
seen_in_drawn = judge.shows(drawn, scenes)
blind_drawn = judge.shows(drawn, scenes[1:] + scenes[:1])
print(len(drawn), "pictures drawn and judged")
assert rate(seen_in_real) > 0.5  # the judge must name real pictures before it may judge others

# %% alt="For four captions: the real picture, the picture drawn from the caption, what the judge looks at, and the three real drawings that it finds nearest."
from minemu.evaluation.judge import as_tensors, crop_to_content
from minemu.figures.grid import show_grid


def resized(picture):
    shown = torch.nn.functional.interpolate(picture[None], 64, mode="bilinear", antialias=True)
    return shown[0]


def portrait(name):
    label, style = name
    home = ToyWorld("seen") if (label, style) in singles.keys else ToyWorld("new-drawing")
    scene = Scene((Group(label),), size="big", background="white", style=style)
    return as_tensors([home.render(scene)[0]])[0]


rows = []
for truth_and_drawing in zip(real[:4], drawn[:4], strict=True):
    scores = judge.features(truth_and_drawing[1:]) @ judge.gallery.T
    order = scores[0].argsort(descending=True).tolist()
    near = list(dict.fromkeys(judge.gallery_names[i] for i in order))[:3]
    pair = as_tensors(truth_and_drawing)
    looks = resized(crop_to_content(pair[1]))
    rows.append(torch.stack([resized(pair[0]), resized(pair[1]), looks, *map(portrait, near)]))
columns = ["real", "drawn", "judge\nlooks at", "nearest", "second", "third"]
show_grid(
    torch.stack(rows), columns, [sample.scene.groups[0].label for sample in shown[:4]], side=80
)

# %% [markdown]
# ### What the judge mixes up
#
# The judge is fallible in a way that can be looked at: the highest cosine between *different* drawings of two concepts, or, on the diagonal, of two styles of one concept. Where a number beside the diagonal comes near or above the one on it, a drawing of one may be taken for the other.

# %% alt="A matrix of the highest similarity between drawings of ten concepts in different styles: the diagonal is dark, and pairs such as red apple and tomato or guitar and violin come close to it."
from minemu.figures.scores import show_matrix

ten = ["cat", "dog", "lion", "tiger", "horse", "zebra", "red apple", "tomato", "guitar", "violin"]
few = Judge(labels=ten, cache="")
alike = few.gallery @ few.gallery.T  # (G, G)
styles = [style for _, style in few.gallery_names]
other = torch.tensor([[a != b for b in styles] for a in styles])  # compare over styles only
where = [torch.tensor([label == name for label, _ in few.gallery_names]) for name in ten]
closest = torch.stack(
    [torch.stack([alike[a][:, b][other[a][:, b]].max() for b in where]) for a in where]
)
show_matrix(closest, ten)

# %% [markdown]
# ### A judge that knows the answer
#
# One trap is easy to fall into. The gallery holds *the same drawings* that the pictures are made of, so on real pictures the judge only has to recognise, not to understand.
# Take each drawing out, and leave the judge other designers' drawings of the concept. (Fluent and Flat are two renderings of one design, so they go together.)

# %% alt="How often the judge names a real drawing right with the drawing itself in the gallery, and with only other designers' drawings of the concept there, with 95 % intervals: the first is complete, the second clearly lower."
alike = judge.gallery @ judge.gallery.T
names = judge.gallery_names
design = [(label, style.replace("flat", "fluent")) for label, style in names]
itself = torch.tensor([[a == b for b in design] for a in design])
right_among = [
    [names[i][0] == label for i, (label, _) in zip(row.argmax(1).tolist(), names, strict=True)]
    for row in (alike, alike.masked_fill(itself, -1))
]
assert all(right_among[0])
bars = ["the drawing\nitself is there", "only other\ndesigners' are"]
marks = {"judge": right_among}
chance = 1 / len(judge.labels)
show_bars(bars, of_each(rate, marks), "named right", [chance] * 2, of_each(wilson, marks))

# %% [markdown]
# So a high rate on real pictures, our upper bound, says that the judge tells these drawings apart, not that it would know a llama in a style of its own. A model is rewarded for drawing *these* drawings.
# They are what was asked for here; for anything new the judge is too strict.
#
# An insider is worse. Here pictures are named by the nearest drawing in the model's own embeddings. The comparison is not quite fair: the judge sees drawings cut out and centred, the insider whole pictures against white ones, which is harder.

# %% alt="Rate of pictures named right by the independent judge and by the model's own embeddings, for real pictures and for pictures drawn from words, with 95 % intervals and chance."
own = [key for key in ToyWorld("seen").keys if key[0] in labels]
render = ToyWorld("seen", image_size=pipe.processor.image_size).render
gallery = pipe.features(
    [render(Scene((Group(a),), size="medium", background="white", style=b))[0] for a, b in own]
)
inside = [
    [
        own[i][0] == scene.groups[0].label
        for i, scene in zip(
            (pipe.features(some) @ gallery.T).argmax(1).tolist(), scenes, strict=True
        )
    ]
    for some in (real, drawn)
]
marks = {
    "independent judge": [seen_in_real, seen_in_drawn],
    "the model's own embeddings": inside,
}
bars = ["real\npictures", "drawn from\nwords"]
show_bars(bars, of_each(rate, marks), "named right", [chance] * 2, of_each(wilson, marks))

# %% [markdown]
# First see whether the insider knows real pictures; it was trained to tell names apart. Then compare the two on drawn ones, and look at the intervals before you do: sixteen pictures leave them wide. Both name the same pictures, so the paired rule of the exercise above fits, and by that rule two or three pictures in dispute are no difference.
#
# So do not conclude from this figure that the insider is too kind. But there is a reason to expect it: the decoder was optimised for just these embeddings, so the insider may find in a drawing what its embeddings say, whether or not anybody sees it there. That is why a high rate of the insider on drawn pictures is no evidence. The judge has it easier here than in `minemu evaluate`, too: it chooses among a few dozen concepts, not among all.
#
# | | judge of drawn pictures |
# |---|---|
# | **In the papers** | FID, and CLIP-I and CLIP-T: similarities by CLIP, a relative of the encoder that the model was built on |
# | **In the released code** | none for pictures |
# | **Here** | a network that shares nothing with the model, and its rate on real pictures beside every score |
#
# ## Sets of pictures: the Frechet distance
#
# FID ([arXiv 1706.08500](https://arxiv.org/abs/1706.08500)) does not look at single pictures. It fits a Gaussian to the features of each set, with means $\mu_a, \mu_b$ and covariances $A, B$:
#
# $$d^2 = \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr}\!\left(A + B - 2\,(AB)^{1/2}\right)$$
#
# Below, `a` and `b` are the features of the two sets, so $\mu_a$ is `a.mean(0)`, $A$ is `a.T.cov()`, and the trace of $(AB)^{1/2}$ is `roots`.
#
# With F features $A$ is F x F. `frechet_distance` never builds it: with centred features $X, Y$ the trace of $(AB)^{1/2}$ is the sum of the singular values of $XY^\top$, up to a factor.

# %%
from minemu.evaluation.metrics import frechet_distance
from torchmetrics.image.fid import FrechetInceptionDistance

torch.manual_seed(0)
a, b = torch.randn(300, 8).double(), (0.5 + torch.randn(200, 8) @ torch.randn(8, 8)).double()
roots = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp(min=0).sqrt().sum()
direct = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * roots
torch.testing.assert_close(frechet_distance(a, b), direct.item(), rtol=1e-4, atol=1e-4)

passes_on = torch.nn.Identity()
passes_on.num_features = 8
fid = FrechetInceptionDistance(feature=passes_on)
fid.update(a, real=True)
fid.update(b, real=False)
torch.testing.assert_close(frechet_distance(a, b), fid.compute().item(), rtol=1e-4, atol=1e-4)
print("three ways agree on", len(a), "and", len(b), "samples")

# %% [markdown]
# > **Predict.** Two samples of *one* distribution: the true distance is 0. What does the formula give for 25 of each? Does it matter how many features there are?

# %% alt="The Frechet distance of two samples of one Gaussian against their size, for 16 and for 128 features: far above 0 for few samples, more so with more features, and falling."
from minemu.figures.scores import show_frechet

sizes = (25, 50, 100, 200, 400)
torch.manual_seed(0)
distances = {
    f"{wide} features": [frechet_distance(*torch.randn(2, n, wide)) for n in sizes]
    for wide in (16, 128)
}
show_frechet(sizes, distances)

# %% [markdown]
# A covariance needs many samples, so the distance of small sets is mostly *bias*: it depends on n, it is never 0, and it can rank a larger sample above a better model. FID is therefore printed for tens of thousands of pictures,
# and not comparable across sample sizes, features or resizing. Our sixteen pictures can be split into two eights in many ways, so one can see how much it scatters. Eight real pictures are compared with the eight others, with drawings of those eight, and with the same eight reduced to 16 x 16 pixels and enlarged again:

# %% alt="Frechet distance in the judge's features from 8 real pictures to 8 other real ones, to drawn ones and to blurred real ones, the mean of 50 ways to choose the eight and the range of nine in ten of them. The first is the floor that small samples leave; the blurred ones hardly stand above it."
blurred = [picture.resize((16, 16)).resize(picture.size) for picture in real]
base, floor = judge.features(real), "other real\npictures"
sets = {floor: real, "drawn from\nwords": drawn, "real, blurred": blurred}
chosen = torch.Generator().manual_seed(0)
splits = [torch.randperm(len(real), generator=chosen).chunk(2) for _ in range(50)]
away = {
    name: torch.tensor([frechet_distance(base[a], found[b]) for a, b in splits])
    for name, found in ((name, judge.features(some)) for name, some in sets.items())
}
farther = [f"\nfarther in {(one > away[floor]).sum()} of 50" for one in away.values()]
show_bars(
    [floor, *(name + said for name, said in list(zip(sets, farther, strict=True))[1:])],
    {"distance": [one.mean().item() for one in away.values()]},
    "Lite0 Frechet distance",
    interval={
        "distance": [one.quantile(torch.tensor([0.05, 0.95])).tolist() for one in away.values()]
    },
)

# %% [markdown]
# Read the bars from the first one, not from 0. The thin lines span nine in ten of the 50 splits. How small the last step is matters most: in a picture of 16 x 16 pixels most of the drawing is gone, and with eight pictures the distance hardly sees it. Blur is the very fault that this model's drawings have ([notebook 08](08_visual_decoder.ipynb)).
#
# It is called a *Lite0* Frechet distance because the features are EfficientNet-Lite0's; FID is the name of the same formula on Inception's.
#
# ## Examples by RICES
#
# RICES ([arXiv 2109.05014](https://arxiv.org/abs/2109.05014)) puts before the question the K examples whose pictures are most like the one asked about, the most similar last ([notebook 09](09_abilities.ipynb) has the formula).
# The features here (`features`) are the mean of a picture's visual embeddings, $h = \frac{1}{N}\sum_i z_i$, as a unit vector; which features Emu took is not published.

# %% alt="Three held-out pictures; beside each four examples at random and four by RICES, the most similar last."
from minemu.retrieval import at_random, rices

train = ToyWorld("seen", image_size=pipe.processor.image_size)
pool = [train.picture(i) for i in range(96)]
queries, offered = pipe.features(real[:3]), pipe.features(pool)
by_rices, by_lot = rices(queries, offered, 4), at_random(3, len(pool), 4, seed=0)

rows = [[real[i], *(pool[k] for k in by_lot[i]), *(pool[k] for k in by_rices[i])] for i in range(3)]
columns = ["asked\nabout", *["at\nrandom"] * 4, *["RICES\n4th", "\n3rd", "\n2nd", "most\nsimilar"]]
show_grid(torch.stack([torch.stack(as_tensors(row)) for row in rows]), columns, side=72)


# %% [markdown]
# All of it is one matrix product and a sort: `(pool @ query).topk(K).indices.flip(0)` for unit vectors. RICES can help in two ways: the examples are about similar things, and they may hold the answer itself. So a gain over random examples is not by itself learning from context. A score after K examples should say how they were chosen, and what the same examples give *without* pictures.
#
# ## All scores of the shipped checkpoint
#
# `minemu evaluate CHECKPOINT --all --json results.json` runs every task that the checkpoint was trained for; the file is part of the checkpoint. Drawn pictures are scored as a share of what the judge says of real ones. So the upper bound beside them is already divided out: 100 % would be as good as real pictures. But that bound was measured too, on as many pictures. `metrics.ratio_interval` allows for this; results files older than that function treat the bound as exact. The cell prints which of the two this file has.

# %% alt="A bar for each task of the shipped checkpoint with its 95 % interval, and beside it chance, the blind baseline and the upper bound."
from minemu.data.samples import data_dir
from minemu.evaluation.metrics import ratio_interval
from minemu.evaluation.report import ROWS, read_results
from minemu.figures.scores import Score, show_scores

measured = read_results(data_dir() / "emu-tiny" / "results.json")["results"]
found = {(one["task"], one["split"], one["details"].get("shots")): one for one in measured}
scores = []
for row in ROWS:
    if (row.task, row.split, row.shots) in found and not row.detail:
        one = found[row.task, row.split, row.shots]
        name = f"{row.title}, n\u00a0=\u00a0{one['n']}"
        interval = tuple(one["details"]["interval"])
        scores.append(
            Score(name, one["score"], interval, one["chance"], one["blind"], one["upper_bound"])
        )
one = found["text-to-image", "seen", None]
both = ratio_interval(
    *(answers(share, one["n"]) for share in (one["details"]["rate"], one["upper_bound"]))
)
exact = not all(map(math.isclose, both, one["details"]["interval"]))
print("intervals of drawings", "take the bound for exact" if exact else "allow for the bound's own")
show_scores(
    scores,
    "share right; of drawings, the share of the judge's rate on real ones; of dialogues, NDCG",
)

# %% [markdown]
# ## What is published
#
# The published scores, and in the last column the toy task that asks the same, with the score of the shipped checkpoint; for the tuned models, Emu-I and Emu2-Chat, that of its adapter. The numbers are not to be compared: other data, other scale. What can be compared is what stands beside them. Of the published rows one has an upper bound, and none a chance or a blind baseline.

# %%
from IPython.display import Markdown
from minemu.evaluation.published import published_table

of_adapter = read_results(data_dir() / "emu-tiny-instruct" / "results.json")["results"]
Markdown(published_table(measured, of_adapter))

# %% [markdown]
# ## What could go wrong
#
# The package refuses what it could not measure.

# %%
from minemu.errors import MinemuError

wrong = [
    lambda: evaluate(pipe, "captoin"),
    lambda: evaluate(pipe, "caption", split="new-concept"),
    lambda: evaluate(pipe, "caption", n=0),
    lambda: evaluate(pipe, "caption", shots=4),
    lambda: Judge(labels=["a thing that nobody drew"], cache=""),
]
for attempt in wrong:
    try:
        attempt()
    except MinemuError as error:
        print("MinemuError:", error, "\n")

# %% [markdown]
# What it cannot refuse is a number without its company:
#
# | do not trust | because | ask for |
# |---|---|---|
# | a rate without n | 0 of 20 is compatible with much more than 0 | the interval |
# | a difference of two rates | both may be luck, and so may be one in twenty clear ones | the rule that fits, from the table above |
# | a rate without a blind baseline | some questions answer themselves | the same answers against other pictures |
# | a judge that has seen the training pictures | it recognises, or shares the model's blind spots | its rate on real pictures, and where it came from |
# | CIDEr of a subset, or of one picture | its weights come from the set | the whole set, and the prompt |
# | a Frechet distance of few pictures | most of it is bias | the distance of two real sets of that size |
# | a few-shot score | the examples may hold the answer | random examples, and examples without pictures |
#
# ## What next
#
# * `minemu evaluate --list` names the tasks; each is a few lines in `minemu/evaluation`.
# * How the drawings that the judge names come about: [the Visual Decoder](08_visual_decoder.ipynb).
