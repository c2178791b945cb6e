"""The published checkpoints: every name has its place, there and back, for all four tables and for what their copies vary in."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from minemu import cli
from minemu.config import EmuConfig
from minemu.convert import convert, convert_back, load_official
from minemu.model import Emu
from minemu.official import canonical, map_names, our_shapes, published_name, why_unused

TABLES = Path(__file__).parent / "golden" / "checkpoints"


def table(name):
    return {
        key: tuple(shape)
        for key, shape in json.loads(gzip.decompress((TABLES / f"{name}.json.gz").read_bytes())).items()
    }


def late_peft(shapes):
    """The names that newer versions of peft give."""
    adapted = {name.partition(".lora_A.")[0] for name in shapes if ".lora_A." in name}
    return {
        f"{name.removesuffix('.weight')}.base_layer.weight" if name.removesuffix(".weight") in adapted else name: shape
        for name, shape in shapes.items()
    }


def hugging_face(shapes):
    return {f"model.{name}": shape for name, shape in shapes.items()}


def as_published(shapes):
    return shapes


@pytest.mark.parametrize(
    ("name", "preset", "names", "numbers", "variant"),
    [
        ("emu1_pretrain", "emu-14b", 1096, 14_208_421_632, as_published),
        ("emu1_instruct", "emu-14b", 1416, 14_234_656_512, as_published),
        ("emu1_instruct", "emu-14b", 1416, 14_234_656_512, late_peft),
        ("emu2", "emu2-37b", 1441, 36_906_516_992, as_published),
        ("emu2", "emu2-37b", 1441, 36_906_516_992, hugging_face),
        ("emu2_chat", "emu2-37b", 1441, 36_906_543_616, as_published),
        ("emu2_chat", "emu2-37b", 1441, 36_906_543_616, hugging_face),
    ],
)
def test_every_published_name_has_its_place(name, preset, names, numbers, variant):
    shapes = variant(table(name))
    assert (
        sum(torch.Size(shape).numel() for shape in shapes.values()) == numbers
    )  # rotary frequencies and all unused included
    for keep_lora in (False, True):
        mapping = map_names(shapes, EmuConfig.preset(preset), keep_lora)
        assert mapping.problems == [] and mapping.complete
        assert mapping.counts["loaded"] + mapping.counts["unused"] == len(shapes) == names
        assert len(mapping.lora) == (160 if "instruct" in name and not keep_lora else 0)
        if "instruct" not in name:
            break


def test_the_configuration_follows_the_checkpoint():
    emu, emu2 = EmuConfig.preset("emu-14b"), EmuConfig.preset("emu2-37b")
    assert map_names(table("emu1_pretrain"), emu).config == emu
    assert map_names(table("emu2"), emu2).config == emu2
    instruct = map_names(table("emu1_instruct"), emu, keep_lora=True).config
    assert (instruct.llm.vocab_size, instruct.llm.lora_rank, instruct.llm.lora_alpha) == (32006, 16, 16)
    chat = map_names(table("emu2_chat"), emu2).config
    assert (chat.llm.vocab_size, chat.bridge.n_image, chat.bridge.n_frame) == (32274, 256, 64)


@pytest.mark.parametrize(
    ("name", "preset", "keep_lora"),
    [("emu1_pretrain", "emu-14b", False), ("emu1_instruct", "emu-14b", True), ("emu2", "emu2-37b", False)],
)
def test_and_back_again(name, preset, keep_lora):
    shapes = table(name)
    config = map_names(shapes, EmuConfig.preset(preset), keep_lora).config
    written = {published_name(ours, config): shape for ours, shape in our_shapes(config).items()}
    assert written == {published: shape for published, shape in shapes.items() if why_unused(published) is None}


PARTS = {
    "visual encoder": ("visual_encoder.",),
    "Causal Transformer; `project_up`": ("ln_visual.", "causal_transformer.", "project_up."),
    "LLM": ("llm.",),
    "regression head": ("regression_head.",),
}


def test_readme_counts_parameters_right():
    counts = {part: [] for part in (*PARTS, "published, but never used (`minemu official` names them)", "all")}
    for name, preset in (("emu1_pretrain", "emu-14b"), ("emu2", "emu2-37b")):
        size = {key: torch.Size(shape).numel() for key, shape in table(name).items()}
        mapping = map_names(table(name), EmuConfig.preset(preset))
        ours = {key: torch.Size(shape).numel() for key, shape in our_shapes(mapping.config).items()}
        for part, prefixes in PARTS.items():
            names = [key for key in ours if key.startswith(prefixes)]
            counts[part].append(sum(ours[key] for key in names))
            assert counts[part][-1] == sum(size[mapping.loaded[key]] for key in names), part
        counts["published, but never used (`minemu official` names them)"].append(
            sum(size[key] for key in mapping.unused)
        )
        counts["all"].append(sum(size.values()))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for part, (emu, emu2) in counts.items():
        assert f"| {part} | {emu:,} | {emu2:,} |" in readme


def test_what_copies_vary_in():
    names = (
        "decoder.lm.base_model.model.model.layers.0.self_attn.q_proj.weight",
        "decoder.lm.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
        "model.decoder.lm.model.layers.0.self_attn.q_proj.weight",
    )
    assert {canonical(name) for name in names} == {"decoder.lm.model.layers.0.self_attn.q_proj.weight"}


def write_table(tmp_path, shapes):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(shapes))
    return str(path)


def test_the_command_names_what_is_unused(tmp_path, capsys):
    path, out = write_table(tmp_path, table("emu1_instruct")), tmp_path / "mapping.json"
    assert cli.run(["official", path, "--preset", "emu-14b", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1,416 published names" in said and said.splitlines()[-1] == "complete"
    assert "unused: cformer.cformer.embed_tokens.weight (1): T5's table of words" in said
    found = json.loads(out.read_text())
    assert found["complete"] and found["counts"]["loaded"] == 1371 and len(found["unused"]) == 45
    assert found["loaded"]["regression_head.weight"] == "decoder.lm.base_model.model.stu_regress_head.weight"


def test_every_problem_is_named(tmp_path, capsys):
    shapes = table("emu1_pretrain")
    del shapes["ln_visual.bias"]
    shapes |= {"cformer.causal_tokens": (1, 64, 768), "visual.blocks.40.norm1.weight": (1408,)}
    shapes["decoder.lm.model.layers.3.mlp.up_proj.lora_A.default.weight"] = (16, 5120)  # its B is not there
    module = "decoder.lm.model.layers.3.self_attn"
    shapes |= {f"{module}.q_proj.lora_{a}.default.weight": (16, 5120) for a in ("A", "embedding_A")}
    shapes |= {
        f"{module}.k_proj.lora_A.default.weight": (16, 5120),
        f"{module}.k_proj.lora_B.default.weight": (5120, 8),
    }
    assert cli.run(["official", write_table(tmp_path, shapes), "--preset", "emu-14b"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "wrong shape: cformer.causal_tokens is [1, 64, 768], this configuration needs [1, 32, 768]" in lines
    assert "missing: ln_visual.bias" in lines
    assert "unexpected: visual.blocks.40.norm1.weight" in lines
    assert "unexpected: decoder.lm.model.layers.3.mlp.up_proj.lora_A.default.weight" in lines
    assert f"unexpected: {module}.q_proj.lora_embedding_A.default.weight" in lines
    assert f"wrong shape: {module}.k_proj.lora_A.default.weight and its B do not multiply to [5120, 5120]" in lines
    assert lines[-1] == "not complete: this is no checkpoint of emu-14b; name its own preset"


@pytest.mark.parametrize(
    ("name", "preset"), [("emu2", "emu-14b"), ("emu1_pretrain", "emu2-37b"), ("emu2", "emu2-nano")]
)
def test_a_table_of_another_model_is_not_complete(tmp_path, capsys, name, preset):
    assert cli.run(["official", write_table(tmp_path, table(name)), "--preset", preset]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("not complete: this is no checkpoint of")


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("{}", [], "say what it is a checkpoint of: --preset emu-14b or --preset emu2-37b"),
        ("{}", ["--preset", "emu-15b"], "unknown preset 'emu-15b': did you mean 'emu-14b'?"),
        ("{}", ["--preset", "emu-14b", "--dtype", "bfloat61"], "unknown dtype 'bfloat61': did you mean 'bfloat16'?"),
        ('{"a": 3}', ["--preset", "emu-14b"], "is no table of names and shapes; it should read"),
        ('{"a": [3', ["--preset", "emu-14b"], "is not valid JSON"),
        ("{}", ["--back"], "--back writes a checkpoint: name its folder with --out FOLDER"),
        ("{}", ["--back", "--out", "x", "--keep-lora"], "leave out --preset and --keep-lora"),
        ("{}", ["--back", "--out", "x", "--preset", "emu-14b"], "leave out --preset and --keep-lora"),
        (
            "{}",
            ["--preset", "emu-14b", "--dtype", "bfloat16"],
            "--dtype is of what is written: name a folder with --out",
        ),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, content, arguments, message):
    path = tmp_path / "table.json"
    path.write_text(content)
    assert cli.run(["official", str(path), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


# ---- LoRA -----------------------------------------------------------------------------------------------------------------


def test_lora_kept_and_merged_give_equal_outputs(tmp_path):
    config = EmuConfig.preset("emu-nano").override({"vision.stem": "patch", "llm.lora_rank": 4, "llm.lora_alpha": 16})
    torch.manual_seed(0)
    model = Emu(config).eval()
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)  # it starts at zero, which would show nothing
    model.save_pretrained(tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "published")
    plain = config.override({"llm.lora_rank": 0})
    convert(tmp_path / "published", plain, tmp_path / "kept", keep_lora=True)
    kept = Emu.from_pretrained(tmp_path / "kept")
    merged = load_official(tmp_path / "published", plain)
    assert (kept.config.llm.lora_rank, merged.config.llm.lora_rank) == (4, 0)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(kept(ids).logits, expected, atol=0, rtol=0)
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-5)
        without = (
            merged.llm.model.layers[0].self_attn.q_proj.weight
            - kept.llm.model.layers[0].self_attn.q_proj.base_layer.weight
        )
    assert without.abs().max() > 0.01
    assert {name for name, p in kept.llm.named_parameters() if p.requires_grad and ".lora_" not in name} == set()
