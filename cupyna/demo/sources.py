"""Real data: packaged with the libraries of the extra `demo`, or a user's own picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .sample import Sample

__all__ = ["astronaut", "electrocardiogram", "picture_file", "volume"]

# One setting for every picture and volume. Chosen on the data of this module at sigma 0.1, where
# the gain is within 0.1 dB of its maximum for bandwidths from 0.65 to 0.8.
_PICTURE: dict[str, Any] = {"kernel_size": 21, "patch_size": 5, "bandwidth": 0.7}
_VOLUME: dict[str, Any] = {"kernel_size": 5, "patch_size": 5, "bandwidth": 0.7}
# A patch along one axis holds few elements, so distances are noisier: a wider bandwidth.
_SIGNAL: dict[str, Any] = {"kernel_size": 61, "patch_size": 31, "bandwidth": 1.0}


def astronaut() -> Sample:
    """scikit-image's portrait of Eileen Collins, 512 x 512, RGB."""
    from skimage import data

    return Sample("astronaut", _unit_range(data.astronaut()), **_PICTURE)


def picture_file(path: Path) -> Sample:
    """A user's picture: gray, RGB or either with transparency, which is dropped.

    Raises
    ------
    ValueError
        If the file is no picture, has a shape that is not one's, or is smaller than the window.
    """
    # Named readers: left to choose, imageio tries old ones too, which warn and leak open files.
    from imageio.v3 import imread

    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            pixels = np.asarray(imread(path, plugin="tifffile"))
        else:
            pixels = np.asarray(imread(path, plugin="pillow", rotate=True))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no picture that imageio can read: {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"{path} holds an array of shape {pixels.shape}, and a picture has shape "
            "[height, width] or [height, width, channels] with 1 to 4 channels"
        )
    colors = 3 if pixels.shape[-1] >= 3 else 1
    return Sample(path.name, _unit_range(pixels[..., :colors]), **_PICTURE)


def volume() -> Sample:
    """The first frame of nibabel's functional MRI example, 128 x 96 x 24."""
    import nibabel

    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    if not path.is_file():
        raise ValueError(f"this installation of nibabel lacks its example volume, {path}")
    frames = nibabel.nifti1.Nifti1Image.from_filename(path).dataobj
    frame = np.asarray(frames[..., 0])
    return Sample("MRI volume", _unit_range(frame[..., None]), **_VOLUME)


def electrocardiogram() -> Sample:
    """PyWavelets' electrocardiogram, 1024 samples."""
    import pywt

    return Sample("electrocardiogram", _unit_range(pywt.data.ecg()[:, None]), **_SIGNAL)


def _unit_range(values: np.ndarray) -> np.ndarray:
    """Float32 between 0 and 1.

    Pixels of 8 and 16 bits use the range of their type and floats in [0, 1] stay as they are;
    anything else has no agreed range and uses its own.
    """
    if values.dtype in (np.uint8, np.uint16):
        return (values / np.float32(np.iinfo(values.dtype).max)).astype(np.float32)
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the data holds NaN or infinity, and only finite values can be denoised")
    low, high = float(wide.min()), float(wide.max())
    if np.issubdtype(values.dtype, np.integer) or low < 0 or high > 1:
        wide = (wide - low) / max(high - low, np.finfo(np.float64).tiny)
    return wide.astype(np.float32)
