"""Readers of the real formats, each on a small file in its true form: order, resuming, bad samples, damaged files."""

import csv
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minemu.data.conversations import SYSTEM_IMAGE, SYSTEM_VIDEO
from minemu.data.formats import FORMATS, DataConfig, listing, open_source
from minemu.data.formats.chats import Chats
from minemu.data.formats.mmc4 import MMC4, MMC4Config
from minemu.data.formats.pairs import Parquet, WebDataset
from minemu.data.formats.reading import EPOCHS, REPLACEMENTS, Filtered, Shuffled, checked_text, files
from minemu.data.formats.records import Records
from minemu.data.formats.storyboards import Storyboards
from minemu.data.formats.webvid import WebVid
from minemu.data.mixture import Mixture, MixtureConfig
from minemu.data.sources import DataFiles, open_mixture, open_talks
from minemu.data.video import read_frames
from minemu.errors import MinemuError
from minemu.processor import EmuProcessor
from minemu.tokenizer import SPECIAL_TOKEN_SETS, train_tokenizer

LOT = np.random.default_rng(0)


def coloured(k: int, side: int = 16) -> Image.Image:
    """A picture that says its number: red is 10 k."""
    return Image.new("RGB", (side, side), (10 * k, 100, 200))


def number(picture: Image.Image) -> int:
    return round(np.asarray(picture)[..., 0].mean() / 10)


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def words(text: str) -> int:
    return len(text.split())


def split(document: list) -> tuple[list[int], list[str]]:
    """Numbers of the pictures, and texts."""
    texts = [piece for piece in document if isinstance(piece, str)]
    return [number(piece) for piece in document if not isinstance(piece, str)], texts


# ---- files in their true formats -------------------------------------------------------------------------------------


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, first: int, count: int) -> Path:
    """As img2dataset writes it: picture, caption, metadata."""
    files = {}
    for k in range(first, first + count):
        files[f"{k:05}.png"] = encoded(coloured(k))
        files[f"{k:05}.txt"] = f"number {k}".encode()
        files[f"{k:05}.json"] = json.dumps({"caption": f"number {k}", "width": 16}).encode()
    return write_tar(path, files)


@pytest.fixture
def shards(tmp_path) -> str:
    shard(tmp_path / "00000.tar", 0, 5)
    shard(tmp_path / "00001.tar", 5, 7)
    return str(tmp_path / "*.tar")


