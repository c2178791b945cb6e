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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/05_one_objective_two_losses.ipynb)
#
# # One objective, two losses
#
# Emu has one rule: predict the next element of the sequence. A word is one of a finite set, so it is **classified**. A visual
# embedding is a vector, so it is **regressed**.
# This notebook computes both losses by hand, and shows what can happen when the target of the second one moves.
#
# After this notebook you can
#
# * write both losses from the tensors of a forward pass;
# * say what exactly is regressed, and in which space;
# * name the modules that learn from each loss, and through which path;
# * explain how a model can make its regression loss vanish and learn nothing, and what prevents it;
# * choose between a squared distance and a cosine, and set the weight between the two losses.
#
# It needs about half a minute on two CPU cores, less on a T4, and 1.5 GB of memory. It needs no other notebook.

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
# ## Choose a model
#
# `emu-tiny` is trained. `emu-nano` has random weights, and every identity below holds for it too.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %matplotlib inline
import copy

import torch
import torch.nn.functional as F
from minemu.config import EmuConfig, ObjectiveConfig
from minemu.course import check, start, untrained
from minemu.errors import MinemuError
from minemu.figures.charts import show_curves
from minemu.figures.gradients import show_gradients, show_pairs
from minemu.objective import image_loss, text_loss, unified_loss
from minemu.sequence import IGNORE, targets

torch.manual_seed(0)
pipe, world = start(PRESET)
processor, model, ids = pipe.processor, pipe.model, pipe.processor.ids
objective = model.config.objective
samples = [world.sample(i) for i in range(16)]
print(
    objective.image_loss,
    objective.targets,
    "N =",
    processor.n_image,
    "D =",
    model.config.embed_width,
)

# %% [markdown]
# ## Which position predicts which target
#
# $x_t$ is the vector at position $t$: a word embedding or a visual embedding. The language model turns $x_1 \dots x_t$ into a hidden
# state $h_t$ = `out.hidden[:, t]`, and two heads read it:
#
# | symbol | variable | shape |
# |---|---|---|
# | $x$ | `inputs` | (B, L, D) |
# | $h$ | `out.hidden` | (B, L, D) |
# | $H_{\text{LM}} h_t$ | `out.logits` | (B, L, vocabulary) |
# | $\hat{x}_{t+1} = H_{\text{reg}} h_t$ | `out.predictions` | (B, L, D) |
#
# Both heads speak at every position. The loss listens to one of them, or to none.

# %% alt="The sequence twice, one above the other; arrows lead from each position to the next element that it predicts, solid for words and dashed for visual embeddings."
batch = processor(
    [[samples[0].prompt, samples[0].picture], [samples[1].picture, samples[1].caption]], eos=True
)
show_pairs(batch["input_ids"], processor, objective)

# %% [markdown]
# **Predict before you run.** In which order are the heads asked when the picture comes first? Row 1 is "picture, caption".

# %% alt="The same for a row that begins with a picture: dashed arrows come first, then solid ones."
show_pairs(batch["input_ids"], processor, objective, row=1)

# %% [markdown]
# ## One forward pass
#
# `goals.text` holds the next id where it is classified, and -100 elsewhere. `goals.image` is `True` where the next embedding is
# regressed. Both have shape (B, L - 1).

# %%
batch = batch.to(model.device)
goals = targets(batch["input_ids"], ids, objective)
with torch.no_grad():
    out = model(**batch)
    embeds = model.encode_images(batch["images"])  # (n, N, D)
    inputs = model.embed(batch["input_ids"], embeds)  # (B, L, D)
print("logits", tuple(out.logits.shape), " predictions", tuple(out.predictions.shape))
print(
    int((goals.text != IGNORE).sum()),
    "tokens to classify,",
    int(goals.image.sum()),
    "embeddings to regress",
)

# %% [markdown]
# ## Classify the next token
#
# $$L_{\text{text}} = -\frac{1}{|W|} \sum_{t \in W} \log \operatorname{softmax}(H_{\text{LM}} h_t)_{x_{t+1}}$$
#
# $W$ is the set of positions where `goals.text` is not -100 (`told`), $x_{t+1}$ is the token `goals.text[:, t]`, and the logarithm
# is `log_p`.

