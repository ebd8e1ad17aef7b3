"""An `api.py` like that of the build of NATTEN 0.17.5, of our own functions.

Heads stand before the grid, and products have no scale.
"""

__all__ = ["API"]

API = """
import cupyna
def _to(tensor):
    return tensor.movedim(1, -2)

def _from(tensor):
    return tensor.movedim(-2, 1)

def qk(q, k, kernel_size, dilation, impl):
    assert impl == "naive"
    scores = cupyna.na_qk(_to(q), _to(k), kernel_size, dilation=dilation, scale=1.0)
    return _from(scores)

def av(weights, v, kernel_size, dilation, impl):
    return _from(cupyna.na_av(_to(weights), _to(v), kernel_size, dilation=dilation))

def qk_backward(dscores, q, k, kernel_size, dilation, impl):
    found = cupyna.na_qk_backward(
        _to(dscores), _to(q), _to(k), kernel_size, dilation=dilation, scale=1.0)
    return tuple(map(_from, found))

def av_backward(dout, weights, v, kernel_size, dilation, impl):
    found = cupyna.na_av_backward(_to(dout), _to(weights), _to(v), kernel_size, dilation=dilation)
    return tuple(map(_from, found))

def attention(q, k, v, kernel_size, dilation, impl, scale=None, return_saved=False):
    scaled = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = qk(scaled, k, kernel_size, dilation, impl).softmax(-1)
    out = av(weights, v, kernel_size, dilation, impl)
    return (out, (scaled, weights)) if return_saved else out

def attention_backward(dout, q, k, v, kernel_size, dilation, impl, saved, scale=None):
    scaled, weights = saved
    dweights, dv = av_backward(dout, weights, v, kernel_size, dilation, impl)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdim=True))
    dq, dk = qk_backward(dscores, scaled, k, kernel_size, dilation, impl)
    return dq * (q.shape[-1] ** -0.5 if scale is None else scale), dk, dv
"""
