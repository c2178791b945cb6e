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
# Emu ([arXiv 2307.05222](https://arxiv.org/abs/2307.05222)) turns a picture into N embeddings and sets them between words, so that text and pictures become **one sequence**.
# One language model learns to predict **the next element** of it: a word is classified, a visual embedding is regressed.
# A diffusion decoder turns predicted embeddings back into a picture, so the same model reads pictures and draws them.
# Here is a tiny one, trained on drawings of 250 things on coloured backgrounds; the same classes build the 14-billion-parameter original.
#
# You will draw and caption with one call each, see every stage of a live forward pass, and recompute the training loss by hand. Two CPU cores and two minutes are enough.

# %%
try:  # on Colab: fetch and install; anywhere else: nothing to do
    import google.colab  # noqa: F401
except ImportError:
    print("not on Colab: nothing to install")
else:
    # !git clone --quiet --depth 1 https://github.com/minemu/minemu
    # %cd minemu
    # %pip install --quiet --editable .
    import sys

    sys.path.insert(0, ".")

# %% [markdown]
# ## One call
#
# `EmuPipeline` holds all four stages. A list of words and pictures goes in; a picture or words come out.

# %%
# NBVAL_IGNORE_OUTPUT
# %matplotlib inline
import os

import torch
import torch.nn.functional as F

from minemu import EmuPipeline
from minemu.data.samples import data_dir
from minemu.data.world import ToyWorld
from minemu.figures import show_batch, show_model, show_pictures, show_sequence

torch.set_grad_enabled(False)  # nothing is trained here
pipe = EmuPipeline.from_pretrained(os.environ.get("MINEMU_CHECKPOINT", data_dir() / "emu-tiny"))
world = ToyWorld("seen", held_out=True, image_size=pipe.processor.image_size)  # scenes that training never showed
sample = world.sample(2)

drawn = pipe(["a llama, Twemoji style"], generator=torch.Generator().manual_seed(0)).images[0]
said = pipe.caption(sample.picture)

assert drawn.size == sample.picture.size and isinstance(said, str)
show_pictures([drawn, sample.picture], ["drawn from: a llama, Twemoji style", f"captioned: {said}"])

# %% [markdown]
# ## One picture
#
# The upper row reads, the lower row writes. Nothing here is drawn by hand: the tensors are those of a forward pass that just ran, the numbers are those of its modules.
#
# The LM head shows the word that it finds likeliest at each place where a word comes next. The picture at the lower left is decoded from what the regression head predicted,
# each embedding from the words and the true embeddings before it.

# %%
processor, model = pipe.processor, pipe.model
batch = processor([[sample.caption, sample.picture]], eos=True)
show_model(pipe, batch, torch.Generator().manual_seed(0))

# %% [markdown]
# ## Four stages
#
# | | stage | the paper took | file |
# |---|---|---|---|
# | 1 | Visual Encoder: a picture as tokens without an order | EVA-CLIP | `visual_encoder.py` |
# | 2 | Causal Transformer: N embeddings *with* an order, each sees only those before it | trained from nothing | `causal_transformer.py` |
# | 3 | Multimodal LLM: one sequence in, two heads out | LLaMA-13B | `model.py` |
# | 4 | Visual Decoder: embeddings to pixels | Stable Diffusion | `visual_decoder.py` |

# %%
features = model.visual_encoder(batch["images"])
embeds = model.encode_images(batch["images"])
out = model(**batch)
imagined = model.generate_image_embeds(**processor([[sample.caption]]))
pixels = pipe.decoder.decode(imagined, pipe.null_embeds(autoencode=False), generator=torch.Generator().manual_seed(0))

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
# A picture is written `[IMG] <image> ... <image> [/IMG]`. The N `<image>` slots hold no word: the model overwrites them with the N visual embeddings.
# Below, each column is a position; the two lowest rows say what that position has to predict.
#
# Two things to notice. The last slot predicts the word embedding of `[/IMG]`, so there are N + 1 regressed pairs. And nobody ever has to *say* `[IMG]`:
# whoever wants a picture from the model appends it by hand, and `generate_image_embeds` does.

