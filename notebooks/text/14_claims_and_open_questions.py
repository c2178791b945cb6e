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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/14_claims_and_open_questions.ipynb)
#
# # Testing the paper's claims, and the questions it left open
#
# Emu makes many choices: what is regressed, how many embeddings a picture gets, what the two losses weigh. We know of only one that the paper compares: storyboards, with and without. Here one idea is changed at a time, in a world so small that a training takes less than a minute, and every training is done from three seeds.
#
# After it you can
#
# * set up an ablation that changes one thing and nothing else;
# * say when a difference is more than the luck of the seeds, how often that rule is wrong, and how much it overlooks;
# * compare models that regress different embedding spaces;
# * say which choices matter at this size, which do not, and which this study does not decide.
#
# It needs about two minutes on two CPU cores, about as long on a T4 (the tiny models train on the CPU either way), and 2 GB of memory.

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
    # %pip install --quiet --editable .
    sys.path.insert(0, ".")

# %% [markdown]
# ## Choose what to train
#
# No checkpoint is loaded here: this notebook has tiny models of its own. You choose which variant is trained at the end, before your eyes, beside the baseline, and from which seed.

# %%
LIVE = "shown"  # @param ["shown", "cosine", "fixed", "pool"]
SEED = 3  # @param {type: "integer"}

# %matplotlib inline
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import tempfile
from pathlib import Path

import numpy as np
from minemu import ablations
from minemu.course import check
from minemu.data.samples import data_dir
from minemu.errors import MinemuError
from minemu.figures import show_pictures
from minemu.figures.ablations import show_ablation

results = ablations.read_ablations(data_dir() / "ablations" / "results.json")
print(results["command"])
print("variants:", len(results["variants"]), "  seeds:", results["seeds"])

# %% [markdown]
# All numbers of this notebook but those of the last training come from one file, which one command wrote. It holds the commit, the versions and every setting.
#
# ## A world small enough
#
# The toy world with twelve things in it, each drawn in four styles, on eight backgrounds, alone, counted or in pairs, at 32 pixels. One scene in twenty is kept back from training; the models are measured on 256 of those.

# %% alt="Six held-out scenes of the small world, each with its caption"
held_out = ablations.FewThings(ablations.EVALUATION_SEED, held_out=True)
samples = ablations.distinct(held_out, 6)
show_pictures([s.picture for s in samples], [s.caption for s in samples])

# %% [markdown]
# For each seed the stages before `emu` (encoder, bridge, language model) are trained once. A variant begins from them, sees the same documents in the same order, and differs in one idea. Most change one setting; some need more (pooling learns at its own rate and has no `[/IMG]` to regress). What a variant changes decides which stages it must train itself:

# %%
for name in ("cosine", "n-4", "random", "pool"):
    (variant,) = (v for v in ablations.VARIANTS if v.name == name)
    print(f"{name:7} {variant.settings}")
    print("        trains itself:", *sorted(ablations.own_stages(variant)), "emu")

# %% [markdown]
# ## What is measured, and beside what
#
# | | measured on held-out scenes | beside it |
# |---|---|---|
# | reading | the loss of a caption's words after its picture | after another picture (*blind*); a model that knows only how frequent each word is |
# | writing | the share of variance that the imagined embeddings explain | the mean embedding explains 0 |
# | writing | how often an imagined picture is nearest to its own among 64 | chance, 1/64 |
#
# The second number compares models only if they regress the same space. The third compares any two: both sides have their mean taken off, and only angles count.
#
# `forced` means that each embedding is predicted from the true ones before it, `free` that it is predicted from the model's own.
#
# First of all, the baseline has to have learnt something. A variant of a model that has learnt nothing shows nothing.

# %%
runs = results["variants"]["base"]["runs"].values()
shown = ("caption_loss", "caption_blind", "caption_unigram")
shown += ("explained_forced", "explained_free", "nearest", "nearest_chance")
for name in shown:
    print(f"{name:17}", "  ".join(f"{run[name]:6.3f}" for run in runs))


