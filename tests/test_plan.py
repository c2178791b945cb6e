"""`minemu plan`: its numbers are those of real runs at nano size, and the published ones at full size."""

import json
import math
import re
import resource

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from minemu import cli
from minemu.config import EmuConfig
from minemu.costs import Cost, count_parameters, decoder_flops, fake, forward_costs, measure
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.plan import Load, inference_memory, lines, plan, read_size, training_memory
from minemu.visual_decoder import VisualDecoder

PRESETS = ["emu-nano", "emu2-nano"]
GIB = 2**30
LOAD = Load(batch=2, length=64, pictures=1)
NANO_COSTS = forward_costs(EmuConfig.preset("emu-nano"), 2, 64, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_fake_tensors_cost_what_real_ones_do(preset):
    config = EmuConfig.preset(preset)
    real = Emu(config)
    shadow, mode = fake(lambda: Emu(config), torch.float32)
    run = {
        "pictures": lambda model: model.encode_images(torch.zeros(2, 3, 32, 32)),
        "words": lambda model: model.llm(inputs_embeds=torch.zeros(2, 64, 48), use_cache=False),
    }
    for forward in run.values():
        measured = measure(lambda f=forward: f(real), real)
        with mode:
            planned = measure(lambda f=forward: f(shadow), shadow)
        assert planned.flops == measured.flops > 0
        assert math.isclose(
            planned.kept, measured.kept, rel_tol=0.08
        )  # LLaMA's causal mask is written out, as for packed rows


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_of_the_llm_are_those_of_the_formula(preset):
    """2 for each linear weight and position, and 4 L^2 D a layer for attention."""
    config, load = EmuConfig.preset(preset), LOAD
    linear, llm = count_parameters(config)["LLM linear layers"], config.llm
    attention = llm.layers * 4 * load.length**2 * llm.width
    costs = forward_costs(config, load.batch, load.length, load.pictures)
    assert costs["LLM"].flops == load.batch * (2 * linear * load.length + attention)
    heads = llm.width * (llm.vocab_size + config.embed_width)
    assert costs["heads"].flops == 2 * load.batch * load.length * heads


@pytest.mark.parametrize(("preset", "kv_heads"), [*((preset, None) for preset in PRESETS), ("emu-nano", 1)])
def test_bytes_are_those_of_a_real_model(preset, kv_heads):
    torch.manual_seed(0)
    config = EmuConfig.preset(preset).override({"llm.kv_heads": kv_heads})
    model, decoder, counts = Emu(config), VisualDecoder(config.decoder), count_parameters(config)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    trained = training_memory(config, counts, forward_costs(config, 1, 64, 1), 1, LOAD, False)
    states = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    visual = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith(("llm.", "regression_head.")))
    frozen = visual if config.objective.targets == "frozen" else 0  # the teacher's copy
    assert trained.weights - frozen == trained.gradients == sum(p.nbytes for p in model.parameters())
    assert trained.moments == sum(tensor.nbytes for tensor in states)

    used = inference_memory(config, counts, 1, LOAD, "float32")
    cache = DynamicCache(config=model.llm.config)
    model.llm.model(input_ids=torch.full((2, 64), 5), past_key_values=cache, use_cache=True)
    assert used.cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert used.weights == trained.gradients
    assert used.decoder == sum(p.nbytes for p in decoder.parameters())


@pytest.fixture(scope="module")
def costs_14b():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    costs = forward_costs(EmuConfig.preset("emu-14b"), 2, 2048, 1)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"planning took {grown} KB: something was allocated"
    return costs


@pytest.fixture(scope="module")
def emu_14b(costs_14b):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minemu.plan.forward_costs", lambda *_: costs_14b)
        return plan(EmuConfig.preset("emu-14b"), 8, 80 * GIB, Load(2, 2048, 1))


def test_parameters_are_the_published_ones(emu_14b):
    """Emu's file also holds its encoder's norm and head, and a word table, all unused; both files hold rotary tables."""
    unused = (2 * 1408 + 1024 * 1408 + 1024) + 32128 * 768
    assert emu_14b["parameters"]["total"] + unused + 40 * 64 == 14_208_421_632
    assert count_parameters(EmuConfig.preset("emu2-37b"))["total"] + 60 * 64 == 36_906_516_992


