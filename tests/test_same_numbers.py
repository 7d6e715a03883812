"""The same seed gives the same numbers to the bit, but for times: again, and on a Ray cluster."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

TIMES = ("second", "latency", "time", "memory", "rounds", "reference")
"""Parts of the names of what no seed decides."""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if not any(part in name for part in TIMES)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def numbers(folder: Path) -> dict[str, Any]:
    """Every file of every run, by its name: weights by their digest, candidates in whatever order they ended."""
    found = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(file.relative_to(folder))
        if file.suffix == ".safetensors":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix == ".jsonl":
            found[name] = sorted(json.dumps(without_times(json.loads(line))) for line in file.open())
        elif file.name in ("result.json", "uses.json") or file.parent.name == "stages":
            found[name] = without_times(json.loads(file.read_text()))
    return found


def detofa(out: Path, first: Path | None, **how: Any) -> Path:
    from detofa.presets import Options
    from detofa.study import DetOFAStudy

    study = DetOFAStudy(Options(out=out, device="cpu", **how), 0)
    study.result("ours")
    return study.folder


def sm_nas(out: Path, first: Path | None, **how: Any) -> Path:
    from sm_nas.study import SMNAS
    from tests.sm_nas.conftest import tiny_options

    study = SMNAS(replace(tiny_options(out), latencies=first, **how))
    study.stage_two(0)
    return study.folder


def joint_detnas(out: Path, first: Path | None, **how: Any) -> Path:
    from joint_detnas.study import JointDetNASStudy
    from tests.joint_detnas.conftest import tiny_options

    study = JointDetNASStudy(replace(tiny_options(out), **how))
    study.search()
    return study.folder


@pytest.fixture(scope="module", params=[detofa, sm_nas, joint_detnas], ids=lambda paper: paper.__name__)
def searched(request, tmp_path_factory):
    """A paper's search, by which another folder is filled, and the folder that it filled first."""
    return request.param, request.param(tmp_path_factory.mktemp("first"), None)


HOW = {"again": {}, "ray": {"executor": "ray"}, "ray-store": {"executor": "ray", "files": "store"}}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_the_same_numbers(tmp_path, searched, how):
    if HOW[how]:
        ray = pytest.importorskip("ray", reason="Ray is not installed: make test-cluster installs it and runs this")
        if not ray.is_initialized():
            ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    search, first = searched
    expected, found = numbers(first), numbers(search(tmp_path, first, **HOW[how]))
    assert len(expected) > 5
    assert found == expected
    environments = [json.loads(file.read_text()) for file in first.glob("*/environment.json")]
    assert all(each["threads"] >= 1 and each["processes"] == 1 for each in environments)
