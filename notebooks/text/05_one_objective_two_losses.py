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
# This notebook computes both losses by hand, and shows why the target of the second one has to stand still.
#
# After this notebook you can
#
# * write both losses from the tensors of a forward pass;
# * say what exactly is regressed, and in which space;
# * name the modules that learn from each loss, and through which path;
# * explain how a model can make its regression loss vanish and learn nothing, and what prevents it;
# * choose between a squared distance and a cosine, and place the weight between the two losses.
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
# **Predict before you run.** In which order come the heads when the picture stands first? Row 1 is "picture, caption".

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
# $W$ is the set of positions where `goals.text` is not -100 (`told`), $x_{t+1}$ is a token there, `goals.text[:, t]`, and the logarithm
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
# So a prediction can be fed back as the next input as it is. The last target of a picture is no picture at all: it is the word
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
# Emu accepts that, and leaves it to its diffusion decoder to make a definite picture of them. What that can repair, and what not, is shown
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

# %% alt="Bars of the gradient length of the text loss and of the image loss with detached and with attached targets on each of six modules; the heads learn from one loss each."
show_gradients(norms)

# %% [markdown]
# * Each head learns from its own loss only. The LLM and the word table learn from both.
# * Detaching the target does **not** cut the visual side off from the image loss. An embedding has two roles: it is the *target* of
#   the position before it, and an *input* to all positions after it.
#   `detach()` closes the first path. The second stays open: the visual side may still change its embeddings so that the next ones are
#   easier to predict from them.
# * With attached targets only the bars of the visual side and of the word table (through `[/IMG]`) can change: a
#   second gradient, through the targets, is added to theirs.
#
# ## The weight
#
# $$L = L_{\text{text}} + \lambda L_{\text{image}} \qquad \nabla L = \nabla L_{\text{text}} + \lambda \nabla L_{\text{image}}$$
#
# $\lambda$ is `objective.image_loss_weight`; the gradients of the two losses and of their sum are `of_text`, `of_image` and `of_both`.
# $\lambda$ is published neither for Emu nor for Emu2. The bars say what is at stake: where
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
print("one weight scales every bar of the image loss, and none of the text loss")

# %% [markdown]
# ## Why the target has to stand still
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
# Watch it happen. Three copies of one small random model train on the same 16 pairs, with both losses. `spread` measures how much
# embeddings differ from picture to picture: the standard deviation over pictures. At 0 all pictures look alike.

# %%
nano = untrained(EmuConfig.preset("emu-nano"))
pairs = [[s.picture, s.caption] if i % 2 else [s.prompt, s.picture] for i, s in enumerate(samples)]


def spread(embeds):
    """embeds (n, N, D) -> one number."""
    return float(embeds.detach().var(0).mean().sqrt())


# %% [markdown]
# `frozen` keeps a copy of the first embeddings as targets: a teacher that never moves. Emu2 does so in its second
# stage, where the visual encoder does not change.
#
# **Predict before you run.** In which of the three do the embeddings stay furthest apart? And does the spread
# shrink at all with detached targets?

# %%
def train(image_targets, steps=60):
    model = copy.deepcopy(nano.model)
    model.config = model.config.override({"objective.targets": image_targets})
    batch = nano.processor(pairs, eos=True)
    images = batch.pop("images")
    teacher = model.encode_images(images).detach() if image_targets == "frozen" else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    spreads, losses = [], []
    for _ in range(steps):
        embeds = model.encode_images(images)
        out = model(**batch, image_embeds=embeds, image_targets=teacher)
        spreads.append(spread(embeds))
        losses.append(float(out.image_loss.detach()))
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
    return spreads, losses


# %%
runs = {name: train(name) for name in ("attached", "detached", "frozen")}
spreads, losses = ({name: run[which] for name, run in runs.items()} for which in (0, 1))
print("lowest image loss:  ", min(losses, key=lambda name: losses[name][-1]))
print("smallest spread:    ", min(spreads, key=lambda name: spreads[name][-1]))
print("largest spread:     ", max(spreads, key=lambda name: spreads[name][-1]))

# %% alt="Two panels over 60 steps for attached, detached and frozen targets: the spread of the embeddings falls most with attached targets, and so does the image loss."
show_curves({"spread of the embeddings": spreads, "image loss": losses}, log=True)

# %% [markdown]
# The best looking loss belongs to the worst embeddings. The two panels have to be read together: **a regression loss says nothing
# unless you know what its targets still tell apart.**
#
# Detached targets slow the collapse down, and do not exclude it: the path through the inputs is open, and here too the spread ends
# far below where it began. What works against it is the text loss, which needs embeddings that tell pictures apart; whether it wins,
# the left panel shows.
# Only frozen targets cannot move at all. That run dips too, because the left panel shows what the language model *reads*, and this
# still moves. Its targets keep their spread, and pull the embeddings back.
#
# | | In the paper | In the released code | Emu2 | Here |
# |---|---|---|---|---|
# | targets | the embeddings that the LLM reads; whether they are detached is not said | detached, they move with the visual side | features of an encoder that does not change in this stage | `detached`; the recipe of `emu-tiny` also keeps the visual side fixed in this stage |
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
print(tuple(predicted.shape), "predictions,", len(error), "slots")

# %% alt="Squared distance for each slot of the picture, of the chosen model and of the mean embedding as a guess."
curves = {PRESET: error.tolist(), "mean embedding": guess.tolist()}
slots = range(1, len(error) + 1)
show_curves({"squared distance, slot by slot": curves}, x="slot", at=slots)

# %% [markdown]
# Where the line lies below the guess, the model knows more than the mean. Its first slot is predicted from words alone; each later one
# also from the true embeddings before it: compare, how much do they add? That is teacher forcing. In generation those are its own predictions, and errors add up.
# A model with random weights lies above the guess.
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
# ## Your turn: the image loss (5 minutes)
#
# Write the mean squared distance of the regressed pairs. `predictions` and `inputs` are (B, L, D), `regress` is (B, L - 1) and `True`
# at $t$ if $x_{t+1}$ has to be regressed. No gradient may reach the targets.
#
# <details><summary>Hint</summary>
#
# Two slices, one `detach()`. The check also looks at the gradients.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch.nn.functional as F
#
#
# def answer(predictions, inputs, regress):
#     return F.mse_loss(predictions[:, :-1][regress], inputs[:, 1:][regress].detach())
# ```
# </details>

# %%
def my_image_loss(predictions, inputs, regress):
    return None  # your line here


check("05.image_loss", my_image_loss)


# %% [markdown]
# ## Your turn: the pull on the target (5 minutes)
#
# For P pairs, write the gradient of `F.mse_loss(predicted, following)` with respect to `following`, both (P, D). No autograd.
#
# <details><summary>Hint</summary>
#
# `F.mse_loss` is a mean over all P times D numbers.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def answer(predicted, following):
#     return 2 / following.numel() * (following - predicted)
# ```
# </details>

# %%
def pull_on_target(predicted, following):
    return None  # your line here


check("05.target_gradient", pull_on_target)

# %% [markdown]
# ## What next
#
# * `minemu/objective.py` is one screen: every line of it has appeared above.
# * Where the masks come from: [one sequence of words and pictures](01_one_sequence.ipynb).
# * Train with another choice: `minemu recipe emu-nano --set objective.image_loss=cosine`, or `--set objective.image_loss_weight=0.1`.
