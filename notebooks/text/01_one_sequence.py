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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/01_one_sequence.ipynb)
#
# # One sequence of words and pictures
#
# Emu ([arXiv 2307.05222](https://arxiv.org/abs/2307.05222)) has one data structure: a row of token ids in which pictures stand
# between words.
# Every training mask follows from that row. Once you can read it, you can read the rest of the model.
#
# After this notebook you can
#
# * write any mixture of text and pictures as token ids, and say how long it becomes;
# * name, for each position, which head has to predict what;
# * say why nobody says `[IMG]`, and what changes when the model has to;
# * pack several samples into one row, and show that the losses stay the same.
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
# `emu-tiny` is trained. `emu-nano` has random weights: everything this notebook says about sequences holds for it too.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %matplotlib inline
import copy

import torch
from minemu.config import EmuConfig, ObjectiveConfig
from minemu.course import check, start, untrained
from minemu.drawing import token_words
from minemu.errors import MinemuError
from minemu.figures.charts import show_curves
from minemu.figures.sequences import show_packing, show_spans
from minemu.sequence import IGNORE, PICTURE, Picture, TokenIds, pack_rows, targets

torch.manual_seed(0)
pipe, world = start(PRESET)
processor, model, ids, N = pipe.processor, pipe.model, pipe.processor.ids, pipe.processor.n_image
samples = [world.sample(i) for i in range(16)]
sample = samples[2]
print(N, "embeddings a picture,", model.config.llm.vocab_size, "tokens in the vocabulary")

# %% [markdown]
# ## Words
#
# A tokenizer cuts text into pieces of its vocabulary. Each piece has a number, its **token id**. The middle dot stands for a space
# before the piece.

# %%
text = processor.encode(sample.prompt)
print(text)
print(token_words(text, processor))


# %% [markdown]
# ## A picture is N + 2 tokens
#
# Four more tokens follow the words of the vocabulary.
#
# | token | what it does |
# |---|---|
# | `[PAD]` | fills up a row |
# | `[IMG]` | a picture begins |
# | `[/IMG]` | a picture ends |
# | `<image>` | a slot: room for one visual embedding |
#
# The ids say only *where* a picture stands. Which picture it is comes later, as N vectors. The next cell is the package's own code.

# %% tags=["same-as:minemu.sequence.picture_ids"]
def picture_ids(ids, n_image):
    return [ids.image_start, *[ids.image] * n_image, ids.image_end]


print(picture_ids(ids, N))


# %% [markdown]
# ## Any order
#
# A sample is a list of texts and pictures. `<s>` opens it. In training `</s>` closes it. Nothing else decides the order, so one
# function writes captions, prompts and whole documents.

# %% tags=["same-as:minemu.sequence.interleave"]
def interleave(pieces, ids, n_image, eos=False):
    row = [ids.bos]
    for piece in pieces:
        row += picture_ids(ids, n_image) if isinstance(piece, Picture) else piece
    return row + ([ids.eos] if eos else [])


row = interleave([text, PICTURE], ids, N, eos=True)
assert row == processor.tokens([sample.prompt, sample.picture], eos=True)[0]
print(len(row), "positions:", len(text), "words,", N, "slots, and <s>, [IMG], [/IMG], </s>")

# %% [markdown]
# **Predict before you run.** Two pictures with the text between them, and `</s>`: how many positions? The text is as long as above.

# %%
between = interleave([PICTURE, text, PICTURE], ids, N, eos=True)
print(len(between), "positions =", "1 +", N + 2, "+", len(text), "+", N + 2, "+ 1")

# %% [markdown]
# ## Read the row
#
# The strip shows a row from top to bottom: ids, tokens, spans, and then what each position has to predict.
# A target is drawn **one place to the left** of where it stands, under the position that predicts it.

# %% alt="A row of token ids with its spans; below, the tokens that the LM head classifies are blue and the slots that the regression head predicts are orange."
released = ObjectiveConfig()  # the choices of the released code
show_spans(torch.tensor(row), token_words(row, processor), ids, released)

