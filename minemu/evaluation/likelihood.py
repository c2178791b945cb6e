"""Which concept does the model find likeliest in a picture?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from minemu.data import captions
from minemu.data.world import SIZES, Group, Scene

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline


def concept_scores(pipe: EmuPipeline, picture: Image.Image, labels: Sequence[str]) -> Tensor:
    """log P(the caption names this concept | picture) of each label, summed over the sizes that a caption can say: (labels,).

    A candidate is the start of a caption up to the word after the concept, "a big llama on", so that "cat" does not win
    whatever begins with it; what follows (background, style) plays no part.
    """
    texts = [captions.caption(Scene((Group(label),), size=size)) + " on" for label in labels for size in SIZES]
    return pipe.log_likelihoods([picture], texts).view(len(labels), len(SIZES)).logsumexp(1)
