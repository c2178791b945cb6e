"""The published implementation's own numbers: recordings at toy size, and what is said when one does not agree or is no recording."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minemu import cli
from minemu.errors import MinemuError
from minemu.parity import Recording, compare, config_of
from minemu.shards import Shards

GOLDEN = Path(__file__).parent / "golden"
WHOLE = Path(__file__).resolve().parents[2] / "shared" / "reference"  # with what the golden copies leave out
STAGES = {
    "emu1": {
        "visual_features",
        "causal_embeds",
        "hidden",
        "text_loss",
        "regress_pred",
        "regress_mse_33",
        "gen_batch_leftpad",
    },
    "emu2": {"encode_image", "encode_video_frames", "hidden", "gen_text_only", "gen_batch_leftpad", "gen_with_images"},
}


@pytest.mark.parametrize("family", ["emu1", "emu2"])
def test_every_number_and_every_id_of_the_recording(family):
    found = {tensor.name: tensor for tensor in compare(GOLDEN / family)}
    assert found.keys() >= STAGES[family] | {"input_ids", "textgen_prompt_ids", "textgen_greedy", "textgen_beam5_lpm1"}
    assert [name for name, tensor in found.items() if not tensor.passed] == []
    assert max(tensor.error for tensor in found.values()) < 2e-5


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole recordings are not beside this checkout")
@pytest.mark.parametrize("family", ["emu1", "emu2"])
def test_the_whole_recordings(family):
    assert [tensor.name for tensor in compare(WHOLE / family) if not tensor.passed] == []


@pytest.fixture
def recording(tmp_path):
    return Path(shutil.copytree(GOLDEN / "emu1", tmp_path / "emu1"))


def test_a_difference_is_shown_and_ends_with_1(recording, tmp_path, capsys):
    assert cli.run(["parity", str(recording), "--json", str(tmp_path / "equal.json")]) == 0
    assert "\nequal: largest error" in capsys.readouterr().out
    outputs = load_file(recording / "outputs.safetensors")
    outputs["causal_embeds"][0, 0, 0] += 2e-4
    outputs["textgen_greedy"][0, 3] += 1
    save_file(outputs, recording / "outputs.safetensors")
    assert cli.run(["parity", str(recording), "--json", str(tmp_path / "not.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("<--")] == ["textgen_greedy", "causal_embeds"]
    assert lines[-1].startswith("NOT equal: largest error 2.0e-04")
    said = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("equal", "not")}
    assert said["equal"]["passed"] and not said["not"]["passed"]
    assert (
        said["not"]["tensors"]["causal_embeds"]["passed"] is False
        and said["not"]["tensors"]["causal_embeds"]["error"] > 1e-4
    )


def test_not_a_number_is_no_agreement(recording, tmp_path):
    weights = load_file(recording / "weights.safetensors")
    weights["ln_visual.weight"][0] = torch.nan
    save_file(weights, recording / "weights.safetensors")
    assert cli.run(["parity", str(recording), "--json", str(tmp_path / "nan.json")]) == 1
    assert json.loads((tmp_path / "nan.json").read_text())["tensors"]["causal_embeds"]["error"] is None


def test_sizes_are_read_from_the_recording():
    values = json.loads((GOLDEN / "emu1" / "config.json").read_text())
    shapes = Shards(GOLDEN / "emu1" / "weights.safetensors").shapes
    values["causal"] |= {"d_kv": 20, "num_heads": 3, "n_causal": 5, "relative_attention_max_distance": 19}
    config = config_of(values, {**shapes, "decoder.lm.model.embed_tokens.weight": (426, 64)})
    assert (config.bridge.key_width, config.bridge.n_image, config.bridge.position_distance) == (20, 5, 19)
    assert config.llm.special_tokens == 6 and config.vision.mlp_width == 279 == int(64 * 4.3637)


def test_an_instruct_recording_has_lora_under_peft_names(recording):
    weights = load_file(recording / "weights.safetensors")
    renamed = {name.replace("decoder.lm.", "decoder.lm.base_model.model."): tensor for name, tensor in weights.items()}
    module = "decoder.lm.base_model.model.model.layers.0.self_attn.q_proj"
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator)
    renamed[f"{module}.lora_A.default.weight"], renamed[f"{module}.lora_B.default.weight"] = factors
    merged = weights["decoder.lm.model.layers.0.self_attn.q_proj.weight"] + 16 / 4 * factors[1] @ factors[0]
    save_file(renamed, recording / "weights.safetensors")
    model = Recording(recording).model
    torch.testing.assert_close(model.llm.model.layers[0].self_attn.q_proj.weight, merged)


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def truncate(folder):
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[: len(whole) // 2])


def edit(change):
    def edited(folder):
        values = json.loads((folder / "config.json").read_text())
        change(values)
        (folder / "config.json").write_text(json.dumps(values))

    return edited


def rename_output(folder):
    outputs = load_file(folder / "outputs.safetensors")
    save_file({**outputs, "thoughts": outputs["hidden"].clone()}, folder / "outputs.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no recording .*emu1; name a folder with config.json, weights and outputs"),
        (without("config.json"), "config.json is missing"),
        (without("outputs.safetensors"), "outputs.safetensors is missing"),
        (without("weights.safetensors"), "there is no checkpoint .*weights.safetensors; check the path"),
        (without("tokenizer.model"), "has neither tokenizer.json nor tokenizer.model"),
        (truncate, r"weights.safetensors is damaged or truncated \(.*\); fetch it again"),
        (edit(lambda values: values.pop("llm")), "config.json is not of a recording of Emu or Emu2: no 'llm'"),
        (
            edit(lambda values: values["causal"].update(feed_forward="gated-gelu")),
            "the recording has a 'gated-gelu' feed-forward; the published Causal Transformer has relu",
        ),
        (
            edit(lambda values: values["llm"].update(num_hidden_layers=2)),
            "is not the checkpoint of a recorded emu1 .*; first: unexpected: decoder.lm.model.layers.2",
        ),
        (rename_output, "the recording holds 'thoughts', which minemu does not compute; known: visual_features"),
    ],
)
def test_what_is_no_recording_is_one_clear_line(recording, spoil, message):
    spoil(recording)
    with pytest.raises(MinemuError, match=message) as error:
        compare(recording)
    assert "\n" not in str(error.value)


def test_golden_files_stay_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) <= 5e6
