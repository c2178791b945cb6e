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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/03_causal_transformer.ipynb)
#
# # The Causal Transformer, and Emu2's pooling
#
# Stage 2 stands between the visual encoder and the language model. Emu makes it a small Transformer of its own; Emu2 makes it one line. After this notebook you can
#
# * write the forward pass of Emu's Causal Transformer: N learned queries, causal self-attention, cross-attention to the picture,
# * compute T5's relative position bias, and say at which N two distances first share a number,
# * show by experiment that embedding n does not depend on the queries after it, and say why that matters,
# * watch queries learn where to look, measure it, and compare with Emu2's mean pooling.
#
# **Needs:** about a minute on two CPU cores, less on a T4; 1 GB of memory. It runs offline. You should know PyTorch and what attention is.

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
# `emu-tiny` is trained. `emu-nano` has random weights: everything about order holds for it too, but its queries have not learnt where to look.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]
# %matplotlib inline
import copy
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from minemu.causal_transformer import CausalTransformer
from minemu.config import EmuConfig
from minemu.course import check, start
from minemu.data.datasets import batch_samples
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.figures import show_pictures
from minemu.figures.bridge import show_cells, show_queries
from minemu.figures.charts import show_curves, show_matrices
from minemu.figures.vision import show_maps
from minemu.model import Emu
from minemu.processor import normalise
from minemu.trace import unnormalise
from minemu.training.encoder import cells
from PIL import Image
from torch import nn

pipe, world = start(PRESET)
model = pipe.model.requires_grad_(False)  # the trained weights stay as they are
device, config = model.device, model.config

# %% [markdown]
# ## What comes in, what goes out
#
# The encoder gives 1 + P features of a picture: a class token and a grid of patches. The language model wants N embeddings, to place between words *and to predict one after the other*.
#
# | symbol | meaning | here |
# |---|---|---|
# | $g(I)$, (1 + P, V) | features of picture $I$ | `features` |
# | $e_1 \dots e_N$, (N, C) | learned queries, the same for all pictures | `bridge.queries` |
# | $z_1 \dots z_N$, (N, D) | visual embeddings | `embeds` |
#
# V is `vision.width`, C is `bridge.width`, N is `bridge.n_image` and D is `llm.width` of the configuration.

# %%
sample = world.sample(2)
images = normalise(torch.from_numpy(sample.pixels)[None]).to(device)
bridge = model.causal_transformer
features = model.ln_visual(model.visual_encoder(images))  # (1, 1 + P, V)
embeds = bridge(features)  # (1, N, D)
torch.testing.assert_close(embeds, model.encode_images(images))
for name, tensor in (("features", features), ("queries", bridge.queries), ("embeddings", embeds)):
    print(f"{name:10}", tuple(tensor.shape))

# %% [markdown]
# ## Why an order
#
# A language model factorises: $p(x) = \prod_t p(x_t \mid x_{<t})$. Words come in an order in which they were meant to be read. Patches do not. They can be read line by line, but a patch is not there *because of* those to its left,
# and inside the encoder every patch token has already looked at all others.
#
# Emu's answer is to make a sequence that has an order by construction. Each embedding is computed from the queries up to its own, and from the whole picture:
#
# $$z_n = f\big(e_1, \dots, e_n;\; g(I)\big)$$
#
# $f$ is `bridge`. So $z_2$ *can* add to what $z_1$ says; nothing forces it to. Be precise about what this does and does not forbid: every $z_n$ may look at *all of the picture*, through cross-attention. What it may not do is to look at the embeddings that come after it.
#
# > **In the paper:** "Causal Transformer", N queries, trained from scratch together with the rest.
# > **In the released code:** a T5 decoder with the sizes of t5-base, queries drawn with a standard deviation of 0.02.
# > **Here:** the same blocks. Queries start with a standard deviation of 1, as T5's words do, because otherwise, at toy size, the N embeddings stayed almost identical; `emu-tiny` also gives the encoder's tokens positions, and a stage `bridge` trains all this before the LLM reads it.
# > **Not known:** what the order is worth. We found no published ablation of it, and Emu2 leaves it out.
#
# How large is the bridge? Modules on the device "meta" have shapes but no memory, so the published one can be counted.

