"""Loading a checkpoint in any precision, onto any devices, or quantised, with no second copy of its weights in memory.

    Emu.from_pretrained(folder, dtype="bfloat16", device_map="auto")       # GPUs first, then memory, then the disk
    Emu.from_pretrained(folder, dtype="auto")                              # in the precision of the file
    Emu.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))

The model is built without memory (on the meta device). The tensors of the file are mapped, not read, and each is put in its place:
on the CPU it stays the mapped file itself, on a GPU it is copied, and what a device map leaves on the disk is read whenever it is
needed. `minemu plan` says beforehand what fits where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from accelerate.utils import CustomDtype, get_balanced_memory, get_max_memory, set_module_tensor_to_device
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from minemu.errors import MinemuError, suggest
from minemu.weights import check_strict

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNSPLIT = ["EVAVisionTransformer", "CausalTransformer", "LlamaDecoderLayer"]  # classes whose weights stay together
WORKING_SHARE = 0.1
OFFLOADED = ("cpu", "disk")
DeviceMap = str | int | torch.device | dict[str, Any]


def read_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating-point type, or its name."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise MinemuError(f"unknown dtype '{name}': {suggest(name, DTYPES)}")
    return DTYPES[name]


def choose_dtype(dtype: torch.dtype | str, tensors: dict[str, Tensor]) -> torch.dtype:
    """A floating-point type, or its name; "auto": the one that most of these numbers have."""
    if dtype != "auto":
        return read_dtype(dtype)
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.numel() if tensor.is_floating_point() else 0
    return read_dtype(sizes.most_common(1)[0][0])


def load_module(
    build: Callable[[], nn.Module],
    tensors: dict[str, Tensor],
    what: str,
    dtype: torch.dtype | str = torch.float32,
    device_map: DeviceMap | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    torch_dtype: Any = None,
) -> nn.Module:
    """The module that `build` makes, with `tensors` in place; strict, as `weights.load_strict`.

    dtype                of every weight, and of the quantised LLM's other weights; "auto": as they lie in the file
    device_map           None or a device for all of it; "auto": as much as fits on GPUs, then CPU, then disk; or {part: device}
    max_memory           for "auto": {0: "20GiB", "cpu": "60GiB"}
    quantization_config  transformers' BitsAndBytesConfig; only the linear layers of `module.llm` are quantised
    torch_dtype          refused: what transformers called dtype once
    """
    check_placing(device_map, max_memory, quantization_config, torch_dtype)
    dtype = choose_dtype(dtype, tensors)
    if quantization_config is not None:
        device_map = "auto" if device_map is None else device_map
    with init_empty_weights(include_buffers=False):
        module = build()
    check_strict(module, tensors, what)
    cast_weights(module, dtype)
    if quantization_config is not None:
        quantise_llm(module, quantization_config)
    places = plan_devices(module, device_map, max_memory, quantization_config)
    for name, tensor in tensors.items():
        if (place := _place_of(name, places)) != "disk":
            set_module_tensor_to_device(module, name, place, value=tensor, dtype=dtype)
    return _dispatch(module, tensors, places).eval()


def check_placing(
    device_map: DeviceMap | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    torch_dtype: Any = None,
) -> None:
    """Refuse keywords of `load_module` that nothing would read, or that cannot be followed here, before anything is read."""
    if torch_dtype is not None:
        raise MinemuError("the precision is called dtype here: dtype='bfloat16'")
    if quantization_config is not None:
        check_quantization(quantization_config)
    filled = device_map == "auto" or (device_map is None and quantization_config is not None)
    if max_memory is not None and not filled:
        raise MinemuError("max_memory is for device_map='auto': add that, or leave max_memory out")


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """All weights in one precision; the table of rotary angles is no weight and stays as it is."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def main_device(device_map: DeviceMap | None) -> torch.device:
    """Where the inputs of a model go: its first device that computes."""
    if device_map == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    places = device_map.values() if isinstance(device_map, dict) else ["cpu" if device_map is None else device_map]
    main = next((place for place in places if place not in OFFLOADED), "cpu")
    _check_device(main)
    return _device(main)


