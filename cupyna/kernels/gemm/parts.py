"""A call as calls on parts of its arrays: dilation groups side by side, and some planes at a time.

Tokens of a dilated axis are positions of groups, and tokens of neighboring groups are neighbors in
memory. Told as two axes, position and group, the second with windows of one key, an axis lets a
tile hold several short groups. Groups of one more token are a part of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import Problem

from ..params import AXES

Given = TypeVar("Given", bound="DeviceArray | None")

__all__ = ["Part", "foldings", "slices"]


@dataclass(frozen=True, slots=True)
class Part:
    """What one of the calls works on.

    Parameters
    ----------
    problem : Problem
        The problem of the part.
    batch, head, kv_head : int
        The first batch entry and heads of the whole that are the part's.
    folded : int or None
        Axis of the whole that is two in the part: positions, and dilation groups.
    dilation, group : int
        Groups of that axis, and the first one that is the part's.
    """

    problem: Problem
    batch: int = 0
    head: int = 0
    kv_head: int = 0
    folded: int | None = None
    dilation: int = 1
    group: int = 0

    def of_queries(self, array: Given) -> Given:
        """The part of an array with a row, or a number, for each query head; of None, None."""
        return cast("Given", self._rows(array, self.head, self.problem.heads))

    def of_keys(self, array: Given) -> Given:
        """The part of an array with a row for each key head."""
        return cast("Given", self._rows(array, self.kv_head, self.problem.kv_heads))

    def of_bias(self, bias: Given) -> Given:
        """The part's heads of a bias; a group meets itself only."""
        if bias is None:
            return bias
        shape, steps = [self.problem.heads, *bias.shape[1:]], list(bias.strides)
        if self.folded is not None:
            shape.insert(2 + self.folded, 1)
            steps.insert(2 + self.folded, 0)
        return cast("Given", _view(bias, self.head * bias.strides[0], shape, steps))

    def whole_axes(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Extents along the axes of the whole: without groups."""
        if self.folded is None:
            return extents
        return *extents[: self.folded + 1], *extents[self.folded + 2 :]

    def _rows(self, array: DeviceArray | None, head: int, heads: int) -> DeviceArray | None:
        if array is None:
            return None
        shape, steps = list(array.shape), list(array.strides)
        rank = self.problem.rank - (self.folded is not None)
        at_head = 1 + rank
        offset = self.batch * steps[0] + head * steps[at_head]
        shape[0], shape[at_head] = self.problem.batch, heads
        if self.folded is not None:
            at = 1 + self.folded
            offset += self.group * steps[at]
            shape[at : at + 1] = self.problem.spatial[self.folded : self.folded + 2]
            steps[at : at + 1] = self.dilation * steps[at], steps[at]
        return _view(array, offset, shape, steps)


def _view(array: DeviceArray, offset: int, shape: list[int], steps: list[int]) -> DeviceArray:
    pointer = array.pointer + offset * array.item_bytes
    return DeviceArray(pointer, tuple(shape), tuple(steps), array.dtype, array.device)


def foldings(problem: Problem) -> Iterator[tuple[Part, ...]]:
    """The ways to cut a problem at its dilation groups; the first is not to."""
    yield (Part(problem),)
    if problem.rank == AXES:
        return
    for axis, dilation in enumerate(problem.dilation):
        if dilation > 1:
            yield tuple(_groups(problem, axis))


def _groups(problem: Problem, axis: int) -> Iterator[Part]:
    """Parts of an axis as two: groups of the shorter length first, as most of them are."""
    dilation = problem.dilation[axis]
    length, longer = divmod(problem.spatial[axis], dilation)

    def inserted(values: tuple[int, ...], *pair: int) -> tuple[int, ...]:
        return *values[:axis], *pair, *values[axis + 1 :]

    for group, groups, positions in ((longer, dilation - longer, length), (0, longer, length + 1)):
        if groups == 0:
            continue
        is_causal = (*problem.is_causal[: axis + 1], False, *problem.is_causal[axis + 1 :])
        yield Part(
            replace(
                problem,
                spatial=inserted(problem.spatial, positions, groups),
                kernel_size=inserted(problem.kernel_size, problem.kernel_size[axis], 1),
                stride=inserted(problem.stride, problem.stride[axis], 1),
                dilation=inserted(problem.dilation, 1, 1),
                is_causal=is_causal,
            ),
            folded=axis,
            dilation=dilation,
            group=group,
        )


def slices(part: Part, count: int, *, keeps_batch: bool) -> Iterator[Part]:
    """A part's planes in about `count` runs, batch entries first.

    With `keeps_batch` each run has all batch entries, as sums over them need.
    """
    problem = part.problem
    batches = 1 if keeps_batch else min(count, problem.batch)
    of_batch = -(-problem.batch // batches)
    heads = min(-(-count // batches), problem.kv_heads)
    of_heads = -(-problem.kv_heads // heads)
    for batch in range(0, problem.batch, of_batch):
        for head in range(0, problem.kv_heads, of_heads):
            kv_heads = min(of_heads, problem.kv_heads - head)
            yield replace(
                part,
                problem=replace(
                    problem,
                    batch=min(of_batch, problem.batch - batch),
                    heads=kv_heads * problem.head_group,
                    kv_heads=kv_heads,
                ),
                batch=part.batch + batch,
                head=part.head + head * problem.head_group,
                kv_head=part.kv_head + head,
            )