# %%
for name in ("emu-14b", PRESET):
    c = EmuConfig.preset(name)
    with torch.device("meta"):
        published = CausalTransformer(c.bridge, c.vision, c.llm.width)
    count = sum(parameter.numel() for parameter in published.parameters())
    sizes = f"N = {c.bridge.n_image}, {c.bridge.layers} layers, width {c.bridge.width}"
    print(f"{name}: {sizes}, {count:,} parameters")


# %% [markdown]
# ## One block
#
# Three sub-layers, each of the form $x + f(\mathrm{norm}(x))$ with a norm that only divides by the root mean square:
#
# 1. self-attention among the N queries, with the bias $B$ that also holds the causal mask,
# 2. cross-attention: queries from $x$, keys and values from the features,
# 3. a feed-forward layer with a ReLU.
#
# $$\mathrm{attention}(x, s) = \mathrm{softmax}\big(x W_q\, (s W_k)^\top + B\big)\, s W_v\, W_o$$
#
# $W_q, W_k, W_v, W_o$ are `q`, `k`, `v`, `o` of `T5Attention`; $s$ is `source`, which is $x$ itself in self-attention and the features in cross-attention; $B$ is `bias`, and there is none in cross-attention. There is no $1/\sqrt{K}$ ($K$ is the width of a head): T5 starts $W_q$ smaller instead. No linear map has a bias.
#
# Here is the whole forward pass by hand. It keeps the weights of cross-attention, because we want to see them.

# %%
def attention_weights(attention, x, source):
    """Weights (B, H, N, T) of an attention without a bias."""
    q = rearrange(attention.q(x), "b n (h k) -> b h n k", h=attention.heads)
    k = rearrange(attention.k(source), "b t (h k) -> b h t k", h=attention.heads)
    return (q @ k.transpose(-1, -2)).softmax(-1)  # T5: not divided by sqrt(K)


def look(bridge, features):
    """Embeddings (B, N, D), and where each query looked: (B, layers, H, N, T)."""
    x, maps = bridge.queries.expand(len(features), -1, -1), []
    bias = bridge.position_bias(x.shape[1])
    if bridge.config.source_positions:
        features = features + bridge.source_positions
    for block in bridge.blocks:
        y = block.self_norm(x)
        x = x + block.self_attention(y, y, bias)
        y = block.cross_norm(x)
        maps.append(attention_weights(block.cross_attention, y, features))
        x = x + block.cross_attention(y, features)
        x = x + block.wo(F.relu(block.wi(block.ff_norm(x))))
    return bridge.projection(bridge.norm(x)), torch.stack(maps, 1)


# %%
by_hand, maps = look(bridge, features)
torch.testing.assert_close(by_hand, embeds, atol=1e-4, rtol=1e-4)
print("the same embeddings; maps (pictures, layers, heads, queries, tokens):", tuple(maps.shape))


# %% [markdown]
# ## T5's relative position bias
#
# Self-attention has to know which query is which. T5 adds to each score a learned number that depends on the head and on *how far back* the key lies, $d = i - j$.
# Short distances each have a number of their own; long ones share, on a logarithmic scale. With $R$ buckets and $E = R/2$ exact ones:
#
# $$\mathrm{bucket}(d) = \begin{cases} d & d < E \\ \min\left(R - 1,\; E + \left\lfloor \dfrac{\log(d/E)}{\log(d_\text{max}/E)}\,(R - E) \right\rfloor\right) & \text{else} \end{cases}$$
#
# `back` is $d$, `buckets` is $R$, `distance` is $d_\text{max}$, `exact` is $E$. This is the package's own method:

