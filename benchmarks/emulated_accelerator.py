"""An accelerator emulated on the CPU: torch's private device type under the name `emu`, with real values.

Its tensors lie in ordinary memory but say that they are on the device `emu`, and every operation reaches them
through a backend in Python, which calls the CPU's kernel. Mixing them with tensors of the CPU raises as it
does on CUDA, and float64 as on MPS. Values equal a run on the CPU bit for bit. There is no memory of its
own, no streams, no graphs.

`register()` must run before the first backward pass of the process, because torch starts its threads for
devices then. The device is found by `torch.accelerator` only while it is `switched_on()`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

from benchmarks import emulated_autocast

NAME = "emu"
_KIND_CPU, _KIND_PRIVATE = 1, 12
"""Of DLPack: the memory of the CPU, and that of the device type which torch leaves to others."""


def missing() -> str:
    """Why the device cannot be emulated here; "" where it can."""
    if torch.cuda.is_available():
        return "this computer has a CUDA device, in whose place the emulated one would stand"
    if "_setup_privateuseone_for_python_backend" not in vars(backend_registration):
        return f"torch {torch.__version__} takes no device written in Python"
    return ""


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Header(ctypes.Structure):
    """The beginning of DLPack's description of a tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )


def _told(tensor: Tensor, kind: int) -> Tensor:
    """The same memory under another device: what DLPack carries over, with the device's name exchanged."""
    capsule = torch._C._to_dlpack(tensor)  # type: ignore[attr-defined]
    header = _Header.from_address(_capsule_pointer(capsule, b"dltensor"))
    header.kind, header.number = kind, 0
    if 1 in tensor.shape:
        # Strides of single rows are not carried over, but some kernels choose their way by them.
        for place, stride in enumerate(tensor.stride()):
            header.strides[place] = stride
    return torch._C._from_dlpack(capsule)  # type: ignore[attr-defined]


def on_host(tensor: Tensor) -> Tensor:
    """A tensor of the CPU in the same memory."""
    return _told(tensor, _KIND_CPU)


def on_device(tensor: Tensor) -> Tensor:
    """A tensor of the device in the same memory."""
    return _told(tensor, _KIND_PRIVATE)


class _Backend:
    """What torch asks of the module `torch.emu`."""

    def __init__(self) -> None:
        self.on = False
        # Gradient checkpointing keeps the random state of devices that are in use.
        self._initialized = True

    def is_available(self) -> bool:
        return self.on

    def is_initialized(self) -> bool:
        return self.on

    def device_count(self) -> int:
        return int(self.on)

    def current_device(self) -> int:
        return 0

    def set_device(self, device: object) -> None:
        """There is one device."""

    def synchronize(self, device: object = None) -> None:
        """Nothing runs behind the host's back."""

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers come from the CPU's generator."""

    def get_rng_state(self, device: object = NAME) -> Tensor:
        """The state of the CPU's generator, which the device draws from."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = NAME) -> None:
        """Nothing: whoever restores a device's state restores the CPU's too."""

    def device(self, device: object) -> AbstractContextManager[None]:
        """There is one device."""
        return nullcontext()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def _is_in_bad_fork(self) -> bool:
        return False


_backend = _Backend()
_libraries: list[torch.library.Library] = []


def register() -> None:
    """Make the device known to torch, once for the process.

    Raises:
        RuntimeError: it cannot be emulated here.
    """
    if reason := missing():
        raise RuntimeError(reason)
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_backend)


def _register_operations() -> None:
    if _libraries:
        return
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend([everything, aten])
    everything.fallback(_any_operation, "PrivateUse1")
    torch.UntypedStorage.clone = _cloned
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        aten.impl("scaled_dot_product_attention", _attention, key)
    emulated_autocast.register(aten, NAME)
    for name in torch._C._dispatch_get_all_op_names():
        if (run := _kernel(name)) is not None:
            aten.impl(name.removeprefix("aten::"), run, "PrivateUse1")


def _any_operation(operation: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    return _run(Operation.of(operation), args, kwargs)


_COMPOSITES = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
_FROM_PARTS = {
    "detach", "detach_", "alias", "lift", "lift_fresh", "expand", "select", "slice", "transpose", "t",
    "permute", "unsqueeze", "squeeze", "diagonal", "split", "split_with_sizes", "unbind", "_to_copy",
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "empty_like", "new_empty",
    "new_zeros", "new_ones", "new_full", "clone", "repeat", "embedding", "logsumexp", "scalar_tensor",
}  # fmt: skip
"""Which torch composes for every device from others that reach the backend: their parts are counted."""


def _kernel(name: str) -> Callable[..., Any] | None:
    """The function to register where the fallback alone would not be asked."""
    space, _, rest = name.partition("::")
    if space != "aten":
        return None
    base, _, overload = rest.partition(".")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if base in _FROM_PARTS or not any(has(name, key) for key in _COMPOSITES):
        return None
    found = getattr(getattr(torch.ops.aten, base), overload or "default")
    return partial(_any_operation, found)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the backend must know of an operation of torch."""

    call: torch._ops.OpOverload
    name: str
    is_view: bool
    takes_scalars: bool
    """A tensor of no dimensions may stay on the CPU."""

    @staticmethod
    def of(operation: torch._ops.OpOverload) -> Operation:
        known = _operations.get(operation)
        if known is None:
            name = operation._schema.name.removeprefix("aten::")
            known = _operations[operation] = Operation(
                call=operation,
                name=name,
                is_view=operation.is_view,
                takes_scalars=torch.Tag.pointwise in operation.tags or name in _TAKING_SCALARS,
            )
        return known


