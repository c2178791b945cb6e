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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/02_seeing.ipynb)
#
# # Seeing: patches to features, and contrastive pretraining
#
# Stage 1 of Emu is a Vision Transformer. It turns a picture into tokens, one for each patch and one for the whole. After this notebook you can
#
# * cut a picture into patches, and say what the class token and the position embeddings are for,
# * tell Emu's pre-norm blocks from Emu2's post-norm blocks, and say what that changes,
# * write CLIP's contrastive loss, train a small tower with it, and say what that loss alone does *not* teach,
# * look inside a trained tower: similar patches, attention maps, nearest pictures.
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
# The last parts look inside the preset's tower: in `emu-tiny` it is trained, in `emu-nano` random. The small tower below is trained here in either case.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %matplotlib inline
import copy
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from minemu.config import EmuConfig
from minemu.course import check, start
from minemu.data.datasets import batch_samples
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.figures.charts import show_curves, show_matrices
from minemu.figures.vision import patch_box, show_maps, show_neighbours, show_patches
from minemu.processor import normalise
from minemu.sequence import pad_rows
from minemu.training.encoder import LATENT_WEIGHT, STYLE_WEIGHT, EncoderStage, TextTower
from minemu.training.loop import TrainConfig
from minemu.visual_encoder import Block, EVAVisionTransformer
from torch import nn

pipe, world = start(PRESET)
encoder = pipe.model.visual_encoder.requires_grad_(False)  # the trained tower stays as it is
device, vision = pipe.model.device, pipe.model.config.vision

# %% [markdown]
# ## Patches
#
# A Transformer reads a sequence, so a picture has to become one. Cut it into $P$ square patches of $p \times p$ pixels, and read them line by line, as a page is read.
#
# | symbol | meaning | here |
# |---|---|---|
# | $S$, $p$ | sides of picture and patch, in pixels | `vision.image_size`, `vision.patch_size` |
# | $P = (S/p)^2$ | patches | `vision.patches` |
# | $D$ | width of a token | `vision.width` |
# | $T = 1 + P$ | tokens: one class token, then the patches | |

# %% alt="A drawing with its patch grid on the left; on the right the same patches as numbered tokens in reading order, behind a class token with number 0."
sample = world.sample(2)
show_patches(sample.pixels, vision.patch_size)

# %% [markdown]
# How large is that in the published models? The presets know.

# %%
for name in ("emu-14b", "emu2-37b", PRESET):
    size = EmuConfig.preset(name).vision
    norm = "post-norm" if size.post_norm else "pre-norm"
    print(f"{name}: {size.grid} x {size.grid} = {size.patches} patches of {size.patch_size} px,")
    print(f"    {size.layers} layers, {size.heads} heads, width {size.width}, {norm}")


# %% [markdown]
# Each patch becomes a vector by one linear map: $x_i = W\,\mathrm{vec}(\text{patch}_i) + b$. In code that is a convolution whose stride equals its kernel, so that no two windows overlap. In the cell after the exercise $\mathrm{vec}(\text{patch}_i)$ is row i of `flat[0]`, $W$ is `conv.weight.flatten(1)`, $b$ is `conv.bias`, and $x_i$ is row i of `by_hand[0]`.
#
# ### Exercise 1: cut the patches (5 minutes)
#
# Return all patches of `pixels` (B, 3, S, S) in reading order, each flattened with colour first, then rows, then columns: (B, P, 3 p p). One call of `rearrange` is enough.
#
# <details><summary>Hint</summary>
#
# On the left `"b c (h i) (w j)"`: h patches of i rows, w patches of j columns. Which letters make up the patch number, which the values?
# </details>
# <details><summary>Solution</summary>
#
# ```python
# from einops import rearrange
#
# def cut(pixels, p):
#     return rearrange(pixels, "b c (h i) (w j) -> b (h w) (c i j)", i=p, j=p)
#
# answer = cut
# ```
# </details>

