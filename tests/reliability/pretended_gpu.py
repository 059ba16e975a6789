"""A GPU that is none: tensors that say they are on one, hold their numbers in memory, and refuse to be mixed.

What a real GPU would refuse is refused here, with its real numbers: operands on two devices (but for scalars and
indices), generators of the other device, and on request float64, which Apple's GPUs do not have.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
_COPIES = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnGpu(torch.Tensor):
    """A tensor whose device is the pretended one; for torch inside it is "meta", for which it looks for no driver."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self, **_):
        return f"OnGpu({self.held})"

    def __getitem__(self, index):
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, True)


class PretendedGpu(TorchDispatchMode):
    """Within it ``device="cuda"`` works, as far as plain tensor operations go.

    Args:
        float64: whether the device has it.
    """

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # so that torch looks for no driver

    def __init__(self, float64=True):
        super().__init__()
        self.float64 = float64

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if OnGpu not in types and "device" not in kwargs:
            return function(*args, **kwargs)
        return _run(function, args, kwargs, self.float64)


def _run(function, args, kwargs, float64):
    given = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
    there = [item for item in given if isinstance(item, OnGpu)]
    here = [item for item in given if not isinstance(item, OnGpu)]
    if function not in _COPIES and there:
        _check_one_device(function, args, here)
    place = kwargs.get("device")
    gpu = bool(there) if place is None else torch.device(place).type in (GPU.type, "meta")
    if function is aten.copy_.default:
        gpu = isinstance(args[0], OnGpu)
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != (GPU.type if gpu else "cpu"):
        raise RuntimeError(f"Expected a '{GPU.type if gpu else 'cpu'}' generator, got '{generator.device.type}'.")
    if function is aten._local_scalar_dense.default:
        return function(args[0].held if isinstance(args[0], OnGpu) else args[0])
    args, kwargs = tree_map_only(OnGpu, lambda item: item.held, (args, kwargs))
    if place is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*args, **kwargs)
    if function is aten._to_copy.default and place is not None and bool(there) != gpu and found is args[0]:
        found = found.clone()
    known = {id(item.held): item for item in there}

    def moved(tensor):
        if id(tensor) in known:
            return known[id(tensor)]
        if not gpu:
            return tensor
        if tensor.dtype == torch.float64 and not float64:
            raise TypeError(f"{function}: cannot hold float64, which the device does not have.")
        return OnGpu(tensor)

    return tree_map_only(torch.Tensor, moved, found)


def _check_one_device(function, args, here):
    if function in _INDEXED:  # indices may lie in memory, for tensors on the GPU; not the other way round
        if not isinstance(args[0], OnGpu):
            raise RuntimeError(f"{function}: indices should be either on cpu or on the same device as the tensor (cpu)")
        here = [item for item in args[2:3] if not isinstance(item, OnGpu)]
    if any(item.ndim for item in here) or (here and function in (aten.cat.default, aten.stack.default)):
        shapes = [tuple(item.shape) for item in here]
        raise RuntimeError(f"{function}: expected all tensors to be on one device, got some {shapes} in memory")
