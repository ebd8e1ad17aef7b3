"""The fused kernels of compute capability 9.0: shapes, their cost model, TMA maps, parameters."""
