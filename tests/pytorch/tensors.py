"""Arrays of the oracle as tensors, and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from cupyna.problem import Problem
from cupyna.testing import Inputs

__all__ = ["get", "keywords", "leaves", "put"]


def put(array: np.ndarray | None, device: str = "cpu") -> Any:
    if array is None:
        return None
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def get(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def leaves(given: Inputs, device: str = "cpu") -> dict[str, Any]:
    """Tensors that gradients are asked for, by the names of the functions' arguments."""
    arrays = {"query": given.q, "key": given.k, "value": given.v, "bias": given.bias}
    return {
        name: put(array, device).requires_grad_()
        for name, array in arrays.items()
        if array is not None
    }


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "kernel_size": problem.kernel_size,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }
