"""The host side of the small-window kernels: shapes, cost model, parameters and launches."""
