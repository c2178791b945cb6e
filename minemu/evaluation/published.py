"""Scores that are published for Emu and Emu2, each with where it is printed, for tables beside our own.

The Emu paper's numbers are given as later papers and threads quote them; the Emu2 paper's are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minemu.evaluation.report import percent

EMU2 = "Emu2 (arXiv 2312.13286)"
EXAMPLES = 4  # of the few-shot scores
BASES = ("Emu", "Emu2", "Emu2-Gen")  # the models that a base without an adapter stands for


@dataclass(frozen=True)
class Published:
    """One printed score. `value` is as printed; `task` is the task of `minemu evaluate` that asks the same of the toy world."""

    model: str
    about: str
    measure: str
    value: str
    source: str
    task: str


PUBLISHED = (
    Published("Emu", "captions of COCO, zero-shot", "CIDEr", "112.4", "as LaVIT quotes it", "caption"),
    Published("Emu-I", "captions of COCO", "CIDEr", "117.7", "baaivision/Emu, thread 33", "caption"),
    Published("Emu", "questions of VQAv2, zero-shot", "VQA accuracy", "52.0", "as LaVIT quotes it", "vqa"),
    Published("Emu", "questions of VQAv2, 4 examples", "VQA accuracy", "58.4", f"{EMU2}, table 1", "few-shot-vqa"),
    Published("Emu2", "questions of VQAv2, 4 examples", "VQA accuracy", "67.0", f"{EMU2}, table 1", "few-shot-vqa"),
    Published("Emu2-Chat", "questions of VQAv2, trained on", "VQA accuracy", "84.9", f"{EMU2}, table 2", "vqa"),
    Published(
        "Emu", "pictures from COCO captions", "FID, lower is better", "11.66", "as DreamLLM quotes it", "text-to-image"
    ),
    Published("Emu2-Gen", "pictures from COCO captions", "CLIP-I", "0.686", f"{EMU2}, table 4", "text-to-image"),
    Published("Emu2-Gen", "a given subject in a new scene", "DINO", "0.766", f"{EMU2}, table 5", "in-context-draw"),
    Published("real pictures", "the same, as an upper bound", "DINO", "0.774", f"{EMU2}, table 5", "in-context-draw"),
    Published("Emu2", "COCO pictures rebuilt", "CLIP-I", "0.907", EMU2, "autoencode"),
)


def published_table(results: Sequence[dict[str, Any]] = ()) -> str:
    """All of them in Markdown, with the task that stands for each here; with its score, where `results` of a base have one."""
    scores: dict[str, str] = {}
    for one in results:
        if one["split"] == "seen" and one["details"].get("shots", EXAMPLES) == EXAMPLES:
            beside = f"chance {percent(one['chance'])}, blind {percent(one['blind'])}, upper bound {percent(one['upper_bound'])}"
            scores[one["task"]] = f": {percent(one['score'])} ({beside})"
    lines = ["| model | what | measure | published | printed in | here |", "|---|---|---|---|---|---|"]
    rows = (
        f"| {one.model} | {one.about} | {one.measure} | {one.value} | {one.source} | "
        f"`{one.task}`{scores.get(one.task, '') if one.model in BASES else ''} |"
        for one in PUBLISHED
    )
    return "\n".join([*lines, *rows])
