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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/04_language_model.ipynb)
#
# # The language model, its two heads and its cache
#
# After this notebook you can say what a LLaMA layer computes and rebuild it, put visual embeddings into the slots of a text, read the same hidden state with two heads,
# and generate both words and visual embeddings without doing any work twice.
#
# It needs about half a minute on two CPU cores, less on a T4, and 2 GB of memory. The exercises take half an hour.

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
# Statements about results refer to `emu-tiny`, which is trained. `emu-nano` has random weights; it shows that everything runs, in seconds.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %%
# %matplotlib inline
import torch
from minemu.config import EmuConfig
from minemu.course import check, start, untrained
from minemu.data.world import ToyWorld
from minemu.drawing import token_words
from minemu.errors import MinemuError
from minemu.sequence import IGNORE, targets
from torch.testing import assert_close

torch.set_grad_enabled(False)  # until the cell that trains
pipe, world = start(PRESET)
model, processor, ids = pipe.model, pipe.processor, pipe.processor.ids
sample = world.sample(2)  # a scene that training never showed

# %% [markdown]
# ## A LLaMA, as it is
#
# The third stage of Emu is an ordinary language model. Nothing in it is new, and that is the point: what a language model does with words, it should also do with pictures.
#
# > **In the paper** it is LLaMA-13B, pretrained on text, then trained further on everything. **In the released code** it is transformers' `LlamaForCausalLM` with one more linear map.
# > **Here** it is the same class from transformers; the tiny one first learnt from text alone how captions, questions and answers are worded.
#
# The sizes come from the configurations, so the table cannot be wrong:

# %%
row = "{:12} {:>7} {:>8} {:>6} {:>7} {:>6} {:>3}"
print(row.format("", "layers", "width D", "heads", "SwiGLU", "words", "N"))
for name in ("emu-nano", "emu-tiny", "emu-14b"):
    config = EmuConfig.preset(name)
    llm, n = config.llm, config.bridge.n_image
    print(row.format(name, llm.layers, llm.width, llm.heads, llm.ff_width, llm.words, n))

# %% [markdown]
# ## One sequence in
#
# A text arrives as token ids, and a table turns ids into vectors of width D. A picture arrives as N visual embeddings of the same width. To join them, the text keeps N slots `<image>`
# free, and `Emu.embed` writes the embeddings over whatever the table holds for that token. In symbols, with $x$ = `inputs`, $w$ = `batch["input_ids"]`, $E$ the table (`get_input_embeddings()`, which gave `words`) and $v_k$ the visual embeddings (`embeds[0, k - 1]`):
#
# $$x_t = \begin{cases} v_{k} & \text{if position } t \text{ is the } k\text{-th slot} \\ E[w_t] & \text{else} \end{cases}$$

# %%
batch = processor([[sample.picture, sample.caption]], eos=True).to(model.device)
embeds = model.encode_images(batch["images"])  # (1, N, D)
words = model.llm.get_input_embeddings()(batch["input_ids"])  # (1, L, D)

slots = batch["input_ids"] == ids.image  # (1, L)
inputs = words.masked_scatter(slots[..., None], embeds)  # slots in reading order

assert_close(inputs, model.embed(batch["input_ids"], embeds))
print("slots:", int(slots.sum()), "= N:", embeds.shape[1])

# %% alt="The input matrix of the language model before and after the slots of the picture are overwritten; below, the token of each column, the slots in orange"
from minemu.figures.heads import show_overwrite

tokens = token_words(batch["input_ids"][0].tolist(), processor)
show_overwrite(words[0], inputs[0], tokens)

# %% [markdown]
# Before, the slots are N copies of one column, the table's entry for `<image>`. After, each has its own. The columns are drawn at one scale; in truth visual embeddings may be longer or shorter than words. RMSNorm evens that out in what attention reads; in the residual stream the length stays, and decides how much the layers' additions weigh (notebook 05: length matters).
#
# **Predict before you run:** what happens to the output if the entry for `<image>` is set to zero? What is its gradient in training?

# %%
before = model(batch["input_ids"], image_embeds=embeds).logits
table = model.llm.get_input_embeddings().weight
kept = table[ids.image].clone()
table[ids.image] = 0
print("same output:", torch.equal(before, model(batch["input_ids"], image_embeds=embeds).logits))
table[ids.image] = kept

