"""What exhibits draw of made-up numbers, word by word, as it stands in drawn.yaml beside a test.

A test compares the numbers of a drawing with naive formulas. This keeps everything else from changing unseen: heads,
units, labels, captions, notes, and the order of them all. Where a change is wanted, run the test's whole file with
DRAW=1, which rewrites drawn.yaml, and read its diff.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.plain import first_difference, to_json
from common.report.exhibit import Drawn, ExhibitResult

PARTS = ("table", "caption", "notes", "units", "pictures")
_rewritten: dict[Path, dict[str, list[Any]]] = {}


def check_drawn(folder: Path, exhibit: str, drawn: Drawn | ExhibitResult) -> None:
    """`drawn` is one of the drawings of `exhibit` that drawn.yaml in `folder` holds."""
    found, file = _rounded(to_json({part: getattr(drawn, part) for part in PARTS})), folder / "drawn.yaml"
    if "DRAW" in os.environ:
        drawings = _rewritten.setdefault(file, {}).setdefault(exhibit, [])
        if found not in drawings:
            drawings.append(found)
            style = {"width": 120, "allow_unicode": True, "default_flow_style": None, "sort_keys": False}
            file.write_text(yaml.safe_dump(_rewritten[file], **style), encoding="utf-8")
    else:
        drawings = _read(file).get(exhibit, [])
    same = (json.dumps(each) == json.dumps(found) for each in drawings)  # the order of names counts, too
    assert any(same), [first_difference(each, found) for each in drawings]


@cache
def _read(file: Path) -> dict[str, list[Any]]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _rounded(value: Any) -> Any:
    """Numbers to seven digits: other machines differ in the last ones."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value