# %% [markdown]
# ### Exercise: nearest, in any space (5 minutes)
#
# `imagined` and `true` are (n, N, E). Return the share of imagined pictures whose own true one is nearest by angle, after subtracting from each of the two its mean over the pictures.
#
# <details><summary>Hint</summary>
#
# Flatten to (n, N·E), subtract the mean over n, normalise. Then all cosines are one matrix product, and its largest entry in each row should be on the diagonal.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
#
# def answer(imagined, true):
#     a, b = (F.normalize(x.flatten(1) - x.flatten(1).mean(0), dim=1) for x in (imagined, true))
#     return ((a @ b.T).argmax(1) == torch.arange(len(a))).float().mean().item()
# ```
# </details>


# %%
def nearest(imagined, true):
    return None  # your lines here


check("14.nearest", nearest)

# %% [markdown]
# ## When is a difference a difference?
#
# Train the same thing from two seeds, and you get two numbers. So two variants differ only if their means are further apart than seeds alone would put them. More samples do not help: they tell about one training, not about another. ([Notebook 11](11_evaluation.ipynb) has the rules for other comparisons, under the same heading.) The rule here: **further than three times the larger standard deviation of the two**, `gap > times * scatter` below with `times` = 3.
#
# > **Predict.** Take two variants that are in truth equal, three seeds each. How often does the rule see a difference? How often would it with two times, or with one? And if they are in truth two or four standard deviations apart, how often is that found?

# %%
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 100_000, 3))  # 100,000 pairs of equal variants, three seeds each
scatter = np.maximum(a.std(1, ddof=1), b.std(1, ddof=1))
for times in (1, 2, 3):
    seen = {
        apart: (np.abs(a.mean(1) - b.mean(1) - apart) > times * scatter).mean()
        for apart in (0, 2, 4)
    }
    print(f"{times} x: equal ones differ in one of {1 / seen[0]:.0f};", end=" ")
    print(f"two deviations are found in {seen[2]:.0%}, four in {seen[4]:.0%}")

comparisons = 0
for question, asked in results["questions"].items():
    others = len(ablations.compared(results, question)) - 1  # all but the baseline
    comparisons += others * len(asked["measures"])
print(comparisons, "comparisons in this notebook")


# %% [markdown]
# Divide the number of comparisons by the first number of each line. With three times the deviation you should expect less than one false finding in the whole notebook. With "the means differ by more than the standard deviation", which is what overlapping error bars invite, there would be many.
#
# The price stands in the same line: most differences of two standard deviations stay unseen, and not even four are always found. *No difference* in what follows means *none that three seeds can show*.
#
# ### Exercise: the rule (5 minutes)
#
# Write `differs(a, b)` for two lists of numbers, one per seed.
#
# <details><summary>Hint</summary>
#
# `statistics.stdev` divides by n - 1, as it should for so few numbers.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# from statistics import mean, stdev
#
#
# def answer(a, b):
#     return abs(mean(a) - mean(b)) > 3 * max(stdev(a), stdev(b))
# ```
# </details>


# %%
def differs(a, b):
    return None  # your lines here


check("14.differs", differs)

# %% [markdown]
# ## The questions
#
# | | in the paper | in the released code | here |
# |---|---|---|---|
# | storyboards | compared, with a 7B model: the table below | the scripts that make them | a fifth of the documents, or none |
# | weight of the regression | not said | the regression loss is not computed | 1; against 0, 0.1, 10 |
# | target | not said | detached | detached; against attached, a frozen copy |
# | embeddings a picture | a symbol, N | 32 (64 in Emu2) | 16; against 4, 8, 32 and 64 |
# | bridge | Causal Transformer | the same; Emu2 pools | Causal Transformer; against pooling |
# | distance | squared error | none | squared error; against cosine |
# | what is read in training | not said | true embeddings | half of the written pictures hidden; against all shown |
#
# In each figure a point is a seed. The baseline is blue and always filled. Of the other lines **filled** points differ from it by the rule above, hollow ones do not. Above the figure stand means and standard deviations, with a star where the rule sees a difference.
#
# ### Storyboard video: the paper's own ablation
#
# Its published numbers. The last column names the closest measure in the small world (`gain` is about pictures, not clips):

# %%
from IPython.display import Markdown
from minemu.evaluation.published import published_ablations

Markdown(published_ablations("video"))

# %% [markdown]
# > **How sure is this?** The paper's numbers are second-hand, from readers' notes, and without a spread of seeds.
#
# > **Predict.** Storyboards are pictures and sentences that follow one another. What should a model with them do better: captions of clips, telling which way a thing moves, or learning from four examples in its prompt?

