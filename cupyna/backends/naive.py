"""The naive method on a GPU: scores, row softmax and outputs as kernels over stored weights.

The kernels are the paper's three products and two passes over rows between them. Backward computes
the scores again from the log-sum-exp; weights are kept in the accumulator's type, so nothing but
inputs and outputs is rounded to theirs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..arrays.device_array import DeviceArray
from ..execution import Choice, Execution
from ..problem import DeviceSpec, Method, Operation, Problem

if TYPE_CHECKING:
    from ..kernels.variant import Variant

__all__ = ["CudaNaive"]

# As in the device sources: queries of a run, channels of a lane, slots that a lane keeps.
_RUN = 4
_LANE_CHANNELS = 8
_KEPT_SLOTS = 16

_WARP = 32

# Enough blocks for every multiprocessor to have its last one at about the same time.
_WAVES = 6
_BLOCKS_OF_PROCESSOR = 4
_MOST_ROWS_OF_BLOCK = 8
_MOST_GRID_ROWS = 65535
_VECTOR_BYTES = 16

# Rows of the workspace begin on a sector of the cache.
_ROW_ITEMS = 8

# Positions are 32-bit numbers with room for sums.
_MOST_TOKENS = 2**30 - 1

# Products of queries, keys and values, and passes over the stored weights.
_PRODUCTS = {
    "forward": (1, 1, 4), "backward": (3, 2, 9), "qk": (1, 0, 1), "av": (0, 1, 1),
    "qk_backward": (2, 0, 2), "av_backward": (0, 2, 2),
}  # fmt: skip

# Share of the multiply-add rate that the products reach.
_PRODUCT_RATE = 0.35


class CudaNaive:
    """Backend of naive CUDA kernels."""

    name = "cuda-naive"
    method: Method = "naive"

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
        pairs = problem.batch * problem.heads * problem.tokens * problem.window
        of_keys, of_values, passes = _PRODUCTS[operation]
        # A run of queries also multiplies with the keys that only some of them see.
        last = problem.axes[-1]
        keys = last.kernel_size + (_RUN - 1) / last.stride
        computed = round(pairs * keys / last.kernel_size)
        work = 2 * computed * (of_keys * problem.head_dim + of_values * problem.value_dim)
        stored = {"forward": 1, "backward": 2}.get(operation, 0)
        item_bytes = 8 if problem.accumulator == "float64" else 4
        workspace = stored * item_bytes * math.prod(_weights_shape(problem))
        traffic = passes * pairs * (item_bytes if stored else problem.item_bytes)
        return Choice(
            kernel=f"cupyna_naive_*_{problem.dtype}",
            q_tile=(1,) * (problem.rank - 1) + (_RUN,),
            kv_tile=(1,) * problem.rank,
            useful_products=pairs,
            computed_products=computed,
            workspace_bytes=workspace,
            time_us=work / (_PRODUCT_RATE * device.flops_per_us) + traffic / device.bytes_per_us,
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        weights = run.workspace()
        run.scores(q, k, weights, scale, -math.inf, bias)
        run.softmax(weights, lse)
        run.outputs(weights, v, out, 1.0)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dout: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray,
        dlse: DeviceArray | None,
        dq: DeviceArray,
        dk: DeviceArray,
        dv: DeviceArray,
        dbias: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        weights, dscores = run.workspace(), run.workspace()
        run.scores(q, k, weights, scale, -math.inf, bias)
        run.scores(dout, v, dscores, 1.0, 0.0, None)
        run.softmax_backward(weights, dscores, dout, out, lse, dlse)
        run.inverse(weights, dout, dv, 1.0)
        run.outputs(dscores, k, dq, scale)
        run.inverse(dscores, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(dscores, dbias)

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
        _Launcher(problem, execution).scores(q, k, scores, scale, -math.inf, bias)

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
    ) -> None:
        _Launcher(problem, execution).outputs(weights, v, out, 1.0)

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
        run.outputs(dscores, k, dq, scale)
        run.inverse(dscores, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(dscores, dbias)

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
        run.scores(dout, v, dweights, 1.0, 0.0, None)
        run.inverse(weights, dout, dv, 1.0)


class _Launcher:
    """The kernels of one problem on one stream. Weights are ``[batch, *spatial, heads, slots]``."""

    def __init__(self, problem: Problem, execution: Execution) -> None:
        from ..kernels.params import axis_fields

        self._problem = problem
        self._execution = execution
        self._shared = {
            "axis": axis_fields(problem),
            "batch": problem.batch,
            "heads": problem.heads,
            "head_group": problem.head_group,
        }

    def workspace(self) -> DeviceArray:
        """Weights in the accumulator's type, head by head, each row padded to whole sectors."""
        problem = self._problem
        shape = _weights_shape(problem)
        memory: DeviceArray = self._execution.empty(shape, problem.accumulator)
        batch, heads, *axes, slots = _dense_strides(shape)
        return DeviceArray(
            memory.pointer,
            (problem.batch, *problem.spatial, problem.heads, problem.window),
            (batch, *axes, heads, slots),
            memory.dtype,
            memory.device,
        )

    def scores(
        self,
        query: DeviceArray,
        key: DeviceArray,
        weights: DeviceArray,
        scale: float,
        empty: float,
        bias: DeviceArray | None,
    ) -> None:
        from ..kernels.params import bias_fields, row_fields

        fields = {
            "query": row_fields(query), "key": row_fields(key), "bias": bias_fields(bias),
            "scale": scale, "empty": empty,
        }  # fmt: skip
        self._product("naive_scores", weights, (query, key), self._problem.heads, fields)

    def outputs(
        self, weights: DeviceArray, key: DeviceArray, query: DeviceArray, scale: float
    ) -> None:
        from ..kernels.params import row_fields

        fields = {"query": row_fields(query), "key": row_fields(key), "scale": scale}
        self._product("naive_outputs", weights, (query, key), self._problem.heads, fields)

    def inverse(
        self, weights: DeviceArray, query: DeviceArray, key: DeviceArray, scale: float
    ) -> None:
        from ..kernels.params import row_fields

        fields = {"query": row_fields(query), "key": row_fields(key), "scale": scale}
        self._product("naive_inverse", weights, (query, key), self._problem.kv_heads, fields)

    def softmax(self, weights: DeviceArray, lse: DeviceArray | None) -> None:
        from ..kernels.params import row_fields, statistic_fields

        fields = {"weights": row_fields(weights), "lse": statistic_fields(lse)}
        self._rows(_variant("naive_softmax", self._problem.accumulator), fields)

    def softmax_backward(
        self,
        weights: DeviceArray,
        dscores: DeviceArray,
        dout: DeviceArray,
        out: DeviceArray,
        lse: DeviceArray,
        dlse: DeviceArray | None,
    ) -> None:
        from ..kernels.params import row_fields, statistic_fields

        fields = {
            "weights": row_fields(weights), "gradient": row_fields(dscores),
            "query": row_fields(dout), "output": row_fields(out),
            "lse": statistic_fields(lse), "dlse": statistic_fields(dlse),
            "channels": self._problem.value_dim,
        }  # fmt: skip
        vector = int(_is_vector(dout) and _is_vector(out))
        variant = _variant("naive_softmax_backward", self._problem.dtype, VECTOR=vector)
        self._rows(variant, fields)

    def bias_gradient(self, dscores: DeviceArray, dbias: DeviceArray) -> None:
        from ..kernels.params import bias_fields, row_fields

        fields = {
            "weights": row_fields(dscores), "bias": bias_fields(dbias),
            "weights_is_wide": self._is_wide(dscores),
        }  # fmt: skip
        *outer, last = self._problem.bias_shape[1:]
        blocks = math.prod(outer) * -(-last // _WARP)
        variant = _variant("naive_bias_gradient", self._problem.dtype)
        self._launch(variant, blocks, self._problem.heads, fields)

    def _product(
        self,
        family: str,
        weights: DeviceArray,
        rows: tuple[DeviceArray, DeviceArray],
        heads: int,
        fields: dict[str, Any],
    ) -> None:
        from ..kernels.params import row_fields

        problem = self._problem
        channels = rows[0].shape[-1]
        lanes = min(max(_power_of_two(-(-channels // _LANE_CHANNELS)), 4), _WARP)
        defines = {"VECTOR": int(all(map(_is_vector, rows)))}
        if family == "naive_scores":
            defines["LANES"] = lanes
        variant = _variant(family, problem.dtype, **defines)
        blocks = -(-channels // (lanes * _LANE_CHANNELS))
        last = problem.axes[-1]
        runs = -(-last.group_length(0) // _RUN)
        items = math.prod(problem.spatial[:-1]) * last.dilation * runs
        if family != "naive_scores":  # which adds up the blocks itself
            items *= blocks
        fields |= {
            "weights": row_fields(weights), "weights_is_wide": self._is_wide(weights),
            "channels": channels, "lanes": lanes, "runs": runs, "blocks": blocks, "items": items,
        }  # fmt: skip
        groups = variant.threads // lanes
        self._launch(variant, -(-items // groups), problem.batch * heads, fields)

    def _rows(self, variant: Variant, fields: dict[str, Any]) -> None:
        problem = self._problem
        lanes = min(max(_power_of_two(-(-problem.window // _KEPT_SLOTS)), 4), _WARP)
        blocks = -(-problem.value_dim // (lanes * _LANE_CHANNELS))
        fields |= {"lanes": lanes, "items": problem.tokens, "blocks": blocks}
        groups = variant.threads // lanes
        self._launch(variant, -(-problem.tokens // groups), problem.batch * problem.heads, fields)

    def _is_wide(self, weights: DeviceArray) -> int:
        return int(weights.dtype == self._problem.accumulator)

    def _launch(self, variant: Variant, blocks: int, rows: int, fields: dict[str, Any]) -> None:
        from ..kernels.launch import launch
        from ..kernels.loader import load
        from ..kernels.params import pack

        device = self._execution.device
        kernel = load(variant, device.index)
        # What a block finds out about its tokens serves for several rows of the grid.
        spare = blocks * rows // (_WAVES * _BLOCKS_OF_PROCESSOR * device.processors)
        grid_rows = min(-(-rows // min(max(spare, 1), _MOST_ROWS_OF_BLOCK)), _MOST_GRID_ROWS)
        grid = (blocks, grid_rows, 1)
        block = (variant.threads, 1, 1)
        launch(kernel, grid, block, 0, self._execution.stream, pack(self._shared | fields))


def _variant(family: str, dtype: str, **defines: int) -> Variant:
    from ..kernels.manifest import variant_of

    return variant_of(family, dtype, 0, **defines)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _weights_shape(problem: Problem) -> tuple[int, ...]:
    padded = -(-problem.window // _ROW_ITEMS) * _ROW_ITEMS
    return problem.batch, problem.heads, *problem.spatial, padded


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _is_vector(rows: DeviceArray) -> bool:
    """Whether every row can be read in whole vectors."""
    items = _VECTOR_BYTES // {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[rows.dtype]
    *lead, channel = rows.strides
    *extents, channels = rows.shape
    return (
        rows.pointer % _VECTOR_BYTES == 0
        and (channel == 1 or channels == 1)
        and channels % items == 0
        and all(
            stride % items == 0 or extent == 1 for stride, extent in zip(lead, extents, strict=True)
        )
    )
