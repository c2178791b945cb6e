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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/00_start_here.ipynb)
#
# # Start here: a whole Emu in one picture
#
# Emu ([arXiv 2307.05222](https://arxiv.org/abs/2307.05222)) turns a picture into N embeddings and places them between words, so
# that text and pictures become **one sequence**.
# One language model learns to predict **the next element** of it: a word is classified, a visual embedding is regressed.
# A diffusion decoder turns predicted embeddings back into a picture, so the same model reads pictures and draws them.
# Here is a tiny one, trained on emoji on coloured backgrounds; the same classes build the 14-billion-parameter original.
#
# After this notebook you can
#
# * draw and caption with one call each;
# * name the four stages, and the shape of what each hands on;
# * read a sequence of words and pictures, and say what each position has to predict;
# * recompute the training loss by hand, and train a small copy with it.
#
# It needs about half a minute on two CPU cores, less on a T4, and 2 GB of memory.

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
# `emu-tiny` is trained. `emu-nano` has random weights: every shape and every loss below holds for it, but it draws noise
# and its words mean nothing.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %matplotlib inline
import math

import torch
import torch.nn.functional as F
from minemu.config import EmuConfig
from minemu.course import check, start, untrained
from minemu.data.captions import caption
from minemu.data.scene import Group, Scene
from minemu.errors import MinemuError
from minemu.figures import show_batch, show_model, show_pictures, show_sequence
from minemu.figures.charts import show_curves

torch.manual_seed(0)
torch.set_grad_enabled(False)  # only one cell below trains
pipe, world = start(PRESET)
processor, model, ids = pipe.processor, pipe.model, pipe.processor.ids
sample = world.sample(2)  # a scene that training never showed
print(
    model.config.name,
    "on pictures of",
    processor.image_size,
    "pixels,",
    processor.n_image,
    "embeddings each",
)

# %% [markdown]
# ## The pictures
#
# The drawings are emoji of open sets, in four styles: *Noto* is Google's, *Twemoji* was Twitter's, *Fluent* and *Flat* are Microsoft's.
# `ToyWorld` composes them into scenes: one thing in one of three sizes, two or three of the same, or two things, side by side or one
# above the other, on one of eight backgrounds. It knows what it drew, so what it says of a picture is true.
#
# The **caption** says all: number, size, thing, place, background and style; a single thing without a size word is of
# medium size; several things get no size word. A
# **prompt** says it as people do: size, background and style are each kept with a chance of 70 %.
#
# Of these scenes 5 % are held out. Training has shown what they are made of, but never in this combination; `sample` is one.

# %% alt="Six scenes of the toy world with their captions: an elephant in four styles, on backgrounds of four colours, then an elephant beside a cactus and three cacti."
elephant, cactus = Group("elephant"), Group("cactus")
examples = [
    Scene((elephant,), size="small", background="yellow", style="noto"),
    Scene((elephant,), size="medium", background="gray", style="twemoji"),
    Scene((elephant,), size="big", background="pink", style="fluent"),
    Scene((elephant,), size="medium", background="orange", style="flat"),
    Scene((elephant, cactus), relation="left of", background="white", style="noto"),
    Scene((Group("cactus", count=3),), background="purple", style="twemoji"),
]
print("caption:", sample.caption)
print("prompt: ", sample.prompt)
show_pictures([world.render(scene)[0] for scene in examples], [caption(s) for s in examples])

# %% [markdown]
# ## One call
#
# `EmuPipeline` holds all four stages. A list of words and pictures goes in; a picture or words come out.

# %% alt="Left: a picture that the model drew from words; right: a held-out picture with the caption that the model gave it."
# NBVAL_IGNORE_OUTPUT
words = "a rocket on a purple background, Fluent style"
drawn = pipe([words]).images[0]
said = pipe.caption(sample.picture)

assert drawn.size == sample.picture.size and isinstance(said, str)
show_pictures([drawn, sample.picture], [f"drawn from: {words}", f"captioned: {said}"])

