"""The oracle's results where every query sees keys beside its window: scores with more columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyna import reference
from cupyna.arrays.host import host_dtype
from cupyna.problem import Problem
from cupyna.reference import EXACT, Precision

__all__ = ["tokens", "with_more"]


def with_more(
    problem: Problem, given: Any, more: tuple[np.ndarray, np.ndarray], precision: Precision
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, log-sum-exp, and the output's magnitude."""
    group = problem.head_group
    keys, values = (np.repeat(precision.wide(a), group, axis=2) for a in more)
    near = reference.qk(problem, given.scale, given.q, given.k, given.bias, precision)
    far = np.einsum("n...hd,nthd->n...ht", precision.wide(given.q), keys) * given.scale
    scores = np.concatenate([near, far.astype(near.dtype)], -1)
    largest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - largest)
    sums = weights.sum(-1, keepdims=True)

    def add_up(weights: np.ndarray, v: np.ndarray, more_v: np.ndarray, how: Precision) -> Any:
        near = reference.av(problem, weights[..., : problem.window], v, how)
        rounded = how.rounded(weights[..., problem.window :])
        return (near + np.einsum("n...ht,nthd->n...hd", rounded, more_v)) / sums

    magnitude = add_up(weights, np.abs(given.v), np.abs(values), EXACT)
    lse = (largest + np.log(sums))[..., 0]
    return add_up(weights, given.v, values, precision), lse, magnitude


def tokens(problem: Problem, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = [
        (problem.batch, count, problem.kv_heads, c) for c in (problem.head_dim, problem.value_dim)
    ]
    keys, values = (
        (generator.standard_normal(shape, np.float32) + 0.5).astype(host_dtype(problem.dtype))
        for shape in shapes
    )
    return keys, values
