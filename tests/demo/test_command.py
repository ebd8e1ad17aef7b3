"""`cupyna demo` as a user calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cupyna import cli
from cupyna.cli.demo import demo

io = pytest.importorskip("skimage.io")


def run(*words) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", *map(str, words)])
    return exit_.value.code


@pytest.fixture
def portrait(tmp_path) -> Path:
    """A small picture with a long name that might be taken for markup or mathematics."""
    rows, columns = np.mgrid[:48, :64]
    pixels = np.stack([rows * 5, columns * 3, (rows // 8 + columns // 8) % 2 * 200], -1)
    path = tmp_path / "[red]me $and_$ a good deal more of me.png"
    io.imsave(path, pixels.astype(np.uint8), check_contrast=False)
    return path


def picture(path: Path) -> np.ndarray:
    pixels = io.imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 1000
    return pixels


def assert_panels_differ(pixels: np.ndarray) -> None:
    """Four columns, none of them empty and no two alike."""
    panels = np.array_split(pixels[..., :3].astype(float), 4, axis=1)
    narrowest = min(panel.shape[1] for panel in panels)
    lower = [panel[pixels.shape[0] // 4 :, :narrowest] for panel in panels]
    assert all(panel.std() > 5 for panel in lower)
    for i, one in enumerate(lower):
        assert all(np.abs(one - other).mean() > 0.1 for other in lower[i + 1 :])


@pytest.mark.parametrize("words", [[], ["--volume"], ["--signal"]])
def test_prints_the_comparison_and_writes_the_picture(words, tmp_path, capsys):
    output = tmp_path / "made.png"
    assert run(*words, "--output", output, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    rows = {
        name: re.search(rf"{name}.*", printed).group()
        for name in ("noisy", "cupyna  ", "scikit-image")
    }
    for name, row in rows.items():
        assert len(re.findall(r"\d\d\.\d\d dB", row)) >= 1
        assert re.search(r"0\.\d\d\d", row), "SSIM"
        assert (name == "noisy") != bool(re.search(r"\d m?s ", row))
    assert str(output) in printed.replace("\n", "")
    assert_panels_differ(picture(output))


def test_a_picture_of_ones_own(portrait, tmp_path, capsys):
    output = tmp_path / "made.png"
    assert run("--image", portrait, "-o", output, "--sigma", 0.05, "--seed", 4) == 0
    printed = capsys.readouterr().out
    assert f"{portrait.name}, 48 x 64, sigma 0.05, seed 4" in " ".join(printed.split())
    assert_panels_differ(picture(output))


@pytest.mark.parametrize("shape", [(21, 21), (24, 400), (300, 30)])
def test_pictures_of_any_shape(shape, tmp_path):
    source, output = tmp_path / "gray.png", tmp_path / "made.png"
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    io.imsave(source, pixels, check_contrast=False)
    assert run("--image", source, "-o", output) == 0
    picture(output)


def test_vector_graphics(tmp_path):
    output = tmp_path / "made.svg"
    assert run("--signal", "-o", output) == 0
    assert "<svg" in output.read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--image", "nowhere.png"], 2, "nowhere.png"),
        (["--volume", "--signal"], 2, "exclude each other"),
        (["--sigma", "0"], 2, "sigma"),
        (["--seed", "-1"], 2, "seed"),
        (["--device", "abacus"], 2, "abacus"),
        (["--signal", "-o", "made.docx"], 1, "made.docx must end in"),
        (["--signal", "-o", "nowhere/made.png"], 1, "nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_refused(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_tiny_picture_is_refused(tmp_path, capsys):
    source = tmp_path / "tiny.png"
    io.imsave(source, np.zeros((20, 30), np.uint8), check_contrast=False)
    assert run("--image", source, "-o", tmp_path / "made.png") == 1
    assert "tiny.png is 20 x 30" in capsys.readouterr().err


def test_asking_for_a_gpu_where_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert run("--signal", "--device", "gpu", "-o", tmp_path / "made.png") == 1
    assert "cannot run on a GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "words"),
    [("skimage", []), ("matplotlib", []), ("nibabel", ["--volume"]), ("pywt", ["--signal"])],
)
def test_a_missing_package_is_named_with_its_remedy(package, words, tmp_path):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from cupyna.cli import main; main(['demo', '-o', 'made.png', *{words}])"
    )
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "cupyna[demo]"' in done.stderr
    assert package in done.stderr
    assert "Traceback" not in done.stderr


def test_leaves_pyplot_alone(tmp_path):
    code = (
        "import sys\nfrom cupyna.cli import main\n"
        "try:\n    main(['demo', '--signal', '-o', 'made.png'])\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_is_a_plain_function(tmp_path):
    demo(signal=True, output=tmp_path / "made.png")
    assert (tmp_path / "made.png").stat().st_size > 10_000