# %% [markdown]
# Say everything that you want to see: whatever your words leave open is drawn as an average. Try `"a llama, Twemoji style"`. Which colour does the background get, and can you make out the shape?
#
# ## One picture
#
# The upper row reads, the lower row writes. Nothing here is drawn by hand: the tensors are those of a forward pass that just ran, the
# numbers are those of its modules.
#
# * **Coloured grids** (encoder, decoder): a token has many channels. Their three main directions are painted as red, green and blue.
# * **Stripes**: a vector is a line of dots, orange above zero, purple below. The embeddings lie one below the other; in the box of the
#   LLM each column is a position of the sequence.
# * **LM head**: the word that it finds likeliest at each place where a word comes next. It guesses from the words before, since the
#   picture comes later in this sequence; thing, background and style may well be wrong.
# * **Regression head**: each embedding is predicted from the words and the *true* embeddings before it. The picture at the lower left
#   is decoded from these.
# * **Visual Decoder**: a diffusion model refines noise in many steps. That of `emu-tiny` takes a single step, and what it draws is a
#   *sketch* regressed from the embeddings, the same for every seed. [Notebook 08](08_visual_decoder.ipynb) takes it apart and tries
#   more steps.

# %% alt="The whole model: a picture passes the visual encoder, the Causal Transformer and the language model; two heads lead to words and, through the decoder, to a picture."
batch = processor([[sample.caption, sample.picture]], eos=True).to(model.device)
show_model(pipe, batch)

# %% [markdown]
# ## Four stages
#
# | | stage | the paper took | file |
# |---|---|---|---|
# | 1 | Visual Encoder: a picture as tokens without an order | EVA-CLIP | `visual_encoder.py` |
# | 2 | Causal Transformer: N embeddings *with* an order: each sees the whole picture, and of the other embeddings only those before it | trained from nothing | `causal_transformer.py` |
# | 3 | Multimodal LLM: one sequence in, two heads out | LLaMA-13B | `model.py` |
# | 4 | Visual Decoder: embeddings to pixels | Stable Diffusion | `visual_decoder.py` |
#
# **Predict before you run.** A prediction is fed back as the next input when the model draws. Which two of the shapes below have to
# agree in their last number?

# %%
features = model.visual_encoder(batch["images"])
embeds = model.encode_images(batch["images"])
out = model(**batch)
prompt = processor([[sample.caption]]).to(model.device)
imagined = model.generate_image_embeds(**prompt)
pixels = pipe.decoder.decode(
    imagined,
    pipe.null_embeds(autoencode=False),  # of "": guidance steers away from it (notebook 08)
)

print("picture            ", tuple(batch["images"].shape))
print("1 encoder tokens   ", tuple(features.shape))
print("2 visual embeddings", tuple(embeds.shape))
print("3 words            ", tuple(out.logits.shape), "one score for each entry of the vocabulary")
print("3 embeddings       ", tuple(out.predictions.shape), "as wide as a visual embedding")
print("4 picture          ", tuple(pixels.shape))
assert imagined.shape == embeds.shape

# %% [markdown]
# ## One sequence
#
# A picture is written `[IMG] <image> ... <image> [/IMG]`. The N `<image>` slots hold no word: the model overwrites them with the N
# visual embeddings.
# Below, each column is a position; the two lowest rows say what that position has to predict.
#
# The last slot predicts the word embedding of `[/IMG]`, so there can be N + 1 regressed pairs.
#
# | | In the paper | In the released code | Here |
# |---|---|---|---|
# | `[/IMG]` | not stated | its word embedding is the last regression target | `objective.end_of_image_pair` chooses |
# | `[IMG]` | the model says it, then draws | never a target: whoever wants a picture appends it | `objective.say_image` chooses; `generate_image_embeds` appends it |

