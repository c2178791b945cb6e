"""Loading in any precision and onto any devices: the same model, no second copy of its weights, one line for what cannot be."""

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitsAndBytesConfig, GenerationConfig

from minemu import loading
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.shards import write_index
from minemu.visual_decoder import VisualDecoder
from minemu.weights import load_tensors, save_tensors

PRESETS = ["emu-nano", "emu2-nano"]
FOUR_BIT = BitsAndBytesConfig(load_in_4bit=True)
once = pytest.mark.parametrize("pipe", PRESETS[:1], indirect=True)  # what does not depend on the preset


@pytest.fixture(scope="module", params=PRESETS)
def pipe(request, processor):
    torch.manual_seed(0)
    config = EmuConfig.preset(request.param)
    return EmuPipeline(Emu(config), processor, VisualDecoder(config.decoder))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    pipe.save_pretrained(folder)
    return folder


def parts(preset):
    bridge = ["ln_visual", "causal_transformer"] if preset == "emu-nano" else ["project_up"]
    return [
        "visual_encoder",
        *bridge,
        "llm.model.embed_tokens",
        "llm.model.norm",
        "llm.model.rotary_emb",
        "regression_head",
    ]


def spread(preset):
    """The encoder, LLaMA's layers and its LM head on the disk."""
    places = dict.fromkeys(parts(preset), "cpu")
    return places | {"visual_encoder": "disk", "llm.model.layers": "disk", "llm.lm_head": "disk"}


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("model", {"config.json", "model.safetensors"}),
        ("processor", {"processor.json", "tokenizer.json"}),
        ("pipeline", {"config.json", "model.safetensors", "processor.json", "tokenizer.json", "visual_decoder"}),
    ],
)
def test_push_to_hub_uploads_what_is_saved(pipe, monkeypatch, part, files):
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["files"] = set(os.listdir(folder_path))
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    pushed = pipe if part == "pipeline" else getattr(pipe, part)
    assert pushed.push_to_hub("me/emu", private=True, token="t") == "https://huggingface.co/me/emu/commit/1"
    assert seen == {"token": "t", "repo": ("me/emu", True, True), "files": files}


@once
def test_what_is_private_is_fetched_with_a_token(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **how: asked.append((name, how)) or str(folder)
    )
    for cls in (Emu, EmuProcessor, EmuPipeline):
        cls.from_pretrained("me/emu", revision="v1", token="t")
    assert asked == [("me/emu", {"revision": "v1", "token": "t", "allow_patterns": None})] * 3


@pytest.mark.parametrize("device_map", [None, "cpu", "auto", "disk", "spread"])
def test_wherever_the_weights_are_the_answers_are_equal(pipe, folder, device_map):
    name = pipe.model.config.name
    placed = {"disk": {"": "disk"}, "spread": spread(name)}.get(device_map, device_map)
    loaded = EmuPipeline.from_pretrained(folder, device_map=placed)
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    batch = pipe.processor([["two dogs.", picture, "three pandas."], [picture, "dogs"]])
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, pipe.model(**batch).logits)
    assert torch.equal(loaded.model.generate_image_embeds(**batch), pipe.model.generate_image_embeds(**batch))
    said = [p.chat([picture, "two"], max_new_tokens=4).text for p in (pipe, loaded)]
    drawn = [
        p(["two dogs"], generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, loaded)
    ]
    assert said[0] == said[1] and torch.equal(*drawn)
    on_disk = {name for name, p in loaded.model.named_parameters() if p.is_meta}
    assert (len(on_disk) > 0) is (device_map in ("disk", "spread"))


@pytest.mark.parametrize(
    "asked", [{"return_dict_in_generate": True}, {"generation_config": GenerationConfig(return_dict_in_generate=True)}]
)
def test_the_pipeline_gives_texts_and_no_dict_of_tensors(pipe, asked):
    with pytest.raises(
        MinemuError, match="return_dict_in_generate gives tensors, and the pipeline texts: leave it out"
    ):
        pipe.chat(["two dogs"], **asked)


def test_auto_fills_memory_first_and_then_the_disk(folder):
    model = Emu.from_pretrained(folder, device_map="auto", max_memory={"cpu": "600KB"})
    assert set(model.hf_device_map.values()) == {"cpu", "disk"} and model.device == torch.device("cpu")
    held = sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_meta)
    assert 0 < held <= 600_000
    whole = [module for module in model.modules() if type(module).__name__ in loading.UNSPLIT]
    assert all(len({p.is_meta for p in module.parameters()}) == 1 for module in whole)