with torch.enable_grad():
    model(**batch).loss.backward()
print("gradient on the entry of <image>:", bool(table.grad[ids.image].any()))
print("gradient on the entry of [IMG]:  ", bool(table.grad[ids.image_start].any()))
model.zero_grad(set_to_none=True)

# %% [markdown]
# Nothing ever reads that entry, so it never gets a gradient either. The token only keeps a place free.
#
# ### What could go wrong
#
# `masked_scatter` alone would be silent if there were more embeddings than slots. So `embed` counts first.

# %%
try:
    model.embed(batch["input_ids"], torch.cat([embeds, embeds]))
except MinemuError as error:
    print(error)

# %% [markdown]
# ## One layer
#
# Each layer adds two things to the stream of vectors: what attention has fetched from earlier positions, and what a feed-forward network makes of the position itself.
#
# $$h = x + \mathrm{Attention}(\mathrm{RMSNorm}(x)) \qquad x' = h + \mathrm{SwiGLU}(\mathrm{RMSNorm}(h))$$
#
# $x$ is `inputs` in the first layer; in transformers' names the two norms are `input_layernorm` and `post_attention_layernorm`, Attention is `self_attn` and SwiGLU is `mlp`.
#
# We rebuild the pieces one by one and compare each with the model's own. Hooks record what the model's attention really got and gave.

# %%
recorded = []  # one (input, output) for each layer


def record(module, arguments, named, output):
    recorded.append((named["hidden_states"], output[0]))


hooks = [
    layer.self_attn.register_forward_hook(record, with_kwargs=True)
    for layer in model.llm.model.layers
]
hidden = model.llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
for hook in hooks:
    hook.remove()
print("layers recorded:", len(recorded) == model.config.llm.layers)


# %% [markdown]
# ### RMSNorm
#
# LayerNorm subtracts the mean, divides by the deviation and adds a bias. RMSNorm only divides by the root of the mean square, and scales each channel by a learned $g$:
#
# $$\mathrm{RMSNorm}(x) = g \odot \frac{x}{\sqrt{\frac{1}{D} \sum_i x_i^2 + \epsilon}}$$
#
# $g$ is `gain`, $\epsilon$ is `eps`, and $D$ is the last axis of `x`.

# %%
def rms_norm(x, gain, eps):
    return gain * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


layer, eps = model.llm.model.layers[0], model.config.llm.norm_eps
normed = rms_norm(inputs, layer.input_layernorm.weight, eps)
assert_close(normed, layer.input_layernorm(inputs))
assert_close(normed, recorded[0][0])  # it is what the first attention got


# %% [markdown]
# ### Rotary positions
#
# Attention compares a query $q$ at position $m$ with a key $k$ at position $n$ by their inner product. That alone ignores $m$ and $n$. So RoPE turns $q$ and $k$ before they meet:
# channel $i$ and channel $i + K/2$ of a head of width $K$ are the two coordinates of a point, and the point is turned by the angle $m\,\theta^{-2i/K}$, fast for small $i$, slowly for large $i$. In code the $m$ are `positions`, $\theta$ is `theta`, $K / 2$ is `half`, and `angles` (L, K / 2) holds the angles.

# %%
def rotate(x, positions, theta=model.config.llm.rope_theta):
    """x (..., L, K) turned by its positions (L)."""
    half = x.shape[-1] // 2
    speeds = theta ** (-torch.arange(half, device=x.device) / half)
    angles = positions[:, None] * speeds  # (L, K / 2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


# %% [markdown]
# Turning both by the same angle does not change an inner product.
#
# **Predict before you run:** a query at 7 and a key at 3, or a query at 107 and a key at 103: which score is larger?

# %%
q, k = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
at = torch.tensor
near = rotate(q, at([7])) @ rotate(k, at([3])).T
far = rotate(q, at([107])) @ rotate(k, at([103])).T
other = rotate(q, at([7])) @ rotate(k, at([5])).T
print("same distance, same score:   ", torch.allclose(near, far, atol=1e-3))
print("other distance, other score: ", not torch.allclose(near, other, atol=1e-3))