@pytest.fixture
def parquet(tmp_path) -> Path:
    table = pa.table({"caption": [f"number {k}" for k in range(8)], "jpg": [encoded(coloured(k)) for k in range(8)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    rows = [{"bytes": encoded(coloured(k)), "path": None} for k in range(8, 12)]  # Hugging Face's form
    pq.write_table(pa.table({"text": [f"number {k}" for k in range(8, 12)], "image": rows}), tmp_path / "b.parquet")
    return tmp_path


def page(sentences: int, similarities: dict[int, float], matched: dict[int, int] | None = None) -> str:
    """A page on which picture k fits sentence k, or another that is named in `matched`."""
    matched = matched or {}
    infos = [
        {
            "face_detections": None,
            "image_name": f"{k}.png",
            "matched_sim": similarity,
            "matched_text_index": matched.get(k, k),
            "raw_url": "http://x.invalid",
        }
        for k, similarity in similarities.items()
    ]
    return json.dumps({
        "image_info": infos,
        "similarity_matrix": [[0.2] * sentences for _ in infos],
        "text_list": [f"sentence {k}." for k in range(sentences)],
        "url": "http://x.invalid",
        "could_have_url_duplicate": 0,
    })  # fmt: skip


@pytest.fixture
def pages(tmp_path) -> Path:
    for k in range(8):
        coloured(k).save(tmp_path / f"{k}.png")
    lines = [
        page(3, {0: 0.4, 2: 0.5}),
        page(3, {0: 0.31, 1: 0.33}),  # the first fits too badly
        page(8, dict.fromkeys(range(8), 0.4)),  # more than five
        page(3, {1: 0.2}),  # none
    ]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines) + "\n\n")
    return tmp_path / "docs.jsonl"


@pytest.fixture
def webvid(tmp_path) -> Path:
    rows = [
        ("1", "a snail, slowly", "00_01"), ("2", 'two lines\nand "quotes"', "00_01"), ("3", "a film", "00_02"),
        ("4", "gone", "00_02"), ("5", "an empty folder", "00_02"), ("6", "broken", "00_02"),
    ]  # fmt: skip
    with open(tmp_path / "results_2M_train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        table.writerows((video, "http://x.invalid", "PT00H00M10S", page_dir, name) for video, name, page_dir in rows)
    frames = [coloured(k) for k in range(12)]
    (tmp_path / "00_01" / "2").mkdir(parents=True)
    (tmp_path / "00_02" / "5").mkdir(parents=True)
    frames[0].save(tmp_path / "00_01" / "1.webp", save_all=True, append_images=frames[1:], lossless=True)
    for k, frame in enumerate(frames):
        frame.save(tmp_path / "00_01" / "2" / f"{k:05}.png")
    (tmp_path / "00_02" / "3.mp4").write_bytes(b"film")
    (tmp_path / "00_02" / "6.webp").write_bytes((tmp_path / "00_01" / "1.webp").read_bytes()[:200])
    return tmp_path / "results_2M_train.csv"


@pytest.fixture
def storyboards(tmp_path) -> Path:
    """Ten thumbnails of one video in two sheets of 3 x 2, one every two seconds."""
    for folder in ("storyboard", "subtitle", "label"):
        (tmp_path / folder).mkdir()
    sheets = {"0": [48, 32, 3, 2, 6], "1": [48, 32, 3, 2, 4]}
    board = {"url": "https://www.youtube.com/watch?v=abc", "yt_meta_dict": {"sb": sheets}}
    (tmp_path / "storyboard" / "00007.json").write_text(json.dumps(board))
    for sheet, first in enumerate((0, 6)):
        whole = Image.new("RGB", (48, 32))
        for place in range(6):
            whole.paste(coloured(first + place), (place % 3 * 16, place // 3 * 16))
        whole.save(tmp_path / "storyboard" / f"00007_{sheet}.webp", lossless=True)
    lines = [{"text": f"second {k}\nhere", "start": k + 0.5, "duration": 1.0} for k in range(0, 20, 4)]
    (tmp_path / "subtitle" / "abc.json").write_text(json.dumps([*lines, {"text": " ", "start": 1.0, "duration": 1.0}]))
    (tmp_path / "label" / "abc.json").write_text(json.dumps({"duration": 20}))
    return tmp_path


TALKS = [
    {"id": "0", "image": "1.png", "conversations": [
        {"from": "human", "value": "what is this?\n<image>"}, {"from": "gpt", "value": "a {square}."},
        {"from": "human", "value": "sure?"}, {"from": "gpt", "value": "yes [\"quoted\"]."}]},
    {"video": "clip.mp4", "QA": [{"i": "look closely.", "q": "what moves?", "a": "a snail."}, {"i": "", "q": "where?", "a": "left."}]},
    {"instruction": "add.", "input": "1 and 1", "output": "2"},
    {"instruction": "say hello.", "input": "", "output": "hello,\nworld"},
    {"id": "x", "conversations": [
        {"from": "gpt", "value": "unasked"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"},
        {"from": "human", "value": "unanswered"}]},
]  # fmt: skip


@pytest.fixture
def talks(tmp_path) -> Path:
    coloured(1).save(tmp_path / "1.png")
    (tmp_path / "clip").mkdir()
    for k in range(10):
        coloured(k).save(tmp_path / "clip" / f"{k}.png")
    (tmp_path / "talks.json").write_text(json.dumps(TALKS, indent=1))
    return tmp_path / "talks.json"


# ---- order and resuming ----------------------------------------------------------------------------------------------


class Counted:
    """A reader that knows its samples' numbers; those in `bad` cannot be read, those in `filtered` are left out."""

    def __init__(self, blocks: list[int], bad: set[int] = frozenset(), filtered: set[int] = frozenset()):
        self.blocks, self.bad, self.filtered = blocks, bad, filtered

    def name(self, k: int) -> str:
        return f"sample {k}"

    def read(self, k: int, rng: np.random.Generator) -> tuple[int, float]:
        if k in self.filtered:
            raise Filtered(f"sample {k} is left out")
        if k in self.bad:
            raise MinemuError(f"sample {k} is bad")
        return k, rng.random()


class Broken(Counted):
    """The system cannot read what is bad."""

    def read(self, k: int, rng: np.random.Generator) -> tuple[int, float]:
        if k in self.bad:
            raise OSError("File name too long")
        return super().read(k, rng)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), st.integers(0, 99), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once_block_by_block(blocks, seed, epoch):
    source = Shuffled(Counted(blocks), seed)
    size = len(source)
    order = [source.document(number)[0] for number in range(epoch * size, (epoch + 1) * size)]
    assert sorted(order) == list(range(size))
    block = np.repeat(range(len(blocks)), blocks)[order]
    assert np.count_nonzero(np.diff(block)) == np.count_nonzero(blocks) - 1


def test_epochs_and_seeds_differ():
    source = Shuffled(Counted([20, 20]), seed=1)
    first, second = ([source.document(n)[0] for n in range(e * 40, (e + 1) * 40)] for e in (0, 1))
    assert first != second != [Shuffled(Counted([20, 20]), seed=2).document(n)[0] for n in range(40)]


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, 11), max_size=6),
    st.sets(st.integers(0, 11), max_size=5),
    st.integers(0, 60),
    st.permutations(range(12)),
)
def test_samples_are_skipped_alike_whatever_was_read_before(bad, filtered, number, others):
    fresh, used = (Shuffled(Counted([5, 7], bad, filtered), max_bad=1) for _ in range(2))
    for other in others:
        used.document(other)
    assert fresh.document(number) == used.document(number)
    assert fresh.document(number)[0] not in bad | filtered


@pytest.mark.parametrize("left_out", ["bad", "filtered"])
def test_what_stands_in_for_a_sample_comes_from_anywhere_in_its_block(left_out):
    """Not from beside it, where it would be read twice in one batch."""
    source = Shuffled(Counted([200, 300], **{left_out: set(range(0, 500, 2))}), seed=1, max_bad=1)
    order = [source.document(number)[0] for number in range(500)]
    served = np.bincount(order, minlength=500)
    assert not served[::2].any() and served[1::2].min() == 1 and served.max() <= 8
    assert served[:200].sum() == 200 and np.count_nonzero(np.diff(np.array(order) < 200)) == 1
    assert sum(one == other for one, other in zip(order, order[1:], strict=False)) <= 5


def test_a_block_without_a_good_sample_takes_those_of_others():
    source = Shuffled(Counted([50, 50], filtered=set(range(50))), seed=1)
    served = np.bincount([source.document(number)[0] for number in range(100)], minlength=100)
    assert not served[:50].any() and served[50:].min() == 1 and served.max() <= 6


def test_sources_of_one_seed_choose_independently():
    first, second = (Shuffled(Counted([40]), seed=1, name=name) for name in ("labels", "scenes"))
    ones, others = ([source.document(number) for number in range(40)] for source in (first, second))
    assert not {draw for _, draw in ones} & {draw for _, draw in others}
    assert [k for k, _ in ones] != [k for k, _ in others]
    assert ones == [Shuffled(Counted([40]), seed=1, name="labels").document(number) for number in range(40)]


def test_epochs_documents_and_replacements_of_one_number_are_drawn_apart():
    source = Shuffled(Counted([40]), seed=1)
    drawn = {source.document(number)[1] for number in range(40)}
    others = [source._random(stream, number).random() for number in range(40) for stream in (EPOCHS, REPLACEMENTS)]
    assert len(drawn | set(others)) == 120


def test_a_sample_that_the_system_cannot_read_is_bad(caplog):
    source = Shuffled(Broken([9], {4}))
    assert {source.document(number)[0] for number in range(9)} == set(range(9)) - {4}
    assert source.bad == {4: "sample 4: File name too long"}


def test_bad_samples_are_named_and_counted_once(caplog):
    told = []
    source = Shuffled(Counted([10], {3, 4}), on_skip=lambda k, why: told.append((k, why)))
    for n in range(30):
        source.document(n)
    assert sorted(told) == [(3, "sample 3 is bad"), (4, "sample 4 is bad")]
    assert source.bad == {3: "sample 3 is bad", 4: "sample 4 is bad"}
    assert sorted(record.getMessage() for record in caplog.records) == [
        "bad sample 3 skipped: sample 3 is bad",
        "bad sample 4 skipped: sample 4 is bad",
    ]


def test_filtered_samples_are_left_out_in_silence(caplog):
    told = []
    filtered = set(range(0, 1000, 2))
    source = Shuffled(Counted([1000], {1}, filtered), max_bad=0.01, on_skip=lambda k, why: told.append(k))
    assert {source.document(n)[0] for n in range(1000)} == set(range(3, 1000, 2))
    assert told == [1] and len(caplog.records) == 1
    source = Shuffled(Counted([1000], filtered=filtered))
    assert [source.document(n)[0] % 2 for n in range(100)] == [1] * 100 and source.tried == 100 and source.filtered > 50
    caplog.clear()
    source = Shuffled(Counted([1000], filtered=set(range(999))))
    assert {source.document(n)[0] for n in range(20)} == {999}
    (told,) = caplog.records  # once: it may take long, and a wrong folder is the likely cause
    assert "none of 101 samples that were tried in a row can be used; the last: sample" in told.getMessage()
    with pytest.raises(MinemuError, match="none of the 3 samples can be used; one of them: sample . is left out"):
        Shuffled(Counted([3], filtered={0, 1, 2})).document(0)
    with pytest.raises(MinemuError, match="none of the 3 samples can be used; one of them: sample 1 is bad"):
        Shuffled(Counted([3], {1}, {0, 2})).document(0)


def test_too_many_bad_samples_stop_the_run():
    source = Shuffled(Counted([1000], set(range(0, 1000, 2))), max_bad=0.1)
    with pytest.raises(MinemuError) as error:
        for n in range(1000):
            source.document(n)
    message = str(error.value)
    assert message.startswith("11 of ") and "are bad, more than max_bad=0.1 allows; the last: sample" in message
    assert message.endswith("Repair the data, or raise max_bad")
    with pytest.raises(MinemuError, match="none of the 3 samples can be used; one of them: sample"):
        Shuffled(Counted([3], {0, 1, 2}), max_bad=1).document(0)
    with pytest.raises(MinemuError, match="max_bad=5, seed=0: use a share from 0 to 1, and a seed of 0 or more"):
        Shuffled(Counted([3]), max_bad=5)
    with pytest.raises(MinemuError, match="the data set holds no samples; check the path"):
        Shuffled(Counted([0]), max_bad=1).document(0)


# ---- each format -----------------------------------------------------------------------------------------------------


def test_webdataset(shards):
    source = open_source(DataConfig("webdataset", shards), words, 4)
    documents = [source.document(n) for n in range(len(source))]
    assert len(source) == 12 and not source.bad
    for document in documents:
        (k,), (text,) = split(document)
        assert text == f"number {k}"
    assert sorted(split(document)[0][0] for document in documents) == list(range(12))
    assert {isinstance(document[0], str) for document in documents} == {True, False}
    again = open_source(DataConfig("webdataset", shards), words, 4).document(7)
    assert split(again) == split(documents[7]) and isinstance(again[0], str) == isinstance(documents[7][0], str)


def test_webdataset_caption_from_json_and_bad_samples(tmp_path):
    whole = encoded(coloured(1))
    path = write_tar(tmp_path / "a.tar", {
        "d/0.jpg": whole, "d/0.json": b'{"caption": " from \\n json "}', "1.jpg": whole, "1.json": b"{}", "2.jpg": whole,
        "3.txt": b"no picture", "4.jpg": whole[:40], "4.txt": b"cut", "5.jpg": whole, "5.txt": b"see [IMG] here",
        "6.jpg": whole, "6.txt": b"  ",
    })  # fmt: skip
    reader = WebDataset([path])
    assert split(reader.read(0, LOT)) == ([1], ["from json"])
    for k, text in enumerate(
        ["its json has no field 'caption'", "the text is missing", "the picture is missing", "the picture cannot be read",
         "the text contains the special token '\\[IMG\\]'", "has no text"], start=1,
    ):  # fmt: skip
        with pytest.raises(MinemuError, match=f"sample {k} of .*a.tar:? ?{text}"):
            reader.read(k, LOT)


def test_a_shard_that_is_cut_off(tmp_path, caplog):
    path = shard(tmp_path / "a.tar", 0, 4)
    path.write_bytes(path.read_bytes()[:4000])
    assert 0 < sum(WebDataset([path]).blocks) < 4
    assert "a.tar is cut off after" in caplog.text
    path.write_bytes(b"nothing like a tar" * 100)
    with pytest.raises(MinemuError, match="a.tar is no tar shard"):
        WebDataset([path])


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (lambda header, size: header, "it ends without the zeros that close an archive"),
        (lambda header, size: header + 100, "a header is damaged or cut off"),
        (lambda header, size: header + 512 + size // 2, "unexpected end of data"),  # within the file
    ],
)
def test_a_shard_that_is_cut_at_a_file_is_told_of_and_read_up_to_there(tmp_path, caplog, keep, why):
    path = shard(tmp_path / "a.tar", 0, 4)
    with tarfile.open(path) as tar:
        member = tar.getmember("00003.png")
    path.write_bytes(path.read_bytes()[: keep(member.offset, member.size)])
    reader = WebDataset([path])
    assert [split(reader.read(k, LOT))[0] for k in range(3)] == [[0], [1], [2]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is cut off after {sum(reader.blocks)} samples ({why}): fetch it again"
    ]