# %% alt="One sequence as a strip: input tokens, attention mask, the next word for the LM head and the next embedding for the regression head."
show_sequence(batch, processor, model.config.objective)

# %% [markdown]
# Training shows the picture before or after its words at random, so that the same model learns to caption and to draw. A batch of
# both, decoded back from its tensors:

# %% alt="Two samples, one picture before its caption and one after its prompt; underlined words have to be said, arcs lead to embeddings that have to be regressed."
both = processor([[sample.picture, sample.caption], [sample.prompt, sample.picture]], eos=True).to(
    model.device
)
show_batch(both, processor, model.config.objective)

# %% [markdown]
# ## One loss
#
# $$L = \underbrace{-\frac{1}{|W|}\sum_{t \in W} \log p(x_{t+1} \mid x_{\le t})}_{\text{next word}} \;+\; \lambda\,
# \underbrace{\frac{1}{|V|}\sum_{t \in V} \frac{1}{D} \lVert f(x_{\le t}) - x_{t+1} \rVert^2}_{\text{next visual embedding}}$$
#
# $W$ is `say`, $V$ is `regress`, and $\lambda$ is `objective.image_loss_weight`. In the first term $x_{t+1}$ is a token,
# `following[:, t]`, and $p$ is the softmax of `out.logits[:, t]`. In the second it is a vector of width $D$, `inputs[:, t + 1]`, and
# $f(x_{\le t})$ is `out.predictions[:, t]`.
# The released code builds the pairs of the second term but never computes it. Here the loss by hand agrees with `model(**batch)`.
# (In `model(**batch)` no gradient flows into $x_{t+1}$ *as a target*; as an input it still gets one. [Notebook 05](05_one_objective_two_losses.ipynb) shows both.)

# %%
objective = model.config.objective
following = both["input_ids"][:, 1:]  # x_{t+1}
regress = following == ids.image
if objective.end_of_image_pair:
    regress = regress | (following == ids.image_end)
silent = [
    token for token in ids.structure if not (objective.say_image and token == ids.image_start)
]
say = ~torch.isin(following, torch.tensor(silent, device=model.device))

out = model(**both)
text_loss = F.cross_entropy(out.logits[:, :-1][say], following[say])
inputs = model.embed(both["input_ids"], model.encode_images(both["images"]))
image_loss = F.mse_loss(out.predictions[:, :-1][regress], inputs[:, 1:][regress])

torch.testing.assert_close(text_loss, out.text_loss)
torch.testing.assert_close(image_loss, out.image_loss)
torch.testing.assert_close(text_loss + objective.image_loss_weight * image_loss, out.loss)
print(int(say.sum()), "tokens to say,", int(regress.sum()), "embeddings to regress")

# %% [markdown]
# ## Train one
#
# With that loss, training is a loop of four lines. A copy of `emu-nano` with random weights sees the same 16 pairs 200 times. This
# takes seconds; `emu-tiny` took hours, and the loop is the same.
#
# **Predict before you run.** Which of the two losses starts higher?

# %%
torch.manual_seed(0)
nano = untrained(EmuConfig.preset("emu-nano"))
scenes = [world.sample(i) for i in range(16)]
pairs = nano.processor(
    [[s.picture, s.caption] if i % 2 else [s.prompt, s.picture] for i, s in enumerate(scenes)],
    eos=True,
)
optimiser = torch.optim.AdamW(nano.model.parameters(), lr=3e-3)
losses = {"text loss": [], "image loss": []}
with torch.enable_grad():
    for _ in range(200):
        out = nano.model(**pairs)
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
        losses["text loss"].append(float(out.text_loss.detach()))
        losses["image loss"].append(float(out.image_loss.detach()))
print("both are lower at the end:", all(values[-1] < values[0] for values in losses.values()))

# %% alt="Text loss and image loss of a small copy over 200 steps, on a logarithmic scale; both fall, the image loss with humps."
show_curves({"emu-nano learns 16 pairs": losses}, log=True)