# %%
told = goals.text != IGNORE  # W
log_p = out.logits[:, :-1].log_softmax(-1)  # (B, L - 1, vocabulary)
mine = -log_p[told].gather(-1, goals.text[told][:, None]).mean()
torch.testing.assert_close(mine, out.text_loss)
torch.testing.assert_close(mine, text_loss(out.logits, goals))
print("the mean over", int(told.sum()), "tokens is the package's text loss")

# %% [markdown]
# ## Regress the next embedding
#
# $$L_{\text{image}} = \frac{1}{|V|} \sum_{t \in V} \frac{1}{D} \lVert H_{\text{reg}} h_t - \operatorname{sg}(x_{t+1}) \rVert^2$$
#
# $V$ is the set of positions where `goals.image` is `True`, the $H_{\text{reg}} h_t$ are `predicted`, and the
# $\operatorname{sg}(x_{t+1})$ are `following`. $\operatorname{sg}$ stops the gradient: `detach()`.

# %%
predicted = out.predictions[:, :-1][goals.image]  # (|V|, D)
following = inputs[:, 1:][goals.image].detach()  # (|V|, D)
mine = (predicted - following).square().mean()
torch.testing.assert_close(mine, out.image_loss)
torch.testing.assert_close(mine, image_loss(out.predictions, inputs, goals, objective))
torch.testing.assert_close(out.loss, unified_loss(out.text_loss, out.image_loss, objective))
print("the mean over", len(predicted), "pairs is the package's image loss")

# %% [markdown]
# ## What exactly is regressed
#
# Not pixels, and not features of the visual encoder. The targets are what the language model *reads*: outputs of the Causal
# Transformer, as wide as a word embedding.
# So a prediction can serve unchanged as the next input. The last target of a picture is no picture at all: it is the word
# embedding of `[/IMG]`.

# %%
pairs = following.view(
    len(embeds), -1, following.shape[-1]
)  # (n, N + 1, D), or N without the [/IMG] pair
torch.testing.assert_close(pairs[:, : processor.n_image], embeds)
if objective.end_of_image_pair:
    end = model.llm.get_input_embeddings().weight[ids.image_end].detach()
    torch.testing.assert_close(pairs[:, -1], end.expand(len(embeds), -1))
print(pairs.shape[1], "targets a picture for N =", processor.n_image)

# %% [markdown]
# | | In the paper | In the released code | Here |
# |---|---|---|---|
# | Emu: target space | visual embeddings as the LLM reads them | the same, 5120 wide | the same, `embed_width` |
# | Emu: gradient through the target | not stated | detached | `objective.targets`: detached, attached or frozen |
# | last target | not stated | word embedding of `[/IMG]` | `objective.end_of_image_pair` |
# | distance | squared | the loss is not in the code | `objective.image_loss`: mse or cosine |
# | weight of the image loss | not published | the loss is not in the code | `objective.image_loss_weight` |
# | Emu2: target space | pooled features of the visual encoder | the same, 1792 wide | the same, `targets="frozen"` |
#
# ## A squared distance, or a cosine?
#
# $$d_{\text{mse}}(p, x) = \tfrac{1}{D} \lVert p - x \rVert^2 \qquad d_{\cos}(p, x) = 1 - \frac{p \cdot x}{\lVert p \rVert \lVert x
# \rVert}$$
#
# $p$ is a row of `predicted`, and $x$ the same row of `following`.
#
# **Predict before you run.** We double every prediction. Which of the two distances changes?

# %%
cosine = ObjectiveConfig(image_loss="cosine")
once = image_loss(out.predictions, inputs, goals, cosine)
twice = image_loss(2 * out.predictions, inputs, goals, cosine)
torch.testing.assert_close(once, twice)
print(
    "the squared distance changes:",
    not torch.equal(mine, (2 * predicted - following).square().mean()),
)

# %% [markdown]
# The cosine only asks for a direction. But a predicted embedding is the next *input*, where length matters. That speaks for the
# squared distance.
#
# The squared distance has a price of its own. Suppose two pictures are equally likely to come next, with targets $a$ (`a`) and $b$ (`b`). No
# single prediction is right.
# The best one under the squared distance is their mean, which is neither picture and, if both are equally long, shorter than either. Below, the predictions
# (`guesses`) point to the mean (`mean`), and we change their length.