def test_a_shard_with_a_damaged_header_is_told_of(tmp_path, caplog):
    path = shard(tmp_path / "a.tar", 0, 4)
    with tarfile.open(path) as tar:
        member = tar.getmember("00002.png")
    data = bytearray(path.read_bytes())
    data[member.offset] ^= 1
    path.write_bytes(data)
    assert WebDataset([path]).blocks == [2]
    assert "a.tar is cut off after 2 samples (a header is damaged or cut off): fetch it again" in caplog.text


@pytest.mark.parametrize("zeros", [1, 512, 1024, 5000])
def test_a_shard_that_is_whole_but_for_some_zeros_is_read_in_silence(tmp_path, caplog, zeros):
    path = shard(tmp_path / "a.tar", 0, 4)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(path.read_bytes()[: end + zeros])
    assert WebDataset([path]).blocks == [4] and not caplog.records


def test_parquet(parquet):
    reader = Parquet(sorted(parquet.glob("*.parquet")))
    assert reader.blocks == [3, 3, 2, 4]
    for k in range(12):
        assert split(reader.read(k, LOT)) == ([k], [f"number {k}"])
    pq.write_table(pa.table({"caption": ["a"], "jpg": pa.array([None], pa.binary())}), parquet / "c.parquet")
    with pytest.raises(MinemuError, match="row 0 of row group 0 of .*c.parquet: the picture is missing"):
        Parquet([parquet / "c.parquet"]).read(0, LOT)
    pq.write_table(pa.table({"caption": ["a"], "jpg": ["http://x/y.jpg"]}), parquet / "d.parquet")
    with pytest.raises(MinemuError, match="d.parquet: the picture is no encoded file but a str; put the files' bytes"):
        Parquet([parquet / "d.parquet"]).read(0, LOT)

    pq.write_table(pa.table({"caption": ["a"], "pixels": ["b"]}), parquet / "c.parquet")
    with pytest.raises(MinemuError, match="has no column jpg or png or webp or image; its columns: caption, pixels"):
        Parquet([parquet / "c.parquet"])
    (parquet / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(MinemuError, match="c.parquet is no parquet file"):
        Parquet([parquet / "c.parquet"])


def test_links_that_were_dead_are_no_bad_samples(tmp_path):
    """img2dataset writes a row without a picture for each."""
    pictures = [encoded(coloured(k)) if k % 2 else None for k in range(300)]
    table = {"caption": [f"number {k}" for k in range(300)], "jpg": pa.array(pictures, pa.binary())}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    source = Shuffled(Parquet([tmp_path / "a.parquet"]), max_bad=0.0)
    assert all(int(split(source.document(k))[1][0].split()[1]) % 2 for k in range(200)) and not source.bad


def test_shards_that_were_joined_keep_their_pairs(tmp_path):
    with tarfile.open(tmp_path / "joined.tar", "w") as tar:  # keys begin anew, and one has lost its text
        for name, data in [
            ("0.png", 1),
            ("0.txt", b"number 1"),
            ("1.png", 2),
            ("0.png", 3),
            ("0.txt", b"number 3"),
            ("0.png", 4),
        ]:
            data = encoded(coloured(data)) if isinstance(data, int) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    reader = WebDataset([tmp_path / "joined.tar"])
    assert reader.blocks == [4]
    assert [split(reader.read(k, LOT)) for k in (0, 2)] == [([1], ["number 1"]), ([3], ["number 3"])]
    for k in (1, 3):
        with pytest.raises(MinemuError, match="the text is missing"):
            reader.read(k, LOT)


def test_what_windows_writes_first_and_names_with_brackets(tmp_path, webvid):
    folder = tmp_path / "data[1]"
    folder.mkdir()
    talk = {"instruction": "say a", "output": "b"}
    for name, text in (("list.json", json.dumps([talk, talk], indent=1)), ("lines.jsonl", json.dumps(talk) + "\n")):
        (folder / name).write_text(text, encoding="utf-8-sig")
        reader = Chats(files(folder / name), folder)
        assert reader.read(0, LOT).turns[0].answer == "b"
    webvid.write_text(webvid.read_text(), encoding="utf-8-sig")
    assert split(WebVid([webvid], webvid.parent, random_frames=False).read(0, LOT))[1] == ["a snail, slowly"]


def test_a_thumbnail_beside_a_film_is_not_the_clip(tmp_path):
    coloured(1).save(tmp_path / "1.webp")
    (tmp_path / "1.mp4").write_bytes(b"a film")
    rows = [["videoid", "page_dir", "name"], ["1", ".", "a film"]]
    (tmp_path / "a.csv").write_text("\n".join(map(",".join, rows)))
    for read in (
        WebVid([tmp_path / "a.csv"], tmp_path).read,
        lambda k, rng: Chats([tmp_path / "a.json"], tmp_path).read(k, rng),
    ):
        talk = {"video": "1.mp4", "QA": [{"q": "what?", "a": "a film"}]}
        (tmp_path / "a.json").write_text(json.dumps([talk]))
        with pytest.raises(MinemuError, match="the clip .*1.mp4 is broken"):
            read(0, LOT)


def test_links_alone_are_to_be_fetched_first(tmp_path):
    """As LAION's own files have them."""
    for url in ("URL", "url"):
        pq.write_table(pa.table({url: ["http://x.invalid"], "TEXT": ["a"]}), tmp_path / "a.parquet")
        with pytest.raises(
            MinemuError, match=f"no column jpg .*TEXT. '{url}' holds links: fetch the pictures with img2d"
        ):
            Parquet([tmp_path / "a.parquet"])


def test_parquet_of_laion_coco_gives_its_captions_and_not_what_the_web_said(tmp_path):
    table = {"URL": ["http://x.invalid"], "TEXT": ["IMG_0042 buy now"], "top_caption": ["a red square"]}
    table |= {"all_captions": [["a red square", "a box"]], "jpg": [encoded(coloured(3))]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert split(Parquet([tmp_path / "a.parquet"]).read(0, LOT)) == ([3], ["a red square"])


@pytest.mark.parametrize("token", ["<unk>", "[IMG]", "<image>", "</s>"])
def test_a_text_with_a_special_token_is_a_bad_sample(token):
    with pytest.raises(MinemuError, match="a.tar: the text contains the special token"):
        checked_text(f"see {token} here", "a.tar")


@pytest.mark.parametrize(
    ("model", "plain"), [("Emu", "[USER] [VIDEO] <grounding> <REC>"), ("Emu2", "[USER]"), ("Emu2-Chat", "")]
)
def test_a_text_may_hold_the_special_tokens_of_other_models(tmp_path, model, plain):
    tokenizer = train_tokenizer(["a dog"], 300)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKEN_SETS[model])})
    processor = EmuProcessor(tokenizer, 16, 4)
    tokens = ["a dog", "[IMG]", "[USER]", "[VIDEO]", "<grounding>", "<REC>"]
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": token, "output": "see"} for token in tokens]))
    config = DataConfig("chats", str(tmp_path / "a.json"), max_bad=1)
    source = open_source(config, lambda text: len(processor.encode(text)), 4)
    asked = {source.document(number).turns[0].user[0] for number in range(len(tokens))}
    assert asked == {"a dog", *plain.split()}