def device_of(name: str | torch.device | None) -> torch.device:
    """Where all of a model computes: the device of this name, or a GPU where there is one."""
    if name is None:
        return main_device("auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise MinemuError(f"'{name}' is no device to compute on: give cpu, cuda, or cuda:1 for the second GPU")
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise MinemuError(f"device {name}: {found} GPUs are visible here; leave it out, or give cpu")
    return device


def plan_devices(
    module: nn.Module,
    device_map: DeviceMap | None,
    max_memory: dict[int | str, int | str] | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
) -> dict[str, Any]:
    """{part: device} that covers the module; a map that does not fit it is one clear line."""
    if device_map == "auto":
        sizes = {"no_split_module_classes": UNSPLIT, "special_dtypes": _quantised_types(module, quantization_config)}
        try:
            limits = dict(max_memory) if max_memory else _limits(module, **sizes)
            return infer_auto_device_map(module, limits, **sizes)
        except ValueError as error:
            raise MinemuError(
                f"max_memory={max_memory} does not do ({error}); write {{0: '20GiB', 'cpu': '60GiB'}}"
            ) from None
    places = device_map if isinstance(device_map, dict) else {"": "cpu" if device_map is None else device_map}
    parts = dict(module.named_modules())
    for part, place in places.items():
        if part not in parts:
            raise MinemuError(f"device_map names '{part}', which the model has not: {suggest(part, list(parts)[1:])}")
        _check_nesting(part, parts, places)
        _check_device(place)
    for name in module.state_dict():
        if _place_of(name, places) is None:
            raise MinemuError(f"device_map says nothing about {name}; add its part, or use device_map='auto'")
    return dict(places)


def _limits(module: nn.Module, **sizes: Any) -> dict[int | str, int]:
    """What may be filled of each device: GPUs alike, and a tenth of each left free for the cache and the activations."""
    free = get_max_memory().items()
    room = {device: int(size * (1 - WORKING_SHARE)) if isinstance(device, int) else size for device, size in free}
    return get_balanced_memory(module, room, **sizes)


def _check_nesting(part: str, parts: dict[str, nn.Module], places: dict[str, Any]) -> None:
    above = part
    while above:
        above = above.rpartition(".")[0]
        if above in places:
            raise MinemuError(f"device_map names '{above}' and '{part}' inside it; give each part one device")
        if type(parts[above]).__name__ in UNSPLIT:
            raise MinemuError(f"device_map splits {above}, which has to be on one device; name it in place of '{part}'")


def _device(place: Any) -> torch.device:
    """A device by its name, or a GPU by its number, as transformers takes it."""
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def _check_device(place: Any) -> None:
    if place in OFFLOADED:
        return
    try:
        device = _device(place)
    except (RuntimeError, TypeError):
        raise MinemuError(
            f"device_map has {place!r}, which is no device; use 'auto', 'cuda:0', 'cpu' or 'disk'"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise MinemuError(
            f"device_map has '{device}' and {found} GPUs are visible here; use 'auto', 'cpu' or another device"
        )


def _place_of(name: str, places: dict[str, Any]) -> Any:
    """The device of a tensor: what the map says about the smallest part that it is in."""
    while name not in places and name:
        name = name.rpartition(".")[0]
    return places.get(name)


def check_savable(module: nn.Module) -> None:
    """Refuse to save a model whose weights are not all there, or not what they were."""
    if any(parameter.is_meta or not parameter.is_floating_point() for parameter in module.parameters()):
        raise MinemuError(
            "some weights are offloaded or quantised; to save the model, load it without device_map and quantization_config"
        )


def _dispatch(module: nn.Module, tensors: dict[str, Tensor], places: dict[str, Any]) -> nn.Module:
    """Have accelerate move inputs, and offloaded weights when they are needed, to the device of each part."""
    main = main_device(places)
    devices = set(places.values())
    if len(devices) == 1 and "disk" not in devices:
        return module.to(main)  # also the buffers that no file holds
    weights = {name: tensor for name, tensor in tensors.items() if _place_of(name, places) == "disk"}
    if main.type != "cpu":  # what waits in memory for a GPU
        weights |= {name: tensor for name, tensor in module.state_dict().items() if _place_of(name, places) == "cpu"}
    return dispatch_model(
        module,
        places,
        main_device=str(main),
        state_dict=weights,
        offload_index={},  # nothing is written: what is on the disk is the mapped checkpoint
        preload_module_classes=UNSPLIT,
    )


# ---- quantisation ----------------------------------------------------------------------------------------------------------


def check_quantization(config: BitsAndBytesConfig) -> None:
    """Refuse what cannot be quantised here, before anything is read."""
    if not isinstance(config, BitsAndBytesConfig):
        raise MinemuError(
            f"quantization_config is a {type(config).__name__}; give transformers' BitsAndBytesConfig(load_in_4bit=True)"
        )
    if find_spec("bitsandbytes") is None:
        raise MinemuError(
            "8- and 4-bit loading needs bitsandbytes: pip install bitsandbytes, or leave quantization_config out and use dtype='bfloat16'"
        )
    if not torch.cuda.is_available():
        raise MinemuError("8- and 4-bit loading needs a GPU, and none is visible here; leave quantization_config out")


def quantise_llm(module: nn.Module, config: BitsAndBytesConfig) -> None:
    """Replace the linear layers of LLaMA by quantised ones, the LM head apart; they quantise what is put into them."""
    from transformers.integrations import replace_with_bnb_linear

    skipped = list(config.llm_int8_skip_modules or ["lm_head"])
    replace_with_bnb_linear(module.llm, modules_to_not_convert=skipped, quantization_config=config)


def _quantised_types(module: nn.Module, config: BitsAndBytesConfig | None) -> dict[str, Any]:
    """How large the weights will be that still are as large as in the file."""
    if config is None:
        return {}
    small = CustomDtype.INT4 if config.load_in_4bit else torch.int8
    return {name: small for name, p in module.named_parameters() if type(p).__name__ in ("Params4bit", "Int8Params")}