# %% alt="Expected distance against the length of a prediction that points to the mean of two targets: the squared distance has its minimum at a length below that of the targets, the cosine is level."
a, b = F.normalize(torch.randn(2, 256, generator=torch.Generator().manual_seed(0)), dim=-1)
mean = (a + b) / 2
lengths = torch.linspace(0.05, 1.5, 59)
guesses = lengths[:, None] * F.normalize(mean, dim=-1)  # (59, D)
squared = sum((guesses - x).square().sum(-1) for x in (a, b)) / 2
angle = sum(1 - F.cosine_similarity(guesses, x, dim=-1) for x in (a, b)) / 2
assert (
    abs(float(lengths[squared.argmin()] - mean.norm())) < 0.03
)  # the best length is that of the mean
curves = {"squared distance": squared.tolist(), "cosine": angle.tolist()}
show_curves(
    {"two targets of length 1, equally likely": curves},
    x="length of the prediction",
    at=lengths.tolist(),
)

# %% [markdown]
# The lowest point is at the length of the mean, well below 1. A model that is unsure predicts short, average embeddings.
# Emu accepts that: its diffusion decoder has to make a definite picture of them. What the decoder can and cannot repair is shown
# in [notebook 08](08_visual_decoder.ipynb).
#
# ## Who learns from which loss
#
# **Predict before you run.** With detached targets, does the visual encoder get any gradient from the image loss? And the LM head?

# %%
PARTS = {
    "visual encoder": (model.visual_encoder, model.ln_visual),
    "Causal Transformer": (model.causal_transformer,),
    "word table": (model.llm.get_input_embeddings(),),
    "LLM": (model.llm.model.layers, model.llm.model.norm),
    "LM head": (model.llm.lm_head,),
    "regression head": (model.regression_head,),
}
pairs = [
    [s.picture, s.caption] if i % 2 else [s.prompt, s.picture] for i, s in enumerate(samples[:8])
]
batch = processor(pairs, eos=True).to(model.device)


def gradients(loss, image_targets):
    """Length of the gradient of one loss on each part."""
    model.config = model.config.override({"objective.targets": image_targets})
    model.zero_grad(set_to_none=True)
    model(**batch)[loss].backward()
    model.config = model.config.override({"objective.targets": objective.targets})
    grads = {
        name: [p.grad for m in modules for p in m.parameters() if p.grad is not None]
        for name, modules in PARTS.items()
    }
    return {name: sum(float(g.square().sum()) for g in of) ** 0.5 for name, of in grads.items()}


# %%
norms = {
    "text loss": gradients("text_loss", "detached"),
    "image loss, detached targets": gradients("image_loss", "detached"),
    "image loss, attached targets": gradients("image_loss", "attached"),
}
for loss, of in norms.items():
    print(f"{loss}: no gradient on", ", ".join(name for name, length in of.items() if length == 0))
print(
    "detached, yet it reaches the visual encoder:",
    norms["image loss, detached targets"]["visual encoder"] > 0,
)

# %% alt="The length of the gradient of the text loss and of the image loss with detached and with attached targets on each of six modules, as dots on a logarithmic axis; the heads learn from one loss each."
show_gradients(norms)

# %% [markdown]
# * Each head learns from its own loss only. The LLM and the word table learn from both.
# * Detaching the target does **not** cut the visual side off from the image loss. An embedding has two roles: it is the *target* of
#   the position before it, and an *input* to all positions after it.
#   `detach()` closes the first path. The second stays open: the visual side may still change its embeddings so that the next ones are
#   easier to predict from them. (Stage `emu` closes that path too for a picture that follows its text: unless targets are attached, it is
#   encoded without gradient, so that only pictures that are *read* teach the visual side.)
# * With attached targets a second gradient, through the targets, is added for the visual side and for the word table. Only their dots can
#   move. Expect little from the word table: only its row `[/IMG]` is a target.
#
# ## The weight
#
# $$L = L_{\text{text}} + \lambda L_{\text{image}} \qquad \nabla L = \nabla L_{\text{text}} + \lambda \nabla L_{\text{image}}$$
#
# $\lambda$ is `objective.image_loss_weight`; the gradients of the two losses and of their sum are `of_text`, `of_image` and `of_both`.
# $\lambda$ is published neither for Emu nor for Emu2. The dots say what is at stake: where
# both losses pull at the same module, $\lambda$ decides which of them is heard. A loss near zero is no sign of a weak pull, nor a
# high one of a strong pull. Compare gradients.