# %%
show_sequence(batch, processor, model.config.objective)

# %% [markdown]
# Training shows the picture before or after its words at random, so that the same model learns to caption and to draw. A batch of both, decoded back from its tensors:

# %%
both = processor([[sample.picture, sample.caption], [sample.prompt, sample.picture]], eos=True)
show_batch(both, processor, model.config.objective)

# %% [markdown]
# ## One loss
#
# $$L = \underbrace{-\frac{1}{|W|}\sum_{t \in W} \log p(x_{t+1} \mid x_{\le t})}_{\text{next word}} \;+\; \lambda\, \underbrace{\frac{1}{|V|}\sum_{t \in V} \frac{1}{D} \lVert f(x_{\le t}) - x_{t+1} \rVert^2}_{\text{next visual embedding}}$$
#
# The released code builds the pairs of the second term and never computes it. Here it is by hand, and it agrees with `model(**batch)`.

# %%
ids, objective = processor.ids, model.config.objective
following = both["input_ids"][:, 1:]
regress = following == ids.image
if objective.end_of_image_pair:
    regress |= following == ids.image_end
say = ~torch.isin(following, torch.tensor(ids.structure))  # neither padding nor [IMG], <image>, [/IMG]

out = model(**both)
text_loss = F.cross_entropy(out.logits[:, :-1][say], following[say])
inputs = model.embed(both["input_ids"], model.encode_images(both["images"]))
image_loss = F.mse_loss(out.predictions[:, :-1][regress], inputs[:, 1:][regress])

torch.testing.assert_close(text_loss, out.text_loss)
torch.testing.assert_close(image_loss, out.image_loss)
torch.testing.assert_close(text_loss + objective.image_loss_weight * image_loss, out.loss)
print(int(say.sum()), "words to say,", int(regress.sum()), "embeddings to regress")

# %% [markdown]
# ## There and back
#
# Words to a picture to words; and a picture to its embeddings and back (one picture alone is rebuilt).

# %%
# NBVAL_IGNORE_OUTPUT
text = "a llama on a blue background, Twemoji style"
picture = pipe([text], generator=torch.Generator().manual_seed(1)).images[0]
answer = pipe.caption(picture)
rebuilt = pipe([sample.picture], generator=torch.Generator().manual_seed(1)).images[0]

assert picture.size == rebuilt.size == sample.picture.size
show_pictures([picture, sample.picture, rebuilt], [f"said back: {answer}", "a picture", "rebuilt from its embeddings"])

# %% [markdown]
# ## Your turn
#
# Emu2 leaves the `[/IMG]` pair out. Write the mask of the positions that have to regress an embedding *without* it: a boolean tensor of shape (B, L - 1), `True` at t if position t + 1 is a slot of a picture.
#
# <details><summary>Hint</summary>
#
# `following` in the cell above is half of the answer.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# return input_ids[:, 1:] == ids.image
# ```
# </details>

# %%
from minemu.config import ObjectiveConfig
from minemu.sequence import targets


def regressed(input_ids, ids):
    return None  # your line here


mine = regressed(both["input_ids"], ids)
if mine is None:
    print("not done yet: return a boolean tensor of shape", tuple(following.shape))
else:
    right = targets(both["input_ids"], ids, ObjectiveConfig(end_of_image_pair=False)).image
    assert mine.shape == right.shape, f"the shape should be {tuple(right.shape)}, not {tuple(mine.shape)}"
    assert torch.equal(mine, right), f"{int((mine != right).sum())} positions differ"
    print("right:", int(mine.sum()), "embeddings to regress in", len(both["images"]), "pictures")

# %% [markdown]
# ## What next
#
# * `make demo` shows more of what this checkpoint can do, and what it cannot.
# * Read the model in this order: `sequence.py` (every mask), `model.py`, `objective.py`, `generation.py`; each fits on a few screens.
# * Change one idea and train again: `minemu recipe emu-nano` takes seconds, `minemu recipe emu-tiny` some hours on two cores, and `--set objective.image_loss=cosine` changes a choice that the papers leave open.