def test_mmc4_takes_what_emu_took(pages):
    reader = MMC4([pages], pages.parent, words, picture_length=6)
    assert reader.blocks == [4]
    assert split(reader.read(0, LOT)) == ([0, 2], ["sentence 0.", "sentence 1.", "sentence 2."])
    assert split(reader.read(1, LOT))[0] == [1]
    assert split(reader.read(2, LOT))[0] == [0, 1, 2, 3, 4]
    with pytest.raises(Filtered, match="record 3 of .* has no picture with similarity 0.32 or more"):
        reader.read(3, LOT)
    sides = {isinstance(reader.read(0, np.random.default_rng(k))[0], str) for k in range(20)}
    assert sides == {True, False}


def shape(document: list) -> list:
    """Numbers for pictures, "." for a text."""
    return ["." if isinstance(piece, str) else number(piece) for piece in document]


def test_several_pictures_of_one_sentence_stand_together(pages):
    fit = dict.fromkeys((0, 1, 2, 3, 4, 5, 6, 9), 0.4)  # more pictures than sentences, and 9.png is not in the folder
    matched = {0: 1, 1: 0, 2: 1, 3: 1, 4: 0, 5: 1, 6: 0, 9: 1}
    pages.write_text(page(2, {**fit, 5: 0.1}, matched) + "\n" + page(2, {0: 0.4, 9: 0.5}, {0: 1, 9: 1}))

    def shapes(k: int, **config) -> set[tuple]:
        reader = MMC4([pages], pages.parent, words, 6, MMC4Config(**config))
        return {tuple(shape(reader.read(k, np.random.default_rng(seed)))) for seed in range(20)}

    assert shapes(0) == {(1, 4, 6, ".", 0, 2, "."), (".", 1, 4, 6, ".", 0, 2)}  # five; 3 is one too many
    assert shapes(0, pictures=3) == {(1, 4, 6, ".", "."), (".", 1, 4, 6, ".")}
    assert shapes(0, pictures=9) == {(1, 4, 6, ".", 0, 2, 3, "."), (".", 1, 4, 6, ".", 0, 2, 3)}
    assert shapes(0, tokens=16) == {(1, 4, "."), (".", 1, 4), (0, 2, "."), (".", 0, 2)}  # as many as fit
    assert shapes(1) == {(".", 0, "."), (".", ".", 0)}  # the one that is there, whichever comes last