# %%
half = ObjectiveConfig(image_loss_weight=0.5)
out = model(**batch)
losses = (out.text_loss, out.image_loss, unified_loss(out.text_loss, out.image_loss, half))
shared = model.llm.model.norm.weight  # just before both heads
of_text, of_image, of_both = (
    torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses
)
torch.testing.assert_close(of_both, of_text + half.image_loss_weight * of_image)
print("the weight scales every gradient of the image loss, and none of the text loss")

# %% [markdown]
# ## When the target moves
#
# There are two ways to make $\lVert p - x \rVert^2$ smaller: move the prediction to the target, or the target to the prediction. The
# gradients are equal and opposite:
#
# $$\frac{\partial L}{\partial p} = \frac{2}{|V| D} (p - x) = -\frac{\partial L}{\partial x}$$
#
# $p$ and $x$ are `predicted` and `following` once more, and $|V|$ is the number of their rows.
#
# With attached targets the visual side follows both its inputs and its targets. If it gives **every** picture the same embeddings,
# the next one is known in advance and the loss is zero. Nothing is learnt about any picture.
#
# Watch what happens. Four copies of one small random model train on the same 16 pairs, all modules at one rate. Three of them have both
# losses and differ in their targets. `frozen` keeps the initial embeddings as targets: a teacher that never moves, as in Emu2's
# second stage, where the visual encoder does not change. The fourth copy is the control: it learns from the text loss alone.
#
# `spread` measures how much embeddings differ from picture to picture: their standard deviation over pictures, as a share of their
# size. At 0 all pictures look alike to the language model.

# %%
nano = untrained(EmuConfig.preset("emu-nano"))
pairs = [[s.picture, s.caption] if i % 2 else [s.prompt, s.picture] for i, s in enumerate(samples)]


def spread(embeds):
    """embeds (n, N, D) -> one number."""
    return float(embeds.std(0).mean() / embeds.square().mean().sqrt())


# %% [markdown]
# **Predict before you run.** In which of the four do the embeddings stay furthest apart? And does the spread shrink at all where the
# targets are detached, or frozen?

# %%
def train(image_targets, weight=1.0, steps=100):
    model = copy.deepcopy(nano.model)
    changes = {"objective.targets": image_targets, "objective.image_loss_weight": weight}
    model.config = model.config.override(changes)
    batch = nano.processor(pairs, eos=True)
    images = batch.pop("images")
    teacher = model.encode_images(images).detach() if image_targets == "frozen" else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    spreads, losses = [], []
    for _ in range(steps):
        embeds = model.encode_images(images)
        out = model(**batch, image_embeds=embeds, image_targets=teacher)
        spreads.append(spread(embeds.detach()))
        losses.append(float(out.image_loss.detach()))
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
    return spreads, losses


# %%
runs = {name: train(name) for name in ("attached", "detached", "frozen")}
runs["text loss alone"] = train("detached", weight=0.0)
spreads, losses = ({name: run[which] for name, run in runs.items()} for which in (0, 1))
print("lowest image loss:", min(losses, key=lambda name: losses[name][-1]))
for name, of in spreads.items():
    at_worst, at_last = (x < of[0] / 2 for x in (min(of), of[-1]))
    print(f"{name:15} spread halved: on the way {at_worst}, at the end {at_last}")

# %% alt="Two panels over 100 steps for attached, detached and frozen targets and for a control without image loss. Left, the spread of the embeddings: it falls at first in all three runs with an image loss and grows in the control; later it comes back with frozen targets and stays low with the other two. Right, the image loss: lowest with attached targets."
show_curves({"spread of the embeddings": spreads, "image loss": losses}, log=True)

