"""Atomic writes: what is visible after an error, after Ctrl-C, and after a process that was killed. JSON that is not what it should be."""

import shutil

import pytest

from minemu import adapters, files
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.processor import EmuProcessor
from minemu.visual_decoder import VisualDecoder


def test_a_missing_input_is_not_blamed_on_what_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="lost.txt"), files.atomic_dir(tmp_path / "demo"):
        (tmp_path / "lost.txt").read_text()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MinemuError, match="could not write /proc/xx/yy/b.json: "):
        files.write_json("/proc/xx/yy/b.json", {})
    with pytest.raises(MinemuError, match="could not write .*file/yy/b.json: "):
        files.write_json(tmp_path / "file" / "yy" / "b.json", {})
    with pytest.raises(MinemuError, match="could not write .*demo: "), files.atomic_dir(tmp_path / "demo") as folder:
        (folder / "no" / "such").write_text("")


@pytest.mark.parametrize("done", [False, True])
def test_ctrl_c_between_two_folders_leaves_one_to_be_seen(tmp_path, monkeypatch, done):
    (tmp_path / "a").mkdir()
    moves = []

    def replace(source, target):
        moves.append(target)
        if len(moves) != 2 or done:
            shutil.move(source, target)
        if len(moves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), files.atomic_dir(tmp_path / "a") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "a").exists() and (tmp_path / "a" / "new").exists() == done
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_a_killed_process_had_put_aside_comes_back(tmp_path):
    for name in (".a.01234567.old", ".b.01234567.old", "b", ".a.mine.old", ".a-c.01234567.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "from").write_text(name)
    files.sweep(tmp_path, "a")
    assert (tmp_path / "a" / "from").read_text() == ".a.01234567.old" and not (tmp_path / "a-c").exists()
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.mine.old", "a", "a-c", "b"]
    assert (tmp_path / "b" / "from").read_text() == "b"


def test_sweeping_one_name_leaves_longer_ones(tmp_path):
    written = [tmp_path / f".{name}.01234567.tmp" for name in ("checkpoint", "checkpoint-instruct")]
    for path in written:
        path.mkdir()
    files.sweep(tmp_path, "checkpoint")
    assert [path.exists() for path in written] == [False, True]


@pytest.mark.parametrize(
    ("name", "text", "load", "message"),
    [
        ("config.json", "[]", Emu.from_pretrained, "config.json is no JSON object"),
        ("config.json", "[]", VisualDecoder.from_pretrained, "config.json is no JSON object"),
        ("processor.json", "{}", EmuProcessor.from_pretrained, "processor.json lacks 'image_size'"),
        ("processor.json", '{"image_size": 32}', EmuProcessor.from_pretrained, "processor.json lacks 'n_image'"),
        ("base.json", "{}", adapters.base_folder, "base.json lacks 'name'"),
        ("adapter_config.json", "[]", lambda folder: adapters.read_settings(folder, None), "is no JSON object"),
    ],
)
def test_json_that_is_not_what_it_should_be_is_one_line(tmp_path, name, text, load, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(MinemuError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and name in str(error.value)
