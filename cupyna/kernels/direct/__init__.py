"""The host side of the direct kernels, for few keys: shapes, cost model, parameters, launches."""
