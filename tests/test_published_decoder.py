"""The decoders of Emu and Emu2-Gen: the published shapes and samplers, at full size on the meta device and in small."""

from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from minemu import cli
from minemu.config import PRESETS, DecoderConfig, EmuConfig
from minemu.errors import MinemuError
from minemu.visual_decoder import VisualDecoder, build_sampler, build_unet

SMALL_SDXL = DecoderConfig(
    image_size=16, codec="vae", patch=4, latent_channels=4, unet_channels=(16, 32), unet_attention=(False, True), unet_heads=(1, 2),
    unet_depths=(1, 2), linear_projection=True, size_condition=True, position_channels=False, norm_groups=8, vae_width=8,
    condition_width=24, prediction="epsilon", schedule="scaled_linear", zero_terminal_snr=False, condition_noise=0.0,
    sampler="euler", inference_steps=30,
)  # fmt: skip
SMALL_VISION = {"image_size": 32, "patch_size": 8, "width": 24, "head_width": 12}


def make(config=SMALL_SDXL):
    torch.manual_seed(0)
    return VisualDecoder(config).eval()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_at_full_size_the_unet_is_that_of_sdxl_with_emu2s_conditions():
    config = EmuConfig.preset("emu2-37b").decoder
    with torch.device("meta"):
        unet = build_unet(config)
    assert unet.config.projection_class_embeddings_input_dim == 3328 == 1792 + 6 * 256
    keys_and_values = 2 * (10 * 640 + 60 * 1280)  # 70 cross-attentions
    assert count(unet) == 2_567_463_684 + keys_and_values * (1792 - 2048) + (3328 - 2816) * 1280
    deepest = unet.mid_block.attentions[0]
    assert len(deepest.transformer_blocks) == 10 and deepest.transformer_blocks[0].attn2.to_k.weight.shape == (
        1280,
        1792,
    )
    assert not hasattr(unet.down_blocks[0], "attentions") or unet.down_blocks[0].attentions is None


def test_emu_reads_32_embeddings_of_5120_and_emu2_64_of_1792():
    for preset, n, width in (("emu-14b", 32, 5120), ("emu2-37b", 64, 1792)):
        config = EmuConfig.preset(preset)
        assert (config.bridge.n_image, config.decoder.condition_width) == (n, width)


@pytest.mark.parametrize(("preset", "first", "last"), [("emu-14b", 981, 1), ("emu2-37b", 981, 1)])
def test_samplers_take_the_published_steps(preset, first, last):
    """50 steps of 1000, spaced by 20 from 1 upwards."""
    sampler = build_sampler(EmuConfig.preset(preset).decoder)
    sampler.set_timesteps(50)
    steps = sampler.timesteps.tolist()
    assert (max(steps), min(steps)) == (first, last)


def test_pndm_is_set_as_stable_diffusion_publishes_it():
    config = build_sampler(EmuConfig.preset("emu-14b").decoder).config
    assert (config.set_alpha_to_one, config.skip_prk_steps, config.steps_offset) == (False, True, 1)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler"])
def test_the_unet_sees_noise_of_unit_variance_first(sampler):
    decoder, spreads = make(replace(SMALL_SDXL, sampler=sampler)), []

    def predict(noisy, t, conditions):
        spreads.append(noisy.std().item())
        return torch.zeros_like(noisy)

    decoder.predict = predict
    decoder.denoise(torch.randn(64, 3, 24), guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
    assert spreads[0] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler"])
def test_with_an_oracle_each_sampler_draws_the_clean_latents(sampler):
    decoder = make(replace(SMALL_SDXL, sampler=sampler))
    clean = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    alphas = decoder.scheduler.alphas_cumprod

    def predict(noisy, t, conditions):
        a = alphas[int(t)]
        return (noisy - a.sqrt() * clean) / (1 - a).sqrt()

    decoder.predict = predict
    drawn = decoder.decode(torch.randn(2, 3, 24), guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
    error = (drawn - decoder.codec.decode(clean).clamp(-1, 1)).abs()
    assert error.mean() < 0.02  # PNDM stops one noise level short of none


def test_sizes_and_pooled_embeddings_reach_the_unet():
    decoder = make()
    noisy, t, conditions = torch.randn(2, 4, 4, 4), torch.tensor(10), torch.randn(2, 3, 24)
    seen = {}
    decoder.unet.forward, forward = lambda *a, **k: seen.update(k) or forward(*a, **k), decoder.unet.forward
    with torch.no_grad():
        assert decoder.predict(noisy, t, conditions).shape == noisy.shape
    assert seen["added_cond_kwargs"]["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    torch.testing.assert_close(seen["added_cond_kwargs"]["text_embeds"], conditions.mean(1))
    assert decoder.loss(torch.rand(2, 3, 16, 16) * 2 - 1, conditions).ndim == 0


def test_a_published_folder_loads_and_converts(tmp_path, monkeypatch):
    ours = make()
    ours.unet.save_pretrained(tmp_path / "unet")
    ours.codec.vae.register_to_config(scaling_factor=0.13025)
    ours.codec.vae.save_pretrained(tmp_path / "vae")
    assert UNet2DConditionModel.load_config(tmp_path / "unet")["addition_embed_type"] == "text_time"
    assert AutoencoderKL.load_config(tmp_path / "vae")["scaling_factor"] == 0.13025
    loaded = VisualDecoder.from_diffusers(tmp_path, SMALL_SDXL)
    assert loaded.codec.scale.item() == pytest.approx(0.13025)
    assert all(torch.equal(a, b) for a, b in zip(ours.unet.parameters(), loaded.unet.parameters(), strict=True))
    monkeypatch.setitem(
        PRESETS,
        "small",
        {
            "bridge": {"kind": "pool"},
            "objective": {"end_of_image_pair": False},
            "vision": SMALL_VISION,
            "decoder": asdict(SMALL_SDXL),
        },
    )
    assert cli.run(["official", str(tmp_path), "--preset", "small", "--out", str(tmp_path / "out")]) == 0
    drawn = [d.decode(torch.ones(1, 3, 24), generator=torch.Generator().manual_seed(0)) for d in
             (loaded, VisualDecoder.from_pretrained(tmp_path / "out" / "visual_decoder"))]  # fmt: skip
    assert torch.equal(*drawn)
    assert cli.run(["official", str(tmp_path), "--preset", "small", "--keep-lora"]) == cli.BAD_INPUT
    with pytest.raises(MinemuError, match="unet: .* has shape .* but this configuration needs"):
        VisualDecoder.from_diffusers(tmp_path, replace(SMALL_SDXL, condition_width=32))
    with pytest.raises(MinemuError, match="unet is no UNet2DConditionModel of diffusers .*; fetch it again"):
        VisualDecoder.from_diffusers(tmp_path / "vae", SMALL_SDXL)
    with pytest.raises(MinemuError, match="a decoder of diffusers comes with an autoencoder.*decoder.codec=vae"):
        VisualDecoder.from_diffusers(tmp_path, DecoderConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pooled_condition": False},
            "decoder.size_condition joins the pooled condition: set decoder.pooled_condition=true",
        ),
        (
            {"prediction": "sample"},
            "decoder.sampler=euler does not go with zero terminal SNR or prediction=sample; set sampler=ddim",
        ),
        (
            {"unet_depths": (1,)},
            "decoder.unet_depths has 1 values and decoder.unet_channels 2; give one for each level",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(MinemuError, match=message):
        make(replace(SMALL_SDXL, **changes))
