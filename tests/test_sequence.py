"""The multimodal sequence: every mask follows from the ids, for any interleaving of text and pictures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minemu import sequence
from minemu.config import LLMConfig, ObjectiveConfig
from minemu.errors import MinemuError
from minemu.sequence import PICTURE, TokenIds, interleave, pack_rows, pad_left, pad_rows, picture_ids, targets

IDS = TokenIds.of(LLMConfig(words=100))
texts = st.lists(st.integers(3, 99), min_size=0, max_size=6)
samples = st.lists(st.one_of(texts, st.just(PICTURE)), min_size=1, max_size=7)


def test_token_ids_follow_the_words_as_published():
    ids = TokenIds.of(LLMConfig(words=32000))
    assert (ids.pad, ids.image_start, ids.image_end, ids.image) == (32000, 32001, 32002, 32003)


def test_one_sample_by_hand():
    row = interleave([[5, 6], PICTURE, [7]], IDS, n_image=2, eos=True)
    assert row == [1, 5, 6, 101, 103, 103, 102, 7, 2]
    found = targets(torch.tensor([row]), IDS, ObjectiveConfig())
    #            predicts:  5  6  [IMG]  slot slot [/IMG] 7  </s>
    assert found.text.tolist() == [[5, 6, -100, -100, -100, -100, 7, 2]]
    assert found.image.tolist() == [[False, False, False, True, True, True, False, False]]
    plain = targets(torch.tensor([row]), IDS, ObjectiveConfig(end_of_image_pair=False, say_image=True))
    assert plain.text.tolist() == [[5, 6, 101, -100, -100, -100, 7, 2]]
    assert plain.image.tolist() == [[False, False, False, True, True, False, False, False]]


def test_a_quoted_picture_is_none():
    """Emu-I's system message says [IMG]ImageContent[/IMG]: tokens of structure, with words between them."""
    row = torch.tensor([[IDS.bos, IDS.image_start, 7, 8, IDS.image_end, 9, *picture_ids(IDS, 2), IDS.eos]])
    assert sequence.count_pictures(row, IDS) == 1
    assert targets(row, IDS, ObjectiveConfig()).image.nonzero()[:, 1].tolist() == [6, 7, 8]


def test_frames_of_a_video_are_neither_written_nor_regressed():
    ids = TokenIds.of(LLMConfig(words=100, special_tokens=5, frame_slot=True))
    row = torch.tensor([[ids.bos, ids.image_start, ids.frame, ids.frame, ids.image_end, 7]])
    found = targets(row, ids, ObjectiveConfig(end_of_image_pair=False))
    assert found.text.tolist() == [[-100, -100, -100, -100, 7]] and not found.image.any()


@given(samples, st.integers(1, 5), st.booleans())
def test_every_interleaving_keeps_its_counts(pieces, n_image, pair):
    row = torch.tensor([interleave(pieces, IDS, n_image, eos=True)])
    pictures = sum(piece is PICTURE for piece in pieces)
    words = sum(len(piece) for piece in pieces if piece is not PICTURE)
    found = targets(row, IDS, ObjectiveConfig(end_of_image_pair=pair))
    assert int((row == IDS.image).sum()) == pictures * n_image
    assert sequence.count_pictures(row, IDS) == pictures
    assert int(found.image.sum()) == pictures * (n_image + pair)
    assert int((found.text != sequence.IGNORE).sum()) == words + 1  # and </s>
    assert not (found.image & (found.text != sequence.IGNORE)).any()  # a position has one task, never two


@given(st.lists(samples, min_size=1, max_size=5))
def test_left_padding_is_right_padding_moved(batch):
    rows = [interleave(pieces, IDS, 3) for pieces in batch]
    right, left = pad_rows(rows, IDS), pad_rows(rows, IDS, "left")
    ids, mask = pad_left(right["input_ids"], right["attention_mask"])
    assert torch.equal(ids, left["input_ids"])
    assert torch.equal(mask, left["attention_mask"])
    for b, row in enumerate(rows):
        assert ids[b][mask[b].bool()].tolist() == row
        assert sequence.positions(mask)[b][mask[b].bool()].tolist() == list(range(len(row)))


@given(st.lists(samples, min_size=1, max_size=6))
def test_packing_loses_nothing_and_keeps_samples_apart(batch):
    rows = [interleave(pieces, IDS, 2, eos=True) for pieces in batch]
    length = max(map(len, rows)) + 5
    packed = pack_rows(rows, IDS, length)
    unpacked = []
    for ids, segments in zip(packed["input_ids"], packed["segment_ids"], strict=True):
        unpacked += [ids[segments == s].tolist() for s in range(1, int(segments.max()) + 1)]
    assert unpacked == [rows[i] for i in packed["order"]]
    mask = sequence.block_mask(packed["segment_ids"])[:, 0]
    segments = packed["segment_ids"]
    assert not mask[segments[:, :, None] != segments[:, None, :]].any()
    alone = sum(
        int((targets(torch.tensor([row]), IDS, ObjectiveConfig()).text != sequence.IGNORE).sum()) for row in rows
    )
    together = targets(packed["input_ids"], IDS, ObjectiveConfig(), segments)
    assert int((together.text != sequence.IGNORE).sum()) == alone


def test_a_picture_is_never_cut_in_two():
    row = interleave([[5], PICTURE, [6]], IDS, n_image=4)
    assert sequence.truncate(row, IDS, 8) == row[:8]
    for cut in range(3, 8):
        with pytest.raises(MinemuError, match=f"cut at max_length={cut} would cut a picture in two; raise max_length"):
            sequence.truncate(row, IDS, cut)


@pytest.mark.parametrize("given_pictures", [0, 1, 3])
def test_pictures_and_slots_have_to_agree(given_pictures):
    row = torch.tensor([interleave([PICTURE, PICTURE], IDS, n_image=4)])
    with pytest.raises(MinemuError, match=f"room for 2 pictures of 4, but {given_pictures} pictures were given"):
        sequence.check_slots(row, IDS, 4, given_pictures)


def test_a_row_too_long_to_pack_is_named():
    with pytest.raises(MinemuError, match="sample 1 has 9 tokens and does not fit a packed row of 8"):
        pack_rows([[1, 2], [1] * 9], IDS, 8)
