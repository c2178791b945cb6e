"""The sample data: disjoint splits, whole files, licences, readable with plain `datasets`."""

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image, ImageSequence

from minemu.data import samples
from minemu.errors import MinemuError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data_samples"

spec = importlib.util.spec_from_file_location("data_samples_splits", DATA / "splits.py")
splits = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = splits
spec.loader.exec_module(splits)


@pytest.fixture(scope="module")
def tables() -> dict[str, datasets.Dataset]:
    return {split: samples.load_emoji(split) for split in samples.SPLITS}


def column_pairs(table: datasets.Dataset, *names: str) -> set[tuple]:
    return set(zip(*(table[name] for name in names), strict=True))


def family(style: str) -> str:
    """Written anew, not taken from splits.py: the twins Fluent and Flat count as one."""
    return {"noto": "noto", "twemoji": "twemoji", "fluent": "microsoft", "flat": "microsoft"}[style]


# ---- what is held out ------------------------------------------------------------------------------------------------


def test_no_drawing_is_in_two_splits(tables):
    drawings = [pair for table in tables.values() for pair in zip(table["code"], table["style"], strict=True)]
    assert len(drawings) == len(set(drawings))


def test_a_base_concept_has_its_drawings_of_a_family_on_one_side(tables):
    def drawn(split: str) -> set[tuple[str, str]]:
        pairs = column_pairs(tables[split], "label", "style")
        return {(splits.base_concept(label), family(style)) for label, style in pairs}

    assert not drawn("seen") & drawn("new-drawing")


def test_a_new_drawing_shows_a_known_concept(tables):
    assert set(tables["new-drawing"]["code"]) <= set(tables["seen"]["code"])


def test_new_concepts_share_no_base_concept_with_known_ones(tables):
    known = {splits.base_concept(label) for split in ("seen", "new-drawing") for label in set(tables[split]["label"])}
    new = {splits.base_concept(label) for label in set(tables["new-concept"]["label"])}
    assert not known & new


def test_no_picture_of_a_held_out_file_is_in_seen(tables):
    def digests(table):
        encoded = table.cast_column("image", datasets.Image(decode=False))["image"]
        return {hashlib.sha256(row["bytes"]).hexdigest() for row in encoded}

    seen = digests(tables["seen"])
    assert not seen & (digests(tables["new-drawing"]) | digests(tables["new-concept"]))


@pytest.mark.parametrize(
    ("label", "base"),
    [
        ("man farmer", "farmer"),
        ("woman running: facing right", "running"),
        ("prince", "with crown"),
        ("family: man, woman, boy", "family"),
        ("oncoming taxi", "taxi"),
        ("oncoming fist", "oncoming fist"),
        ("dog face", "dog"),
        ("two-thirty", "clock face"),
        ("two-hump camel", "camel"),
        ("polar bear", "polar bear"),
        ("kick scooter", "kick scooter"),
    ],
)
def test_base_concept(label, base):
    assert splits.base_concept(label) == base


def test_what_is_held_out_is_a_function_of_the_seed(monkeypatch):
    before = splits.share("new-concept", "llama")
    assert before == splits.share("new-concept", "llama") and 0 <= before < 1
    monkeypatch.setattr(splits, "SEED", splits.SEED + 1)
    assert splits.share("new-concept", "llama") != before


def test_results_of_sums_are_new_and_their_terms_known(tables):
    known, new = set(tables["seen"]["code"]), set(tables["new-concept"]["code"])
    people = {code for code, group in column_pairs(tables["seen"], "code", "group") if group == "people-body"}
    sums = [t for t in samples.load_triples() if t.code_result in new and t.code_a not in people]
    assert {"polar bear", "phoenix", "heart on fire", "lime"} <= {t.result for t in sums}
    for triple in sums:
        assert triple.code_a in known
        assert triple.code_b in known or triple.b.endswith("square")


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_counts(tables):
    written = json.loads((DATA / "emoji/splits.json").read_text(encoding="utf-8"))
    card = (DATA / "emoji/README.md").read_text(encoding="utf-8")
    for split, table in tables.items():
        core = {code for code, is_core in column_pairs(table, "code", "core") if is_core}
        counts = {"drawings": len(table), "concepts": len(set(table["code"])), "core concepts": len(core)}
        assert written["counts"][split.replace("-", "_")] == counts
        row = f"| `{split.replace('-', '_')}` | {len(table):,} | {counts['concepts']:,} | {len(core)} |"
        assert row in card
    assert written["seed"] == splits.SEED
    assert sum(len(table) for table in tables.values()) == 5494
    assert len({code for table in tables.values() for code in table["code"]}) == 1412


