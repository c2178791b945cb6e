"""`data_samples/build.py`: packages are fetched and checked, photos and glosses are found in them, sums are kept."""

import hashlib
import importlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data_samples"
PACKAGES = Path(os.environ.get("MINEMU_PACKAGES", ROOT / "build/packages"))
MODULES = ("build", "files", "gcompris", "packages", "splits", "wordnet")


@pytest.fixture(scope="module")
def scripts():
    """The modules of `data_samples`; afterwards their short names belong to others again (`notebooks/build.py`)."""
    others = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(DATA))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(DATA))
    for name in MODULES:
        del sys.modules[name]
    sys.modules.update(others)


# ---- packages --------------------------------------------------------------------------------------------------------


def make_deb(files: dict[str, bytes]) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    blob = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", tar.getvalue())):
        blob += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        blob += b"\n" * (len(content) % 2)
    return blob


@pytest.fixture
def deb(scripts):
    blob = make_deb({"usr/share/word/net": b"seal"})
    digest = hashlib.sha256(blob).hexdigest()
    return scripts.packages.DebianPackage("word", "1:3.0-37", "pool/w/word_3.0-37_all.deb", digest), blob


def test_a_debian_package_is_fetched_checked_and_unpacked(scripts, deb, tmp_path, monkeypatch):
    package, blob = deb

    def apt_get(command, cwd, **_):
        assert command == ("apt-get", "download", "-qq", "word=1:3.0-37")
        (cwd / "word_1%3a3.0-37_all.deb").write_bytes(blob)

    monkeypatch.setattr(scripts.packages.subprocess, "run", apt_get)
    folder = scripts.packages.Packages(tmp_path / "new").debian(package)
    assert folder == tmp_path / "new/word_3.0-37_all"
    assert (folder / "usr/share/word/net").read_bytes() == b"seal"
    monkeypatch.delattr(scripts.packages.subprocess, "run")
    assert scripts.packages.Packages(tmp_path / "new").debian(package) == folder  # fetched once


def test_a_package_of_other_bytes_is_refused(scripts, deb, tmp_path):
    package, blob = deb
    (tmp_path / "word_3.0-37_all.deb").write_bytes(blob + b"\n")
    with pytest.raises(scripts.packages.NoPackage, match="word_3.0-37_all.deb is damaged or another version"):
        scripts.packages.Packages(tmp_path).debian(package)
    assert not (tmp_path / "word_3.0-37_all").exists()


def test_where_there_is_no_apt_get_the_file_can_be_saved_by_hand(scripts, deb, tmp_path, monkeypatch):
    package, blob = deb
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    advice = r"save http://deb.debian.org/debian/pool/w/word_3.0-37_all.deb as .*word_3.0-37_all.deb \(apt-get"
    with pytest.raises(scripts.packages.NoPackage, match=advice):
        scripts.packages.Packages(tmp_path).debian(package)
    (tmp_path / "word_3.0-37_all.deb").write_bytes(blob)
    assert scripts.packages.Packages(tmp_path).debian(package).is_dir()
    with pytest.raises(scripts.packages.NoPackage, match=r"words@1.0.0 of npm is missing \(npm pack failed\)"):
        scripts.packages.Packages(tmp_path)("words@1.0.0")


# ---- photos ----------------------------------------------------------------------------------------------------------

ERASE = "gcompris/src/activities/erase/resource"
README = """Copyright: A. Drawer
License: CC-BY-SA 4.0
Files:
key.svg

Copyright: B. Walker
Source: https://commons.wikimedia.org/wiki/File:Red_panda_%28zoo%29.JPG
License: Public domain
Comments: cropping
Files: red_panda.webp

Copyright: C. Diver
Files: crab.webp
Source: https://commons.wikimedia.org/wiki/File:Crab_.jpg
License: CC-BY-2.0
"""


def make_resources(folder: str, files: dict[str, bytes]) -> bytes:
    """An .rcc file of version 3: the root, one folder in it, and the files in that; the first one is compressed."""
    names = contents = b""
    tree = [struct.pack(">IHII8x", 0, 2, 1, 1)]
    for index, name in enumerate((folder, *files)):
        head = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if index == 0:
            tree.append(struct.pack(">IHII8x", head, 2, len(files), 2))
            continue
        content = files[name]
        if index == 1:
            content = struct.pack(">I", len(content)) + zlib.compress(content)
        tree.append(struct.pack(">IHHHI8x", head, int(index == 1), 0, 0, len(contents)))
        contents += struct.pack(">I", len(content)) + content
    at = (24 + len(contents) + len(names), 24, 24 + len(contents))
    return struct.pack(">4s4II", b"qres", 3, *at, 0) + contents + names + b"".join(tree)


@pytest.fixture
def game(scripts, tmp_path, monkeypatch):
    webp = io.BytesIO()
    Image.new("RGBA", (480, 320), (200, 30, 10, 255)).save(webp, "WEBP")
    files = {"README": README.encode(), "red_panda.webp": webp.getvalue(), "crab.webp": webp.getvalue()}
    path = tmp_path / "usr/share/gcompris-qt/rcc/erase.rcc"
    path.parent.mkdir(parents=True)
    path.write_bytes(make_resources(ERASE, files))
    monkeypatch.setattr(scripts.gcompris, "ACTIVITIES", ("erase",))
    return tmp_path


def test_resource_files_are_read(scripts, game):
    files = scripts.gcompris.read_resources((game / "usr/share/gcompris-qt/rcc/erase.rcc").read_bytes())
    assert list(files) == [f"{ERASE}/{name}" for name in ("README", "red_panda.webp", "crab.webp")]
    assert files[f"{ERASE}/README"].decode() == README
    with pytest.raises(ValueError, match="not a Qt resource file"):
        scripts.gcompris.read_resources(b"PK" + bytes(30))