# %% alt="With and without storyboards, three seeds each: loss of captions of clips, share of right directions, loss that four examples save"
print("\n".join(ablations.lines(results, "video")))
show_ablation(results, "video")

# %% [markdown]
# In none of the three panels is there a star. Clip captions are learnt, with storyboards and without: they cost far less than after another clip (below). Neither model can tell a direction (both at chance), so the paper's gain for clips **cannot be tested at this size**.
#
# The third panel is the one to look at twice. With storyboards, four examples make the next sentence likelier in all three seeds; without, they do hardly anything in two seeds, and harm in the third. That agrees with the paper's claim, and is still no more than a suspicion: the points are hollow, since the gain with storyboards varies between seeds by almost as much as its own size. A storyboard also takes the place of another document.
#
# The file holds one number in which the two clearly differ: the loss per token of sentences such as "the background is green.", after their picture alone, after four examples (`_4`), and after four when the last picture is another one (`blind_4`).

# %%
for name, says in ablations.compared(results, "video").items():
    shown = ("clip_loss", "clip_blind", "sentence_loss", "sentence_loss_4", "sentence_blind_4")
    for measure in shown:
        print(f"{says:17} {measure:17}", *np.round(ablations.values(results, name, measure), 2))

# %% [markdown]
# `sentence_loss` is no mystery: storyboards are made of such sentences. That also makes the gain harder to read: examples of what a model has never been taught to say may help it less. After four examples the last picture counts with storyboards: in each seed the sentence costs more when that picture is another one; without them it hardly makes a difference. Whether it counts as much without examples, the file does not say.
#
# ### The weight of the regression loss

# %% alt="Weights 0, 0.1, 1 and 10 of the regression loss, from top to bottom, three seeds each: loss of captions, variance explained when free running, own picture nearest among 64"
print("\n".join(ablations.lines(results, "weight")))
show_ablation(results, "weight")

# %% [markdown]
# Writing needs the weight. At 0.1 free running is still worse than the mean picture, and the right picture is found near chance. (Teacher-forced, more has been learnt: look at `explained_forced` of `weight-0.1` in the file.) Reading does not suffer: without any regression loss captions are as good as at weight 1 (no difference). So whatever regressing embeddings does to reading here, up to a weight of 1 it is less than three seeds can show.
#
# At 10 reading suffers: captions are worse, with a star. In return more of the variance is explained in each seed, though not enough for the rule. The right picture is found no more often, and in one seed far less. And a weight means something only together with the size of the embeddings, since the error is squared (their standard deviation is printed further down).
#
# ### What is regressed
#
# > **Predict.** With the gradient flowing into the target, the model may move the goal towards its guesses. Which of the four panels would show that?

# %% alt="Five ways to treat the target, three seeds each: loss of captions, variance explained, own picture nearest, how far embeddings are apart"
print("\n".join(ablations.lines(results, "target")))
show_ablation(results, "target")

# %% [markdown]
# *Attached* shows what [notebook 05](05_one_objective_two_losses.ipynb) warns of, in the last panel: the pictures' embeddings move together, in one seed until nothing keeps them apart any more. In that seed a caption costs as much after a wrong picture as after its own; the two other seeds still read, but worse than the baseline ever does. (Where little varies, the share of variance explained means little: read no more than that from the triangles.)
#
# *Detached* is not safe by itself. If the visual side learns at the LLM's rate, all pictures become one, in every seed, although the targets are detached: through the inputs the regression still reaches the embeddings that are read. The paper's rate for its ViT is of the size of the LLM's, but both are fine-tuned there, at 4e-5 and 3e-5; here a hardly trained LLM learns at 1e-2.
#
# *A frozen copy* as target reads no worse, but what the LLM reads moves away from what it is told to write, and free running reads what was written: it writes worse, with a star in both panels.
#
# *Fixing* the visual side is the cheapest, as it needs no backward pass, and its captions lie ahead in each seed. It explains as much of the variance; but its own picture is found a third as often. So a visual side that goes on learning makes embeddings that vary less, and that words tell apart more easily: more of what they say of a picture is what a caption says of it. The recipe of `emu-tiny` fixes the visual side, so that the embeddings keep what they say of a picture's looks.
#
# ### How many embeddings

# %% alt="4, 8, 16, 32 and 64 embeddings a picture, from top to bottom, three seeds each: loss of captions, variance explained when free running, own picture nearest among 64"
print("\n".join(ablations.lines(results, "count")))
show_ablation(results, "count")