# %% tags=["same-as:minemu.causal_transformer.RelativePositionBias.forward"]
def forward(self, length):
    position = torch.arange(length, device=self.bias.weight.device)
    back = (position[:, None] - position[None, :]).clamp(min=0)  # (N, N) how far back the key lies
    exact = self.buckets // 2
    log_step = torch.log(back.clamp(min=1).float() / exact) / math.log(self.distance / exact)
    far = (exact + (log_step * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
    bucket = torch.where(back < exact, back, far)  # (N, N)
    bias = rearrange(self.bias(bucket), "q k h -> 1 h q k")
    future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    return bias.masked_fill(future, float("-inf"))  # (1, H, N, N), the causal mask included


# %% [markdown]
# **Predict:** how many different numbers does one head use for the N embeddings of this preset? And does any distance share its bucket with another?

# %%
n = config.bridge.n_image
table = bridge.position_bias
bias = forward(table, n)
torch.testing.assert_close(bias, table(n))
numbers = len(bias[0, 0, -1].unique())  # the last embedding looks back over all distances
print(f"{n} distances, 0 ... {n - 1}: head 1 has {numbers} different numbers for them")

# %% alt="The relative position bias of each head as a matrix: one colour along each diagonal, grey above the main diagonal where nothing may be looked at."
heads = {f"head {h + 1}": bias[0, h] for h in range(bias.shape[1])}
show_matrices(heads, "looked at", "looks", shared=True, signed=True)


# %% [markdown]
# One colour along each diagonal: only the distance counts. Orange draws attention to a distance, purple away from it. Grey is the future, with a bias of $-\infty$.
#
# ### Exercise 1: who shares a bucket? (10 minutes)
#
# With N embeddings the distances are $0 \dots N - 1$. Return the smallest N at which two of them share a bucket, for $R$ = `buckets` and $d_\text{max}$ = `distance`.
# Both models have $R = 32$ and $d_\text{max} = 128$. Which two distances are the first to share there, and do any share in `emu-tiny` (N = 16) or in the published Emu (N = 32)?
#
# <details><summary>Hint</summary>
#
# All distances below $E$ have buckets of their own, and so has $E$. Go up from there until a bucket repeats.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import math
#
# def first_shared(buckets, distance):
#     exact, d, last = buckets // 2, buckets // 2, None
#     while True:
#         step = math.log(d / exact) / math.log(distance / exact)
#         bucket = min(buckets - 1, exact + int(step * (buckets - exact)))
#         if bucket == last:
#             return d + 1  # distances 0 ... d
#         d, last = d + 1, bucket
#
# answer = first_shared  # 18 for both models: 16 and 17 share bucket 16; none do in emu-tiny, many in the published Emu
# ```
# </details>

# %%
def first_shared(buckets, distance):
    return None  # your line here


check("03.shared", first_shared)


# %% [markdown]
# ### Exercise 2: the causal mask (5 minutes)
#
# Return a boolean matrix (n, n) that is `True` where embedding i, a row, may look at embedding j, a column.
#
# And say why it has to be so: the language model is trained to predict $z_{n+1}$ from the words and $z_1 \dots z_n$. What would such a prediction be worth if $z_n$ had been computed *from* $z_{n+1}$?
#
# <details><summary>Why</summary>
#
# The input would already contain part of the answer. In training the loss could fall by reading it off; in drawing there is nothing to read off, since $z_n$ has to be said before there is a $z_{n+1}$. With the mask no embedding depends on a later one, just as no word does. That is an argument, not a proof: Emu2's cells have seen one another in the encoder, and Emu2 generates them nonetheless.
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# def allowed(n):
#     return torch.ones(n, n, dtype=torch.bool).tril()
#
# answer = allowed
# ```
# </details>

# %%
def allowed(n):
    return None  # your line here


check("03.mask", allowed)


# %% [markdown]
# ## Is it causal? An experiment
#
# Change one query, run again, and see which embeddings have moved. Do that for each query. As a control, take the same Transformer and let it look ahead.
#
# **Predict:** which entries of the N x N matrix "embedding i moved when query j changed" are zero, in each case?

# %%
class LooksAhead(nn.Module):
    """The bias with its last line forgotten: what comes later counts as distance 0."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, length):
        bias = self.table(length)
        here = bias[:, :, :1, :1]  # the number of distance 0
        return torch.where(bias.isinf(), here, bias)


def influence(bridge, features):
    """How far embedding i (row) moves when query j (column) changes: (N, N)."""
    bridge, count = copy.deepcopy(bridge), bridge.queries.shape[1]
    before, queries = bridge(features)[0], bridge.queries.clone()
    moved = []
    for j in range(count):
        bridge.queries.copy_(queries)
        bridge.queries[0, j] = queries[0, j].flip(0)
        moved.append((bridge(features)[0] - before).norm(dim=-1))
    return torch.stack(moved, 1)


# %%
ahead = copy.deepcopy(bridge)
ahead.position_bias = LooksAhead(ahead.position_bias)
moved = {"causal": influence(bridge, features), "looks ahead": influence(ahead, features)}
future = torch.ones(n, n, dtype=torch.bool, device=device).triu(1)
for name, matrix in moved.items():
    count = int((matrix[future] > 1e-4).sum())
    print(f"{name}: {count} of {int(future.sum())} earlier embeddings moved with a later query")
print("the others moved by less than 1e-4")

# %% alt="Which embedding moves when which query changes: only the lower triangle for the causal Transformer, entries on both sides of the diagonal when it may look ahead."
roots = {name: matrix.sqrt() for name, matrix in moved.items()}  # so that small moves can be seen
show_matrices(roots, "changed query", "embedding")

# %% [markdown]
# With the mask, what is said first never depends on what will be said later. So the first $m$ embeddings do not even depend on *how many* follow. Cut the queries short, and the ones that are left give the same embeddings:

# %%
def cut_short(bridge, count):
    """The first embeddings, computed without the queries after them."""
    short = copy.deepcopy(bridge)
    short.queries = nn.Parameter(bridge.queries[:, :count], requires_grad=False)
    return short(features)


torch.testing.assert_close(cut_short(bridge, n // 2), embeds[:, : n // 2], atol=1e-4, rtol=1e-4)
print("the first", n // 2, "of", n, "embeddings are the same without the rest")


# %% [markdown]
# Why does the language model care? It is trained to regress $z_{n+1}$ from the words and $z_1 \dots z_n$. Were self-attention free to look ahead, $z_1$ could be computed *from* $z_N$. The mask forbids that. Still $z_1$ and $z_N$ may hold the same thing, since both read the whole picture; notebook 07 measures how much one tells of the next.
# What the mask guarantees is that whatever is said first is settled before what follows, in training as in drawing. Another gap is that drawing reads guesses in place of true embeddings: see notebook 07.
#
# ## Queries learn where to look
#
# Now train a small Causal Transformer and watch it. It has one block, so there is one place to watch. The task needs no captions: embedding n has to give the mean colour of each patch in cell n of the picture.
# It reads the tokens as they stand *before* the encoder's first block, where a patch knows little beyond its surroundings. So the best way to know a cell is to look at it.

# %%
def tokens(pixels):
    """What enters the encoder's first block, without its positions: (B, 1 + P, V)."""
    encoder = model.visual_encoder
    patches = rearrange(encoder.patch_embed(pixels), "b d h w -> b (h w) d")
    x = torch.cat([encoder.cls_token.expand(len(pixels), -1, -1), patches], 1)
    return F.layer_norm(x, x.shape[-1:])


# %%
vision, side = config.vision, math.isqrt(n)


def draw(world, count):
    pixels = [torch.from_numpy(sample.pixels) for sample in batch_samples(world, 0, count)]
    return normalise(torch.stack(pixels)).to(device)  # (n, 3, S, S)


def colours(pixels):
    """The mean colour of each patch, cell by cell: (n, N, values of a cell)."""
    return cells(F.avg_pool2d(pixels, vision.patch_size), side, side)


pictures = draw(ToyWorld("seen", image_size=vision.image_size), 512)
held_out = draw(world, 32)
known, paint = tokens(pictures), colours(pictures)
print("tokens", tuple(known.shape), "to cells", tuple(paint.shape))

# %%
torch.manual_seed(0)
sizes = replace(config.bridge, width=96, ff_width=192, layers=1, source_positions=True)
small = CausalTransformer(sizes, vision, out_width=paint.shape[-1]).to(device)
untrained = copy.deepcopy(small).requires_grad_(False)

optimizer, steps, losses = torch.optim.AdamW(small.parameters(), lr=2e-3), 600, []
for step in range(steps):
    for group in optimizer.param_groups:
        group["lr"] = 2e-3 * min(1, (step + 1) / 20) * min(1, (steps - step) / 100)
    chosen = torch.randint(len(known), (32,)).to(device)
    loss = F.mse_loss(small(known[chosen]), paint[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
small.requires_grad_(False)
assert sum(losses[-20:]) < 0.7 * sum(losses[:20])

# %% [markdown]
# **Predict:** the best guess that knows nothing of a picture is the mean of all pictures. Its error is drawn as a line. Does the loss start above or below it?

# %% alt="Loss of the small Causal Transformer over its steps, falling below the error of always painting the mean picture."
blind = F.mse_loss(paint.mean(0, keepdim=True).expand_as(paint), paint).item()
show_curves({"mean squared error of colours": {"loss": losses}}, levels={"the mean picture": blind})


# %% alt="A held-out picture, the mean colours of its patches, and what the small Transformer gives for them: untrained something else, trained nearly those colours in the right places."
def painted(values):
    """Colours (1, N, values of a cell) as a picture with a pixel for each patch."""
    width = vision.grid // side
    pixels = rearrange(values, "b (h w) (p q c) -> b c (h p) (w q)", h=side, p=width, c=3)
    return Image.fromarray(unnormalise(pixels)[0])


shown = [colours(images), untrained(tokens(images)), small(tokens(images))]
titles = ["held-out picture", "mean colours", "untrained", f"after {steps} steps"]
show_pictures([sample.picture, *map(painted, shown)], titles)


# %% [markdown]
# Nothing told query n where cell n lies. Averaged over heads, this is where the queries of the middle rows of cells look, before and after. Each map is scaled to its own largest weight.

# %%
def where(bridge, source, layer=-1):
    """Cross-attention of one layer to the patches, mean over heads: (B, N, G, G)."""
    weights = look(bridge, source)[1][:, layer].mean(1)[..., 1:]  # the class token is left out
    weights = weights / weights.sum(-1, keepdim=True)
    return rearrange(weights, "b n (h w) -> b n h w", h=vision.grid)


# %% alt="Where queries of the small Transformer look in a picture, those of the middle rows of cells, before training and after: spread over the picture at first, then mostly in their own cells."
inner = [row * side + column for row in range(side) for column in range(side) if 0 < row < side - 1]
some = inner[: min(n, 8)] or list(range(n))
rows = torch.stack([where(each, tokens(images))[0, some] for each in (untrained, small)])
show_maps(
    sample.pixels[None].repeat(2, 0),
    rows,
    ["before", "after"],
    [f"$z_{{{number + 1}}}$" for number in some],
)

# %% [markdown]
# How much of its weight does a query spend on its own cell? Over all queries and 32 held-out pictures:

# %%
# NBVAL_IGNORE_OUTPUT
width = vision.grid // side  # patches along a cell
numbers = torch.arange(n, device=device).view(side, side)
numbers = numbers.repeat_interleave(width, 0).repeat_interleave(width, 1)  # (G, G)
own = (
    numbers == torch.arange(n, device=device)[:, None, None]
)  # (N, G, G), the patches of each cell


def on_own_cell(bridge, source, layer=-1):
    """Share of its weight that each query spends on its own cell: (N,)."""
    return (where(bridge, source, layer) * own).sum((2, 3)).mean(0)


before, after = (on_own_cell(each, tokens(held_out)) for each in (untrained, small))
corners = after[[0, side - 1, n - side, n - 1]]
assert after.mean() > max(before.mean(), 2 / n)
print(
    f"on its own cell: {before.mean():.0%} before, {after.mean():.0%} after, {1 / n:.0%} by chance"
)
print(f"after, the cells drawn above: {after[some].mean():.0%}, the corners: {corners.mean():.0%}")

# %% [markdown]
# The queries have learnt where their cells are, though none of them needs to look *only* there: patches of plain background look alike, and any of them tells their colour. That should show in the corners, where background is most frequent.
# With `layers=2` above, the first layer does most of this reading, and the second, now free of it, looks elsewhere: `where(small, tokens(images), layer=0)`.
#
# ## The trained one
#
# The Causal Transformer of the checkpoint was first taught by stage `bridge`, with the four terms of notebook 02. Taken as a grid of cells, its embeddings had to match the picture's caption, name each drawing and tell its style. A linear map had to recover from each embedding the code of the pixels *of its own cell*.
#
# On the left who may look at whom; on the right where each of its N embeddings looks in the last layer.

# %% alt="Left: the causal mask of self-attention, a filled lower triangle, above the picture. Right: for each of the N queries the patches of the picture that its cross-attention looks at."
lower = torch.ones(n, n, dtype=torch.bool).tril()
show_queries(sample.pixels, lower, where(bridge, features)[0])


# %% [markdown]
# Two numbers for each layer: how much weight the queries spend on their own cells, and how much of all weight departs from the mean over pictures. The second is 0 where a query looks at the same patches whatever the picture shows.

# %%
source = model.ln_visual(model.visual_encoder(held_out))
for layer in range(config.bridge.layers):
    maps = where(bridge, source, layer)
    moved = (maps - maps.mean(0)).abs().sum((2, 3)).mean() / 2
    at_home = on_own_cell(bridge, source, layer).mean()
    print(f"layer {layer + 1}: {at_home:.0%} on its own cell, {moved:.0%} moves with the picture")

# %% [markdown]
# Where a layer has nearly all of its weight at home and hardly any of it moves, it reads as Emu2's pooling does, only with learned weights within the cell: stage `bridge` asked for just that. What then remains of Emu's freedom is the order, and whatever the other layers look at.
# In the paper nothing ties a query to a place.
#
# ## Emu2: mean pooling
#
# Emu2 drops all this. It leaves out the class token, averages the patch grid to a coarser grid of N cells, and reads them line by line:
#
# $$z_n = \frac{1}{|C_n|} \sum_{i \in C_n} g(I)_i$$
#
# with $C_n$ the patches of cell n, `cell` by `cell` of them in a grid of `side` by `side` cells. The $g(I)_i$ are `features[:, 1:]`.

# %% [markdown]
# ### Exercise 3: pooling (5 minutes)
#
# Write it for `features` (B, 1 + P, V) with a square grid of patches: drop the class token, average to `n` cells in reading order, (B, n, V).
#
# <details><summary>Hint</summary>
#
# The patch axis is `(h i w j)`: h rows of cells with i rows of patches each, then w and j in the same way. `einops.reduce` averages whatever is missing on the right.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import math
#
# from einops import reduce
#
# def pool(features, n):
#     side = math.isqrt(n)
#     cell = math.isqrt(features.shape[1] - 1) // side
#     return reduce(features[:, 1:], "b (h i w j) v -> b (h w) v", "mean", h=side, i=cell, w=side, j=cell)
#
# answer = pool
# ```
# </details>

# %%
def pool(features, n):
    return None  # your line here


check("03.pool", pool)

# %% [markdown]
# The package's own is one `reduce`:

# %% tags=["same-as:minemu.causal_transformer.pool_features"]
def pool_features(features, n, config):
    side = round(n**0.5)
    cell = config.grid // side
    return reduce(
        features[:, 1:], "b (h i w j) v -> b (h w) v", "mean", h=side, i=cell, w=side, j=cell
    )


# %% [markdown]
# **Predict:** which patches, counted from 1 line by line, does cell 2 average? To find out, pool an identity matrix: then row n of the result holds the weight of each patch in cell n.

# %%
identity = torch.eye(vision.patches)
weights = pool_features(torch.cat([torch.zeros(1, vision.patches), identity])[None], n, vision)[
    0
]  # (N, P)
torch.testing.assert_close(weights.sum(1), torch.ones(n))
for number in (1, 2, n):
    print(
        f"cell {number}: patches",
        [patch + 1 for patch in weights[number - 1].nonzero().flatten().tolist()],
    )

# %% alt="A picture with its patch grid and the coarser grid of pooling cells; beside it the mean colour of each cell with its number in reading order."
show_cells(sample.pixels, vision.grid, side)

# %% [markdown]
# The same at Emu2's size: the drawing at its resolution, with its patches and its N cells, in the order in which the LLM reads them.

# %% alt="The same picture at Emu2's resolution with its 32 x 32 patches and the 8 x 8 cells that they are pooled to, numbered 1 to 64 line by line."
emu2 = EmuConfig.preset("emu2-37b")
large = ToyWorld("seen", held_out=True, image_size=emu2.vision.image_size).sample(2)
show_cells(large.pixels, emu2.vision.grid, math.isqrt(emu2.bridge.n_image))


# %% [markdown]
# Side by side: two pictures in two layers of Emu, and Emu2. A pooling cell has the same weights for every picture. A learned query *can* look elsewhere in each picture, head and layer; how far it does is measured above.

# %% alt="Where queries of the trained Causal Transformer look: two pictures in a middle layer, then the same two in the last layer. Lowest row: the patches that the pooling cells average, a square each."
other, last = world.sample(3), config.bridge.layers - 1
pair = np.stack([sample.pixels, other.pixels])
source = model.ln_visual(model.visual_encoder(normalise(torch.from_numpy(pair)).to(device)))
fixed = rearrange(weights.to(device), "n (h w) -> n h w", h=vision.grid)
rows = [where(bridge, source, layer)[:, some] for layer in (last // 2, last)] + [fixed[None, some]]
names = [f"Emu, layer {layer + 1}" for layer in (last // 2, last) for _ in pair] + ["Emu2"]
show_maps(
    np.concatenate([pair, pair, pair[:1]]),
    torch.cat(rows),
    names,
    [f"$z_{{{number + 1}}}$" for number in some],
)

# %% [markdown]
# What changes around it:

# %%
torch.manual_seed(0)
for name in ("emu-nano", "emu2-nano"):
    nano = Emu(EmuConfig.preset(name)).eval().requires_grad_(False)
    shown = torch.zeros(1, 3, nano.config.vision.image_size, nano.config.vision.image_size)
    z = nano.encode_images(shown)
    print(f"{name}: regressed {tuple(z.shape)}, read by the LLM as {tuple(nano.into_llm(z).shape)}")

# %%
for name in ("emu-14b", "emu2-37b"):
    c = EmuConfig.preset(name)
    made = f"N = {c.bridge.n_image} embeddings of width {c.embed_width}"
    print(f"{name}: {c.vision.patches} patches -> {made}")
seen, read = c.vision.width, c.llm.width
print(f"the map into Emu2's LLM: {seen} x {read} = {seen * read:,} parameters")

# %% [markdown]
# | | Emu: Causal Transformer | Emu2: mean pooling |
# |---|---|---|
# | order | by construction: $z_n$ sees the whole picture, and of the other embeddings only those before it | line by line over the picture |
# | place | in the paper free; here stage `bridge` ties each to its cell | cell n is always the same part of the picture |
# | parameters | a Transformer, trained from scratch | one linear map into the LLM |
# | regressed space | moves while the bridge is trained | the encoder's own: fixed once the encoder is frozen |
# | what a decoder can learn from | embeddings of the trained model | encoder features alone, before any LLM |
#
# > **In the paper (Emu2):** pooled to 8 x 8; the chat model reads single pictures at 16 x 16 and video frames at 8 x 8, and so does the released code.
# > **Here:** `bridge.kind=pool`, with any square number that fits the patch grid, `bridge.n_image` for pictures and `bridge.n_frame` for frames.
#
# ## What could go wrong
#
# Cells have to tile the patch grid. A number that is no square, or one that the grid cannot be cut into, is refused by the configuration, before any training:

# %%
for n_image in (5, 9):
    try:
        EmuConfig.preset("emu2-nano").override({"bridge.n_image": n_image})
    except MinemuError as error:
        print(error)

# %% [markdown]
# No configuration can notice the mistake that costs a week. Forget the last line of the bias, the mask: every shape is right, and training runs. It may even run better, since an embedding can now tell of the next. But an embedding no longer stays what it is when more follow. Compare a part with the whole:

# %%
for name, each in (("the mask in place", bridge), ("the mask forgotten", ahead)):
    whole, part = each(features)[:, : n // 2], cut_short(each, n // 2)
    change = (whole - part).norm() / part.norm()
    print(
        f"{name}: with the later queries the first embeddings move by {change:.0%} of their length"
    )

# %% [markdown]
# Make it a test of every causal model. In the language model the same mistake shows when a cache, which holds only what came before, gives other scores than one pass over the whole row ([notebook 04](04_language_model.ipynb)).
#
# ## What next
#
# * [Notebook 04](04_language_model.ipynb) shows what the language model does with the N embeddings.
# * Read `minemu/causal_transformer.py`: it fits on a few screens.
# * Try it: `minemu recipe emu-nano --set bridge.n_image=16 --set decoder.condition_grid=4` gives a picture more embeddings, `minemu recipe emu2-nano` trains the pooling form.