# %%
def cut(pixels, p):
    return None  # your line here


check("02.patches", cut)

# %% [markdown]
# **Predict:** a strided convolution has weights of shape (D, 3, p, p). Flatten them to (D, 3 p p) and multiply the flattened patches by them. Is the result the same, but for rounding?

# %%
p = vision.patch_size
images = normalise(torch.from_numpy(sample.pixels)[None]).to(device)  # (1, 3, S, S)
conv, pixels = nn.Conv2d(3, vision.width, p, stride=p).requires_grad_(False), images.cpu()
flat = nn.functional.unfold(pixels, p, stride=p).transpose(1, 2)  # (1, P, 3 p p)

by_hand = flat @ conv.weight.flatten(1).T + conv.bias  # (1, P, D)
torch.testing.assert_close(
    by_hand, rearrange(conv(pixels), "b d h w -> b (h w) d"), atol=1e-4, rtol=1e-4
)
print("the same map:", tuple(flat.shape), "->", tuple(by_hand.shape))

# %% [markdown]
# > **In the paper and in the released code:** one such map, in a tower pretrained beforehand (EVA-CLIP) on a very large set of pictures with captions.
# > **Here:** such a map learns slowly from few drawings, so the toy has a *conv stem* ([arXiv 2106.14881](https://arxiv.org/abs/2106.14881)):
# > a few convolutions of 3 x 3 with stride 2 that end at the same grid. `vision.stem=patch` gives the published form.
#
# **Predict:** each of those convolutions halves the grid. How many pixels wide is the square that one token of the conv stem can see through them? To compute it, start from a width of 1 and go from the last layer to the first: each turns a width of $r$ (`reach`) into $2 (r - 1) + 3$. (GroupNorm between them also tells each token the mean and the spread of the whole picture.)

# %%
reach = 1
for _ in range(p.bit_length() - 1):  # 2 ** halvings == p
    reach = 2 * (reach - 1) + 3
print(
    f"a token of the conv stem sees {reach} x {reach} pixels, a patch has {p} x {p}: they overlap"
)
convs = [layer for layer in encoder.patch_embed.layers if isinstance(layer, nn.Conv2d)]
print("its weights:", [tuple(layer.weight.shape) for layer in convs])


# %% [markdown]
# ## From patches to tokens
#
# Two learned things join the patches. The **class token** $c$ stands for no patch: it is a place where the blocks can gather what the whole picture shows.
# The **position embeddings** $e_0 \dots e_P$ are added because attention has no idea of order. Then the blocks follow, and nothing after them: Emu hands on the raw output of the last block.
#
# $$x^{(0)} = [c;\, x_1;\, \dots;\, x_P] + e \qquad x^{(l)} = \mathrm{block}_l(x^{(l-1)}) \qquad \text{features} = x^{(L)}$$
#
# $c$ is `cls_token`, the $x_i$ come from `patch_embed`, $e$ is `pos_embed`, and the $L$ blocks are `blocks`. This is the package's own `forward`; a test fails if the two ever differ.

# %% tags=["same-as:minemu.visual_encoder.EVAVisionTransformer.forward"]
def forward(self, pixels):
    x = rearrange(self.patch_embed(pixels), "b d h w -> b (h w) d")  # (B, P, D)
    x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], 1)  # (B, T, D)
    x = x + self.pos_embed  # (B, T, D)
    for block in self.blocks:
        x = block(x)  # (B, T, D)
    return x


# %%
features = forward(encoder, images)
torch.testing.assert_close(features, encoder(images))
print("features:", tuple(features.shape), "of which the class token is number 0")

# %% [markdown]
# **Predict:** shuffle the patches before the first block. Does the class token change if positions are added? And if they are not?

# %%
exact = copy.deepcopy(encoder).double()  # so that rounding is not taken for a difference


def class_token(patches, positions):
    x = torch.cat([exact.cls_token, patches], 1) + positions
    for block in exact.blocks:
        x = block(x)
    return x[:, 0]