def test_a_page_with_more_than_five_pictures_fills_its_tokens(pages):
    """The room of pictures that are left out is that of sentences."""
    reader = MMC4([pages], pages.parent, words, 6, MMC4Config(tokens=5 * 6 + 8 * 2))
    assert split(reader.read(2, LOT)) == ([0, 1, 2, 3, 4], [f"sentence {k}." for k in range(8)])


def test_pages_whose_pictures_are_gone_or_do_not_fit_are_no_bad_samples(pages):
    lines = [
        page(2, {0: 0.4}),
        *[page(2, {0: 0.1, 1: 0.31})] * 60,
        *[page(2, {9: 0.4}, {9: 0})] * 60,  # its link was dead
        page(2, {0: 0.4}, {0: -1}),
    ]
    pages.write_text("\n".join(lines))
    told = []
    source = open_source(
        DataConfig("mmc4", str(pages), str(pages.parent), max_bad=0.02), words, 4, on_skip=lambda *one: told.append(one)
    )
    assert {tuple(split(source.document(n))[0]) for n in range(len(source))} == {(0,)}
    assert told == [(121, f"record 121 of {pages}: no picture with similarity 0.32 or more has a sentence of the page")]
    with pytest.raises(Filtered, match="record 61 of .*: no picture with similarity 0.32 or more is in "):
        source.reader.read(61, LOT)


@given(st.integers(8, 80), st.integers(0, 2**31))
def test_parts_of_a_page_fit_and_keep_pictures_with_their_sentences(tokens, seed):
    reader = MMC4.__new__(MMC4)  # no files: only the choice of a part is tried
    reader.length, reader.picture_length, reader.config = words, 6, MMC4Config(tokens=tokens)
    many = {1: 1, 2: 3, 3: 1, 5: 7, 6: 2, 7: 1}
    sentences, pictures = [f"sentence {k}." for k in range(8)], {k: [Path("a.png")] * n for k, n in many.items()}
    part = reader._part(sentences, pictures, np.random.default_rng(seed), "page")
    numbers, kept = [sentences.index(text) for text, _ in part], [len(paths) for _, paths in part]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert 1 <= sum(kept) <= 5
    long = sum(2 + 6 * count for count in kept)
    following = 2 + 6 * min(many.get(numbers[-1] + 1, 0), 5 - sum(kept))
    assert long <= tokens and (numbers[-1] == 7 or long + following > tokens)
    assert {k: len(paths) for k, paths in pictures.items()} == many


def test_webvid(webvid, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    reader = WebVid([webvid], webvid.parent, random_frames=False)
    assert reader.blocks == [6]
    for k, text in enumerate(["a snail, slowly", 'two lines and "quotes"']):
        assert split(reader.read(k, LOT)) == ([0, 2, 3, 5, 6, 8, 9, 11], [text])
    drawn = [split(WebVid([webvid], webvid.parent).read(0, np.random.default_rng(k)))[0] for k in range(3)]
    assert all(numbers == sorted(numbers) and len(numbers) == 8 for numbers in drawn) and drawn[0] != drawn[1]
    for k, text in [
        (
            2,
            r'the clip .*3.mp4 needs a video decoder: pip install "minemu\[video\]"; or make a folder of frames: mkdir 3; ff',
        ),
        (3, "row 3 of .*: the clip .*4 is missing .a folder of frames, or .mp4, .webp, .gif, .png"),
        (4, "the clip .*5 has no frames: the folder holds no picture"),
        (5, "the clip .*6.webp is broken; fetch it again or leave it out"),
    ]:
        with pytest.raises(MinemuError, match=text):
            reader.read(k, LOT)
    with pytest.raises(Filtered):  # its link was dead
        reader.read(3, LOT)
    webvid.write_text("1,2,3\n")
    with pytest.raises(MinemuError, match="has no column videoid, page_dir, name; a WebVid CSV begins with"):
        WebVid([webvid], webvid.parent)


def test_rows_that_are_empty_are_no_samples(webvid):
    head, *lines = webvid.read_text().splitlines()
    webvid.write_text("\n".join([head, "", *lines[:1], " ", ",,,,", *lines[1:], "", ""]))
    reader = WebVid([webvid], webvid.parent)
    assert reader.blocks == [6]
    assert [split(reader.read(k, LOT))[1] for k in (0, 1)] == [["a snail, slowly"], ['two lines and "quotes"']]
    webvid.write_text(f'{head}\n1,"{"long " * 40000}",,00_01,a\n{lines[0]}\n')
    reader = WebVid([webvid], webvid.parent)
    assert reader.blocks == [2] and split(reader.read(1, LOT))[1] == ["a snail, slowly"]
    with pytest.raises(MinemuError, match="row 0 of .* has no text"):  # longer than a cell may be
        reader.read(0, LOT)


def test_a_name_that_is_too_long_for_the_system_does_not_end_the_run(webvid, talks):
    name = "a" * 5000
    with open(webvid, "a") as file:
        file.write(f"{name},x,x,00_01,too long\n")
    talks.write_text(json.dumps([*TALKS, {"video": f"{name}.mp4", "QA": TALKS[1]["QA"]}]))
    for config in (DataConfig("webvid", str(webvid)), DataConfig("chats", str(talks))):
        source = open_source(replace(config, folder=str(talks.parent), max_bad=1), words, 4)
        assert all(source.document(number) for number in range(len(source)))


def test_a_clip_that_is_none(tmp_path):
    with pytest.raises(MinemuError, match="the clip .*none.webp does not exist; check the path"):
        read_frames(tmp_path / "none.webp")
    (tmp_path / "clip.txt").write_text("no film")
    with pytest.raises(MinemuError, match="clip.txt is no animated WebP, GIF or PNG, and no film .*; make a folder of"):
        read_frames(tmp_path / "clip.txt")


def test_a_film_shows_the_frames_that_a_folder_would(webvid, monkeypatch):
    """A stand-in for PyAV, so that this is tried without it too."""

    class Film:
        def __init__(self, path):
            self.frames = 12 if Path(path).read_bytes() == b"film" else 0

        __enter__, __exit__ = lambda self: self, lambda self, *error: None

        def decode(self, video):
            for k in range(self.frames):
                yield SimpleNamespace(to_image=lambda k=k: coloured(k))
            if not self.frames:
                raise FFmpegError

    class FFmpegError(Exception):
        """The stand-in's."""

    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=Film, FFmpegError=FFmpegError))
    assert split(WebVid([webvid], webvid.parent, random_frames=False).read(2, LOT)) == (
        [0, 2, 3, 5, 6, 8, 9, 11],
        ["a film"],
    )
    more = [number(frame) for frame in read_frames(webvid.parent / "00_02" / "3.mp4", 14)]  # than it has
    assert more == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9, 10, 11]
    (webvid.parent / "00_02" / "3.mp4").write_bytes(b"cut")
    with pytest.raises(MinemuError, match="the clip .*3.mp4 is broken; fetch it again or leave it out"):
        WebVid([webvid], webvid.parent).read(2, LOT)


