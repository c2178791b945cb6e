"""Exercises of notebook 02: patches, the contrastive loss, nearest pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from minemu.course import call, exercise, numbers, same, shaped
from minemu.training.encoder import contrastive


@exercise("02.patches", "return the patches of pixels (B, 3, S, S) in reading order: (B, P, 3 * p * p)")
def patches(cut) -> str:
    for size, p in ((12, 4), (16, 8)):
        pixels = torch.arange(2.0 * 3 * size * size).view(2, 3, size, size)
        mine = call(cut, pixels, p)
        wanted = F.unfold(pixels, p, stride=p).transpose(1, 2)
        shaped(mine, wanted.shape, "the patches")
        other = bool((mine != wanted).any())
        assert not (other and (mine.sort(-1).values == wanted.sort(-1).values).all()), (
            "each patch holds the right values in another order: colour first, then rows, then columns"
        )
        same(mine, wanted, "the patches")
    return "9 patches of 48 values, and 4 of 192, as a strided convolution reads them"


@exercise("02.contrastive", "return the mean of two cross-entropies of scale * image @ text.T: by rows, and by columns")
def clip_loss(loss) -> str:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(2))
    scale = torch.tensor(10.0)
    wanted, _ = contrastive(scale * image @ text.T, torch.arange(6)[:, None])
    mine = call(loss, image, text, scale)
    shaped(mine, (), "the loss")
    logits = scale * image @ text.T
    for way, name in ((logits, "pictures choose captions"), (logits.T, "captions choose pictures")):
        one = F.cross_entropy(way, torch.arange(6))
        assert not torch.isclose(mine.float(), one), f"only {name}; add the other way and halve the sum"
    same(mine, wanted, "the loss")
    return "6 pictures choose among 6 captions, and 6 captions among 6 pictures"


@exercise(
    "02.nearest",
    "return the numbers of the k rows of features (n, D) with the largest cosine to row `query`, not itself",
)
def nearest(find) -> str:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(40, 8, generator=generator) * torch.linspace(0.2, 5, 40)[:, None]
    unit = F.normalize(features, dim=-1)
    for query in (0, 17, 39):
        mine = numbers(call(find, features, query, 5), 5, "the neighbours")
        cosines = unit @ unit[query]
        cosines[query] = -2
        assert query not in mine, f"picture {query} is its own neighbour; leave it out"
        inner = features @ features[query]
        inner[query] = -torch.inf
        wanted = cosines.topk(5).indices.tolist()
        assert mine == wanted or mine != inner.topk(5).indices.tolist(), (
            "long vectors win; make every row a unit vector first"
        )
        assert mine == wanted or sorted(mine) != sorted(wanted), "the right pictures; the nearest should stand first"
        assert mine == wanted, f"the neighbours of picture {query} are {wanted}, not {mine}"
    return "5 neighbours of each of 3 pictures, by angle and not by length"