# %% [markdown]
# Five counts in a row show what a pair would hide: an order. With each doubling of N captions get a little better, on average, and the share of variance explained falls. By the rule only the ends differ from N = 16, and only in what is explained: N = 4 explains more, N = 64 less. Sixty-four embeddings are sixty-four guesses, each read by the next.
#
# But is the right picture found less often where less is explained? No difference, from 4 to 64. Explaining four embeddings of a picture is an easier task than explaining sixty-four; the third panel compares what can be compared.
#
# ### Causal Transformer or pooling

# %% alt="Causal Transformer, the same from a random start, and pooling, three seeds each: loss of captions, variance explained, own picture nearest among 64"
print("\n".join(ablations.lines(results, "bridge")))
show_ablation(results, "bridge")

# %% [markdown]
# The first line against the third compares architectures: how far apart they are is printed above, with a star where the rule agrees. But look at the second line too: the Causal Transformer from a random start, as in Emu. What the first line has and the third lacks is not the architecture alone but a bridge stage, 200 steps on names and latents, for which pooling has no counterpart. Pooling's way into the LLM begins at random, so the fair comparison may be that of the lower two lines:

# %%
for measure in results["questions"]["bridge"]["measures"]:
    pool, start = (ablations.values(results, name, measure) for name in ("pool", "random"))
    print(
        f"{measure:15} pooling {np.mean(pool):.3f}, random start {np.mean(start):.3f};",
        "differ:",
        ablations.differs(pool, start),
    )
print("chance of the last:", np.mean(ablations.values(results, "base", "nearest_chance")).round(3))

# %% [markdown]
# Is the ranking in reading still the same when both begin at random? And how far beyond chance is the writing in either? There are more catches. The random start learns at 3e-3 and pooling at 1e-2; pooling has no target at `[/IMG]`; and its features are smaller, so at weight 1 their squared error counts less.

# %%
size = {name: np.mean(ablations.values(results, name, "deviation")) for name in ("base", "pool")}
print("deviation:", {name: round(float(value), 2) for name, value in size.items()})
print(f"squared, pooling counts {(size['base'] / size['pool']) ** 2:.1f} times less")

# %% [markdown]
# So this question is **not decided** by what was run.
#
# ### Squared error or cosine

# %% alt="Squared error and cosine distance, three seeds each: loss of captions, variance explained when free running, own picture nearest among 64"
print("\n".join(ablations.lines(results, "loss")))
show_ablation(results, "loss")

# %% [markdown]
# Cosine distance leaves the length of a prediction free, and the model makes use of that: as plain vectors its embeddings are far off, hence the triangles. That says nothing about their content. The third panel ignores length. There all three seeds lie below all of the baseline's, but by unequal amounts, so the points stay hollow. In free running a wrong length is read by the next step, and how much harm that does seems to be luck. So there is no difference in captions, and in pictures a suspicion.
#
# ### Reading one's own embeddings
#
# [Notebook 07](07_drawing_in_embedding_space.ipynb) shows the gap between teacher forcing and free running in one model, and a remedy. Here are both with three seeds, at every index.

# %% alt="Half of the pictures hidden against all shown, three seeds each: variance explained with true embeddings and with the model's own, own picture nearest; below, the share explained at each index"
print("\n".join(ablations.lines(results, "exposure")))
show_ablation(results, "exposure")

# %% [markdown]
# A model that reads true embeddings in training has the better loss, as it explains more of the variance, but cannot draw: free running, it does about as badly as the mean picture (one seed far worse), and its own picture is seldom the nearest. The lower middle panel has the reason: within a few embeddings of its own it has gone astray. Even the first one, which depends on words alone, is worse than the baseline's in two seeds of three, since in training words were hardly needed.
#
# ## A new pair, live
#
# Does a new seed agree? `LIVE` and `SEED`, chosen in the first cell, say what is trained: unless you change it, the model that reads true embeddings, which made a large difference above. The next cell trains the stages before `emu` from another seed, and from them the baseline and one variant; two minutes or so. Read the new baseline against the new variant: the points above are of the same code, so the pair is a fourth seed of theirs.
#
# > **Predict.** Which of the two will lie ahead? Would you bet on the order in all panels?

