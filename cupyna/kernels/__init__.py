"""Compiled kernels: which exist, how they are built, found, loaded and launched."""