# %%
size = nano.model.config.llm.vocab_size
print(f"text loss at the start {losses['text loss'][0]:.1f}, ln {size} = {math.log(size):.1f}")
recited = nano.caption(scenes[1].picture)
print("it recites one of its captions:", recited in [scene.caption for scene in scenes[1::2]])

# %% [markdown]
# A random model spreads its guess over the whole vocabulary, so the text loss starts near the logarithm of its size. The image loss
# starts lower, as a mean over small numbers, and it has humps: its targets are the model's own embeddings, which change as it learns.
#
# The captions are now known by heart. Does each go to its own picture? Try `nano.caption(scenes[3].picture)` beside
# `scenes[3].caption`, and some more. The loop above says little about what such a model sees, and a low image loss says even less:
# [notebook 05](05_one_objective_two_losses.ipynb) shows why.
#
# ## There and back
#
# Now the trained one. Words to a picture to words; and a picture to its embeddings and back (a lone picture is rebuilt).

# %% alt="A picture drawn from words with the words that the model reads in it, a held-out picture, and that picture rebuilt from its embeddings."
# NBVAL_IGNORE_OUTPUT
text = "a big hamburger on a blue background, Flat style"
picture = pipe([text]).images[0]
answer = pipe.caption(picture)
rebuilt = pipe([sample.picture]).images[0]

assert picture.size == rebuilt.size == sample.picture.size
show_pictures(
    [picture, sample.picture, rebuilt],
    [f"said back: {answer}", "a picture", "rebuilt from its embeddings"],
)


# %% [markdown]
# Try it with `"a llama on a blue background, Twemoji style"`. Does the model recognise its own drawing?
#
# ## What could go wrong
#
# Input that makes no sense is refused. The message is one line: what is wrong, and what to do.

# %%
def refused(action):
    try:
        action()
    except MinemuError as error:
        print("-", error)


refused(lambda: processor(["a [IMG] llama"]))
refused(lambda: model(both["input_ids"], images=both["images"][:1]))
refused(lambda: pipe([["a llama"], [sample.picture]]))
refused(lambda: EmuConfig.preset("emu-tinny"))


# %% [markdown]
# ## Your turn: how long is a sample? (3 minutes)
#
# A sample has `words` word tokens and `pictures` pictures of `n_image` embeddings. Return its number of positions, `<s>` and `</s>`
# included.
#
# <details><summary>Hint</summary>
#
# What stands around the slots of a picture?
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def answer(words, pictures, n_image):
#     return 1 + words + pictures * (n_image + 2) + 1
# ```
# </details>

# %%
def length(words, pictures, n_image):
    return None  # your line here


check("00.length", length)


# %% [markdown]
# ## Your turn: the mask of the regression (5 minutes)
#
# Emu2 leaves the `[/IMG]` pair out. Write the mask of the positions that then have to regress an embedding: a boolean tensor
# of shape (B, L - 1), `True` at t if position t + 1 is a slot of a picture.
#
# <details><summary>Hint</summary>
#
# `following` in the cell of the loss is half of the answer.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def answer(input_ids, ids):
#     return input_ids[:, 1:] == ids.image
# ```
# </details>

# %%
def regressed(input_ids, ids):
    return None  # your line here


check("00.regressed", regressed)

# %% [markdown]
# ## What next
#
# * The sequence in full: [one sequence of words and pictures](01_one_sequence.ipynb). The loss in full:
#   [one objective, two losses](05_one_objective_two_losses.ipynb).
# * `make demo` shows more of what this checkpoint can do, and what it cannot.
# * Read the model in this order: `sequence.py` (every mask), `model.py`, `objective.py`, `generation.py`; each fits on a few screens.
# * Change one idea and train again: `minemu recipe emu-nano` takes seconds, `minemu recipe emu-tiny` some hours on two cores, and
#   `--set objective.image_loss_weight=0.1` changes a choice that the papers leave open.