def test_core(tables):
    seen, new = (
        {label for label, core in column_pairs(tables[s], "label", "core") if core} for s in ("seen", "new-concept")
    )
    assert (len(seen), len(new)) == (250, 40)
    assert seen | new == set((DATA / "emoji/core.txt").read_text(encoding="utf-8").splitlines())
    styles: dict[str, set[str]] = {}
    for table in tables.values():
        for label, style in column_pairs(table, "label", "style"):
            styles.setdefault(label, set()).add(style)
    assert all(styles[label] == set(splits.STYLES) for label in seen | new)


@pytest.mark.parametrize("label", ["llama", "snail", "kick scooter"])
def test_the_readme_example_is_known_in_every_style(tables, label):
    assert {style for name, style in column_pairs(tables["seen"], "label", "style") if name == label} == set(
        splits.STYLES
    )


def test_core_argument(tables):
    core, rest = samples.load_emoji("seen", core=True), samples.load_emoji("seen", core=False)
    assert set(core["core"]) == {True} and set(rest["core"]) == {False}
    assert len(core) + len(rest) == len(tables["seen"])


def test_shares_of_what_is_held_out(tables):
    known = set(tables["seen"]["code"])
    held_out = set(tables["new-drawing"]["code"])
    assert 0.35 < len(held_out) / len(known) < 0.45
    assert 0.07 < len(set(tables["new-concept"]["code"])) / 1412 < 0.13


def test_left_out(tables):
    groups = {group for table in tables.values() for group in table["group"]}
    assert not groups & {"flags", "symbols", "component"}
    labels = {label for table in tables.values() for label in table["label"]}
    assert not any("skin tone" in label for label in labels)
    fluent = {
        label
        for table in tables.values()
        for label, style in column_pairs(table, "label", "style")
        if style == "fluent"
    }
    assert "laptop" in fluent and not fluent & {"paperclip", "technologist", "video game"}  # not Microsoft's to give


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_every_drawing_decodes(tables):
    for table in tables.values():
        for picture in table["image"]:
            assert picture.mode == "RGBA" and picture.size == (64, 64)
            lowest, highest = picture.getchannel("A").getextrema()
            assert lowest == 0 or highest == 255
            assert highest > 100  # something is to be seen


def test_load_dataset_reads_the_same(tables, tmp_path):
    loaded = datasets.load_dataset(str(DATA / "emoji"), cache_dir=str(tmp_path))
    assert list(loaded) == ["seen", "new_drawing", "new_concept"]
    for split, table in tables.items():
        other = loaded[split.replace("-", "_")]
        assert other.features == table.features
        for name in ("label", "code", "style", "core", "tags"):
            assert list(other[name]) == list(table[name])
    assert loaded["seen"][0]["image"].tobytes() == tables["seen"][0]["image"].tobytes()


def test_photos(tmp_path):
    photos = samples.load_photos()
    assert len(photos) == 204
    assert set(photos["licence"]) == {"Public Domain", "CC0-1.0"}
    for name in ("title", "subject", "author"):
        assert all(photos[name])
    assert all(source.startswith("https://commons.wikimedia.org/") for source in photos["source"])
    assert all(photo.mode == "RGB" and min(photo.size) == 160 for photo in photos["image"])
    loaded = datasets.load_dataset(str(DATA / "photos"), split="train", cache_dir=str(tmp_path))
    assert sorted(loaded["title"]) == sorted(photos["title"])


def test_clips(tables):
    clips = samples.load_clips()
    known = {code for code, style in column_pairs(tables["seen"], "code", "style") if style == "fluent"}
    core = {code for code, is_core in column_pairs(tables["seen"], "code", "core") if is_core}
    assert len(clips) == 32
    for clip in clips:
        assert clip.code in known & core, f"{clip.label} is held out"
        assert len(clip.frames) == 16 and 1000 < clip.duration_ms < 5000
        assert all(frame.mode == "RGBA" and frame.size == (64, 64) for frame in clip.frames)
        assert len({frame.tobytes() for frame in clip.frames}) > 4, f"{clip.label} does not move"


