"""Move what is about to be written to main memory, so that a machine without a GPU can read it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from torchkeras.core.types import Value

Moved = dict[tuple[str, int], UntypedStorage]  # by device and address


def in_main_memory(content: Value, moved: Moved | None = None) -> Any:
    """Return content with its tensors in main memory; tied tensors share theirs as before.

    ``torch.load`` puts a CUDA tensor where it came from, and fails where there is no such device.
    Dicts keep their type and attributes, such as the versions in a state dict.
    """
    moved = {} if moved is None else moved
    if isinstance(content, Tensor):
        return tensor_in_main_memory(content, moved) if is_away(content) else content
    if isinstance(content, dict):
        found = {name: in_main_memory(one, moved) for name, one in content.items()}
        if all(one is content[name] for name, one in found.items()):
            return content
        other = copy.copy(content)
        other.update(found)
        return other
    if type(content) in (list, tuple):
        return type(content)(in_main_memory(one, moved) for one in content)
    return content


def is_away(tensor: Tensor) -> bool:
    """Tell whether a tensor's numbers are on an accelerator."""
    return tensor.device.type not in ("cpu", "meta")


def tensor_in_main_memory(tensor: Tensor, moved: Moved) -> Tensor:
    """Return a tensor in main memory, in the copy of its whole memory."""
    if type(tensor.data) is not Tensor or tensor.layout is not torch.strided:
        return tensor.detach().cpu()
    memory = tensor.untyped_storage()
    key = str(tensor.device), memory.data_ptr()
    if key not in moved:
        moved[key] = memory.cpu()  # type: ignore[no-untyped-call]
    room: Any = torch.empty(0, dtype=tensor.dtype)
    found: Tensor = room.set_(moved[key], tensor.storage_offset(), tensor.shape, tensor.stride())
    return found