# %% [markdown]
# No position has two tasks, and a few have none. Two rules make the masks.
#
# **Text.** With $x_{t+1}$ = `following[:, t]`, position $t$ is classified if $x_{t+1}$ is none of `[PAD]`, `[IMG]`, `[/IMG]`, `<image>`,
# which are `ids.structure`. In code $W$ is where `silent` is `False`:
#
# $$W = \{\, t : x_{t+1} \notin \{\texttt{[PAD]}, \texttt{[IMG]}, \texttt{[/IMG]}, \texttt{<image>}\} \,\}$$

# %%
input_ids = torch.tensor([row])
following = input_ids[:, 1:]  # x_{t+1}, (B, L - 1)
silent = torch.isin(following, torch.tensor(ids.structure))
mine = following.masked_fill(silent, IGNORE)  # -100: cross_entropy leaves it out

torch.testing.assert_close(mine, targets(input_ids, ids, released).text)
print(int((~silent).sum()), "tokens to say:", len(text), "words and </s>")

# %% [markdown]
# **Pictures.** The N slots are regressed. The first one is predicted at `[IMG]`, the others at the slot before. The last slot also
# has a task: it predicts the *word embedding* of `[/IMG]`.
#
# $$V = \{\, t : x_{t+1} \in \{\texttt{<image>}, \texttt{[/IMG]}\} \,\}, \qquad |V| = N + 1 \text{ for each picture}$$
#
# $V$ is `with_end`, and $N$ is `N`.
#
# **Predict before you run.** How many pairs are left if the `[/IMG]` pair is left out?

# %%
with_end = targets(input_ids, ids, ObjectiveConfig(end_of_image_pair=True)).image
without = targets(input_ids, ids, ObjectiveConfig(end_of_image_pair=False)).image
assert torch.equal(with_end[0], (following[0] == ids.image) | (following[0] == ids.image_end))
print(int(with_end.sum()), "pairs with [/IMG],", int(without.sum()), "without, for N =", N)

# %% [markdown]
# | | In the paper | In the released code | Here |
# |---|---|---|---|
# | slots a picture, N | a symbol | 32 | `bridge.n_image` |
# | regressed pairs | N embeddings | N + 1, the last target is the word embedding of `[/IMG]` | `objective.end_of_image_pair` chooses |
# | the regression loss | a squared distance | pairs are built, the loss is not computed | computed, see [notebook 05](05_one_objective_two_losses.ipynb) |
# | who says `[IMG]` | the model | never a target, the user appends it | `objective.say_image` chooses |
#
# ## The size of the original
#
# The released Emu has 32,000 words and N = 32. Its four tokens take the ids 32000 to 32003. A row needs no weights, so we can write
# one at full size.
# LLaMA's tokenizer is not shipped here, so the ids of the words are those of our small one.

# %% alt="The row at the size of the released Emu: 32 slots with ids up to 32003, and 33 regressed pairs."
emu = EmuConfig.preset("emu-14b")
emu_ids, emu_n = TokenIds.of(emu.llm), emu.bridge.n_image
assert (emu_ids.pad, emu_ids.image_start, emu_ids.image_end, emu_ids.image) == (
    32000,
    32001,
    32002,
    32003,
)
big = interleave([text, PICTURE], emu_ids, emu_n, eos=True)
words = ["<s>", *token_words(text, processor), "[IMG]", *["<image>"] * emu_n, "[/IMG]", "</s>"]
assert int(targets(torch.tensor([big]), emu_ids, emu.objective).image.sum()) == emu_n + 1
show_spans(torch.tensor(big), words, emu_ids, emu.objective)

# %% [markdown]
# ## From ids to vectors
#
# The word table turns every id into a vector, the slots too. Then the slots are overwritten, in reading order, with the visual
# embeddings. The table's own vector of `<image>` is never used.

# %%
batch = processor([[sample.prompt, sample.picture]], eos=True).to(model.device)
with torch.no_grad():
    embeds = model.encode_images(batch["images"])  # (1, N, D)
    x = model.llm.get_input_embeddings()(batch["input_ids"])  # (1, L, D)
    x[batch["input_ids"] == ids.image] = embeds.flatten(0, 1)
    torch.testing.assert_close(x, model.embed(batch["input_ids"], embeds))
