"""The loop: a run that was killed and resumed ends with the same bits, and nothing bad is ever written."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from minemu import files
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.training import checkpoint, loop, machine
from minemu.training import run as run_module
from minemu.training.emu import LanguageStage
from minemu.training.encoder import EncoderStage
from minemu.training.loop import Stage, TrainConfig, lr_factor, make_optimizers, train
from minemu.training.muon import Muon, orthogonalised
from minemu.training.recipe import make_processor, train_stage
from minemu.training.recipes import resolve
from minemu.training.run import RunLog, alone, describe


class Toy(Stage):
    """Regression with dropout: small, but random numbers and data order matter to it."""

    name = "toy"

    def __init__(self, broken_batch=None, micro_size=4):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        self.broken_batch, self.micro_size = broken_batch, micro_size

    def batch(self, index):
        x = torch.randn(self.micro_size, 3, generator=torch.Generator().manual_seed(index))
        return x * float("nan") if index == self.broken_batch else x

    def loss(self, batch):
        return {"loss": (self.module(batch) - batch.sum(1, keepdim=True)).square().mean()}

    def finish(self, folder):
        checkpoint.save_tensors(self.module.state_dict(), folder / "final.safetensors")


CONFIG = TrainConfig(steps=12, warmup=3, accumulate=2, ema_decay=0.9, checkpoint_every=4, log_every=1)


def run(folder, stage=None, config=CONFIG, stop_after=None, workers=0):
    folder.mkdir(exist_ok=True)
    return train(stage or Toy(), config, folder, RunLog(folder / "log.jsonl"), stop_after, workers)


def bits(folder):
    newest = checkpoint.latest(folder / "checkpoints")
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_each_batch_is_read_once_and_none_beyond_the_end(tmp_path, monkeypatch):
    read: list[int] = []
    monkeypatch.setattr(
        Toy, "batch", lambda stage, index, batch=Toy.batch: (read.append(index), batch(stage, index))[1]
    )
    run(tmp_path / "toy", stop_after=5)
    assert read == list(range(10))  # two for each step
    run(tmp_path / "toy")
    assert read == list(range(24))


def test_batches_of_other_processes_are_the_same(tmp_path, monkeypatch):
    """The bits, where a run is killed too; and none is made in this process."""
    run(tmp_path / "thread")
    whole, batch, own = bits(tmp_path / "thread"), Toy.batch, os.getpid()

    def elsewhere(stage, index):
        assert os.getpid() != own
        return batch(stage, index)

    monkeypatch.setattr(Toy, "batch", elsewhere)
    assert not run(tmp_path / "processes", workers=2, stop_after=5)
    assert run(tmp_path / "processes", workers=1)
    again = bits(tmp_path / "processes")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_stage_that_cannot_be_forked_makes_its_own_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "forks", False)
    monkeypatch.setattr(loop.read_ahead.__globals__["DataLoader"], "__init__", None)
    assert run(tmp_path / "toy", workers=2)


def test_where_no_process_forks_there_are_no_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(MinemuError, match="^--workers needs processes that fork, .* leave it out$"):
        run(tmp_path / "toy", workers=2)


def test_what_is_wrong_with_a_batch_is_said_in_one_line_from_another_process_too(tmp_path):
    class Failing(Toy):
        def batch(self, index):
            if index == 3:
                raise MinemuError("the data set holds no samples; check the path")
            return super().batch(index)

    for workers in (0, 2):
        with pytest.raises(MinemuError, match="^the data set holds no samples; check the path$"):
            run(tmp_path / f"by-{workers}", Failing(), workers=workers)


@pytest.mark.parametrize("stops", [(4,), (5,), (1, 2, 11)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stops):
    assert run(tmp_path / "whole")
    for stop in stops:
        assert not run(tmp_path / "parts", stop_after=stop)
    assert run(tmp_path / "parts")
    whole, parts = bits(tmp_path / "whole"), bits(tmp_path / "parts")
    assert whole.keys() == parts.keys() and len(whole) > 12
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    final = [load_file(tmp_path / name / "final.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_the_average_is_what_is_kept(tmp_path):
    """A moving average, early on of a shorter memory; in place at the end, and for no longer than a preview takes."""
    layer, average = torch.nn.Linear(1, 1), {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    torch.nn.init.ones_(layer.weight)
    for step, share in ((1000, 0.1), (1, 9 / 11)):
        average["weight"].zero_()
        loop.update_average(average, layer, 0.9, step)
        assert average["weight"].item() == pytest.approx(share)

    class Previewed(Toy):
        def preview(self, folder, step):
            assert not self.module.training
            shown.append(self.module[0].weight.clone())

    shown = []
    run(tmp_path / "plain")
    run(tmp_path / "previewed", Previewed(), replace(CONFIG, preview_every=3))
    plain, previewed = bits(tmp_path / "plain"), bits(tmp_path / "previewed")
    assert len(shown) == 4 and all(torch.equal(plain[name], previewed[name]) for name in plain)
    final = load_file(tmp_path / "plain" / "final.safetensors")["0.weight"]
    assert torch.equal(final, plain["average.safetensors:0.weight"]) and torch.equal(final, shown[-1])
    assert not torch.equal(final, plain["model.safetensors:0.weight"])
    kept = {path.name for path in (tmp_path / "plain" / "checkpoints").glob("step-*")}
    assert kept == {"step-0000008", "step-0000012"}


def test_another_seed_ends_with_other_weights(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "other", config=replace(CONFIG, seed=1))
    one, other = bits(tmp_path / "one"), bits(tmp_path / "other")
    assert not torch.equal(one["model.safetensors:0.weight"], other["model.safetensors:0.weight"])


def test_losing_steps_since_the_last_checkpoint_changes_nothing(tmp_path):
    """A kill between checkpoints: what is on disk is an older step, and log lines after it are written anew."""
    run(tmp_path / "whole")
    run(tmp_path / "killed", stop_after=4)
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"stage": "toy", "step": 5, "loss": "lost"}\n{"stage": "toy", "st')
    (tmp_path / "killed" / "checkpoints" / ".step-0000008.abc.tmp").mkdir()
    run(tmp_path / "killed")
    whole, killed = bits(tmp_path / "whole"), bits(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert "lost" not in (tmp_path / "killed" / "log.jsonl").read_text()


class Halves(Toy):
    """The same rows, in batches of any size, without dropout."""

    def __init__(self, micro_size):
        super().__init__(micro_size=micro_size)
        self.module[1].p = 0.0

    def batch(self, index):
        rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(7))
        return rows[index * self.micro_size : (index + 1) * self.micro_size]


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path):
    gradients = []
    for count in (1, 2):
        stage = Halves(8 // count)
        loop.backward(stage, replace(CONFIG, accumulate=count), 0, map(stage.batch, range(count)), tmp_path)
        gradients.append([parameter.grad for parameter in stage.module.parameters()])
    torch.testing.assert_close(*gradients)


def test_accumulation_equals_one_large_batch(tmp_path):
    large, small = Halves(8), Halves(4)
    run(tmp_path / "large", large, TrainConfig(steps=6, warmup=1, accumulate=1))
    run(tmp_path / "small", small, TrainConfig(steps=6, warmup=1, accumulate=2))
    for a, b in zip(large.module.parameters(), small.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_loss_that_is_no_number_stops_before_the_update(tmp_path):
    with pytest.raises(
        MinemuError,
        match="stage toy: loss or gradient is nan in batch 13; stopped before the update. Last good checkpoint: step-0000004. "
        "The same settings would do it again: train the stage anew with a lower lr",
    ):
        run(tmp_path / "broken", Toy(broken_batch=13))
    run(tmp_path / "good", stop_after=4)
    good, kept = bits(tmp_path / "good"), bits(tmp_path / "broken")
    assert all(torch.equal(good[name], kept[name]) for name in good)


def test_a_gradient_that_is_no_number_names_its_batches(tmp_path):
    class Steep(Toy):
        def loss(self, batch):
            return {"loss": (self.module(batch).sum() * 0).sqrt()}  # a loss of 0 whose slope is endless

    with pytest.raises(MinemuError, match="stage toy: loss or gradient is nan in batches 0 to 1; stopped before"):
        run(tmp_path / "steep", Steep())


@pytest.mark.parametrize(("cost", "told"), [(400.0, True), (0.5, False)])
def test_a_processor_that_is_slow_in_bfloat16_is_told(tmp_path, monkeypatch, capsys, cost, told):
    monkeypatch.setattr(loop, "bfloat16_cost", lambda device: cost)
    run(tmp_path / "toy", config=replace(CONFIG, steps=1, precision="bfloat16"))
    says = "stage toy: bfloat16 takes 400 times as long as float32 on this machine; another run folder with --precision float32"
    assert (says in capsys.readouterr().out) == told


def test_the_peak_of_memory_is_a_stages_own():
    assert 0 < machine.bfloat16_cost(torch.device("cpu")) < 1e5
    machine.forget_peak_memory()
    with mmap.mmap(-1, 2 * 10**8) as block:  # given back for certain, unlike what an allocator keeps
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        high = machine.peak_memory_gb()
    machine.forget_peak_memory()
    assert machine.peak_memory_gb() < high - 0.1 or not os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.parametrize("name", ["batch_size", "accumulate", "checkpoint_every", "log_every", "steps"])
def test_training_settings_that_make_no_sense(name):
    with pytest.raises(MinemuError, match=f"the training setting {name}=-1 is too small: give [01] or more"):
        TrainConfig(**{name: -1})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": 0.0}, "lr=0.0 is too small: give more than 0"),
        ({"clip": -1.0}, "clip=-1.0 is too small"),
        ({"beta1": 1.0}, "beta1=1.0 is no share: give 0 or more, below 1"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is no share"),
        ({"lr_vision": -1.0}, "lr_vision=-1.0 is negative"),
        ({"lr": float("nan")}, "lr=nan is not finite: give a number"),
        ({"restarts": (5, 3)}, r"restarts=\(5, 3\) should rise"),
    ],
)
def test_rates_and_shares_that_make_no_sense(settings, says):
    with pytest.raises(MinemuError, match=f"the training setting {says}"):
        TrainConfig(**settings)


def test_what_the_library_cannot_write_is_a_full_disk_to_us(tmp_path):
    with pytest.raises(OSError, match="missing|No such file"):
        checkpoint.save_tensors({"x": torch.zeros(2)}, tmp_path / "missing" / "x.safetensors")


def test_tensors_that_share_memory_are_saved_each_for_itself(tmp_path):
    whole = torch.arange(6.0)
    tied = {"whole": whole, "again": whole, "end": whole[4:], "turned": whole.view(2, 3).T}
    checkpoint.save_tensors(tied, tmp_path / "x.safetensors")
    found = checkpoint.load_tensors(tmp_path / "x.safetensors")
    assert set(found) == set(tied) and all(torch.equal(found[name], tied[name]) for name in tied)


def test_saving_copies_nothing_that_it_need_not(tmp_path, monkeypatch):
    """The conditions of stage `sketch` are 1.9 GB."""
    monkeypatch.setattr(torch.Tensor, "clone", lambda *_: pytest.fail("copied"))
    checkpoint.save_tensors({"a": torch.zeros(3), "b": torch.ones(2)}, tmp_path / "x.safetensors")


def test_no_disk_space_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    run(tmp_path / "run", stop_after=4)
    before = bits(tmp_path / "run")

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(
        MinemuError,
        match="could not write .*step-0000008: No space left on device; what was there before is untouched. Free disk space",
    ):
        run(tmp_path / "run")
    monkeypatch.undo()
    after = bits(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.parametrize("name", ["model.safetensors", "average.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    run(tmp_path / "run", stop_after=4)
    file = checkpoint.latest(tmp_path / "run" / "checkpoints") / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        MinemuError, match=f"step-0000004/{name} is damaged.*, or delete .* to go on from the checkpoint before"
    ):
        run(tmp_path / "run")


def test_lr_factor_rises_and_falls():
    config = TrainConfig(steps=100, warmup=10, final_lr=0.1)
    rates = [lr_factor(step, config) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] == pytest.approx(0.1, abs=1e-3)


def test_the_rate_begins_anew_at_a_restart():
    once = TrainConfig(steps=100, warmup=10, final_lr=0.1)
    twice = TrainConfig(steps=150, restarts=(100,), warmup=10, final_lr=0.1)
    rates = [lr_factor(step, twice) for step in range(150)]
    assert rates[:100] == [lr_factor(step, once) for step in range(100)]
    assert rates[100] == 0.1 and rates[109] == 1.0
    assert rates[109:] == sorted(rates[109:], reverse=True) and rates[149] == pytest.approx(0.1, abs=2e-3)


@pytest.mark.parametrize("restart", [100, 500])
def test_a_restart_beyond_the_end_changes_nothing(restart):
    plain = TrainConfig(steps=100, warmup=10)
    other = TrainConfig(steps=100, warmup=10, restarts=(restart,))
    assert [lr_factor(step, plain) for step in range(100)] == [lr_factor(step, other) for step in range(100)]


def test_a_lengthened_run_ends_with_the_same_bits_as_one_planned_so(tmp_path):
    planned = TrainConfig(steps=14, restarts=(8,), warmup=2, checkpoint_every=4)
    run(tmp_path / "planned", config=planned)
    run(tmp_path / "longer", config=TrainConfig(steps=8, warmup=2, checkpoint_every=4))
    run(tmp_path / "longer", config=planned)
    one, other = bits(tmp_path / "planned"), bits(tmp_path / "longer")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_keeps_the_commits_it_began_with(tmp_path, monkeypatch):
    for commit in ("a", "a", "b", "c", "c"):
        monkeypatch.setattr("minemu.training.run.commit", lambda commit=commit: commit)
        describe(tmp_path, stage="toy")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["commit"] == "c" and record["earlier_commits"] == ["a", "b"]


def test_a_commit_with_changes_says_so(monkeypatch):
    said = iter(["abc\n", " M minemu/model.py\n"])
    monkeypatch.setattr(run_module.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(said)))
    assert run_module.commit() == "abc+changes"


def test_installed_code_has_no_commit_of_the_repository_around_it(monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "__file__", str(tmp_path / "site-packages" / "minemu" / "training" / "run.py"))
    monkeypatch.setattr(run_module.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="abc"))
    assert run_module.commit() == "unknown"


def test_adamw_has_the_betas_and_epsilon_that_are_set():
    (optimizer,) = make_optimizers(Toy(), TrainConfig(beta1=0.7, beta2=0.8, eps=1e-3))
    assert {(*group["betas"], group["eps"]) for group in optimizer.param_groups} == {(0.7, 0.8, 1e-3)}


def test_rates_of_modules_and_frozen_ones():
    class Two(Toy):
        def parameter_lrs(self, config):
            return {p: 0.0 if p.shape[0] == 8 else config.lr for p in self.module.parameters()}

    stage = Two()
    (optimizer,) = make_optimizers(stage, TrainConfig(lr=0.5, weight_decay=0.1))
    assert {(g["peak"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups} == {
        (0.5, 0.1, 1),
        (0.5, 0.0, 1),
    }
    assert [p.requires_grad for p in stage.module.parameters()] == [False, False, True, True]


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest(tmp_path):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.blocks = torch.nn.Linear(3, 8), torch.nn.ModuleList([torch.nn.Linear(8, 8)])

        def forward(self, x):
            return self.blocks[0](self.enter(x).relu())

    class Deep(Toy):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Sequential(Block(), torch.nn.Linear(8, 1))

    config = TrainConfig(steps=6, warmup=1, optimizer="muon", checkpoint_every=3)
    stage = Deep()
    adamw, muon = make_optimizers(stage, config)
    assert (type(adamw), type(muon)) == (torch.optim.AdamW, Muon)
    assert [p for group in muon.param_groups for p in group["params"]] == [stage.module[0].blocks[0].weight]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 5

    def final(name, **limits):
        stage = Deep()
        done = train(stage, config, tmp_path / name, RunLog(tmp_path / name / "log.jsonl"), **limits)
        return done, stage.module.state_dict()

    assert final("parts", stop_after=4)[0] is False
    _, whole = final("whole")
    _, parts = final("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("shape", [(24, 24), (40, 16), (16, 40)])
def test_muon_steps_as_that_of_torch(shape):
    def weights():
        torch.manual_seed(0)
        return torch.nn.Parameter(torch.randn(shape))

    its, own, exact = weights(), weights(), weights()
    settings = {"lr": 0.01, "weight_decay": 0.05}
    optimizers = [
        torch.optim.Muon([its], **settings, adjust_lr_fn="match_rms_adamw"),
        Muon([own], torch.bfloat16, **settings),
        Muon([exact], torch.float32, **settings),
    ]
    for _ in range(3):
        gradient = torch.randn(shape)
        for weight, optimizer in zip((its, own, exact), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(own, its)
    assert not torch.equal(exact, its)  # bfloat16 rounds
    torch.testing.assert_close(exact, its, rtol=0, atol=2e-3)  # a step is 0.01


def test_muon_makes_all_singular_values_alike():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(32, 48), torch.float32))
    assert values.min() > 0.6 and values.max() < 1.3


def test_atomic_writes_never_leave_half_a_file(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    moves = []

    def replace(source, target):
        moves.append(target)
        if len(moves) == 2:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    refused = pytest.raises(MinemuError, match="could not write .*a: No space left .* untouched")
    with refused, files.atomic_dir(tmp_path / "a") as temporary:
        (temporary / "new").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/old"]


@pytest.mark.parametrize("kind", [LanguageStage, EncoderStage])
def test_a_stage_begins_with_the_weights_of_its_seed(kind, tmp_path):
    config, recipe = resolve("emu-nano", {})
    world, processor = ToyWorld("seen", image_size=32), make_processor(tmp_path, config, recipe)
    stages = [kind(config, replace(recipe.language, seed=seed), processor, world) for seed in (0, 1)]
    one, other = (next(stage.module.parameters()) for stage in stages)
    assert not torch.equal(one, other)


def test_what_cannot_be_trained_is_said(tmp_path):
    with pytest.raises(MinemuError, match="unknown stage 'encode': did you mean 'encoder'"):
        train_stage("emu-nano", "encode", tmp_path)
    with pytest.raises(MinemuError, match="unknown preset 'emu-tinny': did you mean 'emu-tiny'"):
        train_stage("emu-tinny", "encoder", tmp_path)
    with pytest.raises(MinemuError, match="preset 'emu-14b' has no recipe on the toy world"):
        train_stage("emu-14b", "encoder", tmp_path)
    with pytest.raises(
        MinemuError, match="stage emu needs stage encoder first: minemu train encoder --preset emu-nano"
    ):
        train_stage("emu-nano", "emu", tmp_path)
    with pytest.raises(MinemuError, match="unknown configuration key 'train.emu.step': did you mean 'steps'"):
        train_stage("emu-nano", "encoder", tmp_path, {"train.emu.step": 3})
    with pytest.raises(MinemuError, match="unknown logger 'wandbb': did you mean 'wandb'"):
        RunLog(tmp_path / "log.jsonl", "wandbb")
    with pytest.raises(MinemuError, match="unknown logger 'wandbb': did you mean 'wandb'"):
        train_stage("emu-nano", "encoder", tmp_path / "early", log_to="wandbb")
    assert not (tmp_path / "early").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    folder = tmp_path / "emu-nano" / "encoder"
    with alone(folder), pytest.raises(MinemuError, match=f"another process trains in {folder}; wait until it ends"):
        train_stage("emu-nano", "encoder", tmp_path)
    assert not (folder / "log.jsonl").exists()
    with alone(folder):  # and the lock ends with its block
        pass


def test_tensorboard_is_written_and_closed(tmp_path, monkeypatch):
    calls = []

    class Writer:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, key, value, step):
            calls.append((key, value, step))

        def close(self):
            calls.append("closed")

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log = RunLog(tmp_path / "log.jsonl", "tensorboard")
    log.write({"step": 3, "loss": 0.5})
    log.close()
    assert calls == [tmp_path / "tensorboard", ("loss", 0.5, 3), "closed"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        MinemuError, match="--log-to tensorboard needs the package tensorboard: pip install tensorboard"
    ):
        RunLog(tmp_path / "log.jsonl", "tensorboard")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_each_stage_is_a_tracked_run_of_its_own(name, tmp_path, monkeypatch):
    calls = []
    fake = ModuleType(name)
    fake.init = lambda **kwargs: calls.append(("init", kwargs["name"]))
    fake.log = lambda values, step: calls.append(("log", step, values))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, fake)
    once = {"train.language.steps": 1, "train.language.log_every": 1}
    assert train_stage("emu-nano", "language", tmp_path, once, log_to=name)
    begun, (_, step, values), ended = calls
    assert begun == ("init", "language") and ended == ("finish",)
    assert step == 1 and values["loss"] > 0
    calls.clear()
    with pytest.raises(MinemuError, match="loss or gradient is inf"):
        monkeypatch.setattr(LanguageStage, "loss", lambda self, batch: {"loss": torch.tensor(float("inf"))})
        train_stage("emu-nano", "language", tmp_path / "broken", once, log_to=name)
    assert calls == [("init", "language"), ("finish",)]


@pytest.mark.slow
def test_a_process_killed_at_a_random_moment_ends_with_the_same_bits(tmp_path):
    """SIGKILL, several times, in the middle of steps and of saving; then on to the end."""
    script = (
        "import sys; from minemu.training.recipe import train_stage; train_stage('emu-nano', 'language', sys.argv[1], "
        "{'train.language.steps': 60, 'train.language.checkpoint_every': 2})"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    folder = tmp_path / "killed" / "emu-nano" / "language"
    for steps in (6, 20, 40):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL)
        limit = time.time() + 120
        while time.time() < limit and process.poll() is None:
            newest = checkpoint.latest(folder / "checkpoints")
            if newest and int(newest.name.split("-")[1]) >= steps:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was still at work
    subprocess.run([*command, str(tmp_path / "killed")], check=True, env=environment, capture_output=True)
    whole, killed = bits(tmp_path / "whole" / "emu-nano" / "language"), bits(folder)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