patches = rearrange(exact.patch_embed(images.double()), "b d h w -> b (h w) d")
shuffled = patches[
    :, torch.randperm(vision.patches, generator=torch.Generator().manual_seed(0)).to(device)
]
for name, positions in (("with positions", exact.pos_embed), ("without", 0 * exact.pos_embed)):
    same = torch.allclose(
        class_token(patches, positions), class_token(shuffled, positions), atol=1e-9
    )
    print(f"{name}: shuffling {'changes nothing' if same else 'changes the class token'}")

# %% [markdown]
# Without positions a picture is a bag of patches. That is why Vision Transformers encode position; EVA adds a learned vector to each token.
#
# ## Blocks: pre-norm and post-norm
#
# A block has two sub-layers $f$, attention and an MLP, each with a LayerNorm and a residual path. Emu's tower normalises what a sub-layer *reads*; Emu2's normalises what it *says*:
#
# $$\text{Emu: } x + f(\mathrm{norm}(x)) \qquad\qquad \text{Emu2: } x + \mathrm{norm}(f(x))$$
#
# In `Block` the two $f$ are `attn` and `mlp`, and their norms are `norm1` and `norm2`. Note that Emu2's is not the post-norm of the first Transformer, $\mathrm{norm}(x + f(x))$: here the residual path is free in both.
#
# **Predict:** multiply the last weights of both sub-layers by 20. Which block gives the same output as before?

# %%
nano = replace(
    EmuConfig.preset("emu-nano").vision, norm_eps=1e-12
)  # so small that it does not blur the point
x = torch.randn(1, 17, nano.width, generator=torch.Generator().manual_seed(0))
for post_norm in (False, True):
    torch.manual_seed(0)
    block = Block(replace(nano, post_norm=post_norm)).requires_grad_(False)
    before = block(x)
    block.attn.proj.weight *= 20
    block.mlp.fc2.weight *= 20
    block.attn.proj.bias *= 20
    block.mlp.fc2.bias *= 20
    same = torch.allclose(before, block(x), atol=1e-3, rtol=1e-3)
    print(f"{'post' if post_norm else 'pre'}-norm: {'the same' if same else 'another output'}")


# %% [markdown]
# So no sub-layer of Emu2's tower can dominate: the gain of its norm fixes the size of what it adds, however large its weights grow.
# That bounds how fast the stream can swell over many layers, the reason that Swin V2 gives for the same form ([arXiv 2111.09883](https://arxiv.org/abs/2111.09883)).
# Below are fresh towers of 24 layers, once with those weights as they start and once a thousand times as large.

# %%
@torch.no_grad()
def sizes(post_norm, factor):
    """Root mean square of the stream after each block of a fresh tower."""
    torch.manual_seed(0)
    tower = EVAVisionTransformer(replace(nano, layers=24, post_norm=post_norm))
    tower.patch_embed = nn.Identity()  # noise in place of patches, of size 1
    stream, found = torch.randn(4, nano.patches, nano.width), []
    for block in tower.blocks:
        block.attn.proj.weight *= factor
        block.mlp.fc2.weight *= factor
        stream = block(stream)
        found.append(stream.pow(2).mean().sqrt().item())
    return found


# %% alt="Size of the residual stream over 24 blocks on a logarithmic scale. Left, pre-norm: the curve with weights 1000 times as large lies far above the other. Right, post-norm: the two curves coincide."
curves = {
    f"size of the stream, {name}": {
        "weights as they start": sizes(post_norm, 1),
        "weights x 1000": sizes(post_norm, 1000),
    }
    for name, post_norm in (("pre-norm", False), ("post-norm", True))
}
pre, post = ([line[-1] for line in lines.values()] for lines in curves.values())
assert pre[1] > 10 * pre[0] and abs(post[1] / post[0] - 1) < 0.05
show_curves(curves, x="block", log=True)