print(
    "ids",
    tuple(batch["input_ids"].shape),
    "-> vectors",
    tuple(x.shape),
    "of which",
    N,
    "are the picture",
)

# %% [markdown]
# ## Nobody says [IMG]
#
# In the released code `[IMG]` is never a target, so the model cannot learn when to draw. To get a picture you append `[IMG]` yourself,
# as `generate_image_embeds` does.
# The option `say_image` makes `[IMG]` a target like a word.
#
# **Predict before you run.** Two copies of a small random model train on "prompt, picture". Only one of them has `[IMG]` among its
# targets. What happens in the other to the probability of `[IMG]` at the end of the prompt?

# %%
nano = untrained(EmuConfig.preset("emu-nano"))
pairs = [[s.prompt, s.picture] for s in samples]


@torch.no_grad()
def says_img(logits, input_ids, ids):
    """Mean probability of [IMG] where [IMG] comes next; logits (B, L, W), input_ids (B, L)."""
    before = input_ids[:, 1:] == ids.image_start  # (B, L - 1)
    return float(logits[:, :-1][before].softmax(-1)[:, ids.image_start].mean())


# %% [markdown]
# Both copies start from the same weights, and see the same 16 pairs 40 times.

# %%
def learn(say_image, steps=40):
    model = copy.deepcopy(nano.model)
    model.config = model.config.override({"objective.say_image": say_image})
    batch = nano.processor(pairs, eos=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    curve = []
    for _ in range(steps):
        out = model(**batch)
        curve.append(says_img(out.logits, batch["input_ids"], nano.processor.ids))
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
    return curve


said, unsaid = learn(True), learn(False)
print("taught, it learns to say [IMG]:", said[-1] > 10 * said[0])
print("untaught, it learns not to:", unsaid[-1] < unsaid[0])

# %% [markdown]
# A token that is never a target still takes part in every softmax, and each step pushes it down in favour of the words that are
# targets. Below, the third line is the model that you chose at the start, which has seen none of these scenes.

# %% alt="The probability of [IMG] before a picture over 40 steps: it rises where [IMG] is a target and falls where it is not; a level line shows the chosen model."
batch = processor(pairs, eos=True).to(model.device)
with torch.no_grad():
    level = says_img(model(**batch).logits, batch["input_ids"], ids)
chosen = f"{PRESET}, say_image={model.config.objective.say_image}"
curves = {"say_image=True": said, "say_image=False": unsaid, chosen: [level] * len(said)}
show_curves({"probability of [IMG] where a picture begins": curves}, log=True)

# %% [markdown]
# ## Padding and packing
#
# Samples differ in length. **Padding** fills all rows up to the longest. **Packing** puts several samples one after another in a
# row, so that little is wasted.
# `segment_ids` number the samples of a row. `order` says which sample went where, because the pictures have to follow.

# %%
a, b, c, d, e, f = samples[:6]
mixed = [
    [a.prompt, a.picture],
    [b.caption],
    [c.picture, c.caption],
    [d.caption],
    [e.prompt, e.picture],
    [f.caption],
]
rows, pictures, _ = zip(*(processor.tokens(pieces, eos=True) for pieces in mixed), strict=True)
padded = processor(mixed, eos=True).to(model.device)
longest = max(map(len, rows))
sizes = {
    length: pack_rows(rows, ids, length)["input_ids"].numel()
    for length in range(2 * longest, 3 * longest)
}
packed = pack_rows(rows, ids, min(sizes, key=sizes.get))  # the length that wastes least
images = torch.stack([picture for i in packed["order"] for picture in pictures[i]]).to(model.device)
assert packed["input_ids"].numel() < padded["input_ids"].numel()
print("padded", tuple(padded["input_ids"].shape), " packed", tuple(packed["input_ids"].shape))

# %% alt="Six samples padded, one a row, and packed into fewer rows; at the right the block mask, a triangle for each sample."
show_packing(padded["attention_mask"], packed)


# %% [markdown]
# A position may read only itself and those before it in its own sample. That is the **block mask**, and this is the package's code
# for it.
# Padding may read padding; nothing is predicted there, so it does no harm.

# %% tags=["same-as:minemu.sequence.block_mask"]
def block_mask(segment_ids):
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = torch.ones(
        segment_ids.shape[1], segment_ids.shape[1], dtype=torch.bool, device=segment_ids.device
    ).tril()
    return (same & causal)[:, None]


print(block_mask(torch.tensor([[1, 1, 2, 2, 0]]))[0, 0].int().tolist())

# %% [markdown]
# Three things make a packed row equal to separate rows:
#
# * the block mask, so that nothing is read across a border;
# * `position_ids` that start anew in each sample, because rotary embeddings count from them;
# * no target across a border: the last token of a sample does not predict the first of the next.
#
# Then both losses come out the same.

# %%
where = {
    name: packed[name].to(model.device) for name in ("input_ids", "position_ids", "segment_ids")
}
with torch.no_grad():
    one, other = model(**padded), model(**where, images=images)
torch.testing.assert_close(one.text_loss, other.text_loss)
torch.testing.assert_close(one.image_loss, other.image_loss)
print(
    padded["input_ids"].numel(),
    "positions padded,",
    packed["input_ids"].numel(),
    "packed, the same two losses",
)

# %% [markdown]
# **Predict before you run.** We change one word of the first sample in row 0. Do the scores for the second sample change, with the
# block mask and without?

# %%
second = (packed["segment_ids"][0] == 2).to(model.device)
edited = {**where, "input_ids": where["input_ids"].clone()}
edited["input_ids"][0, 1] = 100 if int(where["input_ids"][0, 1]) != 100 else 101
with torch.no_grad():
    for name, names in (("with", tuple(where)), ("without", ("input_ids",))):
        before, after = (
            model(**{key: row[key] for key in names}, images=images).logits[0, second]
            for row in (where, edited)
        )
        changed = not torch.allclose(before, after, atol=1e-4, rtol=1e-4)
        print(name, "the block mask the second sample changes:", changed)


# %% [markdown]
# ## What could go wrong
#
# A special token inside a text would forge a picture. A picture cut in two means nothing. A slot without a picture has nothing to
# hold. All of these are refused, with one line that says what to do.

# %%
def refused(action):
    try:
        action()
    except MinemuError as error:
        print("-", error)


refused(lambda: processor(["draw [IMG] a llama"]))
refused(lambda: processor([[sample.prompt, sample.picture]], max_length=len(row) - 3))
refused(lambda: model(torch.tensor([row], device=model.device)))
refused(lambda: pack_rows(rows, ids, length=8))


# %% [markdown]
# ## Your turn: positions without a task (5 minutes)
#
# In the strip above a few positions have nothing to predict, under either head. How many are there in a row from `<s>` to `</s>` with
# `pictures` pictures? It depends on two choices of the objective, `say_image` and `end_of_image_pair`, and not on how many words or
# slots there are.
#
# <details><summary>Hint</summary>
#
# Three kinds of positions matter: those before an `[IMG]`, those before an `[/IMG]`, and one more.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def answer(pictures, say_image, end_of_image_pair):
#     return 1 + pictures * ((not say_image) + (not end_of_image_pair))  # nothing comes after </s>
# ```
# </details>

# %%
def idle(pictures, say_image, end_of_image_pair):
    return None  # your line here


check("01.idle", idle)


# %% [markdown]
# ## Your turn: positions in a packed row (8 minutes)
#
# From `segment_ids` (B, L) alone, compute the place of each token within its own sample, counted from 0. Padding may get any number.
#
# <details><summary>Hint</summary>
#
# How many positions does the block mask let a token read?
# </details>
# <details><summary>Solution</summary>
#
# ```python
# from minemu.sequence import block_mask
#
#
# def answer(segment_ids):
#     return block_mask(segment_ids)[:, 0].sum(-1) - 1  # all that it may read, but for itself
# ```
# </details>

# %%
def positions_of(segment_ids):
    return None  # your line here


check("01.positions", positions_of)

# %% [markdown]
# ## What next
#
# * The whole of this notebook is `minemu/sequence.py` and `minemu/processor.py`, a few screens each.
# * What the two heads are taught at these positions: [one objective, two losses](05_one_objective_two_losses.ipynb).
