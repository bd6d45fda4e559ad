"""Translate Lightning's older flags of where to compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchkeras.core.errors import bad_type, bad_value


def where_to_compute(gpus: int | Sequence[int] | None, tpu_cores: int | Sequence[int] | None,
                     options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with older flags as ``accelerator`` and ``devices``."""
    flags = {"gpus": gpus, "tpu_cores": tpu_cores}
    asked = [name for name, flag in flags.items() if flag is not None]
    if not asked:
        return options
    for name in asked:
        check_flag(name, flags[name], least=0 if name == "gpus" else 1)
    if clash := asked[1:] + [name for name in ("accelerator", "devices") if name in options]:
        raise bad_value(asked[0], received=f"{asked[0]}={flags[asked[0]]!r} beside {clash[0]}",
                        expected="one of the two",
                        fix='How processes share the work is strategy=..., such as "ddp".')
    if gpus == 0:
        return options | {"accelerator": "cpu"}
    return options | {"accelerator": "tpu" if gpus is None else "gpu", "devices": flags[asked[0]]}


def check_flag(name: str, flag: Any, least: int) -> None:
    """Raise if a flag is neither a count nor a list of device numbers."""
    expected = f"a number from {least}, -1 for all, or a list of device numbers"
    listed = isinstance(flag, (list, tuple))
    numbers = list(flag) if listed else [flag]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in numbers):
        raise bad_type(name, received=repr(flag), expected=expected)
    if flag != -1 and min(numbers, default=-1) < (0 if listed else least):
        raise bad_value(name, received=repr(flag), expected=expected)
