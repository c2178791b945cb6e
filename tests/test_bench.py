"""Rows of `minemu bench` that time commands and read logs; the others are tested beside what they measure."""

import json

import pytest

from minemu import bench
from minemu.errors import MinemuError
from minemu.evaluation import report

MAKEFILE = "setup:\n\t@true\ndemo:\n\t@sleep 0.2\ntest:\n\t@echo 3 failed; false\n"


def test_a_command_is_timed_without_its_setup(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.chdir(tmp_path)
    row = bench.make_target("demo", 60)
    assert 0.2 <= row["seconds"] < 5 and row["ratio"] == pytest.approx(60 / row["seconds"])
    assert row["against"] == "1 minutes, its limit"
    with pytest.raises(MinemuError, match="make test failed: make.* Error 1 .it is run in the folder"):
        bench.make_target("test", 60)


def test_the_peak_of_training_is_that_of_the_largest_stage(tmp_path):
    (tmp_path / "training").mkdir()
    for stage, peaks in (("emu", (1.0, 3.0)), ("sketch", (6.0, 2.0)), ("codec", ())):
        lines = [json.dumps({"peak_gb": peak}) + "\n" for peak in peaks]
        (tmp_path / "training" / f"{stage}.jsonl").write_text("".join(lines))
    row = bench.train_peak(tmp_path)
    assert row["ratio"] == 1.5 and row["gb"] == {"emu": 3.0, "sketch": 6.0} and "stage sketch" in row["said"]
    text = report.bench_table({"rows": {"train-peak": row}, "command": "minemu bench", "commit": "abc"})
    assert "| `train-peak` | 4 GB | ≤ 1 × | **1.5 ×** |" in text
    with pytest.raises(MinemuError, match="has no training logs; run it where data_samples is"):
        bench.train_peak(tmp_path / "training")