def test_inference_needs_what_users_of_the_published_models_measured(emu_14b):
    """baaivision/Emu, threads 7, 47, 52 and 96: Emu about 30 GB; Emu2 138 GB, in bfloat16 70 GB; Emu2-Gen 77 GB of a card of 80."""
    rows = {row["weights_in"]: row for row in emu_14b["inference"]}
    half = 8 * (rows["bfloat16"]["weights"] + rows["bfloat16"]["cache"]) + rows["bfloat16"]["decoder"]
    assert 28e9 < half < 34e9
    config = EmuConfig.preset("emu2-37b")
    counts, load = count_parameters(config), Load(1, 2048, 1)
    full, half = (inference_memory(config, counts, 1, load, dtype) for dtype in ("float32", "bfloat16"))
    assert math.isclose(full.weights / GIB, 138, rel_tol=0.02) and math.isclose(half.weights / GIB, 70, rel_tol=0.02)
    assert math.isclose(half.total / GIB, 77, rel_tol=0.02)
    totals = [row["total"] for row in emu_14b["inference"]]
    assert totals == sorted(totals, reverse=True)


def test_training_agrees_with_a_simulation_of_fsdp(costs_14b):
    """LLaMA-13B on 64 devices, 2 x 2048 positions on each, checkpointed: a simulated FSDP step peaks at 8.39 GiB on each."""
    config = EmuConfig.preset("emu-14b")
    counts = count_parameters(config)
    llama = {"total": counts["llm"], "LLM linear layers": counts["LLM linear layers"]}
    costs = {**costs_14b, "visual encoder": Cost(0, 0), "bridge": Cost(0, 0)}
    found = training_memory(config, llama, costs, 64, Load(2, 2048, 0), checkpointing=True)
    assert math.isclose(found.total / GIB, 8.39, rel_tol=0.05)
    assert found.weights == 4 * counts["llm"] / 64 and found.moments == 8 * counts["llm"] / 64


def test_with_lora_only_the_factors_learn():
    config = EmuConfig.preset("emu-nano").override({"llm.lora_rank": 4})
    counts = count_parameters(config)
    assert counts["LoRA factors"] == config.llm.layers * 4 * 2 * 4 * config.llm.width
    found = training_memory(config, counts, forward_costs(config, 1, 64, 1), 1, LOAD, False)
    assert found.gradients == 4 * counts["LoRA factors"] and found.moments == 8 * counts["LoRA factors"]
    assert found.weights == 4 * counts["total"]


def test_more_devices_and_checkpointing_need_less(emu_14b):
    plain, checkpointed = emu_14b["training"]
    assert checkpointed["total"] < plain["total"] and checkpointed["activations"] < plain["activations"] / 5
    assert plain["weights"] * 8 == 4 * emu_14b["parameters"]["total"]
    assert emu_14b["training_step_flops"]["plain"] == 3 * emu_14b["forward_flops"]["total"]


ADVICE = [  # devices, memory as a share of what this row needs, and what is said
    (1, "training", 0, 1.0, "training fits 1 x .*, without activation checkpointing$"),
    (
        1,
        "training",
        1,
        1.0,
        r"training fits 1 x .* with activation checkpointing \(not in minemu: activation checkp.*\)$",
    ),
    (
        1,
        "training",
        1,
        0.9,
        r"take 2 such devices with FSDP and activation checkpointing \(not in minemu: FSDP, activation checkpointing\), or "
        "train LoRA adapters alone",
    ),
    (2, "training", 0, 1.0, r"training fits 2 x .*, without activation checkpointing \(not in minemu: FSDP\)$"),
    (1, "training", 1, 0.2, "what is not sharded is .* a device; lower --batch or --length"),
    (
        2,
        "inference",
        1,
        1.0,
        r"inference fits 2 x .*: Emu.from_pretrained\(folder, dtype='bfloat16', device_map='auto'\)",
    ),
    (1, "inference", 2, 1.0, r"quantization_config=BitsAndBytesConfig\(load_in_8bit=True\), device_map='auto'\)"),
    (1, "inference", 3, 1.0, r"quantization_config=BitsAndBytesConfig\(load_in_4bit=True\), device_map='auto'\)"),
    (
        1,
        "inference",
        3,
        0.9,
        "inference does not fit 1 x .*: take 2 devices with 4-bit weights, or let device_map='auto'",
    ),
    (
        1,
        "inference",
        3,
        0.1,
        "the decoder alone is .*, take a larger first one, or let device_map='auto' leave the rest to memory and disk",
    ),
]


