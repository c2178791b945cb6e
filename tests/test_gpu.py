"""Nothing is left behind on the CPU when a GPU does the work: every stage of training, and every call of the pipeline.

One is pretended, unless `MINEMU_TEST_GPU=0` shows the tests a real one.
"""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from pretend_gpu import PretendedGPU

from minemu import EmuPipeline, Video
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation.tasks import TASKS, evaluate
from minemu.figures.diffusion import show_schedules
from minemu.loading import device_of
from minemu.training import loop, recipe
from minemu.training.recipes import TRAINABLE
from minemu.training.run import describe
from minemu.weights import load_tensors

SHORT = {
    f"train.{stage}.{key}": value
    for stage in TRAINABLE
    for key, value in {"steps": 4, "checkpoint_every": 2, "log_every": 1}.items()
    if stage != "codec"
}
SHORT |= {"train.sketch.preview_every": 4, "train.decoder.preview_every": 4}
SETTINGS = {**SHORT, "train.source": "mixture", "objective.say_image": True, "train.instruct.batch_size": 2}
SETTINGS["train.imagine.lr"] = 1e-4  # the first steps double last digits, and the stages after it should begin alike
STOPS = ("emu", "sketch", "decoder")  # AdamW, Muon, a moving average
REAL = torch.cuda.is_available()
on_gpu = nullcontext if REAL else PretendedGPU
only_pretended = pytest.mark.skipif(
    REAL, reason="a real GPU draws other random numbers, or words its refusals otherwise"
)
only_real = pytest.mark.skipif(not REAL, reason="needs a GPU")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run folders of the same recipe: on the CPU, and on a pretended GPU, two stages of it in two parts."""
    cpu, gpu = tmp_path_factory.mktemp("cpu"), tmp_path_factory.mktemp("gpu")
    recipe.run_recipe("emu-nano", cpu, SETTINGS, instruct=True, device="cpu")
    with pytest.MonkeyPatch.context() as patch, on_gpu():
        patch.setattr(recipe, "device_of", torch.device)
        for stage in TRAINABLE:
            if stage in STOPS:
                recipe.train_stage("emu-nano", stage, gpu, SETTINGS, stop_after=2, device="cuda:0")
            recipe.train_stage("emu-nano", stage, gpu, SETTINGS, device="cuda:0")
        recipe.run_recipe("emu-nano", gpu, SETTINGS, instruct=True, device="cuda:0")
    return cpu / "emu-nano", gpu / "emu-nano"


def losses(root, stage):
    return [json.loads(line)["loss"] for line in (root / stage / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [stage for stage in TRAINABLE if stage != "codec"])
def test_a_gpu_trains_to_the_same_losses(trained, stage):
    cpu, gpu = (losses(root, stage) for root in trained)
    assert len(cpu) == 4
    tolerance = 1e-3 if not REAL else 10 if stage == "decoder" else 0.2  # a real one draws noise of its own
    np.testing.assert_allclose(gpu, cpu, rtol=tolerance)
    told = [json.loads((root / stage / "run.json").read_text())["device"] for root in trained]
    assert told == ["cpu", "cuda"]


@only_pretended
@pytest.mark.parametrize("part", ["checkpoint", "checkpoint/visual_decoder", "checkpoint-instruct"])
def test_its_checkpoint_has_the_same_numbers(trained, part):
    cpu, gpu = (load_tensors(next((root / part).glob("*.safetensors"))) for root in trained)
    assert set(cpu) == set(gpu)
    for name, tensor in cpu.items():
        torch.testing.assert_close(
            gpu[name], tensor, rtol=0.02, atol=2e-3, msg=lambda told, name=name: f"{name}: {told}"
        )


def test_where_a_run_was_is_kept(tmp_path):
    for device in ("cpu", "cuda", "cuda"):
        describe(tmp_path, stage="toy", device=device)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["device"] == "cuda" and told["earlier_devices"] == ["cpu"] and "earlier_commits" not in told


@only_real
@pytest.mark.parametrize("stage", [stage for stage in TRAINABLE if stage != "codec"])
def test_bfloat16_learns_as_float32_does(trained, stage, in_bfloat16):
    np.testing.assert_allclose(losses(in_bfloat16, stage), losses(trained[1], stage), rtol=0.05)


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory):
    root = tmp_path_factory.mktemp("bfloat16")
    low = {f"train.{stage}.precision": "bfloat16" for stage in TRAINABLE if stage != "codec"}
    recipe.run_recipe("emu-nano", root, {**SETTINGS, **low}, instruct=True, device="cuda:0")
    return root / "emu-nano"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_bfloat16_is_that_of_the_device(trained, precision, monkeypatch):
    asked = []
    monkeypatch.setattr(loop.torch, "autocast", lambda *arguments: asked.append(arguments) or nullcontext())
    with loop.computing_in(precision, torch.device("cuda:0")):
        assert asked == ([("cuda", torch.bfloat16)] if precision == "bfloat16" else [])


A, B = (ToyWorld(image_size=32).sample(number).picture for number in range(2))
FEW = {"max_new_tokens": 3}
CALLS = {
    "draws": lambda pipe: pipe(["a cat"], generator=torch.Generator().manual_seed(0)).images[0],
    "draws two, guided": lambda pipe: (
        pipe(
            [["a cat"], [A, "a dog"]],
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
        ).images
    ),
    "rebuilds": lambda pipe: pipe([A], generator=torch.Generator().manual_seed(0)).images[0],
    "captions": lambda pipe: pipe.caption(A, **FEW),
    "captions a clip": lambda pipe: pipe.caption(Video([A, B]), **FEW),
    "answers with beams": lambda pipe: pipe.chat_batch([[A, "what?"], ["why", B, "so?"]], num_beams=2, **FEW)[1].text,
    "samples": lambda pipe: pipe.chat([A, "what is this?"], do_sample=True, **FEW).text,
    "ranks": lambda pipe: pipe.rank([A, "what is this?"], ["a cat.", "two dogs."]),
    "goes on": lambda pipe: pipe.continue_document(["two pictures:"], max_new_tokens=4),
    "retrieves": lambda pipe: pipe.nearest(A, [B, A], 1),
}


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=only_pretended if call == "samples" else ()) for call in CALLS]
)
def test_a_gpu_does_what_the_cpu_does(trained, call):
    found = []
    pipe = EmuPipeline.from_pretrained(trained[0] / "checkpoint")
    for place in ("cpu", "cuda:0"):
        with on_gpu():
            pipe.to(place)
            assert pipe.model.regression_head.weight.is_cuda == (place != "cpu")
            torch.manual_seed(0)
            found.append(CALLS[call](pipe))
    if call == "ranks":
        (texts, scores), (same, near) = (zip(*ranked, strict=True) for ranked in found)
        assert same == texts and near == pytest.approx(scores, rel=1e-3)
    elif isinstance(found[0], (str, list)) and call != "draws two, guided":
        assert found[0] == found[1]
    else:
        a, b = (np.asarray(pictures, dtype=float) for pictures in found)
        assert a.shape == b.shape and np.abs(a - b).max() <= 2


@pytest.mark.parametrize("call", CALLS)
def test_bfloat16_weights_answer_every_call(trained, call):
    pipe = EmuPipeline.from_pretrained(
        trained[0] / "checkpoint", dtype="bfloat16", device_map="cuda:0" if REAL else None
    )
    assert CALLS[call](pipe) is not None


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.run and not task.judge])
def test_a_gpu_is_measured_as_the_cpu_is(trained, task):
    adapter = trained[0] / "checkpoint-instruct" if "conversations" in TASKS[task].needs[:1] else None
    pipe, scores = EmuPipeline.from_pretrained(trained[0] / "checkpoint", adapter=adapter), []
    for place in ("cpu", "cuda:0"):
        with on_gpu():
            found = evaluate(pipe.to(place), task, None, 2, 0)
        scores.append((found.score, found.chance, found.blind, found.upper_bound))
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_schedules_that_a_scheduler_took_along_are_drawn():
    with on_gpu():
        show_schedules({"mine": torch.tensor([0.9, 0.5, 0.0]).to("cuda:0")})


@only_pretended
def test_what_is_left_on_the_cpu_is_refused():
    with on_gpu():
        there, here = torch.ones(3).to("cuda:0"), torch.ones(3)
        for meet in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            there.numpy,
            lambda: torch.stack([there[0], here[0]]),
            lambda: here[0].add_(there[0]),
        ):
            with pytest.raises((RuntimeError, TypeError), match="cuda:0"):
                meet()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device="cuda:0", generator=torch.Generator())
        assert (there + here[0]).cpu().tolist() == [2, 2, 2] and there[torch.tensor([0])].device.type == "cuda"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    assert device_of("cpu") == torch.device("cpu")
    assert device_of(None) == torch.device("cpu")  # the suite hides GPUs
    for name in ("gpu", "mps", "meta"):
        with pytest.raises(MinemuError, match=f"'{name}' is no device to compute on: give cpu, cuda, or cuda:1"):
            device_of(name)
    with pytest.raises(MinemuError, match="device cuda: 0 GPUs are visible here; leave it out, or give cpu"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(MinemuError, match="device cuda:2: 2 GPUs are visible here"):
        device_of("cuda:2")