# %% [markdown]
# Compare the lines within a panel. That pre-norm starts lower says little: the weights of a fresh tower are small, and post-norm brings whatever they give to size 1 before it is added.
#
# One more habit of EVA: queries and values have biases, keys have none. Nothing is lost. A key bias $b$ (`b[0]`) adds $q_i \cdot b$ to *every* score of query $i$ (`q[i]`), and a softmax does not notice what is added to all.

# %%
q, k, b = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
torch.testing.assert_close((q @ (k + b[0]).T).softmax(-1), (q @ k.T).softmax(-1))
different = not torch.allclose(((q + b[0]) @ k.T).softmax(-1), (q @ k.T).softmax(-1), atol=1e-3)
print("a key bias changes no weight; a query bias changes them:", different)

# %% [markdown]
# ## The contrastive loss
#
# How does a tower learn to see without labels? CLIP's answer: from $B$ pictures and their $B$ captions, tell which belongs to which. With unit vectors $u_i$ of pictures, $v_j$ of captions and a learned scale $s$,
#
# $$\ell_{ij} = s\, u_i \cdot v_j \qquad L = \tfrac12 \Big( \underbrace{-\tfrac1B \sum_i \log \tfrac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}}}_{\text{pictures choose captions}} \; + \; \underbrace{-\tfrac1B \sum_j \log \tfrac{e^{\ell_{jj}}}{\sum_i e^{\ell_{ij}}}}_{\text{captions choose pictures}} \Big)$$
#
# In code `image` (B, D) holds the $u_i$, `text` (B, D) the $v_j$, `scale` is $s$, and `scale * image @ text.T` (B, B) all $\ell_{ij}$.
#
# **Predict:** a tower that knows nothing, *and does not pretend to*, gives all pairs the same score. What is its loss for $B$ pairs?

# %%
pairs = 32
blank = torch.zeros(pairs, pairs)
loss_of_nothing = F.cross_entropy(blank, torch.arange(pairs))
torch.testing.assert_close(loss_of_nothing, torch.tensor(math.log(pairs)))
print(f"ln {pairs}: it chooses among {pairs} with equal chances")


# %% [markdown]
# ### Exercise 2: the loss (10 minutes)
#
# Write it for unit vectors `image` and `text` (B, D) and a number `scale`, both ways. `F.cross_entropy` takes the indices of the right answers.
#
# <details><summary>Hint</summary>
#
# The right answer of row $i$ is $i$: `torch.arange(len(image))`. The other way is the transposed matrix.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch
# import torch.nn.functional as F
#
# def clip_loss(image, text, scale):
#     logits = scale * image @ text.T
#     right = torch.arange(len(image), device=image.device)
#     return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
#
# answer = clip_loss
# ```
# </details>

# %%
def clip_loss(image, text, scale):
    return None  # your line here


check("02.contrastive", clip_loss)


# %% [markdown]
# The package adds one thing. In a small world two pictures of a batch may have *the same* caption, and then both captions are right for both. So the target is split among them.

# %% tags=["same-as:minemu.training.encoder.contrastive"]
def contrastive(logits, input_ids):
    same = (
        (input_ids[:, None] == input_ids[None]).all(-1).float()
    )  # equal captions are all right answers
    answers = same / same.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2
    return loss, (
        logits.argmax(1) == torch.arange(len(logits), device=logits.device)
    ).float().mean()


# %% [markdown]
# ## Train a small tower
#
# A tower of nano size, a text tower of two layers, and pictures of one drawing each. The two towers start random and meet only in the loss.
#
# **Predict:** only 200 steps follow. What will the towers learn first: the backgrounds, the styles, or the names of the drawings? And which of these would lower the loss most?

# %%
def draw(world, start, count):
    """Normalised pictures (n, 3, S, S), caption tokens and the samples themselves."""
    samples = batch_samples(world, start, count)
    pixels = torch.stack([torch.from_numpy(sample.pixels) for sample in samples])
    rows = pad_rows(
        [pipe.processor.encode(sample.caption) for sample in samples], pipe.processor.ids
    )
    return normalise(pixels).to(device), {name: rows[name].to(device) for name in rows}, samples