# %%
runs = Path(tempfile.mkdtemp())
variants = {v.name: v for v in ablations.VARIANTS}
fresh = {name: ablations.run_variant(variants[name], runs, SEED) for name in ("base", LIVE)}
print("trained:", *sorted(path.parts[-4] for path in runs.glob("*/*/*/emu/done.json")))

# %% alt="The question of the live pair once more, with the new pair alone: one point for the baseline and one for the variant in each panel; below, where the question has it, the share explained at each index"
alone = {
    **results,
    "variants": {
        name: {**results["variants"][name], "runs": {str(SEED): numbers}}
        for name, numbers in fresh.items()
    },
}
show_ablation(alone, variants[LIVE].question)

# %%
losses = ("caption_loss", "caption_blind", "caption_unigram")
read, blind, frequent = ([numbers[loss] for numbers in fresh.values()] for loss in losses)
holds = max(read) < min(blind) and max(blind) < min(frequent)
print("captions of pictures, then of others', then word frequencies; the order holds:", holds)

# %% [markdown]
# One pair shows an order, and no more: with one seed there is no spread, so by the rule above only the baseline's point is filled.
#
# ## What could go wrong
#
# An ablation whose halves were trained with different settings is worse than none, so a folder goes on only with the settings it was begun with. And not every setting exists: the bridge is pretrained as a grid of cells that tile the picture, so the number of embeddings is a power of two.

# %%
try:
    ablations.run_variant(variants["base"], runs, SEED, {"train.emu.steps": 200})
except MinemuError as error:
    print(str(error).replace(str(runs), "RUNS"))
try:
    ablations.run_variant(
        ablations.Variant("n-7", "count", "N = 7", {"bridge.n_image": 7}), runs, SEED
    )
except MinemuError as error:
    print(error)

# %% [markdown]
# What no message tells you:
#
# | do not trust | because | ask for |
# |---|---|---|
# | one run against one run | seeds differ too | three seeds, better five |
# | a variant that is worse with the baseline's learning rate | it may need its own | a rate chosen for each, or the range |
# | a lower regression loss | the target may have moved, or have another scale | a measure outside the space: retrieval, or the decoder and a judge |
# | "no difference" | three seeds see only large ones | how large a one would have been seen |
# | a finding in a world of twelve things | more data and steps may turn it round | the same at two sizes |
#
# ## What you have seen
#
# All comparisons by the rule, question by question:

# %%
summary = {"clear": [], "not clear": []}
for question, asked in results["questions"].items():
    names = ablations.compared(results, question)
    for name in list(names)[1:]:
        found = {"clear": [], "not clear": []}
        for measure in asked["measures"]:
            mine, base = (ablations.values(results, v, measure) for v in (name, asked["baseline"]))
            kind = "clear" if ablations.differs(mine, base) else "not clear"
            found[kind].append(f"{measure} {'up' if np.mean(mine) > np.mean(base) else 'down'}")
        for kind, measures in found.items():
            line = f"  {question:9}{names[name]}, not {asked['says']}"
            summary[kind] += [f"{line:56}{', '.join(measures)}"] if measures else []
for kind, lines in summary.items():
    print(f"{kind}:", *lines, sep="\n")

# %% [markdown]
# `caption_loss` and `clip_loss` are losses, so *up* is worse; in all others *up* is better, but for `apart`, which tells how much the embeddings vary. The same line may stand in both lists, with different measures. And clear is not yet meaningful: where the length of a prediction is free (*cosine*), or nothing varies (*attached*), the share explained says nothing of the content.
#
# * An ablation shares everything but one idea: start, data, order. Its result is a cloud of seeds, not a number.
# * *Clear* has explanations in the sections above, which nothing here tests: a target that may move is moved; what is written in training has to be hidden, since it is not there when the model writes; without enough weight nothing is learnt of writing; and many embeddings are many guesses, each read by the next.
# * *Not clear* is not *equal*: three seeds see large differences only. Where all seeds of one variant lie on one side of the other's, more seeds would be worth their time.
# * *Not decided* whatever the lists say: which way a thing moves, as no model here can tell; storyboards and examples, where all seeds agree and scatter; Causal Transformer or pooling, as only one of them has a stage of its own before.
#
# `minemu ablate --list` names the questions; a new variant is one line in `minemu/ablations/variants.py`, and `minemu ablate count --set train.emu.steps=2400` asks an old one again with four times the training (use another `--run-dir`).
