"""The photographs: those of GCompris that are in the public domain or CC0, made smaller.

GCompris is a game for children; its activities keep pictures in Qt resource files, each folder with a README that says
whose they are. Which pictures are photographs, and of what, was written down by hand in `photos/metadata.jsonl`.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from packages import DebianPackage
from PIL import Image

PACKAGE = DebianPackage(
    "gcompris-qt-data",
    "3.1-2",
    "pool/main/g/gcompris-qt/gcompris-qt-data_3.1-2_all.deb",
    "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
)
EXPLORE = ("farm_animals", "monuments", "world_animals", "world_music")
ACTIVITIES = ("categorization", "erase", *(f"explore_{what}" for what in EXPLORE))
LICENCES = {"public domain": "Public Domain", "cc0-1.0": "CC0-1.0"}
SHORT_SIDE = 160


def read_photos(package: Path, subjects: dict[str, str]) -> Iterator[tuple[dict[str, str], bytes]]:
    """The line of metadata and the JPEG bytes of every photo in `subjects`: {file name: what it shows}."""
    found = {}
    for activity in ACTIVITIES:
        files = read_resources((package / f"usr/share/gcompris-qt/rcc/{activity}.rcc").read_bytes())
        for path, credit in read_credits(files).items():
            if path in files and path.endswith(".webp"):
                found[photo_name(path)] = (credit, files[path])
    for name, subject in subjects.items():
        credit, picture = found[name]
        licence = LICENCES.get(credit["License"].lower())
        if licence is None:
            raise ValueError(f"{name} is under {credit['License']}: take it out of photos/metadata.jsonl")
        row = {
            "file_name": name,
            "title": unquote(credit["Source"].partition("File:")[2]).rpartition(".")[0].replace("_", " ").strip(),
            "subject": subject,
            "licence": licence,
            "author": credit["Copyright"],
            "source": credit["Source"],
        }
        yield row, jpeg(Image.open(io.BytesIO(picture)))


def photo_name(path: str) -> str:
    """ ".../activities/erase/resource/red_panda.webp" -> "erase-red-panda.jpg" """
    name = path.partition("/activities/")[2].rpartition(".")[0]
    return re.sub(r"/resource/|[/_]", "-", name).lower() + ".jpg"


def jpeg(picture: Image.Image) -> bytes:
    scale = SHORT_SIDE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    buffer = io.BytesIO()
    picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def read_credits(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """{path: {"Copyright": ..., "License": ..., "Source": ...}}, from the README of each folder.

    Its paragraphs are lines "Key: value"; a line without a key is the name of one more file.
    """
    found = {}
    for readme in (path for path in files if path.endswith("/README")):
        for paragraph in re.split(r"\n\s*\n", files[readme].decode()):
            lines = [line.partition(":") for line in paragraph.splitlines()]
            credit = {key.strip(): value.strip() for key, colon, value in lines if colon}
            names = credit.get("Files", "").split() + [key.strip() for key, colon, _ in lines if not colon]
            found |= {f"{readme.removesuffix('README')}{name}": credit for name in names}
    return found


# --------------------------------------------------------------------------------------------- Qt's resource files

FOLDER, COMPRESSED, NODE = 2, 1, 22  # flags of a node, and how many bytes one takes in a file of version 2 or later


def read_resources(blob: bytes) -> dict[str, bytes]:
    """{path: content} of an .rcc file: a head, the contents, the names, and a tree that points to both."""
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", blob)
    if magic != b"qres" or version < 2:
        raise ValueError("not a Qt resource file of version 2 or later")

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * NODE
        name, flags = struct.unpack_from(">IH", blob, at)
        (length,) = struct.unpack_from(">H", blob, names + name)
        start = names + name + 6  # after the length and a hash
        path = folder + blob[start : start + 2 * length].decode("utf-16-be")
        if flags & FOLDER:
            count, first = struct.unpack_from(">2I", blob, at + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{path}/" if index else "")
            return
        start = contents + struct.unpack_from(">I", blob, at + 10)[0]  # after the country and the language
        (size,) = struct.unpack_from(">I", blob, start)
        content = blob[start + 4 : start + 4 + size]
        yield path, zlib.decompress(content[4:]) if flags & COMPRESSED else content

    return dict(walk(0, ""))