small = EmuConfig.preset("emu-nano").vision
pictures, words, scenes = draw(
    ToyWorld("seen", image_size=small.image_size, kinds=("single",)), 0, 512
)
print(tuple(pictures.shape), "pictures,", tuple(words["input_ids"].shape), "caption tokens")


# %%
class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.read = (
            EVAVisionTransformer(small),
            TextTower(len(pipe.processor.tokenizer), small.width),
        )
        self.norm, self.head = (
            nn.LayerNorm(small.width),
            nn.Linear(small.width, small.width, bias=False),
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pixels, words):
        image = F.normalize(
            self.head(self.norm(self.see(pixels)[:, 0])), dim=-1
        )  # (B, D), from the class token
        return self.log_scale.exp() * image @ self.read(**words).T  # (B, B)


torch.manual_seed(0)
towers = Towers().to(device)
print(sum(parameter.numel() for parameter in towers.parameters()), "parameters")

# %% [markdown]
# To see what it learns, keep a batch of held-out scenes, sorted by background.

# %%
test_world = ToyWorld("seen", image_size=small.image_size, kinds=("single",), held_out=True)
test_pictures, test_words, shown = draw(test_world, 0, pairs)
order = sorted(range(pairs), key=lambda i: shown[i].scene.background)
test_pictures, test_words = (
    test_pictures[order],
    {name: rows[order] for name, rows in test_words.items()},
)
with torch.no_grad():
    before = towers(test_pictures, test_words)
print([shown[i].scene.background for i in order])