def test_auto_leaves_gpus_room_to_work(monkeypatch):
    module = Emu(EmuConfig.preset("emu-nano"))
    monkeypatch.setattr(loading, "get_max_memory", lambda: {0: 500_000, 1: 500_000, "cpu": 10**9})
    places = loading.plan_devices(module, "auto")
    filled = dict.fromkeys((0, 1, "cpu"), 0)
    for name, tensor in module.state_dict().items():
        filled[loading._place_of(name, places)] += tensor.nbytes
    assert 0 < filled[0] <= 450_000 and 0 < filled[1] <= 450_000


@once
def test_the_first_gpu_by_its_number(folder):
    with pytest.raises(MinemuError, match="device_map has 'cuda:0' and 0 GPUs are visible here"):
        Emu.from_pretrained(folder, device_map=0)


def test_weights_saved_over_shards_are_those_that_are_read(folder, tmp_path):
    model = Emu.from_pretrained(folder)
    half = dict(list(model.state_dict().items())[:9])
    save_tensors(half, tmp_path / "model-00001.safetensors")
    write_index(tmp_path, dict.fromkeys(half, "model-00001.safetensors"), 1)
    model.save_pretrained(tmp_path)
    again = Emu.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_an_autoencoder_keeps_full_precision_where_half_would_overflow(folder):
    decoder = VisualDecoder.from_pretrained(folder / "visual_decoder", torch.float16)
    assert decoder.condition_mean.dtype == torch.float16
    assert {t.dtype for t in decoder.codec.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
@pytest.mark.parametrize("device_map", [None, {"": "disk"}])
def test_a_dtype_by_name_and_the_rotary_table_stays_exact(pipe, folder, dtype, device_map):
    loaded = EmuPipeline.from_pretrained(folder, dtype=dtype, device_map=device_map)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.decoder.parameters()} == {torch.bfloat16}
    table = loaded.model.llm.model.rotary_emb.inv_freq
    assert table.dtype == torch.float32 and torch.equal(table, pipe.model.llm.model.rotary_emb.inv_freq)
    batch = pipe.processor([["two dogs."]])
    with torch.no_grad():
        exact, rounded = pipe.model(**batch).logits, loaded.model(**batch).logits
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("saved", ["float16", torch.bfloat16])
def test_a_checkpoint_is_saved_in_a_dtype_by_name_and_loaded_as_it_lies(pipe, tmp_path, saved):
    pipe.save_pretrained(tmp_path, dtype=saved)
    kind = loading.read_dtype(saved)
    assert {tensor.dtype for tensor in load_tensors(tmp_path / "model.safetensors").values()} == {kind}
    loaded = EmuPipeline.from_pretrained(tmp_path, dtype="auto")
    assert {p.dtype for p in loaded.model.parameters()} == {kind} == {p.dtype for p in loaded.decoder.unet.parameters()}
    assert {p.dtype for p in EmuPipeline.from_pretrained(tmp_path).model.parameters()} == {torch.float32}
    with pytest.raises(MinemuError, match="unknown dtype 'half'"):
        pipe.save_pretrained(tmp_path / "other", dtype="half")
    assert not (tmp_path / "other").exists()


