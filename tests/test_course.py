"""The exercises' checks: a wrong answer that a reader might give is never right, and never ends in a traceback.

That the printed solutions are right, and that nothing written is "not done yet", is in test_notebooks.py.
"""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from minemu import course
from minemu.evaluation.metrics import wilson
from minemu.sequence import block_mask
from minemu.training.loop import TrainConfig


def first_shared(buckets, distance, last=None):
    exact, seen = buckets // 2, []
    for d in range(exact, 10 * buckets):
        step = math.log(d / exact) / math.log(distance / exact)
        seen.append(min(exact + int(step * exact), last or buckets - 1))
        if seen[-1] in seen[:-1]:
            return d + 1


def pool(features, pattern="b (h i w j) v -> b (h w) v", how="mean", n=4):
    side = math.isqrt(n)
    return reduce(features, pattern, how, h=side, w=side, i=math.isqrt(features.shape[1]) // side)


def generate(model, inputs, feed, cached=True):
    predicted, cache = [], None
    for _ in range(model.config.bridge.n_image):
        out = model.llm.model(inputs_embeds=inputs, use_cache=cached, past_key_values=cache)
        predicted.append(model.regression_head(out.last_hidden_state[:, -1:]))
        following = feed(model, predicted)
        inputs, cache = (following, out.past_key_values) if cached else (torch.cat([inputs, following], 1), None)
    return torch.cat(predicted, 1)


def cosine_gradient(predicted, following):
    p, x = F.normalize(predicted, dim=-1), F.normalize(following, dim=-1)
    return ((p * x).sum(-1, keepdim=True) * p - x) / predicted.norm(dim=-1, keepdim=True) / len(predicted)


def both_roles(x, weight, attached, inputs=1.0, targets=1.0):
    error, pull = x[:-1] @ weight.T - x[1:], torch.zeros_like(x)
    pull[:-1] += inputs * error @ weight
    if attached:
        pull[1:] -= targets * error
    return pull * 2 / error.numel()


def place(index, names_of, ordered=False, counted=True):
    block, offset = divmod(index, len(names_of(0)))
    names = names_of(0 if ordered else block)
    return names[offset], block * names.count(names[offset]) + (names[:offset].count(names[offset]) if counted else 0)


def share(step, warmup, steps, final, early=1, late=None):
    if step < warmup:
        return (step + early) / warmup
    done = (step - warmup) / (steps - warmup) if late is None else late(step, warmup, steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def rate_of(name, config, bridge=("ln_visual", "causal_transformer", "project_up"), kept=lambda own, lr: own):
    part = name.split(".")[0]
    own = config.lr_vision if part == "visual_encoder" else config.lr_bridge if part in bridge else config.lr
    return kept(own, config.lr)


def scale_of(without, told, used):
    return ((told - without) * (used - without)).sum() / (told - without).square().sum()


def paired(old, new, deviation=statistics.stdev, root=0.5):
    change = [b - a for a, b in zip(old, new, strict=True)]
    half = 1.96 * deviation(change) / len(change) ** root
    return statistics.mean(change) - half, statistics.mean(change) + half


def distances(imagined, true):
    return torch.cdist(imagined.flatten(1), true.flatten(1))


def prompt(examples, picture, question, shown, form="{} {}.", last="{}"):
    told = []
    for own, asked, said in examples:
        told += [own] * shown + [form.format(asked, said)]
    return [*told, picture, last.format(question)]


def unmerged(weight, merged, scaled=True, less=0):
    u, s, v = torch.linalg.svd(merged - weight, full_matrices=False)
    rank = int((s > 1e-4 * s[0]).sum()) - less
    return s[:rank, None] ** scaled * v[:rank], u[:, :rank]


def answers(row, opens, skip, eos, end=1, once=False):
    said = [False] * len(row)
    for at, token in enumerate(row):
        if token == opens and not (once and any(said)):
            first = at + 1 + skip
            stop = row.index(eos, first) + end if eos in row[first:] and end is not None else len(row)
            said[first:stop] = [True] * (stop - first)
    return said


def enough(width, fits=lambda extent, width: extent < width, step=2):
    n = step
    while True:
        low, high = wilson([True] * (n // 2) + [False] * (n - n // 2))
        if fits(high - low, width):
            return n
        n += step


def nearest(imagined, true, axis=1, centre=0, of_true=True, how=F.normalize):
    a, b = imagined.flatten(1), true.flatten(1)
    if centre is not None:
        a = a - a.mean(centre, keepdim=True)
        b = b - b.mean(centre, keepdim=True) if of_true else b
    a, b = (how(x, dim=1) for x in (a, b))
    return ((a @ b.T).argmax(axis) == torch.arange(len(a))).float().mean().item()


def apart(a, b, spread):
    return abs(statistics.mean(a) - statistics.mean(b)) > 3 * spread(statistics.stdev(a), statistics.stdev(b))


def cosines(features, query):
    unit = F.normalize(features, dim=-1)
    return unit @ unit[query]


def others(features, query):
    found = cosines(features, query)
    found[query] = -2
    return found


WRONG = {
    "00.length": {
        "no </s>": lambda words, pictures, n: 1 + words + pictures * (n + 2),
        "no [IMG] and [/IMG]": lambda words, pictures, n: 2 + words + pictures * n,
    },
    "00.regressed": {
        "not shifted": lambda input_ids, ids: input_ids[:, :-1] == ids.image,
        "with [IMG]": lambda input_ids, ids: torch.isin(input_ids[:, 1:], torch.tensor([ids.image, ids.image_start])),
        "as many as inputs": lambda input_ids, ids: input_ids == ids.image,
    },
    "01.idle": {
        "</s> forgotten": lambda pictures, say, end: pictures * ((not say) + (not end)),
        "[IMG] alone": lambda pictures, say, end: 1 + pictures * (not say),
        "of the released code": lambda pictures, say, end: 1 + pictures,
        "the choices the wrong way": lambda pictures, say, end: 1 + pictures * (say + end),
    },
    "01.positions": {
        "within the row": lambda segments: torch.arange(segments.shape[1]).expand_as(segments),
        "counted from 1": lambda segments: block_mask(segments)[:, 0].sum(-1),
        "two samples at most": lambda segments: (
            torch.arange(segments.shape[1]) - (segments == 1).sum(1, keepdim=True) * (segments == 2)
        ),
    },
    "02.patches": {
        "by columns": lambda x, p: rearrange(x, "b c (h i) (w j) -> b (w h) (c i j)", i=p, j=p),
        "colour last": lambda x, p: rearrange(x, "b c (h i) (w j) -> b (h w) (i j c)", i=p, j=p),
        "cut the other way": lambda x, p: rearrange(x, "b c (i h) (j w) -> b (h w) (c i j)", i=p, j=p),
    },
    "02.contrastive": {
        "one way": lambda image, text, scale: F.cross_entropy(scale * image @ text.T, torch.arange(6)),
        "no scale": lambda image, text, scale: (
            (F.cross_entropy(image @ text.T, torch.arange(6)) + F.cross_entropy(text @ image.T, torch.arange(6))) / 2
        ),
        "not halved": lambda image, text, scale: (
            F.cross_entropy(scale * image @ text.T, torch.arange(6))
            + F.cross_entropy(scale * text @ image.T, torch.arange(6))
        ),
    },
    "02.nearest": {
        "itself among them": lambda features, query, k: cosines(features, query).topk(k).indices,
        "without itself, one too few": lambda features, query, k: cosines(features, query).topk(k).indices[1:],
        "by length": lambda features, query, k: (
            (features @ features[query]).index_fill(0, torch.tensor(query), -math.inf).topk(k).indices
        ),
        "the furthest": lambda features, query, k: cosines(features, query).topk(k, largest=False).indices,
        "the cosines": lambda features, query, k: others(features, query).topk(k).values,
        "the nearest last": lambda features, query, k: others(features, query).argsort()[-k:],
    },
    "03.shared": {
        "the distance itself": lambda buckets, distance: first_shared(buckets, distance) - 1,
        "more distances than buckets": lambda buckets, distance: buckets + 1,
        "the first that is not exact": lambda buckets, distance: buckets // 2 + 2,
        "of the two models alone": lambda buckets, distance: 18,
        "no last bucket": lambda buckets, distance: first_shared(buckets, distance, last=99),
    },
    "03.mask": {
        "the other triangle": lambda n: torch.ones(n, n, dtype=torch.bool).triu(),
        "not itself": lambda n: torch.ones(n, n, dtype=torch.bool).tril(-1),
        "all": lambda n: torch.ones(n, n, dtype=torch.bool),
        "numbers": lambda n: torch.ones(n, n).tril(),
    },
    "03.pool": {
        "class token kept, last patch dropped": lambda features, n: pool(features[:, :-1], n=n),
        "by columns": lambda features, n: pool(features[:, 1:], "b (h i w j) v -> b (w h) v", n=n),
        "the largest": lambda features, n: pool(features[:, 1:], how="max", n=n),
        "neighbours of the sequence": lambda features, n: pool(features[:, 1:], "b (h w i j) v -> b (h w) v", n=n),
    },
    "04.swiglu": {
        "SiLU around up": lambda x, gate, up, down: down(gate(x) * F.silu(up(x))),
        "SiLU around both": lambda x, gate, up, down: down(F.silu(gate(x) * up(x))),
        "GELU": lambda x, gate, up, down: down(F.gelu(gate(x)) * up(x)),
        "a sigmoid": lambda x, gate, up, down: down(F.sigmoid(gate(x)) * up(x)),
        "no gate": lambda x, gate, up, down: down(F.silu(up(x))),
    },
    "04.scores": {
        "one row too many": lambda start, n, cached: (
            sum(range(1, start + n + 1)) if cached else sum(m * (m + 1) // 2 for m in range(start, start + n))
        ),
        "squares": lambda start, n, cached: (
            sum(range(1, start + n)) if cached else sum(m * m for m in range(start, start + n))
        ),
        "a little more": lambda start, n, cached: (
            (sum(range(1, start + n)) if cached else sum(m * (m + 1) // 2 for m in range(start, start + n))) + 0.4
        ),
    },
    "04.cached": {
        "no cache": lambda model, inputs: generate(model, inputs, lambda m, said: m.into_llm(said[-1]), cached=False),
        "the first again": lambda model, inputs: generate(model, inputs, lambda m, said: m.into_llm(said[0])),
        "nothing fed back": lambda model, inputs: generate(
            model, inputs, lambda m, said: torch.zeros(1, 1, inputs.shape[-1])
        ),
    },
    "05.cosine": {
        "of the similarity": lambda p, x: -cosine_gradient(p, x),
        "not projected": lambda p, x: -F.normalize(x, dim=-1) / p.norm(dim=-1, keepdim=True) / len(p),
        "a sum": lambda p, x: cosine_gradient(p, x) * len(p),
        "the length forgotten": lambda p, x: cosine_gradient(p, x) * p.norm(dim=-1, keepdim=True),
        "on the targets": lambda p, x: cosine_gradient(x, p),
    },
    "05.both_roles": {
        "always attached": lambda x, weight, attached: both_roles(x, weight, True),
        "never attached": lambda x, weight, attached: both_roles(x, weight, False),
        "the targets alone": lambda x, weight, attached: both_roles(x, weight, attached, inputs=0.0),
        "pushed away": lambda x, weight, attached: both_roles(x, weight, attached, targets=-1.0),
        "not transposed": lambda x, weight, attached: both_roles(x, weight.T, attached),
        "a mean over pairs alone": lambda x, weight, attached: both_roles(x, weight, attached) * x.shape[1],
    },
    "06.place": {
        "every block in the order of the first": lambda index, names_of: place(index, names_of, ordered=True),
        "not counted within a block": lambda index, names_of: place(index, names_of, counted=False),
        "its number in the mixture": lambda index, names_of: (place(index, names_of)[0], index),
        "the name alone": lambda index, names_of: place(index, names_of)[0],
    },
    "06.schedule": {
        "begins at 0": lambda *at: share(*at, early=0),
        "half a cosine of all steps": lambda *at: share(*at, late=lambda step, warmup, steps: step / steps),
        "reaches its end": lambda *at: share(
            *at, late=lambda step, warmup, steps: (step - warmup) / (steps - warmup - 1)
        ),
        "no final share": lambda step, warmup, steps, final: share(step, warmup, steps, 0.0),
    },
    "06.rates": {
        "0 taken for none": lambda name, config: rate_of(name, config, kept=lambda own, lr: own or lr),
        "none kept": rate_of,
        "projection forgotten": lambda name, config: rate_of(
            name, config, ("causal_transformer",), lambda own, lr: lr if own is None else own
        ),
        "Emu2's projection forgotten": lambda name, config: rate_of(
            name, config, ("ln_visual", "causal_transformer"), lambda own, lr: lr if own is None else own
        ),
        "one for all": lambda name, config: config.lr,
    },
    "07.rank": {
        "from 0": lambda imagined, true: (
            distances(imagined, true) < distances(imagined, true).diagonal()[:, None]
        ).sum(1),
        "the true ones ranked": lambda imagined, true: (
            (distances(true, imagined) < distances(true, imagined).diagonal()[:, None]).sum(1) + 1
        ),
        "who comes where": lambda imagined, true: distances(imagined, true).argsort(1).diagonal() + 1,
        "by angle": lambda imagined, true: (
            ((x := F.normalize(imagined.flatten(1)) @ F.normalize(true.flatten(1)).T) > x.diagonal()[:, None]).sum(1)
            + 1
        ),
    },
    "07.text": {
        "one mean": lambda embeds, texts: embeds.mean(0).expand_as(embeds),
        "mean over the width": lambda embeds, texts: embeds.mean(1, keepdim=True).expand_as(embeds),
        "itself": lambda embeds, texts: embeds,
        "one a text": lambda embeds, texts: torch.stack([embeds[texts == text].mean(0) for text in texts.unique()]),
        "a sum": lambda embeds, texts: torch.stack([embeds[texts == text].sum(0) for text in texts]),
    },
    "07.mix": {
        "a straight line": lambda embeds, noise, signal: signal * embeds + (1 - signal) * noise,
        "the share of the variance": lambda embeds, noise, signal: signal.sqrt() * embeds + (1 - signal).sqrt() * noise,
        "noise added": lambda embeds, noise, signal: signal * embeds + noise,
        "turned round": lambda embeds, noise, signal: signal * noise + (1 - signal**2).sqrt() * embeds,
        "a coin for each number": lambda embeds, noise, signal: torch.where(
            torch.rand(embeds.shape, generator=torch.Generator().manual_seed(0)) < signal, embeds, noise
        ),
    },
    "08.noise": {
        "no roots": lambda z0, noise, alpha: alpha * z0 + (1 - alpha) * noise,
        "turned round": lambda z0, noise, alpha: alpha.sqrt() * noise + (1 - alpha).sqrt() * z0,
        "one root": lambda z0, noise, alpha: alpha.sqrt() * z0 + (1 - alpha.sqrt()) * noise,
    },
    "08.guide": {
        "position by position": lambda without, told, used: ((used - without) / (told - without)).mean(),
        "lengths": lambda without, told, used: (used - without).norm() / (told - without).norm(),
        "beyond the condition": lambda without, told, used: scale_of(without, told, used) - 1,
        "turned round": lambda without, told, used: scale_of(told, without, used),
        "from nothing": lambda without, told, used: (used * (told - without)).sum() / (told - without).square().sum(),
        "the prediction": lambda without, told, used: used,
    },
    "08.ddim": {
        "stays where it is": lambda z, z0, alpha, after: z,
        "levels swapped": lambda z, z0, a, b: a.sqrt() * z0 + (1 - a).sqrt() * (z - b.sqrt() * z0) / (1 - b).sqrt(),
        "no roots": lambda z, z0, a, b: b * z0 + (1 - b) * (z - a * z0) / (1 - a),
        "noise not scaled back": lambda z, z0, a, b: b.sqrt() * z0 + (1 - b).sqrt() * (z - a.sqrt() * z0),
        "the guess alone": lambda z, z0, a, b: z0,
    },
    "09.blind": {
        "its own": lambda asked: asked,
        "the one before": lambda asked: [
            replace(one, pictures=before.pictures) for one, before in zip(asked, asked[-1:] + asked[:-1], strict=True)
        ],
        "whole questions": lambda asked: asked[1:] + asked[:1],
        "the sentence of another": lambda asked: [
            replace(after, text=own.text, answer=own.answer)
            for own, after in zip(asked, asked[1:] + asked[:1], strict=True)
        ],
        "the last left out": lambda asked: [
            replace(one, pictures=after.pictures) for one, after in zip(asked, asked[1:], strict=False)
        ],
    },
    "09.prompt": {
        "no full stop": lambda *given: prompt(*given, form="{} {}"),
        "always shown": lambda examples, picture, question, shown: prompt(examples, picture, question, True),
        "a word between": lambda *given: prompt(*given, form="{} answer: {}."),
        "the question ends": lambda *given: prompt(*given, last="{}."),
        "the question first": lambda *given: [*prompt(*given)[:-2], *prompt(*given)[:-3:-1]],
        "one text": lambda *given: " ".join(map(str, prompt(*given))),
    },
    "09.copy": {
        "the least similar": lambda queries, pool, told: [told[k] for k in (queries @ pool.T).argmin(1).tolist()],
        "their numbers": lambda queries, pool, told: (queries @ pool.T).argmax(1).tolist(),
        "the wrong axis": lambda queries, pool, told: [told[k] for k in (queries @ pool.T).argmax(0).tolist()],
        "the first ones": lambda queries, pool, told: told[: len(queries)],
    },
    "10.answers": {
        "no </s>": lambda *given: answers(*given, end=0),
        "to the end": lambda *given: answers(*given, end=None),
        "the first alone": lambda *given: answers(*given, once=True),
        "the colon too": lambda row, opens, skip, eos: answers(row, opens, 0, eos),
        "a colon of one token": lambda row, opens, skip, eos: answers(row, opens, 1, eos),
        "all": lambda row, opens, skip, eos: [True] * len(row),
    },
    "10.count": {
        "A alone": lambda config, rank: config.layers * 4 * rank * config.width,
        "one matrix a layer": lambda config, rank: config.layers * 2 * rank * config.width,
        "the whole matrices": lambda config, rank: config.layers * 4 * config.width**2,
    },
    "10.unmerge": {
        "the whole difference": lambda weight, merged: (merged - weight, torch.eye(len(weight))),
        "the wrong way round": lambda weight, merged: unmerged(weight, merged)[::-1],
        "no singular values": lambda weight, merged: unmerged(weight, merged, scaled=False),
        "merged alone": lambda weight, merged: unmerged(torch.zeros_like(weight), merged),
        "taken away": lambda weight, merged: unmerged(merged, weight),
        "one too few": lambda weight, merged: unmerged(weight, merged, less=1),
        "B alone": lambda weight, merged: unmerged(weight, merged)[1],
    },
    "11.enough": {
        "half the width": lambda width: enough(width, lambda extent, width: extent / 2 < width),
        "odd ones too": lambda width: enough(width, step=1),
        "two more": lambda width: enough(width) + 2,
        "the textbook's interval": lambda width: 2 * math.ceil((1.96 / width) ** 2 / 2),
    },
    "11.vqa": {
        "a third each": lambda said, people: min(people.count(said) / 3, 1),
        "the share": lambda said, people: people.count(said) / len(people),
        "exact": lambda said, people: float(said in people),
        "a sum": lambda said, people: sum(
            min((people[:j] + people[j + 1 :]).count(said) / 3, 1) for j in range(len(people))
        ),
    },
    "11.paired": {
        "not paired": lambda old, new: paired(old, new, lambda change: math.hypot(*map(statistics.stdev, (old, new)))),
        "divided by n": lambda old, new: paired(old, new, statistics.pstdev),
        "the deviation itself": lambda old, new: paired(old, new, statistics.stdev, root=0),
        "divided by n, not its root": lambda old, new: paired(old, new, statistics.stdev, root=1),
        "turned round": lambda old, new: paired(new, old),
        "the old one alone": lambda old, new: wilson(old),
        "the half width": lambda old, new: statistics.stdev([b - a for a, b in zip(old, new, strict=True)]),
    },
    "14.differs": {
        "the smaller": lambda a, b: apart(a, b, min),
        "their mean": lambda a, b: apart(a, b, lambda s, t: (s + t) / 2),
        "their sum": lambda a, b: apart(a, b, lambda s, t: s + t),
        "both together": lambda a, b: apart(a, b, math.hypot),
        "the first one's": lambda a, b: apart(a, b, lambda s, t: s),
        "the second one's": lambda a, b: apart(a, b, lambda s, t: t),
        "one way": lambda a, b: (
            statistics.mean(a) - statistics.mean(b) > 3 * max(statistics.stdev(a), statistics.stdev(b))
        ),
        "divided by n": lambda a, b: (
            abs(statistics.mean(a) - statistics.mean(b)) > 3 * max(statistics.pstdev(a), statistics.pstdev(b))
        ),
    },
    "14.nearest": {
        "no mean taken off": lambda a, b: nearest(a, b, centre=None),
        "one mean taken off": lambda a, b: nearest(a, b, of_true=False),
        "the mean of each": lambda a, b: nearest(a, b, centre=1),
        "the true ones look": lambda a, b: nearest(a, b, axis=0),
        "not by angle": lambda a, b: nearest(a, b, how=lambda x, dim: x),
        "per cent": lambda a, b: 100 * nearest(a, b),
    },
}
NONSENSE = {
    "a word": "llama",
    "an empty list": [],
    "a number": 3,
    "infinity": math.inf,
    "a tensor of one": torch.tensor(0),
    "an empty tensor": torch.empty(0),
    "rows": torch.zeros(2, 2),
    "tuple": (1, 2),
}
each = pytest.mark.parametrize("name", WRONG)


def said(capsys, name, answer):
    course.check(name, answer)
    return capsys.readouterr().out


def test_every_exercise_has_wrong_answers():
    for path in Path(course.__file__).parent.glob("nb*.py"):
        notebook = path.stem.removeprefix("nb")
        with pytest.raises(course.MinemuError):
            course.find(f"{notebook}.no-such-exercise")  # which registers the others
    assert sorted(course._CHECKS) == sorted(WRONG)


@each
def test_a_wrong_answer_is_not_right_yet(name, capsys):
    for what, answer in WRONG[name].items():
        out = said(capsys, name, answer)
        assert out.startswith("not yet: ") and "raised" not in out, f"{name}, {what}: {out}"


@each
def test_nonsense_is_not_right_yet(name, capsys):
    for what, nonsense in NONSENSE.items():
        out = said(capsys, name, lambda *given, nonsense=nonsense: nonsense)
        assert out.startswith("not yet: "), f"{name}, {what}: {out}"


@each
def test_a_function_that_fails_gets_one_line(name, capsys):
    def failing(*given):
        raise KeyError("llama")

    out = said(capsys, name, failing)
    assert out == "not yet: your function raised KeyError: 'llama' (in `raise KeyError(\"llama\")`)\n"


def test_what_is_told_of_an_error(capsys):
    assert said(capsys, "03.mask", lambda: None).startswith("not yet: your function raised TypeError: ")
    out = said(capsys, "10.unmerge", lambda weight, merged: weight @ merged[:2])
    assert out.startswith("not yet: your function raised RuntimeError: ") and out.count("\n") == 1
    assert out.endswith("weight @ merged[:2])`)\n")  # the reader's line, not one of the library's
    out = said(capsys, "02.patches", lambda pixels, p: rearrange(pixels, "b c (h i) w -> b h (c i)", i=p))
    assert "EinopsError" in out and out.count("\n") == 1  # einops says it in several lines
    assert said(capsys, "03.mask", torch.ones(4, 4)).startswith("not yet: hand over the function itself")

    def stopping(n):
        raise AssertionError

    assert (
        said(capsys, "03.mask", stopping)
        == "not yet: your function raised AssertionError (in `raise AssertionError`)\n"
    )


def test_errors_of_a_check_are_not_hidden(monkeypatch):
    def broken(answer):
        course.call(answer)
        raise KeyError("of the check")

    monkeypatch.setitem(course._CHECKS, "03.broken", ("do nothing", broken))
    with pytest.raises(KeyError, match="of the check"):
        course.check("03.broken", lambda: 1)


def test_a_rate_that_is_none_is_an_answer(capsys):
    assert TrainConfig().lr_vision is None
    assert said(capsys, "06.rates", rate_of).rstrip().endswith("not NoneType")
