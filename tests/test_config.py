"""Configuration: presets, derived sizes, overrides, and the lines a user reads after a typing error."""

import pytest

from minemu.config import PRESETS, EmuConfig
from minemu.errors import MinemuError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_a_round_trip(name):
    config = EmuConfig.preset(name)
    assert EmuConfig.from_dict(config.to_dict()) == config


def test_derived_sizes_follow_what_they_are_derived_from():
    config = EmuConfig.preset("emu-14b")
    assert (config.vision.grid, config.vision.patches, config.vision.heads) == (16, 256, 16)
    assert config.llm.vocab_size == 32004
    assert config.embed_width == 5120
    assert EmuConfig.preset("emu2-nano").embed_width == EmuConfig.preset("emu2-nano").vision.width


def test_override_reads_text_as_the_type_of_the_field():
    config = EmuConfig.preset("emu-nano").override(
        {
            "llm.layers": "6",
            "objective.say_image": "true",
            "decoder.unet_channels": "8,16",
            "decoder.min_snr_gamma": "5",
            "objective.image_loss": "cosine",
        }
    )
    assert config.llm.layers == 6
    assert config.objective.say_image is True
    assert config.decoder.unet_channels == (8, 16)
    assert config.decoder.min_snr_gamma == 5.0
    assert config.objective.image_loss == "cosine"
    assert config.override({"decoder.min_snr_gamma": "none"}).decoder.min_snr_gamma is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm.layer": 6}, "unknown configuration key 'llm.layer': did you mean 'layers'?"),
        ({"lm.layers": 6}, "unknown configuration key 'lm': did you mean 'llm'?"),
        ({"llm": 6}, "configuration key 'llm' is a section; give its fields as llm.NAME=VALUE"),
        ({"llm.layers": "six"}, "llm.layers='six' should be of type int"),
        ({"llm.layers": True}, "llm.layers=True should be of type int"),
        ({"objective.image_loss": "l1"}, "objective.image_loss='l1' is not one of mse, cosine"),
        ({"llm.heads": 5}, "llm.width=48 is not a multiple of llm.heads=5; change one of them"),
        (
            {"llm.width": 64},
            "decoder.condition_width is 48 but the visual embeddings are 64 wide; set decoder.condition_width=64",
        ),
        ({"decoder.unet_channels": 3}, "decoder.unet_channels=3 should be a list"),
        (
            {"llm.frame_slot": True},
            "llm.special_tokens=4 leaves no id for [gIMG]; set it to 5 or more, or frame_slot=false",
        ),
        (
            {"bridge.kind": "pool", "bridge.n_image": 9, "decoder.condition_width": 32},
            "vision.image_size / vision.patch_size=4 is not a multiple of the square root of bridge.n_image=3; change one of them",
        ),
        (
            {"bridge.kind": "pool", "decoder.condition_width": 32},
            "with bridge.kind=pool, does not have; set objective.end_of_image_pair=false",
        ),
        ({"bridge.n_image": 0}, "bridge.n_image=0 is too small: give 1 or more"),
        ({"llm.layers": 0}, "llm.layers=0 is too small: give 1 or more"),
        ({"vision.width": -64}, "vision.width=-64 is too small: give 1 or more"),
    ],
)
def test_a_wrong_key_or_value_is_one_clear_line(changes, message):
    with pytest.raises(MinemuError) as error:
        EmuConfig.preset("emu-nano").override(changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_preset_is_suggested():
    with pytest.raises(MinemuError, match="unknown preset 'emu-tini': did you mean 'emu-tiny'"):
        EmuConfig.preset("emu-tini")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm.special_tokens": 3}, "llm.special_tokens=3 leaves no ids for [PAD], [IMG], [/IMG] and <image>"),
        ({"llm.lora_rank": -1}, "llm.lora_rank=-1 is negative; give 0 for no LoRA"),
        ({"llm.width": 51, "llm.heads": 3, "decoder.condition_width": 51}, "makes heads 17 wide, and rotary positions turn pairs"),
        ({"objective.hide_written": 3.0}, "objective.hide_written=3 is no share: give 0 to 1"),
        ({"objective.image_loss_weight": float("nan")}, "objective.image_loss_weight=nan should be 0 or more"),
        ({"decoder.condition_dropout": 7}, "decoder.condition_dropout=7 is no share: give 0 to 1"),
        ({"decoder.captioned": -3}, "decoder.captioned=-3 is no share: give 0 to 1"),
        ({"decoder.laps": -1}, "decoder.laps=-1 should be 0 or more"),
        ({"decoder.cached": 0}, "decoder.cached=0 is too small: give 1 or more"),
        ({"decoder.norm_groups": 0}, "decoder.norm_groups=0 is too small: give 1 or more"),
        ({"bridge.dropout": 2.0}, "bridge.dropout=2 is no share: give 0 to 1"),
        ({"bridge.head_width": 0}, "bridge.head_width=0 is too small: give 1 or more"),
        ({"bridge.position_buckets": 1}, "bridge.position_buckets=1 needs 2 or more"),
        ({"bridge.position_distance": 16}, "and bridge.position_distance=16 more than half of them"),
        ({"llm": "5", "llm.layers": "6"}, "'llm' is given as a value, and with llm.layers; give one of them"),
        (
            {"bridge.n_frame": 1, "llm.frame_slot": True, "llm.special_tokens": 5},
            "the Causal Transformer has as many queries for a frame as for a picture; set both alike",
        ),
        (
            {"bridge.kind": "pool", "bridge.n_frame": 1, "decoder.condition_width": 32},
            "bridge.n_frame=1 and bridge.n_image=4 differ, but without llm.frame_slot a frame is read as a picture",
        ),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_one_clear_line(changes, message):
    test_a_wrong_key_or_value_is_one_clear_line(changes, message)


def test_a_list_may_have_spaces():
    config = EmuConfig.preset("emu-nano").override(
        {"decoder.unet_attention": "False, True", "decoder.unet_heads": "(1, 2)"}
    )
    assert config.decoder.unet_attention == (False, True) and config.decoder.unet_heads == (1, 2)
