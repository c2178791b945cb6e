"""MMC4: web pages as JSON lines, each picture with the sentence that it fits best; the pictures lie in a folder.

https://github.com/allenai/mmc4   {"text_list": [...], "image_info": [{"image_name", "matched_text_index", "matched_sim"}, ...]}

On a page with more pictures than sentences several belong to one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minemu.data.documents import Document
from minemu.data.formats.reading import Filtered, clean_text
from minemu.data.formats.records import Records
from minemu.errors import MinemuError
from minemu.processor import read_picture


@dataclass(frozen=True)
class MMC4Config:
    """What Emu took of a page, as a note on its paper says: the numbers are at second hand.

    By the same note it took a second form too, 5 pictures with their sentences in 512 tokens; here is the first one alone.
    """

    similarity: float = 0.32  # a picture that fits its sentence less is left out (CLIP's cosine)
    pictures: int = 5  # at most; later ones are left out
    tokens: int = 1024  # length of the part of a page that is taken; a shorter context cuts it


class MMC4:
    """Pages with a picture that fits; `length` counts the tokens of a text, `picture_length` those of a picture (N + 2)."""

    def __init__(
        self,
        paths: Sequence[Path],
        folder: Path,
        length: Callable[[str], int],
        picture_length: int,
        config: MMC4Config = MMC4Config(),
    ):
        self.records, self.folder = Records(paths), Path(folder)
        self.length, self.picture_length = length, picture_length
        self.config = config
        self.blocks = self.records.blocks
        self.name = self.records.name

    def read(self, k: int, rng: np.random.Generator) -> Document:
        """Sentences in order, their pictures before them or, in another document, after them."""
        name = self.name(k)
        sentences, pictures = self._page(self.records[k], name)
        picture_first = rng.random() < 0.5
        document: Document = []
        for sentence, paths in self._part(sentences, pictures, rng, name):
            seen = [read_picture(path) for path in paths]
            document += [*seen, sentence] if picture_first else [sentence, *seen]
        return document

    def _page(self, page: dict[str, Any], name: str) -> tuple[list[str], dict[int, list[Path]]]:
        """The sentences, and the files of the pictures of a sentence, for those that fit and are in the folder."""
        least = self.config.similarity
        try:
            sentences = [clean_text(text, name) for text in page["text_list"]]
            fitting = [
                (int(info["matched_text_index"]), self.folder / info["image_name"])
                for info in page["image_info"]
                if info["matched_sim"] >= least
            ]
        except MinemuError:
            raise
        except (KeyError, TypeError, ValueError):
            raise MinemuError(f"{name} is no page of MMC4: text_list or image_info is not as it should be") from None
        if not fitting:
            raise Filtered(f"{name} has no picture with similarity {least:g} or more; lower mmc4.similarity to take it")
        placed = [(index, path) for index, path in fitting if 0 <= index < len(sentences)]
        if not placed:
            raise MinemuError(f"{name}: no picture with similarity {least:g} or more has a sentence of the page")
        pictures: dict[int, list[Path]] = {}
        for index, path in placed:
            if path.is_file():
                pictures.setdefault(index, []).append(path)
        if not pictures:
            raise Filtered(f"{name}: no picture with similarity {least:g} or more is in {self.folder}")
        return sentences, pictures

    def _part(
        self, sentences: list[str], pictures: dict[int, list[Path]], rng: np.random.Generator, name: str
    ) -> list[tuple[str, list[Path]]]:
        """The sentences that are taken, each with those of its pictures that are.

        The whole page, or where that is too long as much as fits from a random sentence with a picture on.
        """
        costs = [self.length(text) for text in sentences]
        starts = [index for index in sorted(pictures) if costs[index] + self.picture_length <= self.config.tokens]
        if not starts:
            raise MinemuError(f"{name}: each sentence and its picture are longer than {self.config.tokens} tokens")
        part = self._walk(costs, pictures, 0)
        if len(part) < len(sentences):
            part = self._walk(costs, pictures, int(rng.choice(starts)))
        return [(sentences[index], paths) for index, paths in part]

    def _walk(self, costs: list[int], pictures: dict[int, list[Path]], start: int) -> list[tuple[int, list[Path]]]:
        """What fits from a sentence on: the numbers of sentences, and their pictures up to the most; of the first one's what fits."""
        room, left = self.config.tokens, self.config.pictures
        part: list[tuple[int, list[Path]]] = []
        for index in range(start, len(costs)):
            paths = pictures.get(index, [])[:left]
            if not part:
                paths = paths[: max(0, (room - costs[index]) // self.picture_length)]
            room -= costs[index] + self.picture_length * len(paths)
            if room < 0:
                break
            left -= len(paths)
            part.append((index, paths))
        return part
