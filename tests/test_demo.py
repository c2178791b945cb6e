"""The demo on a random model: what it leaves behind, and what it refuses. What a trained one says is measured elsewhere."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from minemu import gallery
from minemu.config import EmuConfig
from minemu.data.captions import parse
from minemu.data.world import ToyWorld, is_held_out
from minemu.demo import DOCUMENT, PROMPTS, UPSCALE, Demo, run_demo, summary
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.visual_decoder import VisualDecoder


@pytest.fixture(scope="module")
def checkpoint(processor, tmp_path_factory):
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano")
    folder = tmp_path_factory.mktemp("checkpoint") / "emu-nano"
    EmuPipeline(Emu(config), processor, VisualDecoder(config.decoder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def demo(checkpoint, tmp_path_factory):
    """(folder, results) of one whole run."""
    out = tmp_path_factory.mktemp("somewhere") / "demo"
    return out, run_demo(checkpoint, out)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.pictures, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.pictures += [value for name, value in attributes if tag == "img" and name == "src"]
        self.links += [value for name, value in attributes if name in ("href", "src")]


def named_pictures(value):
    """Every picture path anywhere in results.json."""
    if isinstance(value, str):
        return {value} if value.endswith(".png") else set()
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(named_pictures, children))


def test_a_run_leaves_a_whole_gallery(demo, checkpoint):
    out, results = demo
    assert sorted(path.name for path in out.iterdir()) == sorted(gallery.FILES)
    assert json.loads((out / "results.json").read_text()) == results
    files = {f"pictures/{path.name}" for path in (out / "pictures").iterdir()}
    assert files == named_pictures(results)
    for file in files:
        with Image.open(out / file) as picture:
            assert picture.size == (32 * UPSCALE, 32 * UPSCALE)
    with Image.open(out / "gallery.png") as sheet:
        assert sheet.width > 1000 and len(sheet.getcolors(1 << 24)) > 100


def test_results_say_what_was_run(demo, checkpoint):
    _, results = demo
    pipe = EmuPipeline.from_pretrained(checkpoint)
    assert results["parameters"] == sum(p.numel() for m in (pipe.model, pipe.decoder) for p in m.parameters())
    assert (results["preset"], results["checkpoint"], results["seed"]) == ("emu-nano", "emu-nano", 0)
    assert results["seconds"] > 0 and results["commit"] and results["versions"]["torch"]
    assert set(results["summary"]["seconds"]) == {"captions", "drawings", "documents", "rebuilt", "blends"}
    for split, of in (("seen", 8), ("new-drawing", 4)):
        entries = [one for one in results["captions"] if one["split"] == split]
        assert results["summary"]["captions"][split] == {"right": sum(one["right"] for one in entries), "of": of}
        assert all(set(one) == {"picture", "split", "truth", "answer", "right"} for one in entries)
    assert [one["prompt"] for one in results["drawings"]] == list(PROMPTS)
    assert [one["continues_with"] for one in results["documents"]] == ["picture", "text"]
    assert len(results["rebuilt"]) == 8
    assert not any(one["trained_for"] for one in results["blends"])


def test_the_page_needs_nothing_but_its_pictures(demo):
    out, results = demo
    text = (out / "index.html").read_text()
    page = Page(text)
    assert set(page.pictures) == named_pictures(results)
    assert page.links == page.pictures and "script" not in page.tags
    assert "http" not in text and "url(" not in text and "@import" not in text
    for tag in ("figure", "figcaption", "section", "div"):
        assert text.count(f"<{tag}") == text.count(f"</{tag}>")


def test_the_page_shows_what_the_model_says_as_text(demo):
    _, results = demo
    results = {**results, "captions": [{**results["captions"][0], "answer": "<script>alert(1)</script>"}]}
    page = gallery.page(results, gallery.describe(results))
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_terminal_summary_is_short(demo):
    out, results = demo
    lines = summary(results, out).splitlines()
    assert lines[0].startswith("emu-nano from emu-nano:") and len(lines) < 60
    assert "Reads pictures it was never shown: 0 of 8 right; in a style new to the concept: 0 of 4" in lines
    assert str(out / "index.html") in lines[-1]


def test_a_run_prints_the_summary_and_no_progress_bar_in_ci(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("minemu.demo.PROMPTS", PROMPTS[:1])
    results = run_demo(checkpoint, tmp_path / "demo")
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out == summary(results, tmp_path / "demo") + "\n"
    assert len(results["drawings"]) == 1


def test_the_same_seed_draws_the_same_pictures(demo, checkpoint, tmp_path):
    out, results = demo
    again = Demo(EmuPipeline.from_pretrained(checkpoint), tmp_path, seed=0).drawings()
    assert again == results["drawings"]
    for one in again:
        assert (tmp_path / one["picture"]).read_bytes() == (out / one["picture"]).read_bytes()


def test_right_answers_are_seen_to_be_right(checkpoint, tmp_path, monkeypatch):
    show = Demo(EmuPipeline.from_pretrained(checkpoint), tmp_path, seed=3)
    truths = [world.sample(i).caption for world, n in ((show.unseen, 8), (show.new, 4)) for i in range(n)]
    truths[2] = truths[2].replace("background", "sky")
    monkeypatch.setattr(show, "_say", lambda samples, **_: truths)
    assert [one["right"] for one in show.captions()] == [i != 2 for i in range(12)]


@pytest.mark.parametrize("prompt", [*PROMPTS, *DOCUMENT])
def test_prompts_ask_for_what_training_never_showed(prompt):
    seen, new = ToyWorld("seen"), ToyWorld("new-drawing")
    scene = parse(prompt, seen.labels)
    assert scene is not None
    if all((group.label, scene.style) in seen.keys for group in scene.groups):
        assert is_held_out(scene)
    else:
        assert all((group.label, scene.style) in new.keys for group in scene.groups)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(MinemuError, match=r"there is no checkpoint folder .*nowhere; .*minemu recipe emu-tiny"):
        run_demo(tmp_path / "nowhere", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_half_copied_checkpoint_keeps_the_old_gallery(checkpoint, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(checkpoint, half)
    (half / "tokenizer.json").unlink()
    (tmp_path / "demo" / "pictures").mkdir(parents=True)
    (tmp_path / "demo" / "index.html").write_text("old")
    with pytest.raises(MinemuError, match="has neither tokenizer.json nor tokenizer.model"):
        run_demo(half, tmp_path / "demo")
    assert (tmp_path / "demo" / "index.html").read_text() == "old"


def test_a_failure_in_the_middle_keeps_the_old_gallery(checkpoint, tmp_path, monkeypatch):
    def fail(self, samples):
        raise KeyboardInterrupt

    monkeypatch.setattr(Demo, "_draw", fail)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "index.html").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run_demo(checkpoint, tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (tmp_path / "demo" / "index.html").read_text() == "old"


def test_a_folder_with_other_files_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MinemuError, match=r"holds 'notes.txt', which is no part of a gallery; choose another folder"):
        run_demo(checkpoint, tmp_path)
    with pytest.raises(MinemuError, match=r"notes.txt is a file; choose another folder"):
        run_demo(checkpoint, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_that_cannot_draw_is_refused_before_it_reads(checkpoint, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoint, tmp_path / "emu-nano")
    shutil.rmtree(folder / "visual_decoder")
    monkeypatch.setattr(Demo, "captions", lambda self: pytest.fail("it captions"))
    with pytest.raises(MinemuError, match="this checkpoint has no visual decoder, so it cannot draw"):
        run_demo(folder, tmp_path / "out")


def test_captions_fit_below_their_picture():
    for text in (PROMPTS[6], "<unused1>" * 40, "", "a " * 200):
        lines = gallery._lines(text)
        assert len(lines) <= gallery.LINES and all(gallery._fits(line) for line in lines)
    assert " ".join(gallery._lines(PROMPTS[6])) == PROMPTS[6]
    assert [line.endswith("…") for line in gallery._lines("a " + 99 * "w")] == [False, True]
    assert gallery._lines(" ".join([99 * "w"] * 9))[-1].count("…") == 1


def test_a_wrong_answer_shows_the_truth(demo):
    _, results = demo
    section = gallery.describe(results)[0]
    wrong = next(one for one in results["captions"] if not one["right"])
    tile = next(tile for tile in section.rows[0] if tile.picture == wrong["picture"])
    assert (tile.right, tile.note) == (False, f"truth: {wrong['truth']}")
    assert "✗" in gallery._figure(tile) and "✓" in gallery._figure(replace(tile, right=True))
