"""The naive method on a GPU: scores, row softmax and outputs as kernels over stored weights.

The kernels are the paper's three products and two passes over rows between them. Backward computes
the scores again, and weights from them and the log-sum-exp. Weights are stored in the accumulator's
type, in blocks of four queries: nothing but inputs and results is rounded to the inputs' type.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..arrays.device_array import DeviceArray, has_vector_rows
from ..execution import Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from ..tiles import useful_pairs

if TYPE_CHECKING:
    from ..kernels.variant import Variant

__all__ = ["CudaNaive"]

_WARP = 32

# Enough blocks for every multiprocessor to have its last one at about the same time.
_WAVES = 6
_BLOCKS_OF_PROCESSOR = 4
_MOST_ROWS_OF_BLOCK = 8
_MOST_GRID_ROWS = 65535

# Positions are 32-bit numbers with room for sums.
_MOST_TOKENS = 2**30 - 1

# Products with keys and with values, passes over stored weights, times that a row of channels moves
# through registers, as float32, workspaces of the weights' size, and kernels.
_WORK = {
    "forward": (1, 1, 4.6, 4.5, 1, 3), "backward": (3, 2, 10.4, 12, 2, 6),
    "qk": (1, 0, 5, 2.2, 1, 2), "av": (0, 1, 2.0, 2.2, 1, 2),
    "qk_backward": (2, 0, 4.6, 6, 1, 3), "av_backward": (0, 2, 9, 6, 1, 3),
}  # fmt: skip
_KERNEL_US = 3.5

# Share of the multiply-add rate that the products reach. With the figures above fitted on an H200,
# forward to 321 problems and backward to 249, with root-mean-square errors of 8 and 9 %.
_PRODUCT_RATE = 0.335


class CudaNaive:
    """Backend of naive CUDA kernels."""

    name = "cuda-naive"
    method: Method = "naive"
    is_lean = False
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.variant import architecture_of

        reasons = []
        try:
            variant = _variant("naive_outputs", problem.dtype, VECTOR=0)
            architecture_of(variant, device.compute_capability)
        except ValueError as error:
            reasons.append(str(error))
        if problem.tokens > _MOST_TOKENS:
            reasons.append(f"{problem.tokens} tokens are more than {_MOST_TOKENS}")
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.runs import RUN, Runs, computed_channels

        runs = Runs.of(problem)
        rows = problem.batch * problem.heads * runs.items * RUN
        of_keys, of_values, passes, moves, workspaces, kernels = _WORK[operation]
        computed = rows * runs.quads
        channels = of_keys * computed_channels(problem.head_dim)
        channels += of_values * computed_channels(problem.value_dim)
        work = 2 * computed * channels
        number = 8 if problem.accumulator == "float64" else 4
        block_bytes = computed * number
        row_bytes = rows * max(problem.head_dim, problem.value_dim) * number
        return Choice(
            kernel=f"cupyna_naive_*_{problem.dtype}",
            q_tile=(1,) * (problem.rank - 1) + (RUN,),
            kv_tile=(1,) * problem.rank,
            useful_products=useful_pairs(problem),
            computed_products=computed,
            workspace_bytes=workspaces * block_bytes,
            time_us=kernels * _KERNEL_US
            + work / (_PRODUCT_RATE * device.flops_per_us)
            + (passes * block_bytes + moves * row_bytes) / device.bytes_per_us,
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        run = _Launcher(problem, execution)
        weights = run.workspace()
        run.scores(arrays.q, arrays.k, weights, scale, -math.inf, arrays.bias)
        run.softmax(weights, arrays.lse)
        run.outputs(weights, arrays.v, arrays.out, 1.0)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        run = _Launcher(problem, execution)
        weights, dscores = run.workspace(), run.workspace()
        run.scores(arrays.q, arrays.k, weights, scale, -math.inf, arrays.bias)
        run.scores(arrays.dout, arrays.v, dscores, 1.0, 0.0, None)
        run.softmax_backward(weights, dscores, arrays)
        run.inverse(weights, arrays.dout, arrays.dv, 1.0)
        run.outputs(dscores, arrays.k, arrays.dq, scale)
        run.inverse(dscores, arrays.q, arrays.dk, scale)
        if arrays.dbias is not None:
            run.bias_gradient(dscores, arrays.dbias)

    def qk(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        bias: DeviceArray | None,
        scores: DeviceArray,
    ) -> None:
        run = _Launcher(problem, execution)
        weights = run.workspace()
        run.scores(q, k, weights, scale, -math.inf, bias)
        run.unpack(weights, scores)

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
    ) -> None:
        run = _Launcher(problem, execution)
        blocks = run.workspace()
        run.pack(weights, blocks)
        run.outputs(blocks, v, out, 1.0)

    def qk_backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dscores: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        dq: DeviceArray,
        dk: DeviceArray,
        dbias: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        blocks = run.workspace()
        run.pack(dscores, blocks)
        run.outputs(blocks, k, dq, scale)
        run.inverse(blocks, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(blocks, dbias)

    def av_backward(
        self,
        problem: Problem,
        execution: Execution,
        dout: DeviceArray,
        weights: DeviceArray,
        v: DeviceArray,
        dweights: DeviceArray,
        dv: DeviceArray,
    ) -> None:
        run = _Launcher(problem, execution)
        blocks = run.workspace()
        run.scores(dout, v, blocks, 1.0, 0.0, None)
        run.unpack(blocks, dweights)
        run.pack(weights, blocks)
        run.inverse(blocks, dout, dv, 1.0)


class _Launcher:
    """The kernels of one problem on one stream. Weights travel as the addresses of their blocks."""

    def __init__(self, problem: Problem, execution: Execution) -> None:
        from ..kernels.params import axis_fields
        from ..kernels.runs import Runs

        self._problem = problem
        self._execution = execution
        self._runs = Runs.of(problem)
        self._shared = {
            "axis": axis_fields(problem),
            "batch": problem.batch,
            "heads": problem.heads,
            "head_group": problem.head_group,
            "runs": self._runs.per_group,
            "items": self._runs.items,
            "keys": self._runs.keys,
        }

    def workspace(self) -> int:
        """Room for the blocks of all weights; see ``cuda_src/common/blocks.cuh``."""
        shape = self._runs.block_shape(self._problem)
        memory: DeviceArray = self._execution.empty(shape, self._problem.accumulator)
        return memory.pointer

    def scores(
        self,
        query: DeviceArray,
        key: DeviceArray,
        weights: int,
        scale: float,
        empty: float,
        bias: DeviceArray | None,
    ) -> None:
        from ..kernels.params import bias_fields

        fields = {"bias": bias_fields(bias), "scale": scale, "empty": empty}
        self._product("naive_scores", weights, query, key, fields)

    def outputs(self, weights: int, key: DeviceArray, query: DeviceArray, scale: float) -> None:
        self._product("naive_outputs", weights, query, key, {"scale": scale})

    def inverse(self, weights: int, query: DeviceArray, key: DeviceArray, scale: float) -> None:
        self._product("naive_inverse", weights, query, key, {"scale": scale})

    def softmax(self, weights: int, lse: DeviceArray | None) -> None:
        from ..kernels.params import statistic_fields

        variant = _variant("naive_softmax", self._problem.accumulator)
        fields = {"weights": weights, "lse": statistic_fields(lse)}
        self._move(variant, self._runs.block_lanes, fields)

    def softmax_backward(
        self, weights: int, dscores: int, arrays: BackwardArrays[DeviceArray]
    ) -> None:
        from ..kernels.params import row_fields, statistic_fields
        from ..kernels.runs import LANE_CHANNELS

        channels, lanes = self._problem.value_dim, self._runs.block_lanes
        fields = {
            "weights": weights, "gradient": dscores,
            "query": row_fields(arrays.dout), "output": row_fields(arrays.out),
            "lse": statistic_fields(arrays.lse), "dlse": statistic_fields(arrays.dlse),
            "channels": channels, "blocks": -(-channels // (lanes * LANE_CHANNELS)),
        }  # fmt: skip
        vector = int(has_vector_rows(arrays.dout) and has_vector_rows(arrays.out))
        variant = _variant("naive_softmax_backward", self._problem.dtype, VECTOR=vector)
        self._move(variant, lanes, fields)

    def pack(self, slots: DeviceArray, weights: int) -> None:
        from ..kernels.params import row_fields

        fields = {"weights": weights, "slots": row_fields(slots)}
        self._move(_variant("naive_pack", self._problem.dtype), self._runs.line_lanes, fields)

    def unpack(self, weights: int, slots: DeviceArray) -> None:
        from ..kernels.params import row_fields

        fields = {"weights": weights, "slots": row_fields(slots)}
        self._move(_variant("naive_unpack", self._problem.dtype), self._runs.slot_lanes, fields)

    def bias_gradient(self, dscores: int, dbias: DeviceArray) -> None:
        from ..kernels.params import bias_fields

        *outer, last = self._problem.bias_shape[1:]
        blocks = math.prod(outer) * -(-last // _WARP)
        variant = _variant("naive_bias_gradient", self._problem.dtype)
        fields = {"weights": dscores, "bias": bias_fields(dbias)}
        self._launch(variant, (blocks, min(self._problem.heads, _MOST_GRID_ROWS), 1), fields)

    def _product(
        self,
        family: str,
        weights: int,
        query: DeviceArray,
        key: DeviceArray,
        fields: dict[str, Any],
    ) -> None:
        """One of the three products; the inverse one writes a row of the grid per key head."""
        from ..kernels.params import row_fields
        from ..kernels.runs import LANE_CHANNELS, lanes_of

        problem = self._problem
        channels = query.shape[-1]
        lanes = lanes_of(channels)
        blocks = -(-channels // (lanes * LANE_CHANNELS))
        defines = {"VECTOR": int(has_vector_rows(query) and has_vector_rows(key))}
        items = self._runs.items
        if family == "naive_scores":
            defines["LANES"] = lanes
        else:
            # Blocks of channels are outputs of their own; scores are sums over all of them.
            items *= blocks
        fields |= {
            "weights": weights, "query": row_fields(query), "key": row_fields(key),
            "channels": channels, "lanes": lanes, "blocks": blocks,
        }  # fmt: skip
        heads = problem.kv_heads if family == "naive_inverse" else problem.heads
        variant = _variant(family, problem.dtype, **defines)
        grid = self._grid(variant, items, lanes, problem.batch * heads)
        self._launch(variant, grid, fields)

    def _move(self, variant: Variant, lanes: int, fields: dict[str, Any]) -> None:
        """A kernel that reads and writes blocks of weights."""
        rows = self._problem.batch * self._problem.heads
        grid = self._grid(variant, self._runs.items, lanes, rows)
        self._launch(variant, grid, fields | {"lanes": lanes})

    def _grid(self, variant: Variant, items: int, lanes: int, rows: int) -> tuple[int, int, int]:
        blocks = -(-items * lanes // variant.threads)
        # What a block finds out about its tokens serves for several rows of the grid.
        processors = self._execution.device.processors
        spare = blocks * rows // (_WAVES * _BLOCKS_OF_PROCESSOR * processors)
        rows_of_block = min(max(spare, 1), _MOST_ROWS_OF_BLOCK)
        return blocks, min(-(-rows // rows_of_block), _MOST_GRID_ROWS), 1

    def _launch(self, variant: Variant, grid: tuple[int, int, int], fields: dict[str, Any]) -> None:
        from ..kernels.launch import launch
        from ..kernels.loader import load
        from ..kernels.params import pack

        kernel = load(variant, self._execution.device.index)
        block = (variant.threads, 1, 1)
        launch(kernel, grid, block, 0, self._execution.stream, pack(self._shared | fields))


def _variant(family: str, dtype: str, **defines: int) -> Variant:
    from ..kernels.manifest import variant_of

    return variant_of(family, dtype, 0, **defines)
