"""Rows of `minemu bench`; steps of training are tested beside what they time (test_model.py)."""

import json

import pytest

from minemu import bench
from minemu.bench import memory, records, speed
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.evaluation import report
from minemu.model import Emu

MAKEFILE = "setup:\n\t@true\ndemo:\n\t@sleep 0.2\ntest:\n\t@echo 3 failed; false\n"


def test_a_command_is_timed_without_its_setup(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.chdir(tmp_path)
    row = records.make_target("demo", 60)
    assert 0.2 <= row["seconds"] < 5 and row["ratio"] == pytest.approx(60 / row["seconds"])
    assert row["against"] == "1 minutes, its limit"
    with pytest.raises(MinemuError, match="make test failed: make.* Error 1 .it is run in the folder"):
        records.make_target("test", 60)


def test_the_peak_of_training_is_that_of_the_largest_stage(tmp_path):
    folder, adapter = tmp_path / "emu", tmp_path / "emu-instruct"
    for stage, peaks in (("emu", (1.0, 3.0)), ("sketch", (6.0, 2.0)), ("codec", ()), ("instruct", (7.0,))):
        logs = (adapter if stage == "instruct" else folder) / "training"
        logs.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"peak_gb": peak}) + "\n" for peak in peaks]
        (logs / f"{stage}.jsonl").write_text("".join(lines))
    assert "7.00 GB, stage instruct" in records.train_peak(folder)["said"]
    adapter.rename(tmp_path / "elsewhere")
    row = records.train_peak(folder)
    assert row["ratio"] == 1.5 and row["gb"] == {"emu": 3.0, "sketch": 6.0} and "stage sketch" in row["said"]
    text = report.bench_table({"rows": {"train-peak": row}, "command": "minemu bench", "commit": "abc"})
    assert "| `train-peak` | 4 GB | ≤ 1 × ✗ | **1.5 ×** | 6.00 GB, stage sketch |" in text
    with pytest.raises(MinemuError, match="has no training logs; run it where data_samples is"):
        records.train_peak(folder / "training")


def test_the_wait_for_data_is_that_of_the_stage_that_waits_longest(tmp_path):
    (tmp_path / "training").mkdir()
    for stage, waits in (("emu", (0.1, 0.3)), ("sketch", (0.0, 0.1))):
        lines = [json.dumps({"data_wait": wait, "seconds": 1.0}) + "\n" for wait in waits]
        (tmp_path / "training" / f"{stage}.jsonl").write_text("".join(lines))
    row = records.data_wait(tmp_path)
    assert row["ratio"] == pytest.approx(0.2) and row["shares"]["sketch"] == pytest.approx(0.05)
    assert row["said"] == "20.0%, stage emu"


@pytest.mark.slow
def test_a_share_of_matrix_products_is_operations_over_time(monkeypatch):
    seconds = iter([0.5, 4.0] * speed.RUNS)  # of the large product, and of the step
    monkeypatch.setattr(speed, "_timed", lambda into, call: into.append(next(seconds)))
    row = speed.matmul_share("tiny")
    operations = float(row["said"].split(", ")[1].removesuffix(" GFLOP a step").replace(",", "")) * 1e9
    assert row["ratio"] == pytest.approx(0.5 / 4 * operations / (2 * speed.LARGE**3), rel=0.01)
    model = Emu(EmuConfig.preset("emu-tiny"))
    positions = speed.documents_of(model, 64)[0]["input_ids"].numel()
    weights = sum(p.numel() for name, p in model.llm.named_parameters() if "embed_tokens" not in name)
    assert operations == pytest.approx(
        6 * weights * positions, rel=0.3
    )  # two forward, four backward; attention comes on top


def test_guidance_in_one_pass_is_guidance(monkeypatch):
    monkeypatch.setattr(speed, "DRAWN", 1)
    assert speed.guidance()["error"] < 1e-4


def test_a_loss_over_words_alone_keeps_less_and_says_the_same():
    row = memory.logit_memory(documents=4)
    assert row["error"] < 1e-5 and 1.2 < row["ratio"] < 10 and row["said"].endswith(" MiB")


def test_a_conversion_that_fails_says_why(monkeypatch):
    small = {"vision.width": 88, "vision.mlp_width": 64, "bridge.width": 24, "bridge.ff_width": 32, "llm.words": 300,
             "llm.width": 40, "llm.heads": 2, "llm.ff_width": 64, "decoder.condition_width": 40}  # fmt: skip
    monkeypatch.setattr(memory, "write_published", lambda *_: [1])  # no checkpoint
    with pytest.raises(MinemuError, match="the conversion to be measured failed: .*there is no checkpoint .*published"):
        memory.convert_peak(1, small)


def test_a_row_that_fails_leaves_the_others(monkeypatch):
    def fails():
        raise MinemuError("no make here")

    row = {"ratio": 2.0, "said": "once"}
    monkeypatch.setattr(bench, "ROWS", {"first": ("", lambda: row), "second": ("", fails)})
    kept = []
    with pytest.raises(MinemuError, match="no make here"):
        bench.run_bench(["first", "second"], lambda found: kept.append(json.dumps(found["rows"])))
    assert kept == [json.dumps({"first": row})]
