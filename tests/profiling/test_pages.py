"""Tables of the documentation, from files of results."""

from __future__ import annotations

import json
from pathlib import Path

from cupyna.profiling.pages import page

TIMES = {"median_us": 1500.0, "least_us": 1400.0, "most_us": 1600.0}
SLOWER = {**TIMES, "median_us": 3000.0}


def test_a_file_of_results_becomes_a_table(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    measurement = {
        "case": "H", "dtype": "float16", "batch": 32, "heads": 4, "head_dim": 32,
        "spatial": [112, 112], "kernel_size": [7, 7], "dilation": [8, 8],
        "pieces": {
            "forward": {"cupyna": TIMES, "peer 1.0": SLOWER, "peer_over_ours": 2.0},
            "qk": {"cupyna": TIMES, "peer_over_ours": None},
        },
    }  # fmt: skip
    document = {
        "what": "medians, microseconds", "rounds": 7, "gpus": ["H200"], "driver": "580",
        "versions": {"cupyna": "0.1.0"}, "commit": "abc", "measurements": [measurement],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    lines = page(path).splitlines()
    assert lines[0].startswith("H200, driver 580; cupyna 0.1.0; commit abc. 7 interleaved rounds")
    assert lines[-3] == "| case | problem | dtype | forward | qk |"
    assert lines[-2] == "|---|---|---|---|---|"
    assert lines[-1] == (
        "| H | batch 32, 4 heads x 32, 112x112, window 7x7, dilation 8 | float16 "
        "| 1.500; peer 1.0 3.000 (2.0x) | 1.500 |"
    )
