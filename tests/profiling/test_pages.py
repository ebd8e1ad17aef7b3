"""Pages of the documentation, from files of results."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cupyna.profiling.ceilings import Ceilings
from cupyna.profiling.gpus import GPUS
from cupyna.profiling.pages import PAGES, unmeasured, write_pages
from cupyna.profiling.pages.cases import floor_us
from cupyna.profiling.pages.results import load, machine
from cupyna.profiling.problems import Row, rows
from cupyna.profiling.profile import predicted
from cupyna.profiling.records import Measurement, Record, flops, write
from cupyna.profiling.timing import Times
from cupyna.tolerance import Deviation

TIMES = {"median_us": 1500.0, "least_us": 1400.0, "most_us": 1600.0}
SLOWER = {**TIMES, "median_us": 3000.0}
HEAD = {
    "gpus": ["NVIDIA H200"], "driver": "580", "versions": {"cupyna": "0.1.0"}, "commit": "abc",
    "rounds": 5, "ceilings": {"bytes_per_us": 4e6, "flops_per_us": {"float16": 7e8}},
}  # fmt: skip


def _measured(row: Row, dtype: str, times_us: dict[str, float]) -> Measurement:
    found = Measurement(row.suite, row.name, row.problem(dtype))
    for name, time_us in times_us.items():
        record = Record()
        for direction, factor in (("forward", 1), ("backward", 3), ("forward+backward", 4)):
            if np.isnan(time_us):
                record.refused[direction] = "takes 200.0 GiB beside its inputs"
                continue
            record.times[direction] = Times((time_us * factor,))
            record.is_graph[direction] = True
            record.peak_bytes[direction] = 1 << 20
            rough = "out: rough" if "0.17.5" in name else ""
            record.deviations[direction] = {"out": Deviation(complaint=rough)}
        found.records[name] = record
    return found


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    """Pages of results of every kind: fused is twice as fast as gemm, five times as naive."""
    pytest.importorskip("matplotlib")
    tmp_path = tmp_path_factory.mktemp("docs")
    times = {"naive": 50.0, "gemm": 20.0, "fused": 10.0, "cuDNN, dense": 40.0,
             "FlashAttention-2, dense": 5.0, "NATTEN 0.17.5 gemm": 30.0}  # fmt: skip
    results = tmp_path / "results"

    def fill(prefix: str, suites: tuple[str, ...], **changes: float) -> None:
        found = [
            _measured(row, dtype, {**times, **changes})
            for suite in suites
            for row in rows(suite)
            for dtype in ("float16", "float32")
        ]
        write(results / f"{prefix}-h200.json", HEAD, found)

    fill("sweep", ("paper-1d", "paper-2d"))
    fill("sweep-3d", ("paper-3d",))
    held = {"cuda-fused": 25.0}
    fill("cases", ("cases",), **held)
    # A dtype of two words, in tables and in the names of plots.
    tf32 = replace(rows("cases")[6].problem("float32"), allow_tf32=True)
    rounded = Measurement("cases", "E", tf32, _measured(rows("cases")[6], "float32", times).records)
    write(results / "tf32-h200.json", HEAD, [rounded])
    for suite in ("dense", "scaling", "patterns"):
        fill(suite, (suite,))
    longest = [
        _measured(row, "float16", {"fused": 10.0, "naive": np.nan if i > 3 else 99.0})
        for i, row in enumerate(rows("longest"))
    ]
    write(results / "longest-h200.json", HEAD, longest)
    profile = predicted(
        rows("cases")[6].problem("float16"), GPUS["H200"].spec,
        Ceilings.by_data_sheet(GPUS["H200"]), operations=("forward", "backward"),
    )  # fmt: skip
    profile.is_measured = True
    profile.lines[0].counters = dict.fromkeys(
        ("kernels", "l1_hit_share", "l2_hit_share", "tensor_share", "warps_share", "dram_bytes",
         "l2_bytes"), 0.5,
    )  # fmt: skip
    rates = {"naive": 100.0, "fused": 150.0, "natten": 50.0, "natten-naive": 75.0}
    model = {"model": "nat_mini", "dtype": "float16", "batch": 64, "images_per_s": rates}
    models = [model, {**model, "model": "dinat_mini", "images_per_s": {**rates, "fused": 200.0}}]
    for file, what in (("models", "inference"), ("training", "training step")):
        measured = [{**model, "what": what} for model in models]
        if what != "inference":
            measured[0]["wrong"] = ["natten-naive"]
        document = json.dumps({**HEAD, "measurements": measured})
        (results / f"{file}-h200.json").write_text(document)
    row = {**model, "model": "nat_base", "dtype": "float32", "what": "inference"}
    document = json.dumps({**HEAD, "measurements": [row]})
    (results / "models-h200-float32.json").write_text(document)
    times = {"calls": {"na2d": 13.27}, "parts": {"launch": 4.0}, "others": {"torch.add": 5.1}}
    (results / "overhead-h200.json").write_text(json.dumps({**HEAD, **times}))
    (results / "profile-e-h200.json").write_text(json.dumps(profile.to_json()))
    write_pages(tmp_path)
    return tmp_path


def test_every_page_is_written_with_its_plots(docs: Path) -> None:
    assert unmeasured(docs) == []
    generated = docs / "generated"
    for name in PAGES:
        text = (generated / f"{name}.md").read_text()
        assert f"performance/{name}" in (generated / "performance.md").read_text()
        lines = text.splitlines()
        plots = [i for i, line in enumerate(lines) if line.startswith("![")]
        assert plots, name
        for i in plots:
            file = lines[i].partition("(../generated/")[2].removesuffix(")")
            assert (generated / file).is_file()
            # The numbers of a plot stand below it.
            assert any(line.startswith("|") for line in lines[i : i + 8]), lines[i]
        for line, after in itertools.pairwise(lines):
            if after.startswith("|---"):
                assert line.count(" | ") == after.count("|") - 2, line


def test_the_papers_tables_count_what_they_say(docs: Path) -> None:
    text = (docs / "generated" / "paper.md").read_text()
    (swept,) = load(docs / "results", "paper-1d", "paper-2d", "paper-3d")
    count = len(swept.of("float16", "paper-1d"))
    assert f"| 1-D | fused | 100 % ({count}); A100 100 % | 100 % ({count}); A100 100 % |" in text
    assert f"0 % ({count}); A100 98.2 % |" in text  # FlashAttention-2 takes half the time here
    assert "+150 % (+150 / +150); 2.50x | +400 % (+400 / +400); 5.00x | +100 %" in text
    assert "| A100, the paper | +548 % (-53 / +3025) | +1759 % (+60 / +11885) |" in text


def test_what_is_below_the_paper_or_behind_is_told(docs: Path, tmp_path: Path) -> None:
    text = (docs / "generated" / "paper.md").read_text()
    # Gains here are +150, +400 and +100 percent on every problem.
    assert "### Below the paper's numbers" in text
    assert "| fused over naive | average gain | forward | float16 1-D | +400 % | +1759 % |" in text
    assert "| fused over gemm | average gain | forward | float16 1-D | +100 % | +180 % |" in text
    assert (
        "| fused over gemm | average gain | forward+backward | float16 1-D |" not in text
    )  # +57 percent
    assert "| fused over gemm | forward | float32 1-D |" not in text  # +17 percent
    assert "### Where a method is slower" in text
    count = len([row for suite in ("paper-1d", "paper-2d", "paper-3d") for row in rows(suite)])
    slower = (
        f"| fused | FlashAttention-2, dense | forward+backward | float16 | {count} of {count} |"
    )
    assert slower in text
    assert "| fused | naive |" not in text and "| gemm | fused |" not in text
    cases = (docs / "generated" / "cases.md").read_text()
    assert "is faster than *fused*: nowhere." in cases
    # The paper's own naive kernels are the base where they were measured.
    old = "NATTEN 0.17.5 naive"
    found = _measured(rows("paper-1d")[0], "float16", {"naive": 50.0, "fused": 10.0, old: 900.0})
    write(tmp_path / "results" / "a.json", HEAD, [found])
    write_pages(tmp_path)
    text = (tmp_path / "generated" / "paper.md").read_text()
    assert "gemm over naive | fused over naive | fused over gemm | gemm over NATTEN" in text
    assert "+8900 % (+8900 / +8900); 90.00x |" in text
    assert "0 of 3 averages and shares are smaller" in text


def test_a_profile_says_what_holds_each_method(docs: Path) -> None:
    text = (docs / "generated" / "why.md").read_text()
    assert "*naive, forward* asks the cache for 0.0 times the least bytes" in text  # 0.5 bytes
    assert "Tensor cores are busy 50% of the time." in text
    assert text.count("Neither bounds it") + text.count("bounds it.") >= 6


def test_the_cases_show_the_floor_and_the_rough(docs: Path) -> None:
    text = (docs / "generated" / "cases.md").read_text()
    assert "\\* Its error is larger" in text
    (file,) = load(docs / "results", "cases")
    assert "### float32, TF32 allowed, forward" in text
    assert (docs / "generated" / "cases-h200-float32-tf32-allowed-forward.svg").is_file()
    found = next(f for f in file.of("float16") if f.name == "D")
    least_us = found.problem.least_bytes / 4e6
    floor = floor_us(file, found, "forward")
    assert floor is not None and floor >= least_us
    # 64-query tiles compute more than the windows ask for, at the best dense rate of head_dim 32.
    others = [f.problem for f in file.of("float16") if f.problem.head_dim == 32]
    dense = max(4 * p.batch * p.heads * p.tokens**2 * p.head_dim / 40.0 for p in others)
    assert floor > flops(found.problem, "forward") / dense
    assert floor_us(file, found, "forward+backward") is None


def test_a_backend_that_was_held_to_stands_beside_what_the_method_chose(tmp_path: Path) -> None:
    results, generated = tmp_path / "results", tmp_path / "generated"
    results.mkdir()
    write_pages(tmp_path)
    assert not (generated / "families.md").read_text().strip()
    found = _measured(rows("cases")[5], "float16", {"fused": 10.0, "cuda-fused": 25.0})
    for record, backend in zip(found.records.values(), ("cuda-hopper", "cuda-fused"), strict=True):
        record.about["forward"] = {"forward": {"backend": backend}}
    write(results / "a.json", HEAD, [found])
    write_pages(tmp_path)
    text = (generated / "families.md").read_text()
    assert "float16 | forward | cuda-hopper | 0.010 | cuda-fused | 0.025 | 2.50x |" in text
    assert "Geometric mean: 2.50x" in text and "| backward |" not in text


def test_every_family_of_a_sweep_is_counted(tmp_path: Path) -> None:
    results, generated = tmp_path / "results", tmp_path / "generated"
    results.mkdir()
    measured = []
    for i, row in enumerate((*rows("kernels")[:2], rows("kernels")[-1])):
        times = {"fused": 10.0, "cuda-fused": 12.0, "cuda-window": 10.0 if i else 8.0}
        measured.append(_measured(row, "float16", times))
        for name, record in measured[-1].records.items():
            backend = "cuda-window" if name == "fused" and i else "cuda-fused"
            record.about = {way: {way: {"backend": backend}} for way in ("forward", "backward")}
    write(results / "a.json", HEAD, measured)
    write_pages(tmp_path)
    text = (generated / "kernels.md").read_text()
    assert "*fused* over the sweep, float16, forward" in text
    assert text.count("| 1-D | cuda-fused | 2 | 0 | 1 |") == 2
    assert text.count("| 1-D | cuda-window | 2 | 2 | 1 |") == 2
    assert text.count("| 3-D | cuda-window | 1 | 1 | 1 |") == 2
    assert "1.077x in geometric mean, more than 1.03x on 1 of 3 problems" in text
    assert f"the most: {rows('kernels')[0].name}: 1.25x." in text


def test_models_stand_beside_the_papers(docs: Path) -> None:
    text = (docs / "generated" / "models.md").read_text()
    assert text.count("## H200\n") == 1
    assert "| model | batch | natten-naive | naive | fused | natten |" in text
    assert text.count("| dinat_mini | 64 | 75 | 100 (+33 %) | 200 (+167 %) | 50 (-33 %) |") == 2
    assert text.count("| nat_mini | 64 | 75\\* | 100 (+33 %) | 150 (+100 %) |") == 1
    assert text.count("| **natten-naive** | 2 | +133 % | +100 % | +167 % |") == 2
    assert text.count("| natten | 2 | +250 % | +200 % | +300 % |") == 2
    assert text.count("| dinat_mini | 128 | 2672 | 2548 (-5 %) | 3930 (+47 %) |") == 1
    assert text.count("### Inference, float32\n") == 1
    assert text.count("| nat_base | 64 | 75 | 100 (+33 %) | 150 (+100 %) | 50 (-33 %) |") == 1
    assert text.count("| nat_base | 128 | 867 | 897 (+3 %) | 966 (+11 %) |") == 1
    assert "| nat_mini | 1423.5 | 1067.6 (+33 %) | 711.8 (+100 %) |" in text
    assert "| 19.4 | 20.4 (-5 %) | 16.6 (+17 %) |" in text
    assert "| na2d | 13.3 |" in text and "| launch | 4.00 |" in text


def test_a_later_run_replaces_a_whole_direction(tmp_path: Path) -> None:
    row = rows("cases")[5]
    one = _measured(row, "float16", {"naive": 50.0, "fused": 10.0})
    two = _measured(row, "float16", {"fused": 8.0, "peer": 9.0})
    for record in two.records.values():
        del record.times["backward"], record.deviations["backward"]
    write(tmp_path / "a.json", HEAD, [one])
    write(tmp_path / "a-b.json", {**HEAD, "commit": "later"}, [two])
    (results,) = load(tmp_path, "cases")
    (found,) = results.found
    assert found.time_us("fused", "forward") == 8.0 and found.time_us("peer", "forward") == 9.0
    assert found.time_us("naive", "forward") is None
    assert found.time_us("naive", "backward") == 150.0
    assert "commit abc" in machine(results) and "commit later" in machine(results)
    assert load(tmp_path, "dense") == []


def test_problems_stand_in_the_order_of_their_suite(tmp_path: Path) -> None:
    for name, i in (("a", 5), ("b", 0), ("c", 3)):
        measured = _measured(rows("cases")[i], "float16", {"fused": 8.0})
        write(tmp_path / f"{name}.json", HEAD, [measured])
    (results,) = load(tmp_path, "cases")
    assert [found.name for found in results.found] == ["A", "C", "D"]


def test_growth_tells_the_power_of_the_size(docs: Path) -> None:
    text = (docs / "generated" / "scaling.md").read_text()
    # Every time is the same here.
    assert text.count("| time grows as its power | -0.00 |") + text.count("power | 0.00 |") > 3


def test_the_longest_context_tells_why_it_ends(docs: Path) -> None:
    text = (docs / "generated" / "scaling.md").read_text()
    assert "| naive | float16 | forward | 524,288 | 0.099 | 0.00 | takes 200.0 GiB" in text
    assert "longest-h200.svg" in text and "| tokens, float16, forward, ms | fused | naive |" in text
    assert "| fused | float16 | forward | 33,554,432 | 0.010 | 0.00 | not tried |" in text


def test_pages_without_results_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert unmeasured(tmp_path) == [f"performance/{name}.md" for name in PAGES]
    write_pages(tmp_path)
    assert (tmp_path / "generated" / "performance.md").read_text() == ""
