"""What `minemu bench --full-scale` measures of emu-14b on a GPU, measured of a small model on the CPU."""

import pytest
import torch

from minemu import cli
from minemu.errors import MinemuError
from minemu.full_scale import run_full_scale

ROWS = ["weights", "words", "visual embeddings", "picture", "training step", "Emu-I step"]


def test_every_row_is_measured(capsys):
    found = run_full_scale("emu-nano", "cpu", length=48)
    assert list(found["rows"]) == ROWS and found["machine"]["device"] == "cpu"
    assert [line[:17].strip() for line in capsys.readouterr().out.splitlines()] == ROWS
    assert all(row["seconds"] > 0 for name, row in found["rows"].items() if name != "weights")
    imagined = found["rows"]["visual embeddings"]
    assert 0 <= imagined["error"] < 0.02  # bfloat16 has steps of 1/128
    assert found["rows"]["training step"]["planned_bytes"] > found["rows"]["words"]["planned_bytes"] > 0
    assert found["rows"]["weights"]["bytes"] is None  # of a CPU nothing is said


def test_a_cache_that_is_wrong_is_seen(monkeypatch):
    monkeypatch.setattr("minemu.full_scale.recompute", lambda model, row, embeds, cached: torch.randn_like(cached))
    assert run_full_scale("emu-nano", "cpu", length=48)["rows"]["visual embeddings"]["error"] > 0.5


def test_a_row_that_does_not_fit_leaves_those_before(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("minemu.full_scale.step", full)
    kept = []
    with pytest.raises(torch.OutOfMemoryError):
        run_full_scale("emu2-nano", "cpu", length=48, keep=lambda found: kept.append([*found["rows"]]))
    assert kept == [ROWS[:n] for n in range(1, 5)]


def test_what_does_not_fit_is_refused(capsys):
    with pytest.raises(MinemuError, match="emu2-37b does not fit one GPU of 80 GB; take emu-14b"):
        run_full_scale("emu2-37b", "cpu")
    assert cli.run(["bench", "--full-scale"]) == 2
    assert "--full-scale needs a GPU of 80 GB, and none is visible here" in capsys.readouterr().err
