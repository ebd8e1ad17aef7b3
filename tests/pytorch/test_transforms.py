"""What torch does to functions: compile, export, map, differentiate, cast."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cupyna.torch import na1d, na2d, na_av, na_qk, neighborhood_attention, ops  # noqa: E402
from cupyna.torch.options import CallOptions  # noqa: E402

pytestmark = pytest.mark.torch

OPTIONS = CallOptions.of(2, (3, 4), (1, 2), 1, (False, True))


def tensors(**factory: Any) -> tuple[Any, ...]:
    torch.manual_seed(0)
    q = torch.randn(2, 6, 5, 4, 8, **factory)
    k, v = (torch.randn(2, 6, 5, 2, 8, **factory) for _ in range(2))
    return q, k, v, torch.randn(4, 5, 7, **factory)


def attend(q: Any, k: Any, v: Any, bias: Any = None, **options: Any) -> Any:
    return na2d(q, k, v, (3, 4), (1, 2), 1, (False, True), bias=bias, **options)


def more_of(k: Any, v: Any) -> dict[str, Any]:
    return {"additional_keys": k[:, 0], "additional_values": v[:, 0]}


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_operator_keeps_its_promises(with_bias: bool, requires_grad: bool) -> None:
    q, k, v, bias = tensors(requires_grad=requires_grad)
    torch.library.opcheck(ops.attention, (q, k, v, bias if with_bias else None, *OPTIONS))


def test_the_other_operators_keep_their_promises() -> None:
    q, k, v, bias = tensors()
    out, lse = ops.attention(q, k, v, bias, *OPTIONS)
    for dlse in (None, lse):
        saved = (out, dlse, q, k, v, bias, out, lse)
        torch.library.opcheck(ops.attention_backward, (*saved, *OPTIONS))
    for given in ((q, k, v, bias), (q, k, v, None)):
        leaves = [t if t is None else t.detach().requires_grad_() for t in given]
        more = [t[:, 0].detach().requires_grad_() for t in (k, v)]
        torch.library.opcheck(ops.attention_beside, (*leaves, *more, *OPTIONS))
        with torch.no_grad():
            found = ops.attention_beside(*leaves, *more, *OPTIONS)
            saved = (found[0], None, *leaves, *more, *found)
            torch.library.opcheck(ops.attention_beside_backward, (*saved, *OPTIONS))
    window = OPTIONS[:4]
    scores = ops.scores(q, k, 0.5, *window)
    for tensor in (q, k, v, scores):
        tensor.requires_grad_()
    torch.library.opcheck(ops.scores, (q, k, 0.5, *window))
    torch.library.opcheck(ops.values, (scores, v, *window))
    torch.library.opcheck(ops.values_transposed, (scores, q, 2, *window))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic: bool) -> None:
    def loss(q: Any, k: Any, v: Any, bias: Any) -> Any:
        out, lse = attend(2 * q, k, v, bias, return_lse=True, **more_of(k, v))
        return out.square().sum() + lse.sum()

    backend = "aot_eager" if dynamic else "inductor"
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=backend)
    for batch in (2, 3):
        leaves = [t.requires_grad_() for t in tensors()]
        leaves[:3] = [t.detach()[:1].repeat(batch, 1, 1, 1, 1).requires_grad_() for t in leaves[:3]]
        found = torch.autograd.grad(compiled(*leaves), leaves)
        expected = torch.autograd.grad(loss(*leaves), leaves)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("additional", [False, True])
def test_export(additional: bool) -> None:
    class Block(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return attend(q, k, v, **(more_of(k, v) if additional else {})) + 1

    q, k, v, _ = tensors()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Block(), (q, k, v), dynamic_shapes=({0: batch}, {0: batch}, {0: batch})
    )
    operator = "cupyna.attention_beside" if additional else "cupyna.attention.default"
    assert operator in program.graph_module.code
    longer = tuple(torch.cat([t, t, t]) for t in (q, k, v))
    torch.testing.assert_close(program.module()(*longer), Block()(*longer))


def test_vmap() -> None:
    q, k, v, bias = tensors()
    many = torch.randn(3, *v.shape)
    found = torch.vmap(lambda v: attend(q, k, v, bias))(many)
    torch.testing.assert_close(found, torch.stack([attend(q, k, v, bias) for v in many]))
    biases = torch.randn(5, 4, 7, 3)
    found = torch.vmap(lambda b: attend(q, k, v, b), in_dims=-1)(biases.movedim(0, 1))
    each = [attend(q, k, v, b) for b in biases.movedim(0, 1).unbind(-1)]
    torch.testing.assert_close(found, torch.stack(each))
    found = torch.vmap(lambda q, k: na_qk(q, k, 3), in_dims=(1, None), randomness="error")(
        torch.stack([q, 2 * q], 1), k
    )
    torch.testing.assert_close(found[1], 2 * found[0])


def test_gradients_for_each_sample() -> None:
    q, k, v, bias = tensors(dtype=torch.float64)

    def loss(bias: Any, q: Any, k: Any, v: Any) -> Any:
        return attend(q[None], k[None], v[None], bias).square().sum()

    each = torch.func.grad(loss, argnums=(0, 1))
    found = torch.vmap(each, in_dims=(None, 0, 0, 0))(bias, q, k, v)
    for i in range(len(q)):
        expected = each(bias, q[i], k[i], v[i])
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[i], b)


def test_hessian() -> None:
    q, k, v, _ = tensors(dtype=torch.float64)

    def loss(x: Any) -> Any:
        return attend(q * x[:4, None], k, v).square().sum()

    x = torch.randn(4, dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(x)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, x))
    torch.testing.assert_close(hessian, hessian.T)


def test_keys_beside_the_windows_under_transforms() -> None:
    q, k, v, bias = tensors(dtype=torch.float64)

    def loss(x: Any, q: Any, k: Any, v: Any) -> Any:
        out = attend(q * x[:4, None], k, v, bias, **more_of(k, v))
        return out.square().sum()

    x = torch.randn(4, dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(x, q, k, v)
    expected = torch.autograd.functional.hessian(lambda x: loss(x, q, k, v), x)
    torch.testing.assert_close(hessian, expected)
    many = torch.stack([x, 2 * x])
    found = torch.vmap(lambda x: attend(q * x[:, None], k, v, **more_of(k, v)))(many)
    each = [attend(q * x[:, None], k, v, **more_of(k, v)) for x in many]
    torch.testing.assert_close(found, torch.stack(each))


@pytest.mark.slow
def test_vmap_inside_compiled_code() -> None:
    q, k, v, bias = tensors()

    def many_of(many: Any) -> Any:
        return torch.vmap(lambda x: attend(q * x[:, None], k, v, bias, **more_of(k, v)))(many)

    many = torch.randn(3, 4)
    compiled = torch.compile(many_of, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(many), many_of(many))


@pytest.mark.parametrize("additional", [False, True])
def test_gradients_in_vmapped_backward(additional: bool) -> None:
    q, k, v, _ = (t.double().requires_grad_() for t in tensors())
    out = attend(q, k, v, **(more_of(k, v) if additional else {}))
    seeds = torch.randn(3, *out.shape, dtype=torch.float64)
    asked = (q, k, v)
    found = torch.autograd.grad(out, asked, seeds, is_grads_batched=True, retain_graph=True)
    for i, seed in enumerate(seeds):
        expected = torch.autograd.grad(out, asked, seed, retain_graph=True)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[i], b)


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled: bool) -> None:
    q, k, v, bias = (t.requires_grad_() for t in tensors())
    more = k.detach()[:, 0].requires_grad_()
    function = torch.compile(attend, fullgraph=True) if compiled else attend
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = function(q, k, v, bias, additional_keys=more, additional_values=more)
    assert out.dtype is torch.bfloat16
    out.float().sum().backward()
    assert q.grad.dtype is torch.float32
    assert bias.grad.dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(*(t.detach().double() for t in (q, k, v))).dtype is torch.float64


def test_tensors_without_data() -> None:
    q, k, v, bias = tensors(device="meta")
    out, lse = attend(q, k, v, bias, return_lse=True)
    assert out.shape == q.shape
    assert (lse.shape, lse.dtype) == (q.shape[:-1], torch.float32)
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert attend(*tensors(dtype=torch.float16)).dtype is torch.float16


def test_inference_mode_and_no_grad() -> None:
    q, k, v, bias = (t.requires_grad_() for t in tensors())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            out = attend(q, k, v, bias)
        assert not out.requires_grad
        torch.testing.assert_close(out, attend(q, k, v, bias).detach())


def test_a_subclass_of_tensor_sees_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    q, k, v, _ = tensors()
    with Watch():
        attend(q, k, v)
    assert ops.attention in seen


def test_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    q, k, v, bias = (t.requires_grad_() for t in tensors())
    expected = torch.autograd.grad(attend(q, k, v, bias).square().sum(), (q, bias))
    found = torch.autograd.grad(
        checkpoint(attend, q, k, v, bias, use_reentrant=False).square().sum(), (q, bias)
    )
    torch.testing.assert_close(found, expected)


def test_dropout_of_weights_by_hand() -> None:
    q = torch.randn(1, 7, 2, 4, requires_grad=True)
    weights = torch.nn.functional.dropout(torch.softmax(na_qk(q, q, 3), -1), 0.5)
    na_av(weights, q, 3).sum().backward()
    assert q.grad.isfinite().all()
    torch.testing.assert_close(
        na_av(torch.softmax(na_qk(q, q, 3), -1), q, 3), na1d(q, q, q, 3), rtol=1e-4, atol=1e-5
    )
    assert neighborhood_attention(q, q, q, 3).shape == q.shape
