"""The packaged data and pictures of every kind a user may have."""

from __future__ import annotations

import numpy as np
import pytest

from cupyna.demo import sources

io = pytest.importorskip("skimage.io")

GRADIENT = np.linspace(0, 1, 24 * 30).reshape(24, 30)


def stored(folder, array, name="mine.png"):
    path = folder / name
    io.imsave(path, array, check_contrast=False)
    return sources.picture_file(path)


def assert_valid(sample, spatial, channels):
    assert sample.clean.shape == (*spatial, channels)
    assert sample.clean.dtype == np.float32
    assert sample.clean.min() >= 0
    assert sample.clean.max() <= 1
    assert sample.clean.std() > 0.05


@pytest.mark.parametrize(
    ("source", "spatial", "channels"),
    [
        (sources.astronaut, (512, 512), 3),
        (sources.volume, (128, 96, 24), 1),
        (sources.electrocardiogram, (1024,), 1),
    ],
)
def test_packaged_data(source, spatial, channels):
    assert_valid(source(), spatial, channels)


@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("channels", [None, 3, 4])
def test_pictures_of_integers(tmp_path, dtype, most, channels):
    pixels = (GRADIENT * most).astype(dtype)
    if channels is not None:
        pixels = np.stack([pixels // (1 + c) for c in range(channels)], -1)
    name = "mine.tif" if dtype is np.uint16 else "mine.png"
    sample = stored(tmp_path, pixels, name)
    colors = 1 if channels is None else 3
    assert_valid(sample, GRADIENT.shape, colors)
    expected = pixels.reshape(*GRADIENT.shape, -1)[..., :colors] / most
    assert np.array_equal(sample.clean, expected.astype(np.float32))


def test_gray_with_transparency(tmp_path):
    gray = (GRADIENT * 255).astype(np.uint8)
    sample = stored(tmp_path, np.stack([gray, 255 - gray], -1))
    assert np.array_equal(sample.clean[..., 0], (gray / np.float32(255)).astype(np.float32))


def test_a_photograph_is_turned_upright(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "mine.jpg"
    exif = image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    image.fromarray((GRADIENT * 255).astype(np.uint8)).save(path, exif=exif)
    assert sources.picture_file(path).spatial == GRADIENT.T.shape


def test_a_picture_of_floats_keeps_its_values(tmp_path):
    pixels = (GRADIENT / 2).astype(np.float32)
    assert np.array_equal(stored(tmp_path, pixels, "mine.tif").clean[..., 0], pixels)


def test_floats_beyond_one_are_scaled(tmp_path):
    sample = stored(tmp_path, (GRADIENT * 900 - 100).astype(np.float32), "mine.tif")
    assert sample.clean.min() == 0
    assert sample.clean.max() == 1


def test_a_picture_without_contrast(tmp_path):
    sample = stored(tmp_path, np.full((24, 24), -3, np.float32), "mine.tif")
    assert not sample.clean.any()


@pytest.mark.parametrize(
    ("pixels", "name", "message"),
    [
        (np.zeros((20, 40), np.uint8), "mine.png", "20 x 40.*at least 21"),
        (np.full((24, 24), np.nan, np.float32), "mine.tif", "NaN or infinity"),
        (np.zeros((5, 24, 24, 3), np.uint8), "mine.tif", r"shape \(5, 24, 24, 3\)"),
    ],
)
def test_useless_pictures_are_refused(tmp_path, pixels, name, message):
    with pytest.raises(ValueError, match=message):
        stored(tmp_path, pixels, name)


@pytest.mark.parametrize("name", ["words.png", "words.txt", "words.tif"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("no picture")
    with pytest.raises(ValueError, match=f"{name} is no picture"):
        sources.picture_file(path)
