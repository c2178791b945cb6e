"""The cells that features stand for: which part of a picture each is asked for, whatever their number."""

import pytest
import torch

from minemu.config import EmuConfig
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.processor import normalise
from minemu.training.encoder import CODE, Alignment, augment, box_masks, bridge_grid, cells, cover, linear_code

SIZE = 32


def config(n: int) -> EmuConfig:
    return EmuConfig.preset("emu-nano").override({"bridge.n_image": n, "bridge.n_frame": n})


@pytest.mark.parametrize(
    ("n", "grid"), [(1, (1, 1)), (4, (2, 2)), (8, (2, 4)), (16, (4, 4)), (32, (4, 8)), (64, (8, 8))]
)
def test_any_power_of_two_tiles_a_picture(n, grid):
    assert bridge_grid(config(n)) == grid


def test_other_numbers_are_refused():
    with pytest.raises(
        MinemuError, match="bridge.n_image=7 embeddings do not tile a picture of 32; use a power of two"
    ):
        bridge_grid(config(7))


def test_a_cell_that_the_code_does_not_divide_is_refused(code):
    with pytest.raises(MinemuError, match="16 x 16 cells of a picture of 32 pixels hold no whole squares of 4; make"):
        Alignment(8, 8, (16, 16), SIZE, code)


@pytest.mark.parametrize("grid", [(4, 4), (2, 4), (4, 8)])
def test_the_share_of_a_box_is_the_share_of_its_pixels(grid):
    box = (3, 10, 21, 31)
    inside = torch.zeros(1, 1, SIZE, SIZE)
    inside[..., box[1] : box[3], box[0] : box[2]] = 1
    masks = box_masks(torch.tensor([box], dtype=torch.float32), SIZE)
    assert torch.equal(masks, inside)
    pixels = cells(inside, *grid).sum(-1)
    torch.testing.assert_close(cover(masks, grid), pixels / pixels.sum())
    assert cover(0 * masks, grid).sum() == 0  # a region that was shifted out is nowhere


def test_a_region_moves_along_with_its_picture():
    torch.manual_seed(1)
    boxes, picture = torch.tensor([[4.0, 6, 12, 20], [4, 6, 12, 20], [18, 3, 30, 12]]), torch.tensor([0, 1, 2])
    before = box_masks(boxes, SIZE)
    pictures = 2 * before.expand(-1, 3, -1, -1) - 1  # white where the region is, black around it
    changed, masks = augment(pictures, before, picture)
    assert torch.equal(masks[1], before[1])
    for i in (0, 2):
        assert not torch.allclose(masks[i], before[i], atol=0.1)
        seen = changed[i].mean(0, keepdim=True) > 0  # a tint changes no sign
        assert (seen == (masks[i] > 0.5)).float().mean() > 0.99


@pytest.fixture(scope="module")
def code():
    return linear_code(ToyWorld(image_size=SIZE))


def test_what_is_asked_of_a_cell_rebuilds_it_and_nothing_else(code):
    picture = normalise(torch.from_numpy(ToyWorld(image_size=SIZE).sample(0).pixels)[None])
    wanted = cells(code.encode(picture), 2, 4)
    assert wanted.shape == (1, 8, CODE.latent_channels * (SIZE // CODE.patch) ** 2 // 8)
    kept = 1 - (code.decode(code.encode(picture)) - picture).square().mean() / picture.var()
    assert kept > 0.95
    other = picture.clone()
    other[..., :16, :8] = 0  # the first of 2 x 4 cells
    changed = (cells(code.encode(other), 2, 4) - wanted).abs().amax(-1)[0]
    assert changed[0] > 0.1 and changed[1:].max() < 1e-5
