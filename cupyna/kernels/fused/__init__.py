"""The portable fused kernels: shapes, their cost model, measured choices, parameters."""
