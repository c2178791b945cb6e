"""`minemu demo`: a trained Emu captions, draws, continues, rebuilds and blends pictures; terminal, page and JSON.

Needs a checkpoint and `data_samples/`, no network and no judge. Right or wrong is decided by reading the answer back
(`captions.parse`) and comparing it with the scene that was painted.
"""

from __future__ import annotations

import os
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from minemu.data.captions import parse, same
from minemu.data.documents import title
from minemu.data.samples import data_dir
from minemu.data.world import Scene, ToyWorld
from minemu.files import atomic_dir
from minemu.gallery import check_folder, write_gallery
from minemu.loading import device_of
from minemu.model import local_folder
from minemu.pipeline import EmuPipeline
from minemu.prompts import DESCRIBE
from minemu.training.run import commit, versions

UPSCALE = 3  # saved pictures are this much larger, pixel by pixel
BATCH = 4
SEEN, NEW_DRAWINGS, REBUILT = 8, 4, 8

PROMPTS = (  # scenes of the split "seen" that are said in full are held out from training; a test checks it
    "a small llama on a green background, Twemoji style",
    "a big snail on an orange background, Noto style",
    "a rocket on a purple background, Fluent style",
    "a big hamburger on a blue background, Flat style",
    "a penguin on a pink background, Fluent style",
    "an owl on a green background, Noto style",
    "two llamas above a kick scooter on an orange background, Noto style",
    "a dragon above a castle on a blue background, Twemoji style",
    "a rooster right of a sunflower on a green background, Fluent style",
    "a t-rex left of a tractor on a yellow background, Noto style",
    "a whale below a sailboat on a green background, Twemoji style",
    "a butterfly above a tulip on a green background, Flat style",
)
DOCUMENT = (
    "two dogs on a green background, Noto style",
    "a big snail on a white background, Flat style",
    "a big llama on a pink background, Fluent style",
)
BLENDS = (
    ("a big lion on a yellow background, Noto style", "a big snowflake on a blue background, Noto style"),
    ("a big llama on a green background, Twemoji style", "a big snail on a pink background, Twemoji style"),
)


