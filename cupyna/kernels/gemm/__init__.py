"""The kernels of the gemm method: shapes, their cost model, parameters."""