# %% [markdown]
# The best-looking loss belongs to embeddings that have become nearly alike. The two panels have to be read together: **a regression loss
# says nothing unless you know what its targets still tell apart.**
#
# The control says where the spread goes. With the text loss alone embeddings move apart, because captions can only be right if pictures
# can be told apart. So it is the image loss that makes them alike, and in the first steps it does so whatever its targets are, even
# frozen ones. The only path left there is the one through the *inputs*. Our reading: while the language model predicts badly,
# differences between its inputs only disturb it, and the quickest way to a lower error is to make them smaller.
#
# What comes later depends on the targets. Frozen ones still differ from picture to picture. To hit them the model has to know which
# picture it is in, so differences between inputs pay, and the spread comes back. Targets that move have become alike together with the
# inputs, for they are the same embeddings. Then there is little left to hit, and only the text loss pulls the other way. Detaching
# closes one of two paths: the loss falls more slowly than with attached targets, but the spread is lost all the same.
#
# The figure does not say it has to end this way. This is a random model that has seen 16 pairs, with one high rate for all modules. In
# Emu the encoder begins as EVA-CLIP and the rates are low. `emu-tiny` avoids the question: in this stage its visual side is
# frozen, so the word embedding of `[/IMG]` is the only target that could move, and the only one for which detaching matters.
#
# | | In the paper | In the released code | Emu2 | Here |
# |---|---|---|---|---|
# | targets | the embeddings that the LLM reads; whether they are detached is not said | detached, they move with the visual side | features of an encoder that does not change in this stage | `detached`, with the visual side fixed in the recipe of `emu-tiny` |
#
# ## Where the error is
#
# Back to the model that you chose. For each slot: the squared distance of its prediction, and that of a guess that ignores the
# picture and the words, the mean embedding of that slot (over these very pictures, so a little better than any honest guess). Held-out scenes, drawn after their prompts.

# %%
drawn = processor([[s.prompt, s.picture] for s in samples], eos=True).to(model.device)
with torch.no_grad():
    out, embeds = model(**drawn), model.encode_images(drawn["images"])
places = drawn["input_ids"][:, 1:] == ids.image  # (B, L - 1): the next element is a slot
predicted = out.predictions[:, :-1][places].view_as(embeds)  # (B, N, D)
error = (predicted - embeds).square().mean((0, 2))  # (N,)
guess = (embeds.mean(0) - embeds).square().mean((0, 2))  # (N,)
saved = 1 - error / guess
print(tuple(predicted.shape), "predictions,", len(error), "slots")
print(f"below the guess by {saved[0]:.0%} at the first slot, {saved[1:].mean():.0%} at the others")

# %% alt="Squared distance for each slot of the picture, of the chosen model and of the mean embedding as a guess."
curves = {PRESET: error.tolist(), "mean embedding": guess.tolist()}
slots = range(1, len(error) + 1)
show_curves({"squared distance, slot by slot": curves}, x="slot", at=slots)

# %% [markdown]
# Where the line lies below the guess, the model knows more than the mean. Its first slot is predicted from words alone; each later one
# also from the true embeddings before it. The printed shares say how much they add. That is teacher forcing. To draw, a model reads
# its own predictions, and errors add up. A model with random weights lies above the guess.
#
# The humps belong to the pictures. The bridge of `emu-tiny` was trained to give each embedding the pixels of one cell of a grid of 4 by 4
# (notebook 03), row by row. Slots 6, 7, 10 and 11 are the cells in the middle, where the things are. The cells at the border show mostly
# background, so they differ less from picture to picture, and there is less to miss.
#
# ## What could go wrong
#
# A choice that does not exist, or a misspelt field, is refused and named.

# %%
for change in (
    {"objective.image_loss": "l1"},
    {"objective.image_weight": 2.0},
    {"objective.targets": "moving"},
):
    try:
        model.config.override(change)
    except MinemuError as error:
        print("-", error)

# %% [markdown]
# The mistake that costs a week is silent. Position $t$ has to predict $x_{t+1}$. Suppose that you forget the shift and compare each
# prediction with the embedding at its *own* position. Then the answer stands in the input. We train the small model's language
# model both ways, with embeddings that do not change, and let both draw the 16 pictures from their prompts.

# %%
def shifted(predictions, inputs, regress):
    return F.mse_loss(predictions[:, :-1][regress], inputs[:, 1:][regress].detach())


def not_shifted(predictions, inputs, regress):
    return F.mse_loss(predictions[:, 1:][regress], inputs[:, 1:][regress].detach())