def run_demo(
    checkpoint: str | os.PathLike | None = None,
    out: str | os.PathLike = "demo",
    seed: int = 0,
    open_browser: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Run everything, write the folder `out` (it appears when all is done), print a summary, return what is in results.json."""
    folder, out = local_folder(checkpoint or data_dir() / "emu-tiny"), Path(out)
    check_folder(out)
    at = device_of(device)
    started = time.time()
    pipe = EmuPipeline.from_pretrained(folder).to(at)
    pipe.check_draws()  # before minutes are spent on captions
    with atomic_dir(out) as gallery:
        results = Demo(pipe, gallery, seed).run() | {
            "checkpoint": _short(folder),
            "commit": commit(),
            "device": at.type,
            "versions": versions(),
            "seconds": round(time.time() - started, 1),
        }
        write_gallery(gallery, results)
    print(summary(results, out))
    if open_browser:
        webbrowser.open((out / "index.html").resolve().as_uri())
    return results


def _short(folder: Path) -> str:
    """Relative to where the command runs, if it is below."""
    here = Path.cwd()
    return str(folder.resolve().relative_to(here)) if folder.resolve().is_relative_to(here) else folder.name


@dataclass
class Demo:
    """The parts of the demo. Each returns plain entries for results.json and leaves its pictures in `folder`."""

    pipe: EmuPipeline
    folder: Path
    seed: int

    def __post_init__(self) -> None:
        (self.folder / "pictures").mkdir()
        size = self.pipe.processor.image_size
        # Scenes that training never shows, and concepts in a style new to them.
        self.unseen = ToyWorld("seen", seed=self.seed, image_size=size, held_out=True)
        self.new = ToyWorld("new-drawing", seed=self.seed, image_size=size)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.bar = tqdm(total=SEEN + NEW_DRAWINGS + len(PROMPTS) + 2 + REBUILT + len(BLENDS), **_quiet())

    def run(self) -> dict[str, Any]:
        config = self.pipe.model.config
        entries, seconds = {}, {}
        with self.bar:
            for part in (self.captions, self.drawings, self.documents, self.rebuilt, self.blends):
                self.bar.set_description(part.__name__)
                started = time.time()
                entries[part.__name__] = part()
                seconds[part.__name__] = round(time.time() - started, 1)
        return {
            "made_by": "minemu demo",
            "preset": config.name,
            "parameters": sum(
                p.numel() for module in (self.pipe.model, self.pipe.decoder) for p in module.parameters()
            ),
            "embeddings_a_picture": config.bridge.n_image,
            "inference_steps": self.pipe.decoder.config.inference_steps,
            "guidance_scale": self.pipe.decoder.config.guidance_scale,
            "seed": self.seed,
            "summary": {"captions": _counts(entries["captions"]), "seconds": seconds},
            **entries,
        }

    def captions(self) -> list[dict[str, Any]]:
        """What is in pictures it was never shown."""
        shown = [("seen", self.unseen, i) for i in range(SEEN)] + [
            ("new-drawing", self.new, i) for i in range(NEW_DRAWINGS)
        ]
        samples = [world.sample(i) for _, world, i in shown]
        answers = self._say([[sample.picture] for sample in samples], **DESCRIBE)
        return [
            {
                "picture": self._save(sample.picture, f"caption-{i:02}"),
                "split": split,
                "truth": sample.caption,
                "answer": answer,
                "right": same(sample.scene, parse(answer, world.labels)),
            }
            for i, ((split, world, _), sample, answer) in enumerate(zip(shown, samples, answers, strict=True), start=1)
        ]

    def drawings(self) -> list[dict[str, Any]]:
        """Pictures from words alone."""
        drawn = self._draw([[prompt] for prompt in PROMPTS])
        return [
            {
                "prompt": prompt,
                "split": "seen" if self._is_seen(prompt) else "new-drawing",
                "picture": self._save(picture, f"drawing-{i:02}"),
                "real": self._save(self._real(prompt), f"drawing-{i:02}-real"),
            }
            for i, (prompt, picture) in enumerate(zip(PROMPTS, drawn, strict=True), start=1)
        ]

    def documents(self) -> list[dict[str, Any]]:
        """Words and pictures in turn, continued once with a picture and once with words."""
        pictures = [self._real(text) for text in DOCUMENT]
        paths = [self._save(picture, f"document-{i}") for i, picture in enumerate(pictures, start=1)]
        sentences = [f"{text}." for text in DOCUMENT]  # in documents a sentence ends; without that it would be a list
        items = [item for pair in zip(sentences, pictures, strict=True) for item in pair]
        begins = title(len(DOCUMENT))
        [drawn] = self._draw([[begins, *items[:-1]]])
        turned = [item for pair in zip(pictures, sentences, strict=True) for item in pair]
        [said] = self._say([[begins, *turned[:-1]]])
        words, shown = [{"text": text} for text in sentences], [{"picture": path} for path in paths]
        right = same(self._scene(DOCUMENT[-1]), parse(said.rstrip("."), self.unseen.labels))
        return [
            {
                "items": [{"text": begins}, words[0], shown[0], words[1], shown[1], words[2]],
                "continues_with": "picture",
                "answer": self._save(drawn, "document-drawn"),
                "truth": paths[2],
                "right": None,  # no judge of pictures here: see `minemu evaluate`
            },
            {
                "items": [{"text": begins}, shown[0], words[0], shown[1], words[1], shown[2]],
                "continues_with": "text",
                "answer": said,
                "truth": DOCUMENT[-1],
                "right": right,
            },
        ]

    def rebuilt(self) -> list[dict[str, Any]]:
        """Pictures from nothing but their embeddings."""
        samples = [self.unseen.sample(i) for i in range(REBUILT)]
        pictures = self._draw([[sample.picture] for sample in samples])
        return [
            {
                "truth": sample.caption,
                "original": self._save(sample.picture, f"rebuilt-{i:02}-original"),
                "picture": self._save(picture, f"rebuilt-{i:02}"),
            }
            for i, (sample, picture) in enumerate(zip(samples, pictures, strict=True), start=1)
        ]

    def blends(self) -> list[dict[str, Any]]:
        """Two pictures and no words: training never has a third after two without words between."""
        parts = [[self._real(text) for text in pair] for pair in BLENDS]
        return [
            {
                "first": self._save(first, f"blend-{i}-first"),
                "first_truth": texts[0],
                "second": self._save(second, f"blend-{i}-second"),
                "second_truth": texts[1],
                "picture": self._save(picture, f"blend-{i}"),
                "trained_for": False,
            }
            for i, (texts, (first, second), picture) in enumerate(
                zip(BLENDS, parts, self._draw(parts), strict=True), start=1
            )
        ]

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def _draw(self, samples: list[list]) -> list[Image.Image]:
        return self._in_batches(samples, lambda batch: self.pipe(batch, generator=self.generator).images)

    def _say(self, samples: list[list], **decoding: Any) -> list[str]:
        """One line each, whatever the model says."""
        texts = self._in_batches(samples, lambda batch: [one.text for one in self.pipe.chat_batch(batch, **decoding)])
        return [" ".join(text.split()) for text in texts]

    def _in_batches(self, samples: list[list], answer: Callable[[list[list]], list]) -> list:
        answers = []
        for start in range(0, len(samples), BATCH):
            answers += answer(samples[start : start + BATCH])
            self.bar.update(len(answers) - start)
        return answers

    def _scene(self, text: str) -> Scene:
        """A scene that fits the words: white where they name no background."""
        scene = parse(text, self.unseen.labels)
        return replace(scene, background=scene.background or "white", seed=self.seed)

    def _is_seen(self, text: str) -> bool:
        scene = self._scene(text)
        return all((group.label, scene.style) in self.unseen.keys for group in scene.groups)

    def _real(self, text: str) -> Image.Image:
        """The picture that the words describe, made of real drawings."""
        world = self.unseen if self._is_seen(text) else self.new
        return world.render(self._scene(text))[0]

    def _save(self, picture: Image.Image, name: str) -> str:
        """Write the picture, enlarged pixel by pixel; returns its path inside the gallery."""
        large = picture.resize((picture.width * UPSCALE, picture.height * UPSCALE), Image.Resampling.NEAREST)
        large.save(self.folder / "pictures" / f"{name}.png", optimize=True)
        return f"pictures/{name}.png"


def _counts(entries: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    marks = {split: [one["right"] for one in entries if one["split"] == split] for split in ("seen", "new-drawing")}
    return {split: {"right": sum(of_split), "of": len(of_split)} for split, of_split in marks.items()}


def _quiet() -> dict[str, Any]:
    """Progress bars only where somebody watches: a terminal, and no CI."""
    return {"disable": True if os.environ.get("CI") else None, "leave": False, "unit": "answer"}


# ---- the terminal ------------------------------------------------------------------------------------------------------


def summary(results: dict[str, Any], out: Path) -> str:
    """What happened, for people."""
    counts = results["summary"]["captions"]
    lines = [
        f"{results['preset']} from {results['checkpoint']}: {results['parameters']:,} parameters, seed {results['seed']}",
        "",
        f"Reads pictures it was never shown: {counts['seen']['right']} of {counts['seen']['of']} right; "
        f"in a style new to the concept: {counts['new-drawing']['right']} of {counts['new-drawing']['of']}",
    ]
    for one in results["captions"]:
        lines.append(f"  {'right' if one['right'] else 'WRONG'}  {one['truth']}")
        if not one["right"]:
            lines.append(f"         it says: {one['answer'] or '(nothing)'}")
    lines += ["", "Draws from words"]
    lines += [f"  {Path(one['picture']).stem}  {one['prompt']}" for one in results["drawings"]]
    lines += ["", "Continues a document"]
    for one in results["documents"]:
        given = " ".join(f'"{item["text"]}"' if "text" in item else "[picture]" for item in one["items"])
        made = f'"{one["answer"]}"' if one["continues_with"] == "text" else str(out / one["answer"])
        lines.append(f"  {given}\n    -> {made}")
    lines += [
        "",
        f"Rebuilds {len(results['rebuilt'])} pictures, each from {results['embeddings_a_picture']} embeddings; "
        f"blends {len(results['blends'])} pairs, which it was never trained for",
        "",
        f"{results['seconds']:.0f} seconds. Look at {out / 'index.html'} (or {out / 'gallery.png'}); as data: {out / 'results.json'}",
    ]
    return "\n".join(lines)
