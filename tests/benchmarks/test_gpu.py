"""The command for a GPU, dry: every part runs on the CPU, is kept, and is not done twice."""

import json
import tarfile

import pytest
import torch

from benchmarks import gpu
from common.cli import run


def _run(out, *more):
    run(gpu.main, gpu.Options, ["--out", str(out), *more])
    return json.loads((out / "gpu.json").read_text())


def test_parts_are_kept_told_and_resumed(tmp_path, monkeypatch, capsys):
    calls = []

    def part(machine):
        calls.append(machine.device)
        return {"done": len(calls) > 1, "images_per_second": 3.0}

    def broken(_):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(gpu, "agreements", lambda: [("equal-one", lambda _: {"equal": True})])
    monkeypatch.setattr(gpu, "measurements", list)
    monkeypatch.setattr(gpu, "training", part)
    record = _run(tmp_path, "--dry")
    assert (record["dry"], record["left"]) == (True, ["training"])
    assert record["environment"]["cpu"]
    assert record["parts"]["training"]["images_per_second"] == 3.0
    assert _run(tmp_path, "--dry")["left"] == []  # goes on with what is not done
    _run(tmp_path, "--dry")
    assert calls == ["cpu", "cpu"]
    with tarfile.open(tmp_path / "gpu.tar.gz") as packed:
        assert {"gpu.json", "parts/equal-one.json", "parts/training.json"} == set(packed.getnames())

    # what fails or differs is told at the end, and the rest is done
    monkeypatch.setattr(gpu, "agreements", lambda: [("equal-two", broken), ("equal-three", lambda _: {"equal": False})])
    with pytest.raises(SystemExit) as ended:
        _run(tmp_path, "--dry")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "error: equal-two, equal-three: see" in told
    assert "failed RuntimeError: CUDA error" in told


def test_without_a_gpu_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, says in ((), "finds no GPU"), (("--dry", "--minutes", "0"), "--minutes must be positive"):
        with pytest.raises(SystemExit):
            _run(tmp_path, *arguments)
        assert says in capsys.readouterr().err


def test_what_differs_is_noticed(monkeypatch):
    machine = gpu.Machine("cpu", True, None, "scenes", 0.0)
    assert gpu.agreement("detofa network", machine)["equal"]
    right, noise = torch.nn.Conv2d.forward, torch.Generator().manual_seed(0)

    def drifting(self, images):  # as if the second device computed something else
        outputs = right(self, images)
        return outputs + 0.3 * torch.randn(outputs.shape, generator=noise)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", drifting)
    found = gpu.agreement("detofa network", machine)
    assert not found["equal"]
    assert found["differences"]["loss"] > found["limits"]["loss"]


@pytest.mark.slow
def test_dry_run_of_every_part(tmp_path):
    record = _run(tmp_path, "--dry", "--minutes", "60")
    assert record["left"] == []
    parts = record["parts"]
    assert len(parts) == len([*gpu.agreements(), *gpu.measurements()]) + 1
    assert not any("failed" in part for part in parts.values())
    assert all(part["equal"] for name, part in parts.items() if name.startswith("equal-"))
    assert parts["step-detofa-supernet-nano"]["share_of_ceiling"] > 0
    assert parts["torchvision-320"]["batch 1"]["ratio"] > 0
    assert parts["training"]["result"]["found"]