def test_a_photo_is_made_smaller_and_keeps_its_credit(scripts, game):
    ((row, picture),) = scripts.gcompris.read_photos(game, {"erase-red-panda.jpg": "red panda"})
    assert row == {
        "file_name": "erase-red-panda.jpg",
        "title": "Red panda (zoo)",
        "subject": "red panda",
        "licence": "Public Domain",
        "author": "B. Walker",
        "source": "https://commons.wikimedia.org/wiki/File:Red_panda_%28zoo%29.JPG",
    }
    photo = Image.open(io.BytesIO(picture))
    assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (240, 160))


def test_a_photo_that_is_not_free_is_refused(scripts, game):
    with pytest.raises(ValueError, match="erase-crab.jpg is under CC-BY-2.0"):
        list(scripts.gcompris.read_photos(game, {"erase-crab.jpg": "crab"}))


# ---- glosses ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def wordnet_folder(tmp_path):
    lines = {  # word: kind, the wider word, gloss
        "living_thing": ("03", None, "a living entity"),
        "Old_World_mammal": ("05", "living_thing", "warm-blooded"),
        "seal": ("06", None, "fastener; a stamp"),
        "SEAL": ("05", "Old_World_mammal", 'marine mammals: "earless seal"; "the seal barks"'),
        "woman's_hat": ("06", None, "hats for women"),
    }
    data, at = "  1 This software ... \n", {}
    for word, (kind, wider, gloss) in lines.items():
        at[word] = len(data)
        pointers = f"002 @ {at[wider]:08d} n 0000 ~ 00000000 n 0000" if wider else "001 ~ 00000000 n 0000"
        data += f"{at[word]:08d} {kind} n 02 {word} 0 other 1 {pointers} | {gloss}  \n"
    index = f"  1 This software ... \nseal n 2 1 @ 2 0 {at['seal']:08d} {at['SEAL']:08d}  \n"
    index += "woman's_hat n 1 1 @ 1 0 {:08d}  \n".format(at["woman's_hat"])
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text(data, encoding="utf-8")
    (folder / "index.noun").write_text(index, encoding="utf-8")
    return tmp_path


def test_the_gloss_is_of_the_kind_that_is_drawn(scripts, wordnet_folder, monkeypatch):
    def concept(code: str, label: str, group: str, subgroup: str):
        return scripts.splits.Concept(code, label, group, subgroup, ())

    seal = concept("1f9ad", "seal", "animals-nature", "animal-marine")
    hat = concept("1f452", "woman’s hat", "objects", "clothing")
    dish = concept("1", "seal", "food-drink", "food-asian")  # no sense of this kind
    glosses = scripts.wordnet.find_glosses(wordnet_folder, [seal, hat, dish])
    assert glosses == {
        "1f9ad": {"label": "seal", "gloss": "marine mammals", "hypernyms": ["old world mammal", "living thing"]},
        "1f452": {"label": "woman’s hat", "gloss": "hats for women", "hypernyms": []},
    }
    monkeypatch.setattr(scripts.wordnet, "LEFT_OUT", {"seal"})
    assert list(scripts.wordnet.find_glosses(wordnet_folder, [seal, hat])) == ["1f452"]


def test_what_is_left_out_by_hand_has_no_gloss(scripts):
    written = json.loads((DATA / "glosses.json").read_text(encoding="utf-8"))
    assert not scripts.wordnet.LEFT_OUT & {gloss["label"] for gloss in written.values()}


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_every_part_is_built_and_recorded(scripts):
    assert list(scripts.build.BUILDERS) == list(scripts.files.PARTS)


def test_without_packages_a_check_says_so_and_compares_the_sums(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["build.py", "--check", "--packages", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        scripts.build.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["emoji", "clips", "photos", "glosses", "rebuilt"]
    assert "SHA256SUMS alone vouches for it: gcompris-qt-data=3.1-2 of Debian is missing" in lines[2]
    assert lines[4] == "rebuilt: nothing; nothing differs, every file is as SHA256SUMS records it"
    assert end.value.code == 0


def test_differences_are_named_and_sums_of_other_parts_are_kept(scripts, tmp_path):
    here, built = tmp_path / "here", tmp_path / "built"
    for folder, gloss in ((here, "old"), (built, "new")):
        scripts.files.write_rows(folder / "glosses.json", {"1f9ad": {"gloss": gloss}})
    scripts.files.write_jsonl(here / "photos/metadata.jsonl", [{"file_name": "a.jpg"}])
    scripts.files.write_text(here / "SHA256SUMS", "")
    scripts.files.update_checksums(here, ["glosses", "photos"])
    assert scripts.files.differences(here, tmp_path / "nothing") == []
    assert scripts.files.differences(here, built) == ["glosses.json: the rebuilt file differs"]

    (here / "photos/metadata.jsonl").write_text("damaged", encoding="utf-8")
    (built / "glosses.json").replace(here / "glosses.json")
    scripts.files.update_checksums(here, ["glosses"])  # does not bless the damaged file
    found = scripts.files.differences(here, built)
    assert found == ["photos/metadata.jsonl: not as SHA256SUMS records it"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["clips", "photos", "glosses"])
def test_rebuilt_byte_for_byte(part):
    needed = {"clips": "lobehub-fluent-emoji-anim-1-*", "photos": "gcompris-qt-data_*", "glosses": "wordnet-base_*"}
    if not list(PACKAGES.glob(needed[part])):
        pytest.skip(f"no packages in {PACKAGES} (MINEMU_PACKAGES names another folder)")
    command = [sys.executable, DATA / "build.py", "--check", "--only", part, "--packages", PACKAGES]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and f"rebuilt: {part};" in result.stdout, result.stdout + result.stderr