def test_a_true_film(tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for k in range(12):
            film.mux(stream.encode(av.VideoFrame.from_image(coloured(k, 64))))
        film.mux(stream.encode())
    frames = read_frames(path)
    assert [number(frame) for frame in frames] == [0, 2, 3, 5, 6, 8, 9, 11]
    assert {(frame.mode, frame.size) for frame in frames} == {("RGB", (64, 64))}
    drawn = [number(frame) for frame in read_frames(path, rng=np.random.default_rng(0))]
    assert drawn == sorted(drawn) and len(set(drawn)) == 8
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MinemuError, match="the clip .*clip.mp4 is broken; fetch it again or leave it out"):
        read_frames(path)


def test_storyboards(storyboards):
    reader = Storyboards(storyboards, pictures=10)
    whole = {tuple(map(tuple, split(reader.read(0, np.random.default_rng(k))))) for k in range(20)}
    numbers, texts = max(whole, key=lambda one: len(one[0]))
    assert numbers == tuple(range(10)) and texts == tuple(f"second {k} here" for k in range(0, 20, 4))
    for k in range(20):
        document = Storyboards(storyboards, pictures=3).read(0, np.random.default_rng(k))
        numbers, texts = split(document)
        assert 1 <= len(numbers) <= 3 and numbers == list(range(numbers[0], numbers[-1] + 1)) and texts
        for piece, before in zip(document[1:], document, strict=False):
            if isinstance(piece, str):  # thumbnail k shows second 2 k
                assert int(piece.split()[1]) // 2 == number(before)


