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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/minemu/minemu/blob/main/notebooks/06_pretraining.ipynb)
#
# # Pretraining a tiny Emu
#
# One loss teaches Emu to read and to draw. What it learns is decided by what it is shown, in which order, and at which learning rates. Here you train three small models and set them beside the shipped one's log.
#
# After it you can
#
# * build the paper's mixture of five sources, and say where document number i comes from without having read the ones before;
# * pack documents of different lengths into one batch, and show that packing changes no loss;
# * give each module its own learning rate and schedule;
# * stop a run half way, resume it, and end with the same bits;
# * tell a difference between two runs from the spread over seeds.
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
# ## Choose a model
#
# `emu-tiny` is trained, by a long recipe; `emu-nano` has random weights and a recipe of seconds. The small models that you train here, and the log that they are set beside, are the same in either case.

# %%
PRESET = "emu-tiny"  # @param ["emu-nano", "emu-tiny"]

# %matplotlib inline
import os

os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import torch
from minemu.course import check, start
from minemu.data.world import ToyWorld
from minemu.training.recipes import recipe_of

pipe, held_out = start(PRESET)
recipe = recipe_of(PRESET)
shown = ToyWorld("seen", image_size=pipe.processor.image_size)  # the scenes that training may show
print(f"pretraining {PRESET}: {recipe.emu.steps} steps of {recipe.emu.batch_size} documents")

# %% [markdown]
# ## Five sources
#
# Emu learns from pairs, from documents with many pictures, and from video. Each source teaches something that the others cannot.
#
# | source | in the paper | size there | batch there | what it teaches |
# |---|---|---|---|---|
# | `labels` | LAION-2B | 2 billion pairs | 128 | many things, loosely described |
# | `scenes` | LAION-COCO | 600 million pairs | 128 | full descriptions |
# | `interleaved` | MMC4 | 75 million documents | 64 | several pictures and sentences in one context |
# | `clips` | WebVid-10M | 10 million clips | 16 | what happens over time |
# | `storyboards` | YT-Storyboard-1B | 18 million videos | 16 | pictures and speech that follow one another |
#
# > **How sure is this?** No training code was released. The paper's numbers in this notebook are second-hand, from readers' notes; where later papers repeat them they agree. No shares are published, only these batch sizes: we read them as shares, as if every source had its turn equally often.
#
# The toy world has a source for each. A mixture draws from them in fixed shares, its *weights*.

# %%
from dataclasses import asdict

from minemu.data.lessons import LESSONS
from minemu.data.mixture import MixtureConfig, toy_mixture

