"""The data that comes with the repository, in `data_samples/`: drawings, photographs, clips, sums of pictures, glosses.

`data_samples/README.md` says what it all is and where it is from. Everything is read from disk into memory: no
download, and no copy in a cache folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from minemu.errors import MinemuError, suggest

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("seen", "new-drawing", "new-concept")


class Triple(NamedTuple):
    """A sum of pictures that an artist really drew: bear + snowflake = polar bear.

    `b` may be a plain colour square ("black square"), which is no drawing: paint it.
    """

    a: str
    b: str
    result: str
    code_a: str
    code_b: str
    code_result: str


@dataclass(frozen=True)
class Clip:
    """A moving drawing: RGBA frames of 64 px, shown for `duration_ms` in all."""

    label: str
    code: str
    frames: tuple[Image.Image, ...]
    duration_ms: int


def data_dir() -> Path:
    """The folder named by the environment variable MINEMU_DATA, else `data_samples` of the repository."""
    named = os.environ.get("MINEMU_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "data_samples"
    if not (folder / "emoji").is_dir():
        fix = (
            "correct MINEMU_DATA"
            if named
            else "set MINEMU_DATA to the data_samples folder of a clone of the repository"
        )
        raise MinemuError(f"no sample data in {folder} (it has no folder 'emoji'): {fix}")
    return folder


def load_emoji(split: str, core: bool | None = None) -> Dataset:
    """The drawings of a split: "seen" to train on, "new-drawing" and "new-concept" to test with.

    core   True: only the common concepts that small models learn; False: only the others; None: all.

    Columns: image (64 px RGBA), label, code, style, group, subgroup, tags, core.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if split not in SPLITS:
        raise MinemuError(f"no split '{split}' of the drawings: {suggest(split, SPLITS)}")
    path = _existing(f"emoji/{split.replace('-', '_')}.parquet")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise MinemuError(f"{path} is damaged ({str(error).splitlines()[0]}): {_RESTORE}") from None
    if core is not None:
        table = table.filter(pc.equal(table["core"], core))
    return Dataset(InMemoryTable(table))


def load_photos() -> Dataset:
    """204 photographs in the public domain. Columns: image, title, subject, licence, author, source."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    rows = [
        {"image": str(_existing(f"photos/{row.pop('file_name')}")), **row}
        for row in _read_lines("photos/metadata.jsonl")
    ]
    return Dataset.from_list(rows).cast_column("image", ImageFeature())


def load_clips() -> list[Clip]:
    """Short animations of common concepts, all of them drawings of the split "seen"."""
    return [_read_clip(row) for row in _read_lines("clips/metadata.jsonl")]


def _read_clip(row: dict[str, Any]) -> Clip:
    frames, path = [], _existing(f"clips/{row['file_name']}")
    try:
        with Image.open(path) as clip:
            for index in range(row["frames"]):
                clip.seek(index)
                frames.append(clip.convert("RGBA"))
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise MinemuError(f"{path} is damaged ({error}): {_RESTORE}") from None
    return Clip(row["label"], row["code"], tuple(frames), row["duration_ms"])


def load_triples() -> list[Triple]:
    """Unicode's sums of pictures, in Unicode's order."""
    return [Triple(*row) for row in _read_json("triples.json")]


def load_glosses() -> dict[str, dict[str, Any]]:
    """WordNet's definition by code: {"1f999": {"label": "llama", "gloss": ..., "hypernyms": [nearest, ...]}}."""
    return _read_json("glosses.json")


_RESTORE = "restore it with `git checkout data_samples`"


def _existing(name: str) -> Path:
    path = data_dir() / name
    if not path.is_file():
        raise MinemuError(f"{path} is missing: {_RESTORE}")
    return path


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MinemuError(f"{path} is damaged ({error}): {_RESTORE}") from None


def _read_json(name: str) -> Any:
    path = _existing(name)
    return _parse(path.read_text(encoding="utf-8"), path)


def _read_lines(name: str) -> list[dict[str, Any]]:
    path = _existing(name)
    return [_parse(line, path) for line in path.read_text(encoding="utf-8").splitlines()]