@pytest.mark.parametrize(("devices", "kind", "row", "share", "advice"), ADVICE)
def test_it_says_what_fits_and_what_to_change(devices, kind, row, share, advice, monkeypatch):
    config = EmuConfig.preset("emu-nano")
    monkeypatch.setattr("minemu.plan.forward_costs", lambda *_: NANO_COSTS)
    monkeypatch.setattr("minemu.plan.decoder_flops", lambda _: 0)
    needed = plan(config, devices, GIB, LOAD)[kind][row]["total"]
    found = plan(config, devices, math.ceil(needed * share), LOAD)
    assert re.search(advice, "\n".join(found["advice"]), re.MULTILINE)
    assert lines(found)[-2:] == found["advice"]
    assert all(row["fits"] is (row["total"] <= found["memory"]) for row in (*found["training"], *found["inference"]))


def test_command_line_prints_and_writes_one_object(tmp_path, capsys):
    line = [
        "plan",
        "emu2-nano",
        "--devices",
        "2",
        "--memory",
        "24GB",
        "--set",
        "llm.layers=4",
        "--json",
        str(tmp_path / "x.json"),
    ]
    assert cli.run(line) == 0
    found, shown = json.loads((tmp_path / "x.json").read_text()), capsys.readouterr().out
    assert {"preset", "parameters", "forward_flops", "training", "inference", "advice"} <= set(found)
    assert found["memory"] == 24 * 10**9 and found["length"] == 256
    assert f"{found['parameters']['total']:,}" in shown and found["advice"][0] in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("emu-15b", "unknown preset 'emu-15b': did you mean 'emu-14b'?"),
        ("emu-nano --memory 80", "'80' is no size of memory; write it as 80GiB, 24GB or 512MiB"),
        ("emu-nano --memory 80gigs", "'80gigs' is no size of memory"),
        (f"emu-nano --memory {'9' * 320}GB", "'99999999999999999999' is more memory than any device has"),
        ("emu-nano --devices 0", "--devices 0 is too few; give 1 or more"),
        ("emu-nano --batch 0", "--batch 0 is too few; give 1 or more"),
        ("emu-nano --length 512", "--length 512 is more than the context of 256; shorten it or --set llm.context"),
        ("emu-nano --pictures 99", "--pictures 99 do not go into 256 positions; give 0 to 42, or raise --length"),
    ],
)
def test_bad_input_is_one_line(line, message, capsys):
    assert cli.run(["plan", *line.split()]) == cli.BAD_INPUT
    assert message in capsys.readouterr().err


def test_sizes_are_read():
    assert read_size("80GiB") == 80 * GIB and read_size(" 1.5 GB ") == 1_500_000_000
    with pytest.raises(MinemuError, match="is no size of memory"):
        read_size("GiB")


@pytest.mark.parametrize("changes", [{}, {"decoder.inference_steps": 3, "decoder.guidance_scale": 2.0}])
def test_a_picture_that_begins_as_its_sketch_costs_what_drawing_it_does(changes):
    config = EmuConfig.preset("emu-nano").override(
        {"decoder.inference_steps": 1, "decoder.guidance_scale": 1.0, **changes}
    )
    decoder, conditions = (
        VisualDecoder(config.decoder),
        torch.randn(1, config.bridge.n_image, config.decoder.condition_width),
    )
    with sdpa_kernel(SDPBackend.MATH):  # other attention is not counted on a CPU
        assert decoder_flops(config) == measure(lambda: decoder.decode(conditions), decoder).flops


def test_a_picture_takes_the_passes_of_its_sampler():
    """PNDM makes one more than its steps; guidance doubles them; the codec comes once."""
    nano = EmuConfig.preset("emu-nano").override({"decoder.condition_grid": 0, "decoder.sketch_layers": 0})
    plain = {"decoder.guidance_scale": 1.0, "decoder.inference_steps": 10}
    ddim, pndm = (
        plain,
        {**plain, "decoder.sampler": "pndm", "decoder.prediction": "v", "decoder.zero_terminal_snr": False},
    )

    def flops(changes):
        return decoder_flops(nano.override(changes))

    step = flops({**ddim, "decoder.inference_steps": 11}) - flops(ddim)
    codec = flops(ddim) - 10 * step
    assert step > 0 and codec > 0
    assert flops(pndm) == 11 * step + codec
    assert flops({**ddim, "decoder.guidance_scale": 2.0}) == 20 * step + codec