# %% [markdown]
# So the score depends on $m - n$ alone.
#
# ### Attention
#
# $$\mathrm{softmax}\!\left(\frac{\tilde q\, \tilde k^{\top}}{\sqrt{K}} + \text{mask}\right) v$$
#
# $\tilde q$ and $\tilde k$ are the turned ones, `rotate(q, positions)` and `rotate(k, positions)`; $v$ is not turned. $K$ is `q.shape[-1]`, and the softmax is `weights`. The mask is $-\infty$ for later positions (`later`). Pictures get no mask of their own: their embeddings have an order, which the Causal Transformer gave them.

# %%
def attention(attn, x, heads):
    """x (1, L, D) -> output (1, L, D) and who read whom (heads, L, L)."""
    length = x.shape[1]
    q, k, v = (
        f(x).view(length, heads, -1).transpose(0, 1)
        for f in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    positions = torch.arange(length, device=x.device)
    scores = rotate(q, positions) @ rotate(k, positions).mT / q.shape[-1] ** 0.5
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    return attn.o_proj((weights @ v).transpose(0, 1).reshape(1, length, -1)), weights


seen = []
for layer, (x, given) in zip(model.llm.model.layers, recorded, strict=True):
    output, weights = attention(layer.self_attn, x, model.config.llm.heads)
    assert_close(output, given, atol=1e-4, rtol=1e-3)
    seen.append(weights.mean(0))  # over heads
print("our attention agrees with the model's in every layer")

given = torch.stack(seen).mean(0)  # (L, L), mean of all layers and heads
told = (batch["input_ids"][0] < model.config.llm.words) & (batch["input_ids"][0] > ids.eos)
opening = int(slots[0].nonzero()[0]) - 1  # where [IMG] stands
print(f"slots read [IMG]:        {given[slots[0], opening].mean():.0%} of their attention")
print(f"words read the picture:  {given[told][:, slots[0]].sum(1).mean():.0%} of theirs")

# %% [markdown]
# At a dark square the row's position reads from the column's. The weights of a row add up to 1, so a head that finds nothing to read has to put them somewhere; often that is a column that stands before everything else, `<s>` or, for the slots of the picture, `[IMG]`. In the rows of the caption look at the columns below the orange frame: there a word reads the picture. The cell above printed how much.

# %% alt="Attention of each layer of the language model as a triangle of positions, mean over heads; an orange frame marks the picture"
from minemu.figures.heads import show_attention

show_attention(torch.stack(seen), tokens, slots[0].tolist())


# %% [markdown]
# ### Exercise: SwiGLU (5 minutes)
#
# The second half of a layer is $\mathrm{down}(\mathrm{silu}(\mathrm{gate}(x)) \odot \mathrm{up}(x))$, three linear maps without biases. One path says what, the other how much of it. Write it, with `torch.nn.functional.silu`.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch.nn.functional as F
#
#
# def answer(x, gate, up, down):
#     return down(F.silu(gate(x)) * up(x))
# ```
# </details>

# %%
def swiglu(x, gate, up, down):
    return None  # your line here


check("04.swiglu", swiglu)

# %% [markdown]
# ## Two heads on one hidden state
#
# What leaves the last layer, `hidden` (1, L, D), is read twice. The LM head scores every word of the vocabulary. The regression head maps to the width of a visual embedding. Both read every position; which one is *asked* depends on what comes next.
#
# | | LM head | regression head |
# |---|---|---|
# | In the paper | classifies the next word | regresses the next visual embedding, $\ell_2$ |
# | In the released code | cross-entropy, all four structure tokens masked | `Linear(5120, 5120, bias=False)`; its pairs are built, its loss is never computed |
# | Here | the same; with `objective.say_image` `[IMG]` is a target too | the same map, and its loss is computed (`objective.py`) |

# %%
out = model(**batch)
assert_close(hidden, out.hidden, atol=1e-4, rtol=1e-3)
assert_close(model.llm.lm_head(hidden), out.logits, atol=1e-3, rtol=1e-3)
assert_close(model.regression_head(hidden), out.predictions, atol=1e-3, rtol=1e-3)
print("vocabulary and D:", out.logits.shape[-1], out.predictions.shape[-1])
print("biases:", [head.bias for head in (model.llm.lm_head, model.regression_head)])

# %% [markdown]
# **Predict before you run:** one sequence begins with a picture, another ends with one. At which positions does each head have to speak? Which embedding of a picture is the hardest to predict, in each of the two?
#
# For a word we show the probability of the true one. For an embedding we show how much of the squared error of a simple guess, the mean embedding of that slot, the prediction saves: 1 is perfect, 0 is no better than the mean.

# %%
from minemu.figures.heads import Turn, show_turns

known = ToyWorld("seen", image_size=processor.image_size)
mean = pipe.encode([known.sample(i).picture for i in range(64)]).mean(0)  # (N, D)


def turn(pieces):
    """How right each head is where it has to speak, seeing what is really before it."""
    batch = processor([pieces], eos=True).to(model.device)
    embeds = model.encode_images(batch["images"])
    out = model(batch["input_ids"], image_embeds=embeds)
    goals = targets(batch["input_ids"], ids, model.config.objective)
    following = batch["input_ids"][0, 1:]
    said = out.logits[0, :-1].softmax(-1).gather(-1, following[:, None])[:, 0]
    said[goals.text[0] == IGNORE] = float("nan")
    slot = following == ids.image
    error = (out.predictions[0, :-1][slot] - embeds[0]).square().sum(-1)  # (N,)
    regressed = torch.full_like(said, float("nan"))
    regressed[slot] = 1 - error / (mean - embeds[0]).square().sum(-1)
    return Turn(token_words(batch["input_ids"][0].tolist(), processor), said, regressed)


turns = {
    "picture first": turn([sample.picture, sample.caption]),
    "caption first": turn([sample.caption, sample.picture]),
}
for name, of in turns.items():
    first, *others = of.regressed[~of.regressed.isnan()].tolist()
    print(f"{name}: first embedding {first:.2f}, the others {sum(others) / len(others):.2f}")

# %% alt="Two sequences, one with the picture first and one with it last; bars at each position show which head speaks and how right it is about the next position: the LM head about words, the regression head about embeddings, compared with the mean embedding"
show_turns([*turns.values()])

# %% [markdown]
# The bar at a position speaks of the *next* one. Where there is none, no head is asked, or the one that is asked is no better than nothing. `[IMG]` already has an orange bar: it predicts the first embedding. The last slot has to predict the word embedding of `[/IMG]`, as in the released code; that is the same after every picture, so no bar is shown for it.
#
# The first embedding of a picture at the very beginning can only be guessed, for nothing is known yet: on average over pictures that bar would be near 0, and on a single one it may be somewhat above or below. After a caption it need not be the hardest any more: compare it with the others. The others have a hint in both rows: the true embeddings before them. So compare their two numbers printed above: how much does the caption still add? When the model draws, it has no true embeddings. Notebook 07 shows why predicting from them is misleading.
#
# ## Both heads learn at once
#
# A nano model from random weights, 32 scenes, half of them with the picture first. Its visual side stays as it is; the LLM and both heads learn from one loss, cross-entropy plus squared error.

# %%
with torch.random.fork_rng():
    torch.manual_seed(0)
    nano = untrained(EmuConfig.preset("emu-nano"))
small = ToyWorld("seen", image_size=nano.processor.image_size)
scenes = [small.sample(i) for i in range(32)]
orders = [[s.picture, s.caption] if i % 2 else [s.caption, s.picture] for i, s in enumerate(scenes)]
shown = nano.processor(orders, eos=True)
fixed = nano.encode([s.picture for s in scenes])  # (32, N, D)

# %%
learnt = [*nano.model.llm.parameters(), *nano.model.regression_head.parameters()]
optimizer = torch.optim.AdamW(learnt, lr=5e-3)
losses = {"text": [], "image": []}
with torch.enable_grad():
    for _ in range(60):
        out = nano.model(shown["input_ids"], shown["attention_mask"], image_embeds=fixed)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses["text"].append(out.text_loss.item())
        losses["image"].append(out.image_loss.item())

assert all(curve[-1] < curve[0] for curve in losses.values())

# %% alt="Text loss and image loss of a nano model, each as a share of its first value, fall together over 60 steps"
from minemu.figures.charts import show_curves

show_curves(
    {
        "share of the first loss": {
            name: [x / curve[0] for x in curve] for name, curve in losses.items()
        }
    }
)

# %% [markdown]
# ## Words out
#
# To generate words, transformers' `generate` is enough: it takes embeddings (`inputs_embeds`) in place of ids, so whatever `embed` has built can be continued. `EmuGeneration.generate` adds two things: padding on the **left**, so that in a batch every row ends where its continuation begins, and `[IMG]` as a stop token if the model says it itself (`objective.say_image`).
#
# Greedy decoding takes the likeliest word each time. We check what `generate` said by one pass over prompt and answer: no other word scores higher at any place.

# %%
prompt = processor([[sample.picture]]).to(model.device)
said = model.generate(**prompt, max_new_tokens=12)  # (1, new), greedy

whole = torch.cat([prompt["input_ids"], said], 1)
logits = model(whole, images=prompt["images"]).logits[:, :-1]
answer = logits[:, -said.shape[1] :]  # what predicts the new words
best, chosen = answer.max(-1).values, answer.gather(-1, said[..., None])[..., 0]
assert (best - chosen).abs().max() < 1e-3
print("every word was the likeliest one")

# %% alt="A held-out scene with the caption that the model gives it below"
from minemu.figures import show_pictures

show_pictures([sample.picture], [processor.decode(said[0])])


# %% [markdown]
# ## Embeddings out
#
# We know of no library with a loop that generates *embeddings*, so this one is ours. Append `[IMG]`, let the regression head predict an embedding, feed it back as the next input, N times. The plainest way runs the whole prefix each time:

# %%
def without_cache(model, inputs):
    """inputs (1, L, D), ending in [IMG] -> (1, N, E). As the released code does it."""
    predicted = []
    for _ in range(model.config.bridge.n_image):
        hidden = model.llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        predicted.append(model.regression_head(hidden[:, -1:]))
        inputs = torch.cat([inputs, model.into_llm(predicted[-1])], 1)
    return torch.cat(predicted, 1)


prompt = processor([[sample.caption]]).to(model.device)
begun = torch.cat(
    [prompt["input_ids"], torch.full_like(prompt["input_ids"][:, :1], ids.image_start)], 1
)
naive = without_cache(model, model.embed(begun))
cached = model.generate_image_embeds(**prompt)
assert_close(naive, cached, atol=1e-3, rtol=1e-3)
print("equal with and without a cache:", tuple(cached.shape) == (1, *embeds.shape[1:]))


# %% [markdown]
# Why can the second way skip all that work? Attention looks only back. The keys and values of a position depend on the positions up to it, and those no longer change. So they are computed once and kept: that is the cache. A new position computes its own query, key and value, and reads the kept ones.
#
# ### Counting
#
# Let $P$ be the positions of the prompt (`prompt`) and $N$ the embeddings (`n`). `[IMG]` is one more, and step $k = 0 \ldots N-1$ sees $P + 1 + k$ positions:
#
# $$\text{without} = \sum_{k=0}^{N-1} (P + 1 + k) = N(P+1) + \tfrac{N(N-1)}{2} \qquad \text{with} = (P + 1) + (N - 1) = P + N$$
#
# **Predict before you run:** for a prompt of 30 and Emu2's N = 64, how many positions pass through the LLM in each way?

# %%
def passed(prompt, n, cache):
    return prompt + n if cache else n * (prompt + 1) + n * (n - 1) // 2


print("without:", f"{passed(30, 64, cache=False):,}", "  with:", passed(30, 64, cache=True))


# %% [markdown]
# That is the formula. A hook on the first layer counts what really passes, for 30 random words and this model's N.

# %%
def counted(generate):
    seen = []
    first = model.llm.model.layers[0]
    hook = first.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    generate()
    hook.remove()
    return sum(seen)


thirty = torch.randint(
    3, model.config.llm.words, (1, 30), generator=torch.Generator().manual_seed(0)
).to(model.device)
image_start = torch.full_like(thirty[:, :1], ids.image_start)
n = model.config.bridge.n_image
slow = counted(lambda: without_cache(model, model.embed(torch.cat([thirty, image_start], 1))))
fast = counted(lambda: model.generate_image_embeds(thirty))
print(
    "without:",
    slow,
    slow == passed(30, n, cache=False),
    "  with:",
    fast,
    fast == passed(30, n, cache=True),
)

# %% alt="Left: a staircase of positions that each step processes, nearly all of them again; right: positions processed for one picture without and with a cache, for N of 4, 16, 32 and 64"
from minemu.figures.cache import show_tokens_processed

ns = [4, 16, 32, 64]
totals = {
    name: [passed(30, n, cache) for n in ns] for name, cache in (("without", False), ("with", True))
}
show_tokens_processed(31, 16, totals, ns)

# %% [markdown]
# > **In the paper** the embeddings are generated one after another. **In the released code** the prefix is tokenised and run anew for each embedding, 32 times in Emu and 64 times in Emu2. **Here** each embedding costs one position (`generation.py`).
#
# ### Measuring
#
# Fewer positions is not yet less time. `minemu bench` ran both ways side by side, in a larger LLaMA with random weights, and wrote what it found to a file; we read it. Its prompt has several pictures (`speed.PICTURES`), so it is long, and the ratio of positions is large.

# %% alt="Measured speed-up of cached generation for N of 32 and 64, with the range of the runs, beside the ratio of positions processed, which is larger"
from minemu.bench import speed
from minemu.data.samples import data_dir
from minemu.figures.cache import SpeedUp, show_speedups
from minemu.files import read_json

rows = read_json(data_dir() / "emu-tiny" / "bench.json")["rows"]
found = []
for n in (32, 64):
    prompt = (
        1 + speed.WORDS + speed.PICTURES * (n + 2)
    )  # <s>, words, and [IMG] ... [/IMG] around each picture
    row = rows[f"image-embeds-n{n}"]
    ratio = passed(prompt, n, cache=False) / passed(prompt, n, cache=True)
    found.append(SpeedUp(f"N = {n}", row["ratio"], row["min"], row["max"], ratio))
show_speedups(found)


# %% [markdown]
# Compare the measured gain with the count. Expect it to be smaller: one position at a time means that all weights are read from memory for a single vector, while a long prefix multiplies a matrix with a matrix, which a processor does far more efficiently. How much of the count turns into time saved depends on the machine, the model and N.
#
# The cache itself can waste time too: transformers' `DynamicCache` copies all keys and values at each step to append one. `RoomyLayer` makes room for all N at the start and writes in place.
#
# ### Exercise: count the scores (10 minutes)
#
# Positions are not the whole cost: each also computes one query-key score for itself and for each one before it. Write `scores(start, n, cached)`, the number of scores that one head of one layer computes while `n` embeddings are generated after `start` positions (`[IMG]` included). A pass over $m$ positions without a cache takes $1 + 2 + \dots + m$.
#
# <details><summary>Hint</summary>
#
# With a cache, position number $m$ takes $m$ scores, once. How many positions are there in all?
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def answer(start, n, cached):
#     if cached:
#         return sum(range(1, start + n))
#     return sum(m * (m + 1) // 2 for m in range(start, start + n))
# ```
# </details>

# %%
def scores(start, n, cached):
    return None  # your line here


check("04.scores", scores)


# %% [markdown]
# ### Exercise: generate with a cache (15 minutes)
#
# Turn `without_cache` into a loop in which each position passes through the LLM once. `model.llm.model(inputs_embeds=..., use_cache=True, past_key_values=...)` returns `past_key_values`; pass them in at the next step, together with only what is new. The check compares the embeddings and counts the positions.
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
#
# def answer(model, inputs):
#     predicted, cache = [], None
#     for _ in range(model.config.bridge.n_image):
#         out = model.llm.model(inputs_embeds=inputs, use_cache=True, past_key_values=cache)
#         predicted.append(model.regression_head(out.last_hidden_state[:, -1:]))
#         inputs, cache = model.into_llm(predicted[-1]), out.past_key_values
#     return torch.cat(predicted, 1)
# ```
# </details>

# %%
def with_cache(model, inputs):
    return None  # your lines here


check("04.cached", with_cache)

# %% [markdown]
# ## What you have seen
#
# * Visual embeddings replace slots of a text; the LLM has no other entrance for pictures.
# * A layer is RMSNorm, rotary attention, RMSNorm, SwiGLU; the pieces above agree with the model's own.
# * Two linear heads read the same hidden state. What comes next decides which of them has to answer.
# * Attention looks only back, so keys and values can be kept. Uncached, a picture costs more than N times its prompt.