_operations: dict[torch._ops.OpOverload, Operation] = {}
_TAKING_SCALARS = {
    "fill_",
    "masked_fill",
    "masked_fill_",
    "index_fill",
    "index_fill_",
    "index_put_",
    "_index_put_impl_",
}


Watcher = Callable[[Operation, tuple[Any, ...], dict[str, Any]], None]
"""Told of every operation before it runs."""
_watchers: list[Watcher] = []


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """While inside, the watcher is told of every operation on the device."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def _run(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for watcher in _watchers:
        watcher(operation, args, kwargs)
    if any(isinstance(value, Tensor) and value.dtype == torch.float64 and value.dim() for value in args) or (
        kwargs.get("dtype") == torch.float64
    ):
        raise TypeError(f"{NAME} knows no float64, as Apple's devices do not (in {operation.call})")
    if operation.is_view or operation.name == "set_":
        # The CPU's kernels of views make tensors of the same device in the same memory.
        return operation.call.redispatch(_CPU_KEYS, *args, **kwargs)
    if operation.name in _OWN:
        return _OWN[operation.name](*args, **kwargs)
    arguments = _Arguments()
    host_args = arguments.of(args)
    host_kwargs = {name: arguments.of(value) for name, value in kwargs.items() if name != "pin_memory"}
    if arguments.strangers:
        _refuse_mixture(operation, arguments, args)
    if "device" in kwargs:
        host_kwargs["device"] = _CPU
    return arguments.back(operation.call(*host_args, **host_kwargs))


_CPU = torch.device("cpu")
_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


class _Arguments:
    """Tensors of the CPU in the memory of an operation's arguments, and the way back."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.strangers: list[Tensor] = []
        """Tensors that lie on the CPU."""

    def of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device.type != NAME:
                self.strangers.append(value)
                return value
            # A tensor of nothing is what results are written to, and a borrowed memory cannot grow.
            twin = on_host(value) if value.numel() else torch.empty_like(value, device=_CPU)
            self.pairs.append((twin, value))
            return twin
        if isinstance(value, list | tuple):
            return type(value)(self.of(one) for one in value)
        return value

    def back(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            for twin, original in self.pairs:
                if twin is value:
                    if twin.shape != original.shape:
                        original.data = on_device(twin)
                    return original
            return on_device(value)
        if isinstance(value, list | tuple):
            return type(value)(self.back(one) for one in value)
        return value


def _refuse_mixture(operation: Operation, arguments: _Arguments, args: tuple[Any, ...]) -> None:
    """As CUDA does: numbers may come from the CPU where each element stands alone, and places in a tensor.

    Raises:
        RuntimeError: the operation's tensors lie on two devices.
    """
    if operation.name in _INDEXING:
        if args[0].device.type != NAME:
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        places = {id(place) for place in args[1]}
        arguments.strangers = [tensor for tensor in arguments.strangers if id(tensor) not in places]
    wrong = [tensor for tensor in arguments.strangers if tensor.dim() or not operation.takes_scalars]
    if wrong and arguments.pairs:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and "
            f"cpu! (in {operation.call})"
        )


def _copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    there, here = (on_host(t) if t.device.type == NAME else t for t in (target, source))
    there.copy_(here)
    return target


def _resized(tensor: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None) -> Tensor:
    grown = torch.empty(size, dtype=tensor.dtype)
    kept = min(grown.numel(), tensor.numel())
    grown.view(-1)[:kept] = on_host(tensor).reshape(-1)[:kept]
    tensor.data = on_device(grown)
    return tensor


def _cloned(self: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy of a storage: torch would ask the device for memory, and it has none."""
    if self.device.type != NAME:
        return _clone_elsewhere(self)
    memory = (ctypes.c_char * self.nbytes()).from_address(self.data_ptr()) if self.nbytes() else b""
    held = torch.frombuffer(memory, dtype=torch.uint8).clone() if self.nbytes() else torch.empty(0)
    return on_device(held).untyped_storage()


_clone_elsewhere = torch.UntypedStorage.clone


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Attention by the kernel that the CPU would choose: others give other last digits."""
    names = ("dropout_p", "is_causal")
    settings = {"dropout_p": 0.0, "is_causal": False} | dict(zip(names, args, strict=False)) | kwargs
    given = (query, key, value, attn_mask)
    choice: Any = torch.ops.aten._fused_sdp_choice(*map(_as_chosen_by, given), **settings)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    if choice == _FLASH:
        settings.pop("enable_gqa", None)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=attn_mask, **settings
        )[0]
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, **settings)[0]


def _as_chosen_by(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return on_host(tensor.detach()).requires_grad_(tensor.requires_grad)


_FLASH = 1
_OWN: dict[str, Callable[..., Any]] = {"copy_": _copied, "resize_": _resized}
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


@contextmanager
def switched_on() -> Iterator[torch.device]:
    """While inside, the device is there to be found."""
    register()
    _register_operations()
    _backend.on = True
    try:
        yield torch.device(NAME, 0)
    finally:
        _backend.on = False
