"""Scores that are published for Emu and Emu2, each with where it is printed, for tables beside our own.

The Emu paper's numbers are given as later papers and threads quote them; the Emu2 paper's are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minemu.evaluation.report import percent

EMU2 = "Emu2 (arXiv 2312.13286)"
NOTES = "readers' notes of Emu's ICLR version"
EXAMPLES = 4  # of the few-shot scores
BASES = ("Emu", "Emu2", "Emu2-Gen")  # the models that a base without an adapter stands for
TUNED = ("Emu-I", "Emu2-Chat")  # those that its adapter stands for


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
    Published("Emu", "questions of OKVQA, zero-shot", "VQA accuracy", "38.2", NOTES, "vqa"),
    Published("Emu-I", "questions of OKVQA", "VQA accuracy", "43.4", NOTES, "vqa"),
    Published("Emu2", "questions of OKVQA, 4 examples", "VQA accuracy", "53.2", f"{EMU2}, table 1", "few-shot-vqa"),
    Published("Emu", "questions of VizWiz, zero-shot", "VQA accuracy", "34.2", NOTES, "vqa"),
    Published("Emu-I", "questions of VizWiz", "VQA accuracy", "32.2", NOTES, "vqa"),
    Published("Emu", "questions of VizWiz, 4 examples", "VQA accuracy", "41.3", f"{EMU2}, table 1", "few-shot-vqa"),
    Published("Emu2", "questions of VizWiz, 4 examples", "VQA accuracy", "54.6", f"{EMU2}, table 1", "few-shot-vqa"),
    Published("Emu", "dialogues of VisDial, zero-shot", "NDCG", "47.4", NOTES, "dialogue"),
    Published("Emu-I", "dialogues of VisDial", "NDCG", "43.0", NOTES, "dialogue"),
    Published("Emu", "clips of MSVDQA, zero-shot", "exact match", "18.8", NOTES, "video-qa"),
    Published("Emu-I", "clips of MSVDQA", "exact match", "34.6", NOTES, "video-qa"),
    Published("Emu2-Chat", "clips of MSVDQA", "exact match", "49.0", f"{EMU2}, table 2", "video-qa"),
    Published("Emu", "clips of MSRVTTQA, zero-shot", "exact match", "8.3", NOTES, "video-qa"),
    Published("Emu-I", "clips of MSRVTTQA", "exact match", "16.8", NOTES, "video-qa"),
    Published("Emu2-Chat", "clips of MSRVTTQA", "exact match", "31.4", f"{EMU2}, table 2", "video-qa"),
    Published(
        "Emu", "pictures from COCO captions", "FID, lower is better", "11.66", "as DreamLLM quotes it", "text-to-image"
    ),
    Published("Emu2-Gen", "pictures from COCO captions", "CLIP-I", "0.686", f"{EMU2}, table 4", "text-to-image"),
    Published("Emu2-Gen", "a given subject in a new scene", "DINO", "0.766", f"{EMU2}, table 5", "in-context-draw"),
    Published("real pictures", "the same, as an upper bound", "DINO", "0.774", f"{EMU2}, table 5", "in-context-draw"),
    Published("Emu2", "COCO pictures rebuilt", "CLIP-I", "0.907", EMU2, "autoencode"),
)


@dataclass(frozen=True)
class PublishedAblation:
    """A printed pair of scores, with one thing left out and with it. `question` and `here` are those of `minemu ablate`."""

    question: str
    about: str
    measure: str
    without: str
    with_it: str
    source: str
    here: str = ""  # the measure of the small world that comes nearest, where one does


PUBLISHED_ABLATIONS = (
    PublishedAblation("video", "captions of COCO", "CIDEr", "110.8", "112.9", NOTES),
    PublishedAblation("video", "clips of MSVDQA", "exact match", "16.9", "17.9", NOTES, "direction"),
    PublishedAblation("video", "clips of MSRVTTQA, 4 examples", "exact match", "19.9", "20.8", NOTES, "gain"),
)


def published_table(results: Sequence[dict[str, Any]] = (), tuned: Sequence[dict[str, Any]] = ()) -> str:
    """All of them in Markdown, with the task that stands for each here; with its score, where `results` of a base have one.

    `tuned` are the results of the base with its adapter, for the rows of instruction-tuned models.
    """
    scores = {**dict.fromkeys(BASES, _beside(results)), **dict.fromkeys(TUNED, _beside(tuned))}
    lines = ["| model | what | measure | published | printed in | here |", "|---|---|---|---|---|---|"]
    rows = (
        f"| {one.model} | {one.about} | {one.measure} | {one.value} | {one.source} | "
        f"`{one.task}`{scores.get(one.model, {}).get(one.task, '')} |"
        for one in PUBLISHED
    )
    return "\n".join([*lines, *rows])


def _beside(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The score of each task and what stands beside it, as a cell says it."""
    scores: dict[str, str] = {}
    for one in results:
        if one["split"] == "seen" and one["details"].get("shots", EXAMPLES) == EXAMPLES:
            beside = f"chance {percent(one['chance'])}, blind {percent(one['blind'])}, upper bound {percent(one['upper_bound'])}"
            scores[one["task"]] = f": {percent(one['score'])} ({beside})"
    return scores


def published_ablations(question: str) -> str:
    """What is printed of one question of `minemu ablate`, in Markdown."""
    lines = ["| what | measure | without | with | printed in | here |", "|---|---|---|---|---|---|"]
    rows = (
        f"| {one.about} | {one.measure} | {one.without} | {one.with_it} | {one.source} | {f'`{one.here}`' if one.here else 'none'} |"
        for one in PUBLISHED_ABLATIONS
        if one.question == question
    )
    return "\n".join([*lines, *rows])
