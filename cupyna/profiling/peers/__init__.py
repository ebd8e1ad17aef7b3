"""Other libraries, called as their users call them, for measurements beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..implementations import Implementation

__all__ = ["PEERS", "load"]

PEERS = {
    "cudnn": "dense attention by cuDNN",
    "flash": "dense attention by FlashAttention-2, as torch ships it",
    "flex": "torch's FlexAttention, compiled, tokens in row-major order",
    "flex-tiled": "the same with tokens ordered tile by tile",
    "natten": "the installed NATTEN, its newest kernels for the GPU",
    "natten-cutlass": "the installed NATTEN, its CUTLASS 2 kernels",
    "natten-naive": "NATTEN 0.17.5's naive kernels, from a folder: natten-naive=FOLDER",
    "natten-gemm": "NATTEN 0.17.5's GEMM kernels, from a folder: natten-gemm=FOLDER",
}


def load(names: Sequence[str]) -> tuple[list[Implementation], dict[str, str]]:
    """Peers by name, ``NAME`` or ``NAME=FOLDER``.

    Returns
    -------
    found : list of Implementation
    missing : dict
        Why others cannot be loaded here.

    Raises
    ------
    ValueError
        If there is no such peer.
    """
    found, missing = [], {}
    for given in names:
        name, _, folder = given.partition("=")
        if name not in PEERS:
            raise ValueError(f"peer must be one of {', '.join(PEERS)}, got {name!r}")
        try:
            found.append(_load(name, folder))
        except (ImportError, OSError) as error:
            missing[name] = f"{type(error).__name__}: {error}"
    return found, missing


def _load(name: str, folder: str) -> Implementation:
    if name in ("cudnn", "flash"):
        from .dense import Dense

        if name == "cudnn":
            return Dense("cuDNN, dense", "CUDNN_ATTENTION")
        return Dense("FlashAttention-2, dense", "FLASH_ATTENTION")
    if name in ("flex", "flex-tiled"):
        from .flex import Flex

        return Flex(is_tiled=name == "flex-tiled")
    if name in ("natten", "natten-cutlass"):
        from .natten import Natten

        return Natten("cutlass_fna" if name == "natten-cutlass" else None)
    from .unfused import Unfused

    return Unfused(Path(folder), name.removeprefix("natten-"))
