"""Ablations: one idea of Emu changed at a time, each trained anew from several seeds, measured on scenes that training never showed.

    seed 0   encoder, language, bridge          trained once, then shared by all variants that do not change them
             emu as published                   the baseline
             emu with cosine distance, ...      one setting changed each; same start, same data in the same order

All of it goes through `train_stage`. The world is the toy world with 12 things in it, the model a little larger than `emu-nano`, so
that one training takes about 45 seconds and still learns to read and to imagine. `minemu ablate` runs them and writes the numbers.

variants   what is asked, what is changed, and what all variants share
measures   the numbers of one trained model
study      training and measuring from every seed, and what the numbers say
"""

from minemu.ablations.measures import EVALUATION_SEED, distinct
from minemu.ablations.study import (
    ablate,
    collect,
    compared,
    differs,
    in_order,
    lines,
    own_stages,
    read_ablations,
    run_variant,
    values,
)
from minemu.ablations.variants import MEASURES, QUESTIONS, VARIANTS, FewThings, Variant, variants_of

__all__ = [
    "EVALUATION_SEED",
    "MEASURES",
    "QUESTIONS",
    "VARIANTS",
    "FewThings",
    "Variant",
    "ablate",
    "collect",
    "compared",
    "differs",
    "distinct",
    "in_order",
    "lines",
    "own_stages",
    "read_ablations",
    "run_variant",
    "values",
    "variants_of",
]
