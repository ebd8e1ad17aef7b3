"""Bad input gets an error that names the argument, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cupyna

GRID = (1, 6, 5)


def array(heads: int = 2, channels: int = 4, dtype: str = "float32") -> np.ndarray:
    return np.ones((*GRID, heads, channels), dtype)


Q, K, V = array(), array(), array()
BIAS = np.ones((2, 5, 5), np.float32)


def masked() -> np.ndarray:
    return np.ma.masked_array(Q, mask=np.zeros_like(Q, bool))


BAD_CALLS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "list": (TypeError, "q must be an array", lambda: call([1.0])),
    "scalar": (TypeError, "v must be an array", lambda: call(v=3.0)),
    "masked": (TypeError, "q is a masked array", lambda: call(masked())),
    "integer": (TypeError, "q must be one of float16", lambda: call(Q.astype(np.int32))),
    "complex": (TypeError, "got complex64", lambda: call(Q.astype(np.complex64))),
    "object": (TypeError, "got object", lambda: call(Q.astype(object))),
    "longdouble": (TypeError, "q must be one of", lambda: call(Q.astype(np.longdouble))),
    "byte order": (TypeError, "q has foreign byte order", lambda: call(Q.astype(">f4"))),
    "mixed dtypes": (TypeError, "k must be float32", lambda: call(k=K.astype(np.float64))),
    "no axes": (ValueError, "q must be .batch", lambda: call(np.ones((3, 4), np.float32))),
    "four axes": (ValueError, "1, 2 or 3 spatial axes", lambda: call(np.ones((2,) * 7, "f4"))),
    "rank of k": (ValueError, "k must have 5 axes", lambda: call(k=K[0])),
    "k's grid": (ValueError, r"k must have shape \(1, 6, 5, 2, 4\)", lambda: call(k=K[:, :5])),
    "k's head_dim": (ValueError, "k must have shape", lambda: call(k=array(channels=3))),
    "v's heads": (ValueError, "v must have shape", lambda: call(v=array(heads=1))),
    "head groups": (ValueError, "heads must be a multiple", lambda: call(array(3))),
    "no channels": (ValueError, "head_dim must be at least 1", lambda: call(Q[..., :0])),
    "window": (ValueError, r"kernel_size\[1\] \* dilation\[1\]", lambda: call(kernel_size=6)),
    "window 0": (ValueError, r"kernel_size\[0\] must be at least", lambda: call(kernel_size=0)),
    "window float": (TypeError, "kernel_size must be an integer", lambda: call(kernel_size=3.0)),
    "window bool": (TypeError, "kernel_size must be an integer", lambda: call(kernel_size=True)),
    "window text": (TypeError, "kernel_size must be an integer", lambda: call(kernel_size="3")),
    "window rank": (ValueError, "one entry for each of 2", lambda: call(kernel_size=(3, 3, 3))),
    "stride": (ValueError, r"stride\[0\] must be between 1 and", lambda: call(stride=4)),
    "stride 0": (ValueError, r"stride\[1\] must be between", lambda: call(stride=(1, 0))),
    "dilation 0": (ValueError, r"dilation\[0\] must be at least 1", lambda: call(dilation=0)),
    "dilation": (ValueError, "got 3 \\* 3 = 9", lambda: call(dilation=3)),
    "causal int": (TypeError, "is_causal must be True or False", lambda: call(is_causal=1)),
    "scale text": (TypeError, "scale must be a real number", lambda: call(scale="1")),
    "scale NaN": (ValueError, "scale must be finite", lambda: call(scale=float("nan"))),
    "method": (ValueError, "method must be one of 'auto'", lambda: call(method="flash")),
    "bias shape": (ValueError, r"bias must have shape \(2, 5", lambda: call(bias=BIAS[:, 1:])),
    "bias dtype": (TypeError, "bias must be float32", lambda: call(bias=BIAS.astype("f8"))),
    "flag": (TypeError, "tune must be True or False", lambda: call(tune="yes")),
    "unknown": (TypeError, "window", lambda: call(window=3)),
    "out shape": (ValueError, "out must have shape", lambda: call(out=array(1))),
    "out dtype": (TypeError, "out must be float32", lambda: call(out=array(dtype="float64"))),
    "out kind": (TypeError, "out must be an array", lambda: call(out=[0])),
    "out is q": (ValueError, "out must not share memory with q", lambda: call(out=Q)),
    "out in v": (ValueError, "out must not share memory with v", lambda: call(out=V[:, ::-1])),
    "one row out": (ValueError, "must be writable", lambda: call(out=flat())),
    "read-only out": (ValueError, "out must be writable", lambda: call(out=read_only())),
}  # fmt: skip


def flat() -> np.ndarray:
    return np.broadcast_to(Q[0], Q.shape)


def read_only() -> np.ndarray:
    out = np.empty_like(Q)
    out.flags.writeable = False
    return out


def call(q: Any = Q, k: Any = K, v: Any = V, kernel_size: Any = 3, **options: Any) -> Any:
    return cupyna.neighborhood_attention(q, k, v, kernel_size, **options)


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_by_name(name: str) -> None:
    error, message, bad = BAD_CALLS[name]
    before = [a.copy() for a in (Q, K, V)]
    with pytest.raises(error, match=message):
        bad()
    for a, b in zip((Q, K, V), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_overlapping_out_through_strides_is_refused() -> None:
    memory = np.zeros(Q.size + 8, np.float32)
    step = memory.itemsize
    shape = Q.shape
    strides = (0, 40 * step, 4 * step, 4 * step, step)  # neighbors along y share heads
    out = np.lib.stride_tricks.as_strided(memory, shape, strides)
    with pytest.raises(ValueError, match="out must not overlap itself"):
        call(out=out)


def test_interleaved_out_is_no_overlap() -> None:
    packed = np.ones((*GRID, 2, 16), np.float32)
    q, k, v, out = (packed[..., i::4] for i in range(4))
    expected = call(q.copy(), k.copy(), v.copy())
    assert call(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_backward_names_its_arguments() -> None:
    out, lse = call(return_lse=True)
    with pytest.raises(TypeError, match="lse must be float32"):
        cupyna.neighborhood_attention_backward(out, Q, K, V, out, lse.astype("f8"), 3)
    with pytest.raises(ValueError, match="dout must have shape"):
        cupyna.neighborhood_attention_backward(out[..., :3], Q, K, V, out, lse, 3)
    with pytest.raises(ValueError, match="dlse must have shape"):
        cupyna.neighborhood_attention_backward(out, Q, K, V, out, lse, 3, dlse=lse[..., :1])


def test_products_name_their_arguments() -> None:
    weights = np.ones((*GRID, 2, 9), np.float32)
    with pytest.raises(ValueError, match="weights must have shape"):
        cupyna.na_av(weights[..., :8], V, 3)
    with pytest.raises(ValueError, match="v must have 5 axes"):
        cupyna.na_av(weights, V[0], 3)
    with pytest.raises(ValueError, match="dscores must have shape"):
        cupyna.na_qk_backward(weights[..., :8], Q, K, 3)


def test_fused_has_no_weights_to_give() -> None:
    assert not hasattr(cupyna.fused, "na_qk")
    with pytest.raises(TypeError, match="takes no keyword 'method'"):
        cupyna.fused.na2d(Q, K, V, 3, method="naive")


def test_rank_of_the_numbered_functions() -> None:
    with pytest.raises(ValueError, match="1 spatial axis for na1d"):
        cupyna.na1d(Q, K, V, 3)
    with pytest.raises(ValueError, match="3 spatial axes for na3d"):
        cupyna.na3d(Q, K, V, 3)


def test_number_of_threads_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPYNA_NUM_THREADS", "none")
    with pytest.raises(ValueError, match="CUPYNA_NUM_THREADS must be a positive integer"):
        call()