# %%
optimizer = torch.optim.AdamW(towers.parameters(), lr=3e-3, weight_decay=0.05)
losses = []
for step in range(200):
    for group in optimizer.param_groups:
        group["lr"] = 3e-3 * min(1, (step + 1) / 20) * min(1, (200 - step) / 100)
    chosen = torch.randint(len(pictures), (pairs,)).to(device)
    batch = {name: rows[chosen] for name, rows in words.items()}
    loss, _ = contrastive(towers(pictures[chosen], batch), batch["input_ids"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert sum(losses[-20:]) / 20 < 0.8 * math.log(pairs)


# %% [markdown]
# Your guess can be tested on the loss itself. Think of a tower that knows the background of a picture and nothing else. It chooses among the captions of a batch that name this background, with equal chances: its loss is the mean of $\ln(\text{how many})$. The same goes for a tower that knows only the style, or only the name.

# %%
def only(known):
    """Loss of a tower that knows one thing of each picture: the mean over batches of the pool."""
    told = [known(sample.scene) for sample in scenes]
    batches = [told[i : i + pairs] for i in range(0, len(told), pairs)]
    return sum(math.log(batch.count(thing)) for batch in batches for thing in batch) / len(told)


things = {
    "the style": lambda scene: scene.style,
    "the background": lambda scene: scene.background,
    "background and style": lambda scene: (scene.background, scene.style),
    "the name": lambda scene: scene.groups[0].label,
}
levels = {f"chance: ln {pairs}": math.log(pairs)}
levels |= {f"knows {thing}": only(known) for thing, known in things.items()}

# %% alt="The contrastive loss of the small tower over its steps starts above the level of chance, ln 32, and falls to about the level of a tower that knows the background. The level of a tower that knows the name lies far below, near zero."
show_curves({"contrastive loss": {"loss": losses}}, levels=levels)

# %% [markdown]
# The loss starts *above* chance. A random tower knows nothing, but it is not undecided: it prefers some captions to others whatever the picture shows, and the scale of $1 / 0.07$ amplifies that.
#
# Now the scores of the held-out batch. Rows are the pictures, columns their captions, both sorted by background. Orange is a high score, purple a low one, on one scale for both.

# %% alt="Similarities of held-out pictures with captions before and after training, sorted by background, which the axes name: faint stripes before, as every picture scores the captions alike, then blocks along the diagonal where the background is the same."
with torch.no_grad():
    after = towers(test_pictures, test_words)
show_matrices(
    {"before": before, "after": after},
    "caption",
    "picture",
    shared=True,
    signed=True,
    names=[shown[i].scene.background for i in order],
)

# %% [markdown]
# The blocks on the diagonal are the backgrounds. Does the tower know more? Give it 256 held-out pictures in batches of 32, and look at the caption that it scores highest. How often does it name the right thing, and how often would a tower that knows the background and guesses the rest?

# %%
# NBVAL_IGNORE_OUTPUT
names = {thing[4:]: known for thing, known in things.items() if thing.startswith("the ")}
right, luck = (dict.fromkeys(names, 0.0) for _ in range(2))
for at in range(0, 256, pairs):
    pool, texts, found = draw(test_world, at, pairs)
    with torch.no_grad():
        best = towers(pool, texts).argmax(1).tolist()
    for picture, chosen in zip(found, best, strict=True):
        own = picture.scene
        like = [other.scene for other in found if other.scene.background == own.background]
        for name, of in names.items():
            right[name] += (of(found[chosen].scene) == of(own)) / 256
            luck[name] += sum(of(scene) == of(own) for scene in like) / len(like) / 256
for name in names:
    print(f"{name:10} {right[name]:4.0%} right, {luck[name]:4.0%} by background and luck")
shapes = [things["the name"](sample.scene) for sample in scenes]
print(f"{len(scenes)} training pictures, {len(set(shapes))} names")

# %% [markdown]
# Names would pay most: a tower that knew nothing else would be at the lowest level drawn. They are learnt last because they are hard. A background is one colour, and each of the eight fills about 64 of the 512 pictures. Each name stands for its own shape, in four styles, and has about two pictures. A gradient follows what can be learnt at once, not what pays in the end.
# Such a shortcut need not go away with more steps. The recipe of `emu-tiny` therefore asks for more.
#
# ## What is where
#
# The package trains its tower with four terms. The first is the contrastive one. Two more ask about each *drawing*: its name and its style have to be read off the mean of the patch tokens under its box (an idea of RegionCLIP, [arXiv 2112.09106](https://arxiv.org/abs/2112.09106)). The last asks each patch token to keep what its patch looks like, since a decoder will need it. It asks for the numbers of a linear code of the pixels (notebook 08 makes one) and not for the pixels themselves, because nearly all of their error would be the mean colour.
#
# $$L = L_\text{contrastive} + L_\text{name} + w_s\, L_\text{style} + w_l\, L_\text{latent}$$
#
# The four losses are entries of `terms`; the weights are `STYLE_WEIGHT` ($w_s$) and `LATENT_WEIGHT` ($w_l$).

# %%
pair_world = ToyWorld(image_size=vision.image_size, kinds=("pair",))
stage = EncoderStage(pipe.model.config, TrainConfig(batch_size=4), pipe.processor, pair_world)
batch = stage.batch(0)
terms = stage.loss(batch)
total = (
    terms["contrastive"]
    + terms["name"]
    + STYLE_WEIGHT * terms["style"]
    + LATENT_WEIGHT * terms["latent"]
)
torch.testing.assert_close(terms["loss"], total)
print(
    len(batch["pixels"]),
    "pictures,",
    len(batch["name"]),
    "drawings, each named among",
    len(stage.world.labels),
)

# %% [markdown]
# How a drawing takes its share of the patches: the more of its box lies in a patch, the more that patch counts. (In training every second picture is turned, zoomed and shifted a little; its boxes move along.)

# %% alt="Three toy pictures with two kinds of drawings each; for the first and the second drawing its box is outlined and the patches under it are orange."
from minemu.training.encoder import box_masks, cover

examples = batch_samples(pair_world, 0, 3)
picture = batch["picture"].tolist()
first = [picture.index(number) for number in range(3)]
under = cover(box_masks(batch["boxes"], vision.image_size), (vision.grid, vision.grid))  # (R, P)
shares = torch.stack([under[first], under[[i + 1 for i in first]]], 1)  # (3, 2, P)
boxes = [[sample.boxes[0][1:], sample.boxes[1][1:]] for sample in examples]
show_maps(
    torch.stack([torch.from_numpy(sample.pixels) for sample in examples]).numpy(),
    rearrange(shares, "r c (h w) -> r c h w", h=vision.grid),
    [""] * 3,
    ["first drawing", "second drawing"],
    boxes,
)

# %% [markdown]
# > **In the paper:** Emu takes EVA-CLIP ready-made and goes on training it end to end, with the whole model.
# > **In the released code:** `freeze` is false; the tower's own final norm and head lie in the checkpoint and are never used.
# > **In the Emu2 paper** the tower is trained in the first stage and frozen in the second.
# > **Here:** stage `encoder` pretrains the tower with the four terms above. The text tower is dropped afterwards, so the shipped checkpoint compares pictures with pictures.
#
# ## Inside the trained tower: similar patches
#
# From here on `encoder` is the one that `start` loaded. Choose a patch and ask which other patches of the same picture have a similar feature, by the cosine of the angle between them.

# %%
cases = [world.sample(i) for i in (2, 3, 5)]
seen = torch.stack([torch.from_numpy(case.pixels) for case in cases])  # (3, S, S, 3)
tokens = F.normalize(
    encoder(normalise(seen).to(device))[:, 1:], dim=-1
)  # (3, P, D) unit vectors of patches
grid = vision.grid
middle = grid * (grid // 2)  # the first patch of the middle row
chosen = [grid + 1, middle + grid // 4, middle + grid - 1 - grid // 4, grid * grid - 1]
alike = tokens @ tokens[:, chosen].transpose(1, 2)  # (3, P, 4) cosines
print("chosen patches:", [number + 1 for number in chosen])

# %% alt="Three pictures; for four chosen patches of each, outlined, the patches with similar features are orange."
maps = rearrange(alike, "r (h w) c -> r c h w", h=grid)
boxes = [[patch_box(number, grid, vision.image_size) for number in chosen]] * len(cases)
show_maps(seen.numpy(), maps, [""] * 3, [f"like patch {number + 1}" for number in chosen], boxes)


# %% [markdown]
# Look for two things. A patch of the background should find background, a patch of a drawing its drawing, though nobody ever drew a contour. And where a picture has two drawings: does a patch of one find the other?
#
# ## Where the class token looks
#
# Attention weights say where a token takes its information from. `F.scaled_dot_product_attention` does not return them, so compute them: $a = \mathrm{softmax}(q k^\top / \sqrt{K})$ for each head. In code $a$ is `weights`, and $K$, the width of a head, is `q.shape[-1]`.

# %%
def attention_weights(attention, x):
    """The weights (B, H, T, T) of an EVA attention, and what it says with them (B, T, D)."""
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
    qkv = F.linear(x, attention.qkv.weight, bias)
    q, k, v = rearrange(qkv, "b t (three h k) -> three b h t k", three=3, h=attention.heads)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return weights, attention.proj(rearrange(weights @ v, "b h t k -> b t (h k)"))


# %%
patches = rearrange(encoder.patch_embed(normalise(seen).to(device)), "b d h w -> b (h w) d")
x = torch.cat([encoder.cls_token.expand(len(seen), -1, -1), patches], 1) + encoder.pos_embed
looks = []
for block in encoder.blocks:
    weights, said = attention_weights(block.attn, block.norm1(x))
    torch.testing.assert_close(said, block.attn(block.norm1(x)), atol=1e-4, rtol=1e-3)
    looks.append(weights[:, :, 0, 1:])  # the class token, at the patches: (n, H, P)
    x = block(x)
looks = rearrange(torch.stack(looks), "l n h (r c) -> n h l r c", r=grid)
print("pictures, heads, layers, grid:", tuple(looks.shape))

# %% alt="Attention of the class token over one picture, a row for each head and a column for each layer; orange patches are looked at most."
heads, layers = looks.shape[1:3]
rows, columns = [f"head {h + 1}" for h in range(heads)], [f"layer {n + 1}" for n in range(layers)]
show_maps(seen[[0] * heads].numpy(), looks[0], rows, columns)


# %% [markdown]
# Each map is scaled to its own largest weight. Do heads differ, and layers? Look for some that follow the drawing, some that follow its outline, and some that rest on plain background.
# Read such maps with care. They say where information is taken from in one layer, not what the model "thinks"; by the later layers each patch token may hold much of the whole.
#
# ## Nearest pictures
#
# If the class token holds what a picture shows, then pictures of the same thing should lie near each other, whatever their style, size or background.
#
# ### Exercise 3: nearest pictures (5 minutes)
#
# Return the numbers of the `k` rows of `features` (n, D) with the largest cosine to row `query`, the nearest first, without `query` itself.
#
# <details><summary>Hint</summary>
#
# `F.normalize`, one matrix product, set the query's own score to something very small, `topk`.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# import torch.nn.functional as F
#
# def nearest(features, query, k):
#     unit = F.normalize(features, dim=-1)
#     cosines = unit @ unit[query]
#     cosines[query] = -2
#     return cosines.topk(k).indices
#
# answer = nearest
# ```
# </details>

# %%
def nearest(features, query, k):
    return None  # your line here


check("02.nearest", nearest)

# %% [markdown]
# Held-out pictures of one drawing each, no two of the same scene. Training showed none of these scenes, though it showed these drawings on other backgrounds and in other sizes.

# %%
gallery = batch_samples(
    ToyWorld("seen", image_size=vision.image_size, kinds=("single",), held_out=True), 0, 320
)
gallery = list({sample.scene.shows(): sample for sample in gallery}.values())
gallery_pixels = torch.stack([torch.from_numpy(sample.pixels) for sample in gallery])
parts = [encoder(normalise(part).to(device))[:, 0] for part in gallery_pixels.split(64)]
unit = F.normalize(torch.cat(parts), dim=-1)  # (n, D) class tokens
cosines = (unit @ unit.T).fill_diagonal_(-2)
print(len(gallery), "pictures")

# %% alt="Four held-out pictures, each followed by its five nearest by the features of the class token; a bar marks neighbours that show the same thing."
names = [{box[0] for box in sample.boxes} for sample in gallery]
common = {
    max(own): i for i, own in enumerate(names) if names.count(own) >= 3
}  # a name, and a picture that has mates
asked = list(common.values())[:4]
show_neighbours([sample.pixels for sample in gallery], names, asked, cosines[asked].topk(5).indices)

# %% [markdown]
# A blue bar marks the same name. Where the name differs, ask what is alike instead: often background, style or colour. Those stand in the captions too, or in the pixels, so the features hold them, and Emu needs them: the pictures that it draws are decoded from features like these.
#
# ## What could go wrong
#
# A patch size that does not divide the picture leaves a strip that no patch covers. The configuration refuses it before anything is built, and says what to change.

# %%
for wrong in ({"vision.patch_size": 12}, {"vision.head_width": 50}, {"vision.patchsize": 16}):
    try:
        EmuConfig.preset("emu-tiny").override(wrong)
    except MinemuError as error:
        print(error)

# %% [markdown]
# ## What next
#
# * [Notebook 03](03_causal_transformer.ipynb) shows where these features go: stage 2 turns them into N visual embeddings, in an order.
# * Read `minemu/visual_encoder.py` and `minemu/training/encoder.py`: each fits on a few screens.
# * Try the other form: `minemu recipe emu-nano --set vision.stem=patch` trains all stages in seconds, with Emu's own patch map.