def fit(loss_of, steps=100):
    """Image losses, and the error of drawn embeddings; that of the mean embedding is 1."""
    model = copy.deepcopy(nano.model)
    batch = nano.processor(pairs, eos=True)
    fixed = model.encode_images(batch.pop("images")).detach()
    regress = targets(batch["input_ids"], nano.processor.ids, model.config.objective).image
    learnt = [*model.llm.model.parameters(), *model.regression_head.parameters()]
    optimiser, losses = torch.optim.AdamW(learnt, lr=3e-3), []
    for _ in range(steps):
        out = model(**batch, image_embeds=fixed)
        loss = loss_of(out.predictions, model.embed(batch["input_ids"], fixed), regress)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    drawn = model.generate_image_embeds(**nano.processor([[s.prompt] for s in samples]))
    return losses, float((drawn - fixed).square().sum() / (fixed.mean(0) - fixed).square().sum())


# %%
fits = {"shifted": fit(shifted), "shift forgotten": fit(not_shifted)}
for name, (_, error) in fits.items():
    print(f"{name}: drawn more than 5 times worse than the mean embedding: {error > 5}")

# %% alt="The image loss of two runs over 100 steps on a logarithmic axis: without the shift it falls as far as with it, or further."
show_curves({"image loss": {name: losses for name, (losses, _) in fits.items()}}, log=True)

# %% [markdown]
# No message, and a loss that looks as good, or better. Only what the model draws gives it away: it has learnt to repeat what it reads, so
# what follows `[IMG]` is no picture. Test a loss by what the model can do with it, not by how it falls.
#
# ## Your turn: what the cosine leaves free (10 minutes)
#
# For P predictions and their targets, both (P, D), write the gradient of `1 - F.cosine_similarity(predicted, following, dim=-1)`, averaged
# over the pairs, with respect to `predicted`. No autograd. What is the inner product of that gradient and the prediction?
#
# <details><summary>Hint</summary>
#
# With $\bar p = p / \lVert p \rVert$ and $\bar x = x / \lVert x \rVert$ the cosine is $c = \bar p \cdot \bar x$, and its gradient on $p$ is
# $(\bar x - c\, \bar p) / \lVert p \rVert$.
# </details>
# <details><summary>The inner product</summary>
#
# It is 0: no step along the gradient changes the length to first order. And the longer a prediction is, the weaker the pull.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch.nn.functional as F
#
#
# def answer(predicted, following):
#     p, x = F.normalize(predicted, dim=-1), F.normalize(following, dim=-1)
#     cosine = (p * x).sum(-1, keepdim=True)
#     return (cosine * p - x) / predicted.norm(dim=-1, keepdim=True) / len(predicted)
# ```
# </details>

# %%
def cosine_gradient(predicted, following):
    return None  # your lines here


check("05.cosine", cosine_gradient)


# %% [markdown]
# ## Your turn: both roles of an embedding (10 minutes)
#
# An embedding is a target and an input. Take a language model that is one matrix $W$ (`weight`, (D, D)) and reads only the last
# embedding: $\hat{x}_{k+1} = W x_k$, or `x[:-1] @ weight.T` for all of them, where `x` (N, D) holds the embeddings of one picture. The
# loss is `F.mse_loss(x[:-1] @ weight.T, x[1:])`.
#
# Write its gradient with respect to `x`, (N, D): all of it if `attached`, else only what comes through the inputs. No autograd. Which
# embeddings have no gradient at all when targets are detached?
#
# <details><summary>Hint</summary>
#
# Let $e_k = W x_k - x_{k+1}$. As an input $x_k$ gets $W^{\top} e_k$, as a target $-e_{k-1}$, both times $2 / ((N - 1) D)$. The first
# embedding is no target and the last no input.
# </details>
# <details><summary>Which have none</summary>
#
# Only the last one: `detach()` leaves all the others a way to become easier to predict from.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def answer(x, weight, attached):
#     error = x[:-1] @ weight.T - x[1:]
#     pull = torch.zeros_like(x)
#     pull[:-1] += error @ weight  # as inputs
#     if attached:
#         pull[1:] -= error  # as targets
#     return pull * 2 / error.numel()
# ```
# </details>

# %%
def gradient_on(x, weight, attached):
    return None  # your lines here


check("05.both_roles", gradient_on)

# %% [markdown]
# ## What next
#
# * `minemu/objective.py` is one screen: all that it computes has appeared above.
# * Where the masks come from: [one sequence of words and pictures](01_one_sequence.ipynb).
# * Train with another choice: `minemu recipe emu-nano --set objective.image_loss=cosine`, or `--set objective.image_loss_weight=0.1`.
