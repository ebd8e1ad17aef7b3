"""A compiled shape of the fused kernels on Hopper with the tiles that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from cupyna.problem import Problem
from cupyna.tiles import TilePlan

from .gradient_shapes import HopperGradientShape
from .shapes import Consumers, HopperShape
from .tilings import block_tile

__all__ = ["ForwardChoice", "GradientChoice", "HopperChoice"]

Shape = TypeVar("Shape", bound=Consumers)


@dataclass(frozen=True, slots=True)
class HopperChoice(Generic[Shape]):
    """What a launch runs: forward, or a pass of backward.

    Parameters
    ----------
    shape : HopperShape or HopperGradientShape
        The variant.
    consumer_tile, column_tile : tuple of int
        Extents along each axis: of the rows of one consumer, and of columns. Rows are queries and
        columns keys, or the reverse in a pass over keys.
    split_axis : int
        The axis along which the tiles of consumers are neighbors.
    time_us : float
        Expected time.
    """

    shape: Shape
    consumer_tile: tuple[int, ...]
    column_tile: tuple[int, ...]
    split_axis: int
    time_us: float

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Rows of one block."""
        return block_tile(self.consumer_tile, self.split_axis, self.shape.consumers)

    def plan(self, problem: Problem) -> TilePlan:
        """The walk of every block."""
        return TilePlan(problem.axes, self.row_tile, self.column_tile, self.shape.side)

    def computed_products(self, problem: Problem) -> int:
        """Pairs that consumers evaluate, of one head.

        A consumer goes through the block's tiles, and leaves out those that its rows do not meet.
        """
        axis = self.split_axis
        return self.plan(problem).products_of_parts(axis, self.consumer_tile[axis])


ForwardChoice = HopperChoice[HopperShape]
GradientChoice = HopperChoice[HopperGradientShape]