def test_sheets_of_a_storyboard_go_by_their_names_and_are_read_once(storyboards, monkeypatch):
    path = storyboards / "storyboard" / "00007.json"
    board = json.loads(path.read_text())
    sheets = board["yt_meta_dict"]["sb"]
    board["yt_meta_dict"]["sb"] = dict(reversed(sheets.items()))
    path.write_text(json.dumps(board))
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path, whole=Path.read_bytes: read.append(path.name) or whole(path))
    reader = Storyboards(storyboards, pictures=10)
    for k in range(20):
        read.clear()
        numbers, _ = split(reader.read(0, np.random.default_rng(k)))
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[-1] == 9
        assert [name for name in read if name.endswith("webp")] == ["00007_0.webp", "00007_1.webp"][numbers[0] // 6 :]
    board["yt_meta_dict"]["sb"] = {f"sheet {k}": grid for k, grid in sheets.items()}
    path.write_text(json.dumps(board))
    assert split(reader.read(0, np.random.default_rng(0)))[0][-1] == 9


@pytest.mark.parametrize("file", ["subtitle/abc.json", "label/abc.json", "storyboard/00007_0.webp"])
def test_a_video_of_which_something_was_not_fetched_is_no_bad_sample(storyboards, file):
    (storyboards / file).unlink()
    with pytest.raises(Filtered, match=f"{file} is missing"):
        Storyboards(storyboards, pictures=10).read(0, np.random.default_rng(1))


@pytest.mark.parametrize(
    "file, content, text",
    [
        ("subtitle/abc.json", "[]", "has no subtitle from second 0 to 20"),
        ("subtitle/abc.json", "{", "is not valid JSON"),
        ("label/abc.json", '{"duration": "long"}', "its subtitle or its label is not as it should be"),
        ("storyboard/00007.json", '{"url": "watch?v=abc", "yt_meta_dict": {"sb": {}}}', "has no frames"),
        ("storyboard/00007_0.webp", "", "00007_0.webp is no picture; give one of"),
    ],
)
def test_bad_storyboards(storyboards, file, content, text):
    (storyboards / file).write_text(content)
    with pytest.raises(MinemuError, match=text) as error:
        Storyboards(storyboards, pictures=10).read(0, np.random.default_rng(1))
    assert not isinstance(error.value, Filtered)


def test_a_sheet_smaller_than_its_grid(storyboards):
    Image.new("RGB", (12, 12)).save(storyboards / "storyboard/00007_0.webp")
    with pytest.raises(MinemuError, match="pixels; a picture needs at least 8 on each side"):
        Storyboards(storyboards, pictures=10).read(0, np.random.default_rng(1))


def test_chats(talks):
    reader = Chats([talks], talks.parent, random_frames=False)
    llava, videochat, alpaca, plain, sharegpt = (reader.read(k, LOT) for k in range(5))
    assert llava.system == SYSTEM_IMAGE and number(llava.turns[0].user[0]) == 1
    assert [(turn.user[-1], turn.answer) for turn in llava.turns] == [
        ("what is this?", "a {square}."),
        ("sure?", 'yes ["quoted"].'),
    ]
    assert videochat.system == SYSTEM_VIDEO and len(videochat.turns[0].user) == 9
    assert [turn.user[-1] for turn in videochat.turns] == ["look closely. what moves?", "where?"]
    assert [(one.system, one.turns[0].user, one.turns[0].answer) for one in (alpaca, plain)] == [
        ("", ("add. 1 and 1",), "2"), ("", ("say hello.",), "hello,\nworld"),
    ]  # fmt: skip
    assert [(turn.user, turn.answer) for turn in sharegpt.turns] == [(("hi",), "hello")]


def test_fields_that_are_null_are_none(talks):
    """As `datasets` writes records of several kinds into one file."""
    fields = {name: None for talk in TALKS for name in talk}
    alone, path = Chats([talks], talks.parent, random_frames=False), talks.with_name("merged.jsonl")
    path.write_text("".join(json.dumps(fields | talk) + "\n" for talk in TALKS))
    merged = Chats([path], talks.parent, random_frames=False)
    assert [merged.read(k, LOT) for k in range(5)] == [alone.read(k, LOT) for k in range(5)]


@pytest.mark.parametrize(
    "record, text",
    [
        ({"question": "?"}, "record 0 of .* is no LLaVA, VideoChat, Alpaca or ShareGPT conversation; check its fields"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "record 0 of .* has no turn that is answered"),
        ({"instruction": "a", "output": ""}, "record 0 of .* has no text"),
        ({"image": "none.png", "conversations": TALKS[0]["conversations"]}, "none.png does not exist"),
    ],
)
def test_bad_chats(tmp_path, record, text):
    (tmp_path / "bad.jsonl").write_text(json.dumps(record))
    with pytest.raises(MinemuError, match=text):
        Chats([tmp_path / "bad.jsonl"], tmp_path).read(0, LOT)


# ---- records ---------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_records_of_lists_and_lines_are_found_by_number(tmp_path_factory, records, indent, ascii_only):
    folder = tmp_path_factory.mktemp("records")
    (folder / "list.json").write_text(
        json.dumps(records, indent=indent, ensure_ascii=ascii_only), "utf-8", "surrogatepass"
    )
    lines = "\n".join(json.dumps(record, ensure_ascii=True) for record in records)
    (folder / "lines.jsonl").write_text(lines)
    found = Records([folder / "list.json", folder / "lines.jsonl"])
    assert found.blocks == [len(records)] * 2
    assert [found[k] for k in range(2 * len(records))] == records * 2


def test_bad_record_files(tmp_path):
    path = tmp_path / "a.json"
    for text, message in [
        ('[{"a": 1}, {"b"', "a.json is cut off: its list does not end; fetch it again"),
        ("", "a.json is empty; fetch it again or leave it out"),
    ]:
        path.write_text(text)
        with pytest.raises(MinemuError, match=message):
            Records([path])
    path.write_text('{"a": 1}\n{"a": \n[1]\n')
    with pytest.raises(MinemuError, match="record 1 of .*a.json is not valid JSON"):
        Records([path])[1]
    with pytest.raises(MinemuError, match="record 2 of .*a.json is not a JSON object"):
        Records([path])[2]
    for name, unpack in [("a.jsonl.gz", "gunzip"), ("docs_no_face_shard_0_v3.jsonl.zip", "unzip")]:
        with pytest.raises(
            MinemuError, match=f"{name} is compressed and cannot be read .*; unpack it: {unpack} {name}$"
        ):
            Records([tmp_path / name])


# ---- damaged files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    """One small file of each kind."""
    folder = tmp_path_factory.mktemp("damaged")
    shard(folder / "a.tar", 0, 2)
    pq.write_table(
        pa.table({"caption": ["a", "b"], "jpg": [encoded(coloured(k)) for k in range(2)]}), folder / "a.parquet"
    )
    (folder / "a.json").write_text(json.dumps(TALKS))
    (folder / "a.csv").write_text('videoid,page_dir,name\na,.,"a\nb"\na,.,c\n')
    coloured(1).save(folder / "1.png")
    coloured(0).save(folder / "a.webp", save_all=True, append_images=[coloured(1)], lossless=True)
    coloured(0).save(folder / "clip.webp")
    return folder


READERS = {
    "a.tar": lambda path: WebDataset([path]),
    "a.parquet": lambda path: Parquet([path]),
    "a.json": lambda path: Chats([path], path.parent),
    "a.csv": lambda path: WebVid([path], path.parent),
    "a.webp": lambda path: WebVid([path.with_name("a.csv")], path.parent),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(READERS)), st.data())
def test_a_damaged_file_gives_samples_or_one_clear_line(intact, name, data):
    """Bytes are changed, or the end is missing: a sample is read, or refused with a `MinemuError` of one line."""
    path = intact / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if name != "a.parquet":  # its checksums are not written by default, so that changed bytes are its reader's affair
        for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
            damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(whole)))])
    try:
        reader = READERS[name](path)
        errors = [error for k in range(sum(reader.blocks)) if (error := refusal(reader, k))]
    except MinemuError as error:
        errors = [error]
    finally:
        path.write_bytes(whole)
    assert all("\n" not in str(error) for error in errors)


def refusal(reader, k: int) -> MinemuError | None:
    try:
        reader.read(k, LOT)
    except MinemuError as error:
        return error


# ---- by configuration ------------------------------------------------------------------------------------------------


def test_a_mixture_of_files(shards, pages, storyboards):
    sources = {
        "labels": open_source(DataConfig("webdataset", shards), words, 4),
        "interleaved": open_source(DataConfig("mmc4", str(pages), str(pages.parent)), words, 4),
        "storyboards": open_source(DataConfig("storyboards", str(storyboards)), words, 4),
    }
    mixture = Mixture(sources, {"labels": 2, "interleaved": 1, "storyboards": 1})
    assert all(any(isinstance(piece, Image.Image) for piece in mixture.document(i)) for i in range(8))
    assert split(Mixture(sources, {"labels": 2, "interleaved": 1, "storyboards": 1}).document(5)) == split(
        mixture.document(5)
    )


def test_sources_of_a_mixture_make_choices_of_their_own(shards):
    """Of one shard, with one seed: the order, and on which side the picture stands."""
    data = DataConfig("webdataset", shards)
    mixture = open_mixture(MixtureConfig(), DataFiles(labels=data, scenes=data), None, words, 4, seed=5)
    one, other = ([shape(mixture.sources[name].document(n)) for n in range(12)] for name in ("labels", "scenes"))
    assert [sorted(map(str, document)) for document in one] != [sorted(map(str, document)) for document in other]
    assert [document[0] == "." for document in one] != [document[0] == "." for document in other]


