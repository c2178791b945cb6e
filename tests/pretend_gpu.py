"""A GPU that is only pretended: its tensors live on the CPU, say that they are on `cuda:0`, and refuse to meet those that are not.

Whoever forgets to move a tensor finds out without a GPU. Not shown are speed, memory, bfloat16 (autocast knows no such GPU) and the
numerics of a real one; random numbers are the CPU's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
ATEN = torch.ops.aten
MOVES = (ATEN._to_copy.default, ATEN.copy_.default)


class OnGPU(torch.Tensor):
    """In C++ it is on `meta`, the one other device that needs no driver; in Python it is on the GPU."""

    device, is_meta, is_cuda = GPU, False, True

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"on the GPU: {self.held}"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and len(args) == 2 and isinstance(args[1], OnGPU):  # x.to(other) reads C++'s device
            return args[0].to(device=GPU, dtype=args[1].dtype)
        with torch._C.DisableTorchFunctionSubclass():  # results are what `_run` makes them
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class PretendedGPU(TorchDispatchMode):
    """Within it `cuda:0` exists (with its number: `cuda` alone is asked of the driver)."""

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors(), torch.cuda._lazy_init
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) begins on the CPU, where it is seen
        torch.cuda._lazy_init = lambda: None
        return super().__enter__()

    def __exit__(self, *error):
        lifts, torch.cuda._lazy_init = self.before
        torch._C._set_only_lift_cpu_tensors(lifts)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    tensors = [item for item in leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
    here = any(isinstance(tensor, OnGPU) for tensor in tensors)
    device = kwargs.get("device")
    result_here = here if device is None else _means_gpu(func, device, here)
    if here and func not in MOVES:
        _refuse_strays(func, args, tensors)
    if result_here and getattr(kwargs.get("generator"), "device", GPU).type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

    def held(item: Any) -> Any:
        if isinstance(item, OnGPU):
            return item.held
        return torch.device("cpu") if isinstance(item, torch.device) and result_here else item

    out = func(*mapped(held, args), **mapped(held, kwargs))
    if out is None or func is ATEN._local_scalar_dense.default:
        return out
    if func._schema.name.endswith("_"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return mapped(lambda item: OnGPU(item) if isinstance(item, torch.Tensor) and result_here else item, out)


def leaves(tree: Any) -> Iterator[Any]:
    """What a nest of lists, tuples and dictionaries holds. `torch.utils._pytree` does so too, ten times as slowly."""
    if isinstance(tree, (list, tuple, dict)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(part)
    else:
        yield tree


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same nest with each of its leaves changed."""
    if isinstance(tree, dict):
        return {key: mapped(change, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(change, part) for part in tree)
    return change(tree)


def _means_gpu(func: Any, device: torch.device, here: bool) -> bool:
    """What C++ makes beside a tensor of ours it makes on `meta`; `x.to("meta")` and `with torch.device("meta")` mean that."""
    if device.type == "meta":
        return here or (func not in MOVES and torch.get_default_device().type != "meta")
    return device.type == "cuda"


def _refuse_strays(func: Any, args: tuple, tensors: list[torch.Tensor]) -> None:
    if func.overloadpacket in (ATEN.index, ATEN.index_put_) and isinstance(args[0], OnGPU):
        tensors = [args[0], *args[2:3]]  # indices may lie on the CPU
    strays = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and not isinstance(tensor, OnGPU)]
    in_place = func._schema.name.endswith("_")
    if torch.Tag.pointwise in func.tags and not (in_place and not isinstance(args[0], OnGPU)):
        strays = [stray for stray in strays if stray.dim()]  # a number may come from the CPU
    if strays:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func} of {shapes}"
        )