published = {"labels": 128, "scenes": 128, "interleaved": 64, "clips": 16, "storyboards": 16}
sixteenth = {name: size // 16 for name, size in published.items()}
weights = {name: weight for name, weight in asdict(MixtureConfig()).items() if weight}
assert weights == sixteenth  # the default: the paper's batch sizes, read as shares

mixture = toy_mixture(shown, recipe.mixture)
print(f"weights of {PRESET}:", mixture.weights)
lessons = sum(mixture.weights.get(name, 0) for name in LESSONS)
print("lessons:", lessons, "parts of", sum(mixture.weights.values()))

# %% [markdown]
# A document is a list of pictures and texts. One of each source:

# %% alt="One document of each source: a picture with a label, a picture with its full caption, several pictures with sentences, eight frames of a clip with what happens, a storyboard of scenes and sentences; and of each lesson: a row of words said again and again, things in words with made-up names, drawings with made-up names, pictures with questions and answers, two pictures followed by a third with something of each, a full caption with its picture, and a text without pictures."
from minemu.figures.mixture import show_documents

number = {"labels": 5, "scenes": 5, "interleaved": 7, "clips": 2, "storyboards": 5, "names": 7}
show_documents(
    {name: source.document(number.get(name, 2)) for name, source in mixture.sources.items()}
)

# %% [markdown]
# > **In the paper** a picture stands before or after its text at random; 8 frames of a clip are drawn at random; a document of MMC4 gives at most 5 pictures.
# > **In the released code** there is no data loader, only the tool that cuts videos into storyboards.
# > **Here** the same three rules for these five. `emu-tiny` shifts weight from `labels` to full descriptions (`scenes`, and the lesson `drawings` below): with hundreds of things in many styles, sizes and colours, a bare label says too little about a picture to teach much.
#
# Several kinds begin with a title, such as "a story:". So a picture that stands first is mostly followed by its caption, and one that comes after a title by what belongs to that title; without titles the model could only guess which is meant.
#
# The last seven are *lessons* (`data/lessons.py`), and the paper has none. The authors credit interleaved web pages for few-shot learning: among so many, some show the same thing twice under the same name (that reason is our guess). Toy pages contain no such repetition; lessons are documents built from it. Four lessons have other reasons. `copying` and `recall` come before all looking back: a model that cannot find again what it has read, or what stood near it, cannot use an example either. `drawings` pairs full captions with pictures: what each thing looks like in each style takes long to learn, and fewer than half of the prompts of `scenes` say everything. `texts` has no pictures: Emu's LLaMA had read all words before, while ours would forget those that no other document uses.
#
# `emu-tiny` gives them the share that is printed above; any other mixture is one option away (`--set train.mixture.questions=0`). `MixtureConfig()`, without settings, has the paper's five sources alone, in shares like its batch sizes.

# %% [markdown]
# ## Where document i comes from
#
# One could roll a die for each document. minemu does not: it lays out *blocks*. A block holds exactly `weight` documents of each source, in an order set by the seed and the block's number. Below, each block begins a new line, and a long one takes two. A cell holds two letters for the source (its first two, or the initials of a two-word name) and the document's number within the source.

# %% alt="The first four blocks of the mixture: cells coloured by source, with the number of the document in its source. Each block holds the same number of cells of each source, in another order."
from minemu.figures.mixture import show_mixture

size = sum(mixture.weights.values())
show_mixture([mixture.place(i) for i in range(4 * size)], size)

# %% [markdown]
# > **Predict.** A run stops after a million documents. What has to be stored so that it goes on at the right one?

# %%
again = toy_mixture(shown, recipe.mixture)  # a new process, nothing remembered
assert again.place(1_000_000) == mixture.place(1_000_000)
assert str(again.document(1_000_000)) == str(mixture.document(1_000_000))
print(
    "nothing but the number; it is document",
    mixture.place(1_000_000)[1],
    "of",
    mixture.place(1_000_000)[0],
)


# %% [markdown]
# ### Your turn: place (10 minutes)
#
# Write `place(index, names_of)`. `names_of(block)` is the list of the sources of one block in their order; all blocks have the same length and the same counts. Return the name of the source and the number of the document within it.
#
# <details><summary>Hint</summary>
#
# Every earlier block has used up `weight` documents of the source. In the document's block, count how often the name comes earlier.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def place(index, names_of):
#     block, offset = divmod(index, len(names_of(0)))
#     names = names_of(block)
#     name = names[offset]
#     return name, block * names.count(name) + names[:offset].count(name)
#
#
# answer = place
# ```
# </details>

# %%
def place(index, names_of):
    return None  # your line here


check("06.place", place)

# %% [markdown]
# ## Before or after its text
#
# A picture that comes before its text is read: the text has to be said. A picture that comes after its text is drawn: its embeddings have to be regressed. The order is chosen at random, so one set of pairs teaches both.

# %%
scenes = [mixture.sources["scenes"].document(i) for i in range(200)]
reading = [document for document in scenes if not isinstance(document[0], str)]
print(len(reading), "of", len(scenes), "documents begin with the picture")
print("to be said:     ", reading[0][1])
print("to be drawn from:", next(document[0] for document in scenes if isinstance(document[0], str)))

# %% [markdown]
# After a picture comes the full caption, since all of it can be seen. Before a picture, `scenes` puts a prompt that leaves parts out, as people do (`drawings` the full caption, so that such a description is learnt too). Were a prompt to follow its picture, the model would be asked to say what nobody can know: a picture does not tell which parts a prompt leaves out.
#
# ## From documents to a batch
#
# Documents differ in length: a label has a few tokens, a clip eight pictures, a lesson up to thirteen. With a row each, most of a batch would be padding.
#
# > **Predict.** 24 documents, each padded to the longest. How many of 100 positions are padding?

# %%
from minemu.sequence import interleave, pack_rows, pad_rows
from minemu.training.emu import tokenise

ids, n_image, context = pipe.processor.ids, pipe.processor.n_image, pipe.model.config.llm.context
parts = [tokenise(mixture.document(i), pipe.processor, context) for i in range(24)]
rows = [interleave(pieces, ids, n_image, eos=whole) for pieces, _, whole in parts]
padded = pad_rows(rows, ids)
packed = pack_rows(rows, ids, max(160, *map(len, rows)))

for name, batch in (("a row each", padded), ("packed", packed)):
    empty = int((batch["input_ids"] == ids.pad).sum())
    print(f"{name}: {empty * 100 // batch['input_ids'].numel()} of 100 positions are padding")

# %% alt="The same 24 documents as two batches: with a row each, most of the area is grey padding; packed, a few rows are filled nearly to the end with words and visual embeddings."
from minemu.figures.mixture import show_rows

show_rows({"a row each": padded["input_ids"], "packed": packed["input_ids"]}, ids)

# %% [markdown]
# Packed documents must not read one another. `segment_ids` number the documents of a row, and attention stays within a number (notebook 01 draws the mask). If that holds, the losses of both batches are equal:

# %%
from minemu.processor import normalise

pictures = [images for _, images, _ in parts]  # lists: a document may have none
order = packed.pop("order")  # which document stands where: pictures follow in reading order


def losses(batch, shown_in_order):
    images = torch.stack([image for images in shown_in_order for image in images])
    inputs = {"images": normalise(images), **batch}
    with torch.no_grad():
        return pipe.model(**{name: tensor.to(pipe.model.device) for name, tensor in inputs.items()})


alone, together = losses(padded, pictures), losses(packed, [pictures[i] for i in order])
torch.testing.assert_close(alone.text_loss, together.text_loss, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(alone.image_loss, together.image_loss, rtol=1e-4, atol=1e-4)
print(
    len(order),
    "documents,",
    len(padded["input_ids"]),
    "rows or",
    len(packed["input_ids"]),
    "rows: the same losses",
)


# %% [markdown]
# ## The schedule
#
# At step $s$ (`step`) of $S$ (`steps`) the rate $\eta$ is a share of its peak: a linear warm-up over $w$ (`warmup`) steps, then a cosine down to $f$ (`final_lr`).
#
# $$\frac{\eta(s)}{\eta_\text{peak}} = \begin{cases} (s + 1) / w & s < w \\ f + (1 - f) \cdot \frac{1}{2}\left(1 + \cos \pi \frac{s - w}{S - w}\right) & s \ge w \end{cases}$$
#
# The warm-up is there because Adam divides by an estimate of the gradient's size, and after one step that estimate is one sample.
#
# | | optimiser |
# |---|---|
# | **In the paper** | AdamW with $\beta$ of 0.9 and 0.98, $\epsilon$ of 1e-6 and a weight decay of 0.05 |
# | **In the released code** | no training code |
# | **Here** | in this stage `emu-nano` has AdamW. `emu-tiny` has Muon ([arXiv 2502.16982](https://arxiv.org/abs/2502.16982)) for the matrices of its blocks, its steps as large as AdamW's, and AdamW for the rest; one schedule serves both |
#
# A finished run can be lengthened: at a step of `restarts` the schedule begins anew ([SGDR](https://arxiv.org/abs/1608.03983)), with $s$ and $S$ counted from there. Up to that step nothing changes, so a longer run begins with the shorter one, bit for bit.
#
# ### Your turn: schedule (5 minutes)
#
# Write that share, $\eta(s) / \eta_\text{peak}$, as `share(step, warmup, steps, final)`, for a schedule without restarts; `final` is $f$.
#
# <details><summary>Solution</summary>
#
# ```python
# import math
#
#
# def share(step, warmup, steps, final):
#     if step < warmup:
#         return (step + 1) / warmup
#     return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
#
#
# answer = share
# ```
# </details>

# %%
def share(step, warmup, steps, final):
    return None  # your line here


check("06.schedule", share)

# %% [markdown]
# ## A rate for each module
#
# In Emu the Causal Transformer starts from nothing, while the ViT and LLaMA know much already. So it learns fastest, and the others are only nudged.
#
# | | Visual Encoder | Causal Transformer | LLM | warm-up | steps |
# |---|---|---|---|---|---|
# | **In the paper** | 4e-5 | 1e-4 | 3e-5 | 0.2 of the steps | 10,000 |
# | **In the released code** | no training code | | | | |
# | **Here** | drawn below, read from `minemu.training.recipes.RECIPES` | | | | |
#
# Where the recipe gives 0 the module is frozen. `emu-tiny` freezes its visual side here: encoder and bridge have learnt in stages of their own. Now the text loss would let them forget what no word names, and the image loss would pull all pictures together (below).

# %% alt="Learning rates against the step. Left, the paper's: warm-up over a fifth of the steps, then a cosine, with the Causal Transformer's peak highest. Right, the recipe of this preset: a short warm-up and a cosine, anew at each restart where the recipe has some."
from minemu.figures.training import show_schedule
from minemu.training.loop import TrainConfig, lr_factor

paper = TrainConfig(
    steps=10_000, warmup=2_000, final_lr=0.0, lr=3e-5, lr_vision=4e-5, lr_bridge=1e-4
)


def rates(config):
    """The rate of each module at each step; final_lr of the paper is not known, and drawn as 0."""
    peaks = {
        "Causal Transformer": config.lr_bridge,
        "Visual Encoder": config.lr_vision,
        "LLM": config.lr,
    }
    peaks = {name: config.lr if peak is None else peak for name, peak in peaks.items()}
    shares = [lr_factor(step, config) for step in range(config.steps)]
    return {
        name if peak else f"{name}: frozen": [peak * s for s in shares]
        for name, peak in peaks.items()
    }


show_schedule({"in the paper": rates(paper), f"here, {PRESET}": rates(recipe.emu)})


# %% [markdown]
# ### Your turn: rates (10 minutes)
#
# Write `rate_of(name, config)` for parameter names such as `visual_encoder.blocks.0.attn.proj.weight` or `llm.lm_head.weight`. `config.lr_vision` is for `visual_encoder`; `config.lr_bridge` for `ln_visual`, `causal_transformer` and Emu2's `project_up`; all else has `config.lr`. `None` means `config.lr` too, and 0 means frozen.
#
# <details><summary>Hint</summary>
#
# `config.lr_vision or config.lr` is wrong: 0.0 counts as false, so what should be frozen would learn at `config.lr`, and nothing complains.
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rate_of(name, config):
#     part = name.split(".")[0]
#     rate = config.lr
#     if part == "visual_encoder":
#         rate = config.lr_vision
#     elif part in ("ln_visual", "causal_transformer", "project_up"):
#         rate = config.lr_bridge
#     return config.lr if rate is None else rate
#
#
# answer = rate_of
# ```
# </details>

# %%
def rate_of(name, config):
    return None  # your line here


check("06.rates", rate_of)

# %% [markdown]
# ## Train one
#
# Pretraining takes over what three stages left: an encoder that matches pictures with words, a bridge, and a language model that has read text only (the authors took EVA-CLIP and LLaMA instead). Here they are trained for `emu-nano`, with 32 by 32 pixels and 4 embeddings a picture, for a few hundred steps each.

# %%
import tempfile
from pathlib import Path

from minemu.training.recipe import build_stage, make_processor, train_stage
from minemu.training.recipes import resolve

runs = Path(tempfile.mkdtemp())
root = runs / "emu-nano"
stages = {"encoder": 300, "bridge": 200, "language": 300}  # steps
small = {
    f"train.{stage}.{key}": steps
    for stage, steps in stages.items()
    for key in ("steps", "checkpoint_every")
}
small |= {f"train.{stage}.lr": 4e-3 for stage in stages}  # small models tolerate high rates
mixed = {
    "train.source": "mixture",
    "objective.hide_written": 0.5,
}  # against exposure bias: notebook 07
config, nano = resolve("emu-nano", {**small, **mixed})
processor = make_processor(root, config, nano)  # whose tokenizer knows all wordings
print({stage: train_stage("emu-nano", stage, runs, small, device="cpu") for stage in stages})

# %% [markdown]
# Now stage `emu` itself. A `Stage` says what is trained, what batch number i is and how its loss is computed; `train` is the one loop for all stages.

# %%
from minemu.config import override
from minemu.training.loop import train
from minemu.training.run import RunLog

STEPS = 400
tiny_world = ToyWorld("seen", image_size=32)
FROZEN = {"lr_vision": 0.0, "lr_bridge": 0.0}


def new_stage(seed, steps=STEPS, rates=FROZEN):
    settings = {
        "steps": steps,
        "batch_size": 16,
        "lr": 4e-3,
        "warmup": 10,
        "checkpoint_every": steps,
        "log_every": 2,
    }
    changed = override(
        nano, {f"emu.{key}": value for key, value in {**settings, **rates, "seed": seed}.items()}
    )
    return build_stage("emu", config, changed, processor, tiny_world, root)


stage = new_stage(seed=0)
batch = stage.batch(0)
print({name: tuple(tensor.shape) for name, tensor in batch.items()})

# %% [markdown]
# As in the shipped recipe the visual side is frozen. How many numbers move, and how many stay?

# %%
from collections import Counter

moved = Counter()
for parameter, rate in stage.parameter_lrs(stage.train).items():
    moved["trained" if rate else "frozen"] += parameter.numel()
assert sum(moved.values()) == sum(parameter.numel() for parameter in stage.module.parameters())
print(dict(moved))

# %% [markdown]
# ## What it says as it learns
#
# The run is stopped at a few steps, asked for captions of held-out scenes, and resumed. So these captions also exercise the resuming that is checked below.

# %%
unseen = ToyWorld("seen", held_out=True, kinds=("single",), image_size=32)
samples = [unseen.sample(i) for i in range(64)]
FOUR = (0, 1, 2, 4)  # those that are shown


def captions(model, processor, samples):
    batch = processor([[sample.picture] for sample in samples]).to(model.device)
    return processor.batch_decode(model.eval().generate(**batch, max_new_tokens=24))


def learn(seed, stops, rates=FROZEN, name=None):
    """Train to each of `stops`; what was said at the start and at each of them, and the model."""
    stage, folder = new_stage(seed, rates=rates), runs / (name or f"seed-{seed}")
    said = {"step 0": captions(stage.module, processor, samples)}
    for stop in stops:
        train(stage, stage.train, folder, RunLog(folder / "log.jsonl"), stop_after=stop)
        said[f"step {stop}"] = captions(stage.module, processor, samples)
    return said, stage.module


said, frozen_model = learn(0, stops=(10, 100, STEPS))
print([samples[i].caption for i in FOUR])

# %% alt="Four held-out pictures; below each, what the nano model says of it at the start, at three later steps, then what the shipped model says, and the true caption."
from minemu.figures.training import show_progress

large = ToyWorld("seen", held_out=True, kinds=("single",), image_size=pipe.processor.image_size)
said["shipped"] = captions(pipe.model, pipe.processor, [large.sample(i) for i in range(64)])
rows = {**said, "true": [sample.caption for sample in samples]}
show_progress(
    [samples[i].picture for i in FOUR], {name: [of[i] for i in FOUR] for name, of in rows.items()}
)

# %% [markdown]
# Do not read too much into the upper rows. The wording was there from the start: the language stage gave it. Then captions change, but every picture gets much the same one: the model learns which wording follows a picture before it looks at any. And four pictures cannot show whether a right word is seen or guessed. So we count, over all 64, how often each part of the caption is right, and set it beside chance:

# %% alt="How many of 64 held-out pictures get the right background, style and thing in their caption, at each stop of the nano run and by the shipped model, with chance as a line"
from minemu.data.scene import BACKGROUNDS, STYLE_NAMES
from minemu.figures.scores import show_bars


def right(texts):
    """Share of captions, in %, that say the right background, style and thing."""
    hits = torch.zeros(3)
    for text, sample in zip(texts, samples, strict=True):
        scene = sample.scene
        background, style = f"{scene.background} background", f"{STYLE_NAMES[scene.style]} style"
        thing = f" {scene.groups[0].label} on "
        hits += torch.tensor([part in text for part in (background, style, thing)])
    return (100 * hits / len(texts)).tolist()


chance = [100 / len(kinds) for kinds in (BACKGROUNDS, STYLE_NAMES, unseen.labels)]
counts = {name: right(texts) for name, texts in said.items()}
show_bars(["background", "style", "thing"], counts, "right, in % of 64", chance)

# %% [markdown]
# What is learnt first is what most of the pixels say, the colour of the background: late in the nano run far more are right than by luck. Whether style and thing have left chance at all, the figure shows too. To name all the things of this world takes what the model `shipped` had: more steps, more pixels, more parameters.
#
# ## Three seeds
#
# The seed decides which documents come when, the noise, and how the regression head begins. Two more runs differ in nothing else.

# %%
import json

for seed in (1, 2):
    learn(seed, stops=(STEPS,))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


logs = [read(runs / f"seed-{seed}" / "log.jsonl") for seed in (0, 1, 2)]
print([log[-1]["step"] for log in logs], "steps,", [len(log) for log in logs], "entries")

# %% [markdown]
# A checkpoint of minemu carries the logs of its training, so your runs can be set beside the long one. Heights cannot be compared: the regressed spaces differ, and so do the vocabularies, so that a token is not the same amount of text. Shapes can.

# %% alt="Text loss and image loss of three nano runs against the step, on a logarithmic axis, with their range as a band, and the log of the shipped run as a dashed line over many more steps."
from minemu.course import CHECKPOINT
from minemu.data.samples import data_dir
from minemu.figures.training import show_losses

folder = Path(os.environ.get(CHECKPOINT, data_dir() / "emu-tiny")) / "training"
shipped = {path.stem: read(path) for path in folder.glob("*.jsonl")}
show_losses(
    logs, ["text_loss", "image_loss"], shipped.get("emu", []), run="a nano run here", window=10
)

# %% [markdown]
# How to read it: a batch is 16 documents drawn at random, so the loss fluctuates from step to step even when nothing is learnt. Each point of the nano lines is therefore a mean of 10 entries. The band is what the seed alone does. If a change of yours moves a curve by less than the band, you have not seen an effect yet; run more seeds, or average longer. Which rule fits which comparison is in [notebook 11](11_evaluation.ipynb#When-is-a-difference-a-difference?).
#
# ## Why the visual side is frozen
#
# The targets of the image loss are the model's own embeddings. A frozen visual side leaves one way to lower that loss: better predictions. A free one may seem to have another: embeddings that are easy to predict, because they are alike. The targets themselves are detached, but the same embeddings are also read as inputs, and the gradient comes through those. (In minemu's stage only pictures that are read send it back; those written after a text are encoded without a gradient, which spares the tower that part of its backward pass.)
#
# > **Predict.** One more run, with the visual side free and at the full rate. Is its image loss higher or lower? Are its embeddings further apart, or nearer together?

# %% alt="Left, the image loss of a run with the visual side frozen and of one with it free. Right, how much the embeddings of different pictures differ in both, as bars."
from minemu.figures.training import show_targets

_, free_model = learn(0, stops=(STEPS,), rates={}, name="free")
some = torch.stack([processor.preprocess(tiny_world.sample(i).picture) for i in range(64)])


def difference(model):
    """How far the embeddings of 64 pictures are apart, as a share of their size."""
    with torch.no_grad():
        embeds = model.encode_images(some)  # (64, N, D)
    return float(embeds.std(0).mean() / embeds.square().mean().sqrt())


runs_by_name = {"frozen": logs[0], "free": read(runs / "free" / "log.jsonl")}
apart = {"frozen": difference(frozen_model), "free": difference(free_model)}
show_targets(runs_by_name, apart, window=10)

# %% [markdown]
# The embeddings of the free run have become nearly alike, and the loss in its log hardly shows it. One reason is the unit: a squared error has the scale of its targets, and two runs with their own targets have their own scales. The other is that the log is made while part of what is written is hidden (`hide_written`): the model reads noise there, and most of what it misses comes from that. So we measure again, as a share of the targets' mean square, with the noise and without:

# %%
from minemu.training.emu import hide

pairs = [tiny_world.sample(i) for i in range(64)]
written = processor([[sample.caption, sample.picture] for sample in pairs])


def shares(model):
    """The image loss in % of the targets' mean square: half of the pictures hidden, and none."""
    texts = {name: written[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        embeds = model.encode_images(written["images"])
        torch.manual_seed(0)
        read = [hide(embeds, torch.ones(len(embeds), dtype=torch.bool), of) for of in (0.5, 0)]
        losses = [
            model(**texts, image_embeds=shown, image_targets=embeds).image_loss for shown in read
        ]
        return [float(100 * loss / embeds.square().mean()) for loss in losses]


left = {"frozen": shares(frozen_model), "free": shares(free_model)}
for name, (_, true_read) in left.items():
    print(f"{name}: below 1 % where true embeddings are read: {true_read < 1}")

# %% alt="Image loss as a share of the mean square of the targets, of the frozen and the free run: with half of the pictures hidden both have a good part left, with true embeddings read the free run has next to nothing left"
show_bars(["half hidden, as trained", "true ones read"], left, "% of the targets' mean square")

# %% [markdown]
# Where true embeddings are read, next to nothing is left of the free run's loss: if all pictures are alike, the next embedding is known in advance. It is the collapse of notebook 05, and the targets were detached here too. In the log the noise covers it.
#
# Two image losses can be compared only while their targets are the same, and the right panel says whether they are. A lower loss with embeddings that differ less would be no progress: what the targets no longer say, no prediction can draw. In the paper the visual side is free; its encoder starts from EVA-CLIP, and the rates are low. `objective.targets="frozen"` is a third way: the visual side may learn, and the targets come from a copy of what it was.
#
# ## The whole recipe
#
# Before pretraining came the stages that it builds on, and after it come the two that learn to draw from its embeddings: the *sketch*, a first picture that is regressed from them, and the decoder, a diffusion model that begins with the sketch (notebook 08). The shipped run may have stages that the paper lacks; the next cell says which.

# %%
from minemu.training.recipes import STAGES

logged = {stage: shipped[stage] for stage in STAGES if shipped.get(stage)}
print("stages with a log:", ", ".join(logged))
if "imagine" in logged:
    print(
        "imagine: pretraining on full captions and their pictures alone, before the mixture,\n"
        "where the gradients of the words outweigh those of the pictures; not in the paper"
    )

# %% alt="The loss of each stage of the shipped run against the step, a panel for each stage that the cell above names, with its steps, time and peak memory."
from minemu.figures.training import show_stages

show_stages(logged)

# %% [markdown]
# Heights cannot be compared between panels: each stage has a loss of its own. That of `encoder` and `bridge` is a sum of four terms (contrastive, name and style of a drawing, and the latents of a linear code of its patches), so it begins far above the logarithm of the batch size. Where a recipe has restarts, the loss rises for a while after each. A sudden step in a curve is nothing that the model learnt or forgot: the shipped run went on there with other settings. At each restart of `emu` other documents were shown: after 6,500 steps more drawings, and the image loss counted five times as much, so the sum is larger; after 8,500 mostly rows to copy, after 9,300 names and keys and values, whose losses are easy or hard, and the image loss counted less again; from 10,200 on nearly the first mixture. After 21,000 steps of the sketch the targets are means of eight pictures, and nearer to what words can tell; after 24,000 its conditions come from the longer `emu`.

# %% [markdown]
# ## Stop, resume, the same bits
#
# A long run is killed sooner or later. Resuming is *exact* if the resumed run ends with the very bits of one that was never stopped. A checkpoint then has to hold everything that a step depends on.
#
# > **Predict.** Weights are not enough. What else?

# %%
from minemu.training import checkpoint


def short_run(folder, stop_after=None):
    stage = new_stage(seed=7, steps=10)
    return train(stage, stage.train, folder, RunLog(folder / "log.jsonl"), stop_after)


print("complete:", short_run(runs / "whole"))
print("complete:", short_run(runs / "parts", stop_after=6))
print(
    "holds:   ",
    sorted(path.name for path in checkpoint.latest(runs / "parts" / "checkpoints").iterdir()),
)
print("complete:", short_run(runs / "parts"))  # finds step 6 and goes on

# %% [markdown]
# The optimizer's moments, and the step. The random state is not among them, because it is never carried along: before step s the generator is set from (seed, s), and batch i is a pure function of (seed, i). The step number *is* the state. So a resumed run draws the same noise and reads the same documents.

# %%
from minemu.weights import load_tensors

for name in ("model.safetensors", "optimizer.safetensors"):
    whole, parts_ = (
        load_tensors(checkpoint.latest(runs / run / "checkpoints") / name)
        for run in ("whole", "parts")
    )
    assert whole.keys() == parts_.keys()
    assert all(torch.equal(whole[key], parts_[key]) for key in whole)
    print(f"{name}: {len(whole)} tensors, equal bit for bit")

# %% [markdown]
# ## What could go wrong
#
# A loss that is not a number would poison every weight in one step, and the checkpoint after it. The loop looks before it updates. A misspelt source, and a run that is resumed with other settings than it began with, are refused too:

# %%
from minemu.data.mixture import Mixture
from minemu.errors import MinemuError


def poisoned():
    stage = new_stage(seed=0, steps=4)
    torch.nn.init.constant_(stage.module.regression_head.weight, float("nan"))
    train(stage, stage.train, runs / "poisoned", RunLog(runs / "poisoned" / "log.jsonl"))


for mistake in (
    poisoned,
    lambda: Mixture(mixture.sources, {"scenes": 8, "storybords": 1}),
    lambda: train_stage(
        "emu-nano", "encoder", runs, {**small, "train.encoder.lr": 0.1}, device="cpu"
    ),
):
    try:
        mistake()
    except MinemuError as error:
        print("*", str(error).replace(str(runs), "runs"))

# %% [markdown]
# ## What next
#
# * `minemu recipe emu-nano` runs all stages in seconds, `minemu recipe emu-tiny` in the hours that the panels above add up to; each can be stopped with Ctrl-C and is resumed by the same command.
# * `--set train.emu.lr_vision=1e-4` thaws the encoder; `--set train.mixture.labels=8 --set train.mixture.scenes=8 --set train.mixture.clips=1`, and 0 for `copying`, `recall`, `names`, `questions`, `in_context`, `drawings` and `texts`, give the paper's batch sizes back as shares.
# * Read `minemu/training/loop.py` (the loop, on three screens), then `minemu/training/emu.py` (this stage).
# * Notebook 07 goes on with what pretraining makes of drawing, and notebook 10 with instruction tuning.

# %%
import shutil

shutil.rmtree(runs)