def test_every_format_by_configuration(shards, parquet, pages, webvid, storyboards, talks):
    folder = str(talks.parent)
    configs = [
        DataConfig("webdataset", shards),
        DataConfig("parquet", str(parquet / "*.parquet")),
        DataConfig("mmc4", str(pages), folder, mmc4=MMC4Config(pictures=1)),
        DataConfig("webvid", str(webvid), folder, frames=3),
        DataConfig("storyboards", str(storyboards), frames=1),
        DataConfig("chats", str(talks), folder, frames=3, random_frames=False),
    ]
    assert [config.format for config in configs] == list(FORMATS)
    for config in configs:
        assert open_source(config, words, 4, seed=3).document(2)
    assert len(split(open_source(configs[2], words, 4).document(0))[0]) == 1
    assert len(split(open_source(configs[3], words, 4).document(0))[0]) == 3
    assert len(split(open_source(configs[4], words, 4).document(0))[0]) == 1


def test_what_is_listed_of_a_data_set(shards, storyboards):
    sizes = [path.stat().st_size for path in sorted(Path(shards).parent.glob("*.tar"))]
    config = DataConfig("webdataset", shards)
    before = listing(config)
    assert before == listing(config) and before["files"] == 2 and before["bytes"] == sum(sizes)
    assert listing(DataConfig("storyboards", str(storyboards)))["files"] == 1
    last = Path(shards).with_name("00001.tar")
    last.rename(last.with_name("00002.tar"))
    renamed = listing(config)
    assert renamed["sha256"] != before["sha256"] and renamed["bytes"] == before["bytes"]
    with pytest.raises(MinemuError, match="no file matches .*; check the path"):
        listing(DataConfig("storyboards", shards))


@pytest.mark.parametrize(
    "source, config, says",
    [
        ("scenes", DataConfig("parquet", "x", folder="y"),
         "scenes.folder is not read by format 'parquet', only by mmc4, webvid, chats: leave it out"),
        ("clips", DataConfig("webvid", "x", mmc4=MMC4Config(pictures=3)),
         "clips.mmc4.pictures is not read by format 'webvid', only by mmc4: leave it out"),
        ("interleaved", DataConfig("mmc4", "x", frames=4),
         "interleaved.frames is not read by format 'mmc4', only by webvid, storyboards, chats: leave it out"),
        ("storyboards", DataConfig("storyboards", "x", random_frames=False),
         "storyboards.random_frames is not read by format 'storyboards', only by webvid, chats: leave it out"),
        ("labels", DataConfig("toy", "", max_bad=0.5),
         "labels.max_bad is not read by format 'toy', only by webdataset, parquet, mmc4, webvid, storyboards, chats: leave"),
        ("conversations", DataConfig("chats", "x", mmc4=MMC4Config(tokens=99)),
         "conversations.mmc4.tokens is not read by format 'chats', only by mmc4: leave it out"),
    ],
)  # fmt: skip
def test_settings_that_a_format_does_not_read_are_refused(source, config, says):
    with pytest.raises(MinemuError, match=f"^train.data.{says}"):
        if source == "conversations":
            open_talks(config, None, words, 4, 0)
        else:
            open_mixture(MixtureConfig(), DataFiles(**{source: config}), None, words, 4, 0)


def test_settings_that_a_format_reads_are_not_refused(pages, webvid, storyboards, talks):
    folder = str(pages.parent)
    files = DataFiles(
        interleaved=DataConfig("mmc4", str(pages), folder, 0.1, MMC4Config(0.3, 4, 99)),
        clips=DataConfig("webvid", str(webvid), folder, frames=3, random_frames=False),
        storyboards=DataConfig("storyboards", str(storyboards), max_bad=0.1, frames=3),
        conversations=DataConfig("chats", str(talks), folder, frames=3, random_frames=False),
    )
    mixture = open_mixture(MixtureConfig(), files, None, words, 4, 0)
    assert len(mixture.sources["clips"]) == 6 and mixture.sources["storyboards"].reader.pictures == 3
    assert len(open_talks(files.conversations, None, words, 4, 0)) == 5


def test_a_pattern_may_hold_a_range_of_numbers(shards, tmp_path):
    """As webdataset's do."""
    whole = files(shards)
    assert files(tmp_path / "{00000..00001}.tar") == files(tmp_path / "0000{0..1}*") == whole
    assert files(tmp_path / "{00000..00000}.tar") == whole[:1]
    assert files(tmp_path / "000{0..0}{0..1}.*") == whole
    with pytest.raises(MinemuError, match="no file matches .*/00002.tar; check the path"):
        files(tmp_path / "{00000..00002}.tar")
    Path(whole[0]).rename(tmp_path / "{1..2}.tar")
    assert files(tmp_path / "{1..2}.tar") == [tmp_path / "{1..2}.tar"]


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "storyboards"])
def test_a_folder_where_files_are_to_be_named(tmp_path, form):
    (tmp_path / "own").mkdir()
    for path in (tmp_path / "own", tmp_path / "o*"):
        with pytest.raises(
            MinemuError, match=r"own is a folder; name the files in it with a pattern, such as .*own/\*.json$"
        ):
            open_source(DataConfig(form, str(path)), words, 4)


def test_bad_configuration(tmp_path):
    with pytest.raises(MinemuError, match="frames=0: take 1 or more of each clip"):
        open_source(DataConfig("storyboards", str(tmp_path), frames=0), words, 4)
    with pytest.raises(MinemuError, match="folder=gone is no folder; name the one that holds the pictures or clips"):
        open_source(DataConfig("mmc4", "x", "gone"), words, 4)
    with pytest.raises(MinemuError, match="no data format 'webdatset': did you mean 'webdataset'?"):
        open_source(DataConfig("webdatset", "x"), words, 4)
    with pytest.raises(MinemuError, match=r"no file matches .*\*.tar; check the path"):
        open_source(DataConfig("webdataset", str(tmp_path / "*.tar")), words, 4)


def test_special_tokens_that_only_the_tokenizer_knows_make_a_bad_sample(shards):
    """Else the batch that has it would stop the run, and every run that goes on with it."""

    def length(text):
        if "7" in text.split():
            raise MinemuError("the text contains the special token '7'")
        return len(text.split())

    told = []
    plain = open_source(DataConfig("webdataset", shards, max_bad=1.0), words, 4)
    source = open_source(
        DataConfig("webdataset", shards, max_bad=1.0), length, 4, on_skip=lambda k, why: told.append(why)
    )
    texts = [piece for n in range(len(plain)) for piece in plain.document(n) if isinstance(piece, str)]
    kept = [piece for n in range(len(plain)) for piece in source.document(n) if isinstance(piece, str)]
    assert any("7" in text.split() for text in texts) and not any("7" in text.split() for text in kept)
    assert told == [f"sample 2 of {shards.replace('*', '00001')}: the text contains the special token '7'"]