def test_a_pipeline_without_a_decoder_is_saved_without(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    EmuPipeline(pipe.model, pipe.processor, None).save_pretrained(tmp_path)
    assert EmuPipeline.from_pretrained(tmp_path).decoder is None


def test_pictures_come_in_the_forms_of_diffusers(pipe):
    def draw(kind):
        return pipe(["two dogs"], generator=torch.Generator().manual_seed(0), output_type=kind).images

    drawn = {kind: draw(kind) for kind in ("pil", "np", "pt")}
    assert drawn["pt"].shape == (1, 3, 32, 32) and 0 <= drawn["pt"].min() < drawn["pt"].max() <= 1
    assert drawn["np"].shape == (1, 32, 32, 3) and drawn["np"].dtype == np.float32
    assert np.array_equal(drawn["np"], drawn["pt"].permute(0, 2, 3, 1).numpy())
    assert abs(np.asarray(drawn["pil"][0]) - 255 * drawn["np"][0]).max() <= 0.51
    with pytest.raises(MinemuError, match="output_type='latent' is not one of pil, np, pt"):
        draw("latent")


def test_weights_are_never_there_twice(folder, monkeypatch):
    """Building takes no memory, and on the CPU each weight is the mapped file itself."""
    mapped, built = load_tensors(folder / "model.safetensors"), []
    monkeypatch.setattr("minemu.model.load_folder", lambda path: mapped)
    monkeypatch.setattr(loading, "check_strict", lambda module, *_: built.extend(module.parameters()))
    model = Emu.from_pretrained(folder)
    assert built and all(parameter.is_meta for parameter in built)
    assert all(p.data_ptr() == mapped[name].data_ptr() for name, p in model.named_parameters())


def test_a_loaded_model_trains_and_leaves_the_file_alone(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = Emu.from_pretrained(folder).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert all(p.requires_grad for p in model.parameters())
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_spread_model_is_neither_saved_nor_moved(folder, tmp_path):
    loaded = EmuPipeline.from_pretrained(folder, device_map={"": "disk"})
    with pytest.raises(
        MinemuError, match="some weights are offloaded or quantised; to save the model, load it without"
    ):
        loaded.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(MinemuError, match="load it again with another device_map to move it"):
        loaded.to("cpu")


@once
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"dtype": "bfloat17"}, "unknown dtype 'bfloat17': did you mean 'bfloat16'?"),
        ({"dtype": torch.int8}, "unknown dtype 'int8': known: float32, bfloat16, float16"),
        ({"device_map": "gpu"}, "device_map has 'gpu', which is no device; use 'auto', 'cuda:0', 'cpu' or 'disk'"),
        ({"device_map": "cuda:7"}, "device_map has 'cuda:7' and 0 GPUs are visible here"),
        ({"device_map": {"llm": "cpu"}}, "device_map says nothing about visual_encoder.cls_token; add its part"),
        ({"device_map": {"": "cpu", "lm": "cpu"}}, "device_map names 'lm', which the model has not: did you mean 'llm'?"),
        ({"device_map": {"": "cpu", "llm": "disk"}}, "device_map names '' and 'llm' inside it; give each part one device"),
        ({"device_map": {"visual_encoder.blocks": "cpu"}}, "device_map splits visual_encoder, which has to be on one device"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "max_memory={'cpu': 'much'} does not do"),
        ({"max_memory": {"cpu": "1GB"}}, "max_memory is for device_map='auto': add that, or leave max_memory out"),
        ({"torch_dtype": torch.bfloat16}, "the precision is called dtype here: dtype='bfloat16'"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config is a dict; give transformers' BitsAndBytesConfig"),
        ({"quantization_config": FOUR_BIT}, "8- and 4-bit loading needs bitsandbytes: pip install bitsandbytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_one_line(folder, arguments, line, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    for whole in (Emu, EmuPipeline):
        with pytest.raises(MinemuError) as error:
            whole.from_pretrained(folder, **arguments)
        assert line in str(error.value) and "\n" not in str(error.value)


@once
def test_quantising_without_a_gpu_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MinemuError, match="8- and 4-bit loading needs a GPU, and none is visible here"):
        EmuPipeline.from_pretrained(folder, quantization_config=FOUR_BIT)


class Params4bit(torch.nn.Parameter):
    """Stands in for bitsandbytes': a weight that rounds what is put into it."""

    def __new__(cls, data, requires_grad=False, **_):
        return torch.Tensor._make_subclass(cls, data.round(decimals=1), requires_grad)


class Linear4bit(torch.nn.Linear):
    def __init__(self, inputs, outputs, bias, *_, **__):
        super().__init__(inputs, outputs, bias)
        self.weight = Params4bit(self.weight.data)


def test_only_the_linear_layers_of_the_llm_are_quantised(pipe, folder, monkeypatch):
    from transformers.integrations import bitsandbytes as integration

    library = ModuleType("bitsandbytes")
    library.nn = ModuleType("bitsandbytes.nn")
    library.nn.Linear4bit = Linear4bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setattr(integration, "bnb", library, raising=False)
    monkeypatch.setattr(loading, "check_quantization", lambda config: None)
    model = Emu.from_pretrained(folder, dtype="bfloat16", quantization_config=FOUR_BIT)
    quantised = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    linear = {name for name, module in pipe.model.llm.named_modules() if isinstance(module, torch.nn.Linear)}
    assert quantised == {f"llm.{name}" for name in linear - {"lm_head"}}
    weight = model.llm.model.layers[0].mlp.up_proj.weight
    own = pipe.model.llm.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight.data.float(), own.bfloat16().round(decimals=1).float())
    assert set(loading._quantised_types(model, FOUR_BIT)) == {f"{name}.weight" for name in quantised}