def test_clip_files_hold_what_their_metadata_says():
    for line in (DATA / "clips/metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(DATA / "clips" / row["file_name"]) as clip:
            assert sum(1 for _ in ImageSequence.Iterator(clip)) == row["frames"]


def test_triples_and_glosses_name_drawings(tables):
    labels = {code: label for table in tables.values() for code, label in column_pairs(table, "code", "label")}
    triples = samples.load_triples()
    assert len(triples) == 77 and ("bear", "snowflake", "polar bear") in {t[:3] for t in triples}
    for triple in triples:
        assert labels[triple.code_a] == triple.a and labels[triple.code_result] == triple.result
        assert labels.get(triple.code_b, triple.b) == triple.b
        assert triple.code_b in labels or triple.b in ("black square", "green square", "brown square")
    glosses = samples.load_glosses()
    assert len(glosses) == 488 and "South American" in glosses["1f999"]["gloss"]
    assert all(
        labels[code] == gloss["label"] and gloss["gloss"] and gloss["hypernyms"] for code, gloss in glosses.items()
    )


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_checksums():
    sums = dict(reversed(line.split("  ")) for line in (DATA / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    for name, digest in sums.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest, (
            f"{name} is not what SHA256SUMS records"
        )
    parts = [
        path for part in ("emoji", "clips", "photos") for path in (DATA / part).iterdir() if path.name != "README.md"
    ]
    assert {path.relative_to(DATA).as_posix() for path in parts} <= set(sums)


def test_notice_credits_every_source():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for words in (
        "Noto Emoji",
        "Apache License 2.0",
        "Twemoji graphics by Twitter, Inc and other contributors",
        "https://creativecommons.org/licenses/by/4.0/",
        "Copyright (c) Microsoft Corporation. MIT License",
        "Unicode License v3",
        "WordNet 3.0 Copyright 2006 by Princeton University",
        "CC0 1.0",
    ):
        assert words in notice, words


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_unknown_split():
    with pytest.raises(MinemuError, match="no split 'new_concept' of the drawings: did you mean 'new-concept'"):
        samples.load_emoji("new_concept")
    with pytest.raises(MinemuError, match="known: seen, new-drawing, new-concept"):
        samples.load_emoji("test")


def test_missing_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MINEMU_DATA", str(tmp_path))
    with pytest.raises(MinemuError, match="no sample data in .*: correct MINEMU_DATA"):
        samples.load_emoji("seen")


def test_missing_and_damaged_files(monkeypatch, tmp_path):
    monkeypatch.setenv("MINEMU_DATA", str(tmp_path))
    (tmp_path / "emoji").mkdir()
    assert samples.data_dir() == tmp_path
    with pytest.raises(MinemuError, match="seen.parquet is missing: restore it"):
        samples.load_emoji("seen")
    (tmp_path / "emoji/seen.parquet").write_bytes((DATA / "emoji/seen.parquet").read_bytes()[:5000])
    with pytest.raises(MinemuError, match="seen.parquet is damaged .*: restore it"):
        samples.load_emoji("seen")
    whole = bytearray((DATA / "emoji/seen.parquet").read_bytes())
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    whole[footer : footer + 40] = b"\xff" * 40
    (tmp_path / "emoji/seen.parquet").write_bytes(whole)
    with pytest.raises(MinemuError, match="seen.parquet is damaged .*: restore it"):
        samples.load_emoji("seen")
    (tmp_path / "glosses.json").write_text('{"1f999": ', encoding="utf-8")
    with pytest.raises(MinemuError, match="glosses.json is damaged .*: restore it"):
        samples.load_glosses()
    (tmp_path / "clips").mkdir()
    shutil.copy(DATA / "clips/metadata.jsonl", tmp_path / "clips")
    with pytest.raises(MinemuError, match="ant.webp is missing: restore it"):
        samples.load_clips()
    ant = (DATA / "clips/ant.webp").read_bytes()
    for size in (200, len(ant) - 20):
        (tmp_path / "clips/ant.webp").write_bytes(ant[:size])
        with pytest.raises(MinemuError, match="ant.webp is damaged .*: restore it"):
            samples.load_clips()
