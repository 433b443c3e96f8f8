"""Where the kernel tests run: in Triton's interpreter, or on a GPU when `make gpu-check` says so."""

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

DEVICE = torch.device(os.environ.get("KERNEL_TEST_DEVICE", "cpu"))


def on_device(value: Any) -> Any:
    """A tensor, or a dataclass that holds some, on the device of the tests."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: on_device(getattr(value, f.name)) for f in fields(value)})
    return value
