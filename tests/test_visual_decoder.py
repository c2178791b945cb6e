"""Stage 4: what the decoder must get right whatever it has learnt, and that it can learn."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from minemu.codec import PatchCodec, VAECodec
from minemu.config import DecoderConfig, EmuConfig
from minemu.errors import MinemuError
from minemu.sketch import grown
from minemu.visual_decoder import VisualDecoder, begins_as_sketch, build_unet, position_channels

N, D = 3, 24
CONFIG = DecoderConfig(
    image_size=16, patch=4, latent_channels=12, unet_channels=(16, 32), unet_attention=(False, True), unet_heads=(1, 2), norm_groups=8,
    vae_width=8, condition_width=D, prediction="sample", inference_steps=4, condition_noise=0.0,
)  # fmt: skip
PARAMETRISATIONS = [
    replace(CONFIG, prediction=name, zero_terminal_snr=name != "epsilon") for name in ("sample", "v", "epsilon")
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    return VisualDecoder(config).eval()


@pytest.fixture(scope="module")
def decoder():
    decoder = make()
    decoder.fit_conditions(embeds(64, seed=9))
    return decoder


def embeds(rows=2, seed=1):
    return 2 + 3 * torch.randn(rows, N, D, generator=seeded(seed))


def pictures(rows=2, seed=2, side=16):
    """Smooth colours, so that the codec has something to find."""
    coarse = torch.rand(rows, 3, 4, 4, generator=seeded(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=side, mode="bilinear").clamp(-1, 1)


def follow(decoder, clean):
    """Make the U-Net an oracle that knows the clean latents, whatever it is asked to predict."""
    alphas = decoder.scheduler.alphas_cumprod

    def predict(noisy, t, conditions):
        rows = len(noisy)
        z0 = clean.repeat(rows // len(clean), 1, 1, 1)
        a = alphas[t].reshape(-1, 1, 1, 1)
        noise = (noisy - a.sqrt() * z0) / (1 - a).sqrt()
        return {"sample": z0, "epsilon": noise, "v": a.sqrt() * noise - (1 - a).sqrt() * z0}[decoder.config.prediction]

    decoder.predict = predict


# ---- the sketch -----------------------------------------------------------------------------------------------------------

GRID = replace(CONFIG, condition_grid=2)  # four embeddings a picture, each of 2 x 2 latent positions


def test_the_sketch_finds_a_linear_map_and_puts_each_cell_in_its_place():
    decoder, images = make(GRID), pictures(256)
    decoder.codec.fit(images)
    latents = decoder.codec.encode(images)
    cells = torch.stack([latents[:, :, i : i + 2, j : j + 2].flatten(1) for i in (0, 2) for j in (0, 2)], 1)
    conditions = (
        cells @ torch.randn(cells.shape[-1], D, generator=seeded(5)) + 1
    )  # (B, 4, D); half of what a cell holds
    decoder.fit_conditions(conditions)
    explained = decoder.sketch.fit(decoder.normalise(conditions), latents)
    sketch = decoder.sketch(decoder.normalise(conditions))
    left_over = (sketch - latents).square().sum() / (cells - cells.mean((0, 1))).square().sum()
    assert sketch.shape == latents.shape and 0.5 < explained < 1
    assert left_over.item() == pytest.approx(1 - explained, rel=1e-3)
    swapped = decoder.sketch(decoder.normalise(conditions[:, [1, 0, 2, 3]]))
    torch.testing.assert_close(swapped[:, :, :2, :2], sketch[:, :, :2, 2:])
    torch.testing.assert_close(swapped[:, :, 2:], sketch[:, :, 2:])


def test_the_unet_sees_the_sketch_and_keeps_it_on_disk(tmp_path):
    decoder = make(GRID)
    conditions = 2 + 3 * torch.randn(2, 4, D, generator=seeded(1))
    plain = decoder.decode(conditions, generator=seeded(3))
    decoder.save_pretrained(tmp_path)
    assert torch.equal(VisualDecoder.from_pretrained(tmp_path).decode(conditions, generator=seeded(3)), plain)
    with torch.no_grad():
        decoder.sketch.spread.weight.mul_(3)
    assert not torch.allclose(decoder.decode(conditions, generator=seeded(3)), plain, atol=1e-3)
    both = decoder.decode(conditions, generator=[seeded(3), seeded(4)])  # each as it is alone
    for one, row, seed in zip(both, conditions, (3, 4), strict=True):
        torch.testing.assert_close(decoder.decode(row[None], generator=seeded(seed))[0], one, atol=1e-4, rtol=1e-4)
    with pytest.raises(MinemuError, match="1 generators were given for 2 pictures; give one for each, or one for all"):
        decoder.decode(conditions, generator=[seeded(3)])
    decoder.loss(pictures(), conditions).backward()
    assert decoder.sketch.spread.weight.grad.abs().sum() > 0
    with pytest.raises(MinemuError, match="condition_grid=2 takes 4 visual embeddings a picture, not 3"):
        decoder.decode(conditions[:, :3])
    with pytest.raises(MinemuError, match="condition_grid=3 does not divide the 4 latent positions"):
        VisualDecoder(replace(CONFIG, condition_grid=3))


DEEP = replace(GRID, sketch_layers=2, sketch_width=64)


def test_a_deeper_sketch_learns_what_no_linear_map_of_single_cells_can():
    """Each picture is the drawing of one of 8 things, and which one is told by all of its embeddings together."""
    decoder, drawings = make(DEEP), pictures(8)
    decoder.codec.fit(drawings)
    signs = torch.tensor([[(i >> bit & 1) * 2.0 - 1 for bit in range(3)] for i in range(8)])
    parity = torch.cat([signs, signs.prod(1, keepdim=True)], 1)  # (8, 4): one sign in each of the four embeddings
    conditions = parity[:, :, None] * torch.randn(1, 1, D, generator=seeded(5))
    decoder.fit_conditions(conditions)
    decoder.sketch.fit(decoder.normalise(conditions), decoder.encode(drawings))
    linear = decoder.sketch_loss(drawings, conditions, seeded())
    optimizer = torch.optim.AdamW(decoder.sketch.parameters(), 1e-3)
    for step in range(150):
        loss = decoder.sketch_loss(drawings, conditions, seeded(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1 * linear
    assert all(parameter.grad is None for parameter in decoder.unet.parameters())


def test_where_clean_latents_are_predicted_the_unet_corrects_the_sketch_by_what_it_can_see():
    decoder, conditions = make(DEEP), embeds(2, seed=1)
    conditions = torch.cat([conditions, conditions], 1)[:, :4]
    normal, noisy = decoder.normalise(conditions), torch.randn(2, 12, 4, 4, generator=seeded())
    sketch = decoder.sketch(normal)
    torch.testing.assert_close(decoder.predict(noisy, torch.tensor(500), normal), sketch)  # as it begins
    with torch.no_grad():
        decoder.unet.conv_out.weight.normal_(std=0.1, generator=seeded())
    assert not torch.allclose(decoder.predict(noisy, torch.tensor(500), normal), sketch, atol=1e-2)
    torch.testing.assert_close(decoder.predict(noisy, torch.tensor(999), normal), sketch)  # pure noise shows nothing
    one_step = decoder.decode(conditions, num_inference_steps=1, guidance_scale=1.0, generator=seeded())
    torch.testing.assert_close(one_step, decoder.codec.decode(sketch).clamp(-1, 1))
    with pytest.raises(MinemuError, match="decoder.sketch_width=40 is not a multiple of 64"):
        VisualDecoder(replace(DEEP, sketch_width=40))


def test_each_cell_of_a_sketch_has_its_own_map():
    plain, normal = make(DEEP).sketch, torch.randn(2, 4, D, generator=seeded())
    mapped, cell = grown(plain, replace(DEEP, cell_maps=True)), plain.cell
    with pytest.raises(MinemuError, match="the sketch to go on with: .* has shape"):
        grown(plain, replace(DEEP, sketch_width=128))
    before = mapped(normal)
    assert torch.equal(before, plain(normal))  # at first they add nothing
    (before - 1).square().mean().backward()
    assert mapped.own.grad.abs().sum() > 0
    with torch.no_grad():
        mapped.own[1].normal_(generator=seeded())  # of four, read row by row
    changed = (mapped(normal) != before).any(dim=0).any(dim=0)
    assert changed[:cell, cell:].all() and changed.sum() == cell**2


# ---- codecs ---------------------------------------------------------------------------------------------------------------


def test_patch_codec_that_keeps_every_component_is_lossless():
    codec = PatchCodec(replace(CONFIG, latent_channels=48))
    images = torch.rand(8, 3, 16, 16, generator=seeded()) * 2 - 1
    assert codec.fit(images) == pytest.approx(1)
    latents = codec.encode(images)
    assert latents.shape == (8, 48, 4, 4)
    torch.testing.assert_close(codec.decode(latents), images, atol=1e-4, rtol=0)


def test_patch_codec_loses_the_variance_that_it_says_and_no_other_basis_loses_less():
    images = pictures(64)
    codec, unfitted = PatchCodec(CONFIG), PatchCodec(CONFIG)
    kept = codec.fit(images)
    error = (codec.decode(codec.encode(images)) - images).square().mean()
    spread = (images - codec.mean.tile(1, 1, 4, 4)).square().mean()
    assert kept > 0.9
    assert (error / spread).item() == pytest.approx(1 - kept, abs=1e-4)
    assert (unfitted.decode(unfitted.encode(images)) - images).square().mean() > 5 * error
    latents = codec.encode(images)
    assert latents.square().mean().item() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-4, rtol=0)


def test_latents_are_as_exact_under_autocast():
    decoder, images = make(), pictures()
    decoder.codec.fit(pictures(64))
    with torch.autocast("cpu", torch.bfloat16):
        latents = decoder.encode(images)
    assert latents.dtype == torch.float32 and torch.equal(latents, decoder.encode(images))


def test_vae_codec_learns_and_its_latents_get_unit_variance():
    torch.manual_seed(0)
    codec, images = VAECodec(replace(CONFIG, codec="vae", latent_channels=4)), pictures(8)
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = codec.loss(images)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    codec.fit(images)
    latents = codec.encode(images)
    assert latents.shape == (8, 4, 4, 4)
    assert latents.std().item() == pytest.approx(1, abs=0.01)
    assert codec.decode(latents).shape == images.shape


def test_a_decoder_can_use_the_vae():
    decoder = make(replace(CONFIG, codec="vae", latent_channels=4))
    assert decoder.loss(pictures(), embeds()).ndim == 0
    assert not any(parameter.requires_grad for parameter in decoder.codec.parameters())
    assert decoder.decode(embeds(), generator=seeded()).shape == (2, 3, 16, 16)


# ---- diffusion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", PARAMETRISATIONS, ids=lambda config: config.prediction)
def test_with_an_oracle_the_loss_is_zero_and_decoding_exact(config):
    decoder, images = make(config), pictures()
    decoder.codec.fit(images)
    clean = decoder.codec.encode(images)
    follow(decoder, clean)
    assert decoder.loss(images, embeds(), generator=seeded()).item() < 1e-6
    for scale in (1.0, 4.0):
        drawn = decoder.decode(embeds(), guidance_scale=scale, generator=seeded())
        torch.testing.assert_close(drawn, decoder.codec.decode(clean).clamp(-1, 1), atol=2e-3, rtol=0)


def test_min_snr_weighs_an_error_in_the_clean_latents_alike_in_every_parametrisation():
    images, losses = pictures(), []
    for config in PARAMETRISATIONS:
        decoder = make(replace(config, min_snr_gamma=5.0, zero_terminal_snr=False))
        decoder.codec.fit(images)
        clean = decoder.codec.encode(images)
        follow(decoder, clean + 0.1)  # wrong by 0.1 everywhere
        losses.append(decoder.loss(images, embeds(), generator=seeded()).item())
        weights = decoder.loss_weights(torch.arange(1000))
        assert weights.isfinite().all() and (weights >= 0).all()
    assert losses[0] > 1e-4
    assert losses[1] == pytest.approx(losses[0], rel=1e-2) and losses[2] == pytest.approx(losses[0], rel=1e-2)


def test_the_first_step_starts_from_pure_noise(decoder):
    assert decoder.scheduler.alphas_cumprod[-1] == 0
    decoder.scheduler.set_timesteps(4)
    assert decoder.scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_guidance_is_linear_and_one_means_the_condition_alone(decoder):
    """One step of sample prediction is linear in the prediction, so the algebra shows in the picture."""
    conditions, null = embeds(), embeds(1, seed=5)
    draw = lambda c, scale: decoder.decode(c, null, num_inference_steps=1, guidance_scale=scale, generator=seeded())  # noqa: E731
    alone, without = draw(conditions, 1.0), draw(null.expand(2, -1, -1), 1.0)
    assert (alone - without).abs().max() > 1e-3
    assert (without + 1.5 * (alone - without)).abs().max() < 1  # nothing below is clamped
    torch.testing.assert_close(draw(conditions, 0.0), without, atol=1e-5, rtol=0)
    torch.testing.assert_close(draw(conditions, 1.5), without + 1.5 * (alone - without), atol=1e-5, rtol=0)
    torch.testing.assert_close(draw(null.expand(2, -1, -1), 3.0), without, atol=1e-5, rtol=0)


def test_null_is_the_mean_condition_unless_given(decoder):
    conditions, mean = embeds(), decoder.condition_mean.expand(1, N, D)
    by_default = decoder.decode(conditions, guidance_scale=3.0, generator=seeded())
    torch.testing.assert_close(decoder.decode(conditions, mean, guidance_scale=3.0, generator=seeded()), by_default)
    other = decoder.decode(conditions, embeds(1, seed=5), guidance_scale=3.0, generator=seeded())
    assert (other - by_default).abs().max() > 1e-3
    one_each = embeds(1, seed=5).expand(2, -1, -1)
    torch.testing.assert_close(decoder.decode(conditions, one_each, guidance_scale=3.0, generator=seeded()), other)


def test_the_generator_decides_the_picture(decoder):
    conditions = embeds()
    first, again = (decoder.decode(conditions, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, decoder.decode(conditions, generator=seeded(4)))
    assert first.shape == (2, 3, 16, 16) and first.abs().max() <= 1
    torch.testing.assert_close(decoder.decode(conditions[:1], generator=seeded(3)), first[:1], atol=1e-4, rtol=0)
    losses = [decoder.loss(pictures(), conditions, generator=seeded(3)).item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_dropped_conditions_do_not_reach_the_unet():
    dropped, kept = make(replace(CONFIG, condition_dropout=1.0)), make(replace(CONFIG, condition_dropout=0.0))
    loss = lambda decoder, seed, null=None: decoder.loss(pictures(), embeds(seed=seed), null, generator=seeded()).item()  # noqa: E731
    assert loss(dropped, 1) == loss(dropped, 7)
    assert loss(kept, 1) != loss(kept, 7)
    null = embeds(1, seed=5)
    assert loss(dropped, 1, null) != loss(dropped, 1) and loss(kept, 1, null) == loss(kept, 1)
    assert loss(dropped, 1, null) == dropped.loss(pictures(), null.expand(2, -1, -1), null, generator=seeded()).item()


def test_conditions_are_normalised_and_noise_is_in_units_of_their_spread():
    decoder = make()
    decoder.fit_conditions(embeds(512))
    normal = decoder.normalise(embeds(512))
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(D), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std((0, 1)), torch.ones(D), atol=1e-3, rtol=0)
    seen = []
    decoder.config = replace(CONFIG, condition_noise=0.5, condition_dropout=0.0)
    decoder.predict = lambda noisy, t, conditions: seen.append(conditions) or torch.zeros_like(noisy)
    decoder.loss(pictures(256), embeds(256), generator=seeded())
    assert (seen[0] - decoder.normalise(embeds(256))).std().item() == pytest.approx(0.5, abs=0.02)


def test_every_position_has_channels_of_its_own():
    channels = position_channels(8)
    places = channels[0].flatten(1).T
    assert channels.shape == (1, 12, 8, 8)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.2
    assert make().unet.config.in_channels == 12 + 12
    plain = make(replace(CONFIG, position_channels=False, pooled_condition=False))
    assert plain.unet.config.in_channels == 12 and plain.unet.class_embedding is None
    assert plain.decode(embeds(), generator=seeded()).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("prediction", ["sample", "v"])
def test_two_pictures_are_learnt_by_heart(prediction):
    decoder = make(replace(CONFIG, prediction=prediction, condition_dropout=0.0)).train()
    images, conditions = pictures(2), embeds(2)
    decoder.codec.fit(images)
    decoder.fit_conditions(conditions)
    optimizer = torch.optim.AdamW(decoder.unet.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        loss = decoder.loss(images.repeat(8, 1, 1, 1), conditions.repeat(8, 1, 1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    drawn = decoder.eval().decode(conditions, guidance_scale=1.0, generator=seeded())
    errors = (drawn[:, None] - images[None]).square().mean((2, 3, 4))  # drawn i against true j
    own, other = errors.diagonal().clone(), errors.fill_diagonal_(9)
    assert own.max() < 0.5 * other.min()


# ---- published sizes ------------------------------------------------------------------------------------------------------


def test_at_full_size_unet_and_vae_are_those_of_stable_diffusion():
    config = EmuConfig.preset("emu-14b").decoder
    with torch.device("meta"):
        words, embeddings, codec = (
            build_unet(replace(config, condition_width=768)),
            build_unet(config),
            VAECodec(config),
        )
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    assert count(words) == 859_520_964
    assert count(embeddings) - count(words) == 2 * 12_480 * (5120 - 768)  # keys and values of 16 cross-attentions
    assert count(codec) == 83_653_863
    for block in (words.down_blocks[0], words.mid_block):
        assert block.attentions[0].transformer_blocks[0].attn1.heads == 8


# ---- files ----------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_draws_the_same_bits(decoder, tmp_path):
    decoder.save_pretrained(tmp_path)
    loaded = VisualDecoder.from_pretrained(tmp_path)
    assert loaded.config == decoder.config and not loaded.training
    assert torch.equal(loaded.decode(embeds(), generator=seeded()), decoder.decode(embeds(), generator=seeded()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_hardly_changes_the_picture(decoder, tmp_path):
    decoder.save_pretrained(tmp_path / "whole")
    decoder.save_pretrained(tmp_path / "half", torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = VisualDecoder.from_pretrained(tmp_path / "half")
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(
        loaded.decode(embeds(), generator=seeded()), decoder.decode(embeds(), generator=seeded()), atol=0.05, rtol=0
    )


def test_loading_is_strict(decoder, tmp_path):
    decoder.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "unet.conv_in.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors")
    with pytest.raises(MinemuError, match="1 tensors missing and 0 unexpected .*missing unet.conv_in.weight"):
        VisualDecoder.from_pretrained(tmp_path)
    save_file({**tensors, name: tensors[name][:, :-1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(
        MinemuError,
        match=r"unet.conv_in.weight has shape \(16, 23, 3, 3\) but this configuration needs \(16, 24, 3, 3\)",
    ):
        VisualDecoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(MinemuError, match="model.safetensors is damaged"):
        VisualDecoder.from_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "unet_chanels": 3}))
    with pytest.raises(MinemuError, match="decoder.unet_chanels.*did you mean 'unet_channels'"):
        VisualDecoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_type": "emu"}))
    with pytest.raises(MinemuError, match="not of a visual decoder"):
        VisualDecoder.from_pretrained(tmp_path)


# ---- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imagined": 0}, "decoder.imagined=0 is too few: give 1 or more, or decoder.conditions=encoder"),
        ({"unet_heads": (0, 2)}, "decoder.unet_channels, unet_heads and unet_depths take numbers of 1 or more"),
        ({"unet_attention": (True,)}, "decoder.unet_attention has 1 values and decoder.unet_channels 2"),
        ({"unet_heads": (1, 2, 3)}, "decoder.unet_heads has 3 values"),
        ({"unet_channels": (16, 36)}, "decoder.unet_channels=36 is not a multiple of decoder.norm_groups=8"),
        ({"unet_heads": (1, 5)}, "decoder.unet_channels=32 is not a multiple of decoder.unet_heads=5"),
        ({"image_size": 20}, "decoder.image_size=20 is not a multiple of 8"),
        ({"latent_channels": 49}, "decoder.latent_channels=49 is more than the 4 x 4 x 3 = 48 values of a patch"),
        ({"codec": "vae", "patch": 3, "image_size": 24}, "decoder.patch=3 must be a power of two"),
        ({"condition_grid": 2, "cell_maps": True}, "set decoder.sketch_layers, or cell_maps=false"),
        ({"prediction": "epsilon"}, "set decoder.zero_terminal_snr=false"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(MinemuError, match=message.replace(".", r"\.")):
        VisualDecoder(replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.decode(torch.zeros(2, N, D + 1)), rf"shape \(B, N, {D}\), not \(2, {N}, {D + 1}\)"),
        (lambda d: d.decode(torch.zeros(N, D)), r"not \(3, 24\)"),
        (lambda d: d.decode(embeds(3), embeds(2)), r"null embeddings of shape \(2, 3, 24\) do not fit"),
        (
            lambda d: d.decode(embeds(), num_inference_steps=0),
            "num_inference_steps=0 is no whole number between 1 and 1000",
        ),
        (lambda d: d.decode(embeds(), num_inference_steps="4"), "num_inference_steps='4' is no whole number"),
        (lambda d: d.decode(embeds(), guidance_scale=float("nan")), "guidance_scale=nan should be a number, 0 or more"),
        (lambda d: d.decode(embeds(), guidance_scale=-4), "guidance_scale=-4 should be a number, 0 or more"),
        (lambda d: d.decode(embeds(), generator=3), "generator=3 is none; give torch.Generator"),
        (lambda d: d.loss(pictures(side=32), embeds()), r"shape \(B, 3, 16, 16\), not \(2, 3, 32, 32\)"),
        (lambda d: d.loss(pictures(3), embeds(2)), "3 pictures but 2 conditions"),
    ],
)
def test_input_that_does_not_fit_is_refused(decoder, call, message):
    with pytest.raises(MinemuError, match=message):
        call(decoder)


def test_in_one_step_the_picture_is_the_sketch_and_the_unet_is_not_asked():
    config = replace(CONFIG, condition_grid=2, inference_steps=1, guidance_scale=1.0)
    decoder, conditions = make(config), torch.randn(2, 4, D, generator=seeded())
    torch.nn.init.normal_(decoder.unet.conv_out.weight, generator=seeded())
    sketch = decoder.to_pixels(decoder.sketch(decoder.normalise(conditions)))
    asked = []
    decoder.unet.register_forward_hook(lambda *_: asked.append(1))
    for seed in (0, 1):
        assert torch.equal(decoder.decode(conditions, generator=seeded(seed)), sketch)
    assert not asked
    two = [decoder.decode(conditions, num_inference_steps=2, generator=seeded(seed)) for seed in (0, 1)]
    assert len(asked) == 2 and not torch.equal(*two)  # at the second of two levels there is something to see
    latents = decoder.denoise(conditions, num_inference_steps=2, generator=seeded(1))
    assert latents.shape == (2, 12, 4, 4) and torch.equal(decoder.to_pixels(latents), two[1])
    decoder.loss(
        pictures(), conditions, generator=seeded()
    ).backward()  # whatever levels are drawn, there is a gradient


@pytest.mark.parametrize("changes", [{"prediction": "v"}, {"zero_terminal_snr": False}, {"condition_grid": 0}])
def test_elsewhere_the_unet_draws_in_one_step_too(changes):
    config = replace(CONFIG, condition_grid=2, inference_steps=1, guidance_scale=1.0)
    assert begins_as_sketch(config) and not begins_as_sketch(replace(config, **changes))
    decoder, asked = make(replace(config, **changes)), []
    decoder.unet.register_forward_hook(lambda *_: asked.append(1))
    decoder.decode(torch.randn(2, 4, D, generator=seeded()), generator=seeded())
    assert asked


def test_a_sketch_is_corrected_where_sizes_are_told_too():
    config = replace(CONFIG, condition_grid=2, size_condition=True)
    decoder, conditions = make(config), torch.randn(2, 4, D, generator=seeded())
    with torch.no_grad():
        drawn = decoder.predict(torch.randn(2, 12, 4, 4, generator=seeded(1)), torch.tensor(500), conditions)
    torch.testing.assert_close(drawn, decoder.sketch(conditions))  # its last layer starts at zero


def test_an_offset_is_noise_that_all_positions_of_a_channel_share(monkeypatch):
    decoder, seen = make(replace(CONFIG, noise_offset=2.0)), []
    add_noise = decoder.scheduler.add_noise
    monkeypatch.setattr(
        decoder.scheduler, "add_noise", lambda z0, noise, t: seen.append(noise) or add_noise(z0, noise, t)
    )
    decoder.loss(pictures(64), embeds(64), generator=seeded())
    means = seen[0].mean((2, 3))
    assert means.std() == pytest.approx((2**2 + 1 / 16) ** 0.5, rel=0.1)
    assert (seen[0] - means[:, :, None, None]).std() == pytest.approx((15 / 16) ** 0.5, rel=0.05)
    assert (
        EmuConfig.preset("emu2-37b").decoder.noise_offset == 0.1
        and EmuConfig.preset("emu-14b").decoder.noise_offset == 0
    )
