"""Conversion of checkpoints: every kind of file, in pieces, there and back; stopped and gone on; damaged in every way."""

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minemu import bench, cli, convert
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.shards import Shards, read_table
from minemu.weights import load_folder

NANO = {"emu": "emu-nano", "emu2": "emu2-nano"}
SMALL = 50_000  # bytes a file, so that even this model needs several


def config_of(family="emu"):
    return EmuConfig.preset(NANO[family]).override({"vision.stem": "patch"})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """By family: a model of ours, and its tensors under the published names, with one that is never used."""

    @cache
    def make(family="emu"):
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = Emu(config_of(family)).eval()
        model.save_pretrained(folder / "ours")
        convert.convert_back(folder / "ours", folder / "whole")
        tensors = load_file(folder / "whole" / "model.safetensors")
        return model, {**tensors, "visual.norm.weight": torch.ones(32)}

    return make


def in_two(tensors):
    names = sorted(tensors)
    return [{name: tensors[name] for name in names[part::2]} for part in (0, 1)]


def save(tensors, folder, kind):
    """The checkpoint `tensors` as one of the kinds of files that are about; returns what to name on the command line."""
    folder.mkdir()
    shards = dict(zip(("a", "b"), in_two(tensors), strict=True))
    if kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif kind in ("pt", "bin"):
        torch.save(tensors, folder / f"model.{kind}")
    elif kind == "legacy":
        torch.save(tensors, folder / "model.pt", _use_new_zipfile_serialization=False)
    elif kind == "module":
        torch.save({"module": tensors, "iteration": 10_000}, folder / "model.pt")
    else:
        write = save_file if kind == "sharded safetensors" else torch.save
        suffix = "safetensors" if write is save_file else "bin"
        for letter, part in shards.items():
            write(part, folder / f"{letter}.{suffix}")
        where = {name: f"{letter}.{suffix}" for letter, part in shards.items() for name in part}
        (folder / f"model.{suffix}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


KINDS = ["safetensors", "pt", "bin", "legacy", "module", "sharded safetensors", "sharded bin"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_converts_and_loads(published, tmp_path, kind):
    model, tensors = published()
    source = save(tensors, tmp_path / "source", kind)
    mapping = convert.convert(source, config_of(), tmp_path / "out", max_file_bytes=SMALL)
    assert list(mapping.unused) == ["visual.norm.weight"]
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    again = Emu.from_pretrained(tmp_path / "out")
    assert again.config == model.config
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("family", NANO)
def test_there_and_back_again(published, tmp_path, family):
    _, tensors = published(family)
    convert.convert(save(tensors, tmp_path / "source", "pt"), config_of(family), tmp_path / "out", max_file_bytes=SMALL)
    count = convert.convert_back(tmp_path / "out", tmp_path / "back", max_file_bytes=SMALL)
    back = Shards(tmp_path / "back")
    assert count == len(back.shapes) == len(tensors) - 1
    assert all(torch.equal(back.read(name), tensors[name]) for name in back.shapes)


def test_dtype_is_kept_or_changed(published, tmp_path):
    _, tensors = published()
    source = save({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "source", "pt")
    for dtype, expected in ((None, torch.bfloat16), (torch.float16, torch.float16), (torch.float32, torch.float32)):
        convert.convert(source, config_of(), tmp_path / str(expected), dtype)
        assert set(Shards(tmp_path / str(expected)).dtypes.values()) == {expected}


def test_the_command_converts_and_the_tokenizer_comes_along(published, tmp_path, capsys):
    _, tensors = published()
    source = save(tensors, tmp_path / "source", "pt")
    (source / "tokenizer.json").write_text("{}")
    ours = EmuConfig.preset("emu2-nano")  # a preset without the toy world's own stem
    torch.manual_seed(0)
    Emu(ours).save_pretrained(tmp_path / "emu2")
    assert cli.run(["official", str(tmp_path / "emu2"), "--back", "--out", str(tmp_path / "theirs")]) == 0
    shutil.copy(source / "tokenizer.json", tmp_path / "theirs")
    assert cli.run(["official", str(tmp_path / "theirs"), "--preset", "emu2-nano", "--out", str(tmp_path / "out")]) == 0
    assert f"load it with Emu.from_pretrained('{tmp_path / 'out'}', dtype='auto')" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert Emu.from_pretrained(tmp_path / "out").config == ours
    assert cli.run(["official", str(source), "--preset", "emu2-nano", "--out", str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()


# ---- stopped --------------------------------------------------------------------------------------------------------------


def test_stopped_it_goes_on_and_is_never_taken_for_whole(published, tmp_path, monkeypatch):
    model, tensors = published()
    source, out = save(tensors, tmp_path / "source", "sharded bin"), tmp_path / "out"
    written, write = [], convert.write_shard

    def stop_at_the_third(path, *arguments):
        if len(written) == 2:
            (path.parent / f".{path.name}.0.tmp").write_bytes(b"half")  # what a killed process leaves
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(convert, "write_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(source, config_of(), out, max_file_bytes=SMALL)
    with pytest.raises(
        MinemuError, match="out is a conversion that was stopped; run the same minemu official command again"
    ):
        Emu.from_pretrained(out)
    monkeypatch.setattr(
        convert, "write_shard", lambda path, *arguments: (written.append(path.name), write(path, *arguments))
    )
    convert.convert(source, config_of(), out, max_file_bytes=SMALL)
    assert len(written) == len(set(written)) == len(list(out.glob("*.safetensors")))  # nothing was written twice
    assert not list(out.glob(".*"))
    ids = torch.arange(3, 9)[None]
    assert torch.equal(Emu.from_pretrained(out)(ids).logits, model(ids).logits)
    convert.convert(source, config_of(), out, max_file_bytes=SMALL)  # once more: it is there already
    assert len(written) == len(set(written))


def test_a_folder_with_something_else_is_left_alone(published, tmp_path):
    model, tensors = published()
    model.save_pretrained(tmp_path / "ours")
    source, out = save(tensors, tmp_path / "source", "pt"), tmp_path / "out"
    convert.convert(source, config_of(), out)
    with pytest.raises(MinemuError, match="out holds another conversion, of .*; delete it or choose another folder"):
        convert.convert(source, config_of(), out, torch.float16)
    with pytest.raises(MinemuError, match="out holds another conversion"):  # the factors would be merged otherwise
        convert.convert(source, config_of().override({"llm.lora_alpha": 32.0}), out)
    (tmp_path / "ours" / ".notes.tmp").mkdir()
    with pytest.raises(MinemuError, match="ours is not empty; choose another folder"):
        convert.convert(source, config_of(), tmp_path / "ours")
    assert (tmp_path / "ours" / ".notes.tmp").exists()
    (tmp_path / "decoded" / "visual_decoder").mkdir(parents=True)  # whichever of the two comes first
    convert.convert(source, config_of(), tmp_path / "decoded")


def test_what_git_lfs_left_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(MinemuError, match="model.bin is a pointer of git-lfs, not the file itself; .* git lfs pull"):
        Shards(tmp_path / "model.bin")
    (tmp_path / "model.bin").rename(tmp_path / "model.safetensors")
    with pytest.raises(MinemuError, match="model.safetensors is a pointer of git-lfs, .* with: git lfs pull"):
        load_folder(tmp_path)


def test_a_shard_that_gets_lost_is_named(published, tmp_path):
    _, tensors = published()
    convert.convert(save(tensors, tmp_path / "source", "pt"), config_of(), tmp_path / "out", max_file_bytes=SMALL)
    (tmp_path / "out" / sorted(path.name for path in (tmp_path / "out").glob("model-*"))[1]).unlink()
    with pytest.raises(
        MinemuError, match="the shard .*model-00002-of-.* is missing, which model.safetensors.index.json names"
    ):
        Emu.from_pretrained(tmp_path / "out")


# ---- damaged --------------------------------------------------------------------------------------------------------------


def halve(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def promise_more(folder):
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["project_up.weight"] = "b.safetensors"
    index.write_text(json.dumps(values))


def put(value):
    return lambda folder: torch.save(value, folder / "model.pt")


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        (
            "safetensors",
            lambda f: halve(f / "model.safetensors"),
            r"model.safetensors is damaged or truncated \(.*\); fetch it again",
        ),
        ("pt", lambda f: halve(f / "model.pt"), r"model.pt is damaged or truncated \(.*\); fetch it again"),
        ("sharded bin", lambda f: halve(f / "b.bin"), r"b.bin is damaged or truncated \(.*\); fetch it again"),
        (
            "pt",
            lambda f: (f / "model.pt").write_bytes(b"not found"),
            "model.pt .*fetch it again|model.pt holds more than tensors",
        ),
        (
            "pt",
            put({"a": Path("x")}),
            "holds more than tensors, or is no checkpoint, and nothing is ever unpickled here",
        ),
        ("pt", put([torch.zeros(2)]), r"model.pt holds a list, no state dict; save model.state_dict\(\) in it"),
        ("pt", put({"step": 3}), "model.pt holds a int under 'step': it is no state dict; save only that"),
        (
            "sharded bin",
            lambda f: (f / "a.bin").unlink(),
            "the shard .*a.bin is missing, which model.bin.index.json names; fetch it too",
        ),
        (
            "sharded safetensors",
            promise_more,
            "b.safetensors lacks project_up.weight, which .*index.json promises; fetch that file again",
        ),
        (
            "sharded bin",
            lambda f: (f / "model.bin.index.json").write_text("{}"),
            "model.bin.index.json has no weight_map, so it is no index of a checkpoint; fetch it again",
        ),
        (
            "sharded bin",
            lambda f: (f / "model.bin.index.json").write_text('{"weight_map": {"a": 3}}'),
            "model.bin.index.json names no file for a in its weight_map; fetch it again",
        ),
        ("pt", lambda f: (f / "model.pt").unlink(), "source has no weights file; name one file"),
        (
            "pt",
            lambda f: shutil.copy(f / "model.pt", f / "copy.pt"),
            "source has 2 weights files and no index; name one file",
        ),
        ("pt", shutil.rmtree, "there is no checkpoint .*source; check the path"),
    ],
)
def test_what_is_damaged_is_one_clear_line_and_nothing_is_written(published, tmp_path, kind, spoil, message):
    _, tensors = published()
    source = save(tensors, tmp_path / "source", kind)
    spoil(source)
    with pytest.raises(MinemuError, match=message) as error:
        convert.convert(source, config_of(), tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_quantised_and_unknown_types_are_refused(published, tmp_path):
    tensors = dict(published()[1])
    tensors["ln_visual.weight"] = tensors["ln_visual.weight"].to(torch.uint8)
    with pytest.raises(
        MinemuError, match="ln_visual.weight is torch.uint8, so the checkpoint is quantised; convert the unquantised"
    ):
        convert.convert(save(tensors, tmp_path / "a", "pt"), config_of(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tensors["ln_visual.weight"] = tensors["ln_visual.weight"].to(torch.float8_e4m3fn)
    with pytest.raises(
        MinemuError, match="holds ln_visual.weight as F8_E4M3, an unknown dtype; convert it to one of F64, F32"
    ):
        read_table(save(tensors, tmp_path / "b", "safetensors"))


# ---- memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory_follows_the_largest_shard_and_not_the_checkpoint():
    small = {
        "llm.width": 1024,
        "llm.heads": 8,
        "llm.ff_width": 2816,
        "llm.words": 4000,
        "decoder.condition_width": 1024,
    }
    row = bench.convert_peak(layers=3, changes=small, shard_bytes=48 * 2**20)
    assert row["checkpoint_bytes"] > 4 * row["largest_shard_bytes"]
    assert row["ratio"] == row["peak_bytes"] / row["largest_shard_bytes"] < 1.5
