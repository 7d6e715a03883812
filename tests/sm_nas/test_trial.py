"""One detector trained and measured: parts of a batch, pre-trained weights, and going on after a kill."""

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.batch import Batch
from common.data.source import SCENES_DEFAULTS
from common.plain import InputError
from common.settings import Optimisation
from common.train import laboratory as shared
from common.train.laboratory import LATENCY_ROUNDS
from common.train.run_folder import Run
from sm_nas import trial
from sm_nas.method import Structure
from sm_nas.networks import build_backbone
from sm_nas.presets import SMOKE, Preset, Strategy, preset
from sm_nas.trial import Laboratory, Trial, in_parts

ROOT = Path(__file__).resolve().parents[2]
RETINANET = Structure("resnet18", (32, 32), (2, 4), 16, None, 0)
CASCADE = Structure("basicblock_12_12-1-21-12", (32, 32), (1, 5), 16, "rpn", 2)
SCRATCH = SMOKE.stage_two_training


@pytest.fixture
def laboratory(tiny, data, tmp_path, steady) -> Laboratory:
    return Laboratory(tiny, data, 0, tmp_path / "runs")


def test_parts_of_a_batch_are_the_batch(device):
    batch = Batch(
        images=torch.randn(5, 3, 4, 4),
        boxes=torch.randn(5, 2, 4),
        labels=torch.arange(10).view(5, 2),
        valid=torch.ones(5, 2, dtype=torch.bool),
        index=torch.arange(5),
        scale=torch.ones(5),
    ).to(device)
    parts = list(in_parts(batch, 2))
    assert [part.index.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    for name, whole in vars(batch).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)
    assert [part.index.tolist() for part in in_parts(batch, 8)] == [[0, 1, 2, 3, 4]]


# ---- what training is given


@pytest.fixture
def asked(monkeypatch):
    """What `fit` would have been given: nothing is trained."""
    caught = SimpleNamespace()

    def instead(run, stage, network, batches, losses, training):
        vars(caught).update(network=network, batches=batches, losses=losses, optimisation=training.optimisation)

    monkeypatch.setattr(trial, "fit", instead)
    return caught


def test_batch_norm_sees_a_part_and_the_gradient_is_the_mean_of_the_parts(laboratory, asked, tmp_path):
    strategy = Strategy("batch", False, Optimisation(epochs=1), images_a_device=2, devices=3)
    with Run.open(tmp_path / "run", {}) as run:
        laboratory.train(run, "detector", Trial(RETINANET, strategy))
    batch, network, seen = next(asked.batches.epoch(0)), asked.network.train(), []
    assert len(batch.labels) == strategy.batch_size == 6
    other = copy.deepcopy(network)
    handle = network.backbone.bn1.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for values in asked.losses(batch, None):
        values["loss"].backward()
    handle.remove()
    assert seen == [2, 2, 2]

    gradients = [torch.zeros_like(parameter) for parameter in other.parameters()]
    for first in (0, 2, 4):
        part = Batch(**{name: value[first : first + 2] for name, value in vars(batch).items()})
        other.zero_grad()
        trial.losses_of(other)(other(part.images), part)["loss"].backward()
        for total, parameter in zip(gradients, other.parameters(), strict=True):
            total += 0 if parameter.grad is None else parameter.grad / 3
    for (name, parameter), expected in zip(network.named_parameters(), gradients, strict=True):
        if parameter.grad is not None:
            assert (parameter.grad - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name
    assert torch.equal(network.backbone.bn1.running_mean, other.backbone.bn1.running_mean)


@pytest.mark.parametrize("pretrained", [True, False])
def test_training_starts_from_the_pretrained_backbone_where_the_strategy_says_so(
    laboratory, asked, tmp_path, monkeypatch, pretrained
):
    torch.manual_seed(5)
    weights = build_backbone("resnet18", SMOKE.detector).state_dict()
    monkeypatch.setattr(Laboratory, "pretrained", lambda *_: weights)
    with Run.open(tmp_path / "run", {}) as run:
        laboratory.train(run, "detector", Trial(RETINANET, replace(SMOKE.final_training, pretrained=pretrained)))
    fresh = laboratory.detector(RETINANET).state_dict()
    for name, tensor in asked.network.state_dict().items():
        part, _, rest = name.partition(".")
        expected = weights[rest] if pretrained and part == "backbone" else fresh[name]
        assert torch.equal(tensor, expected), name
    assert asked.optimisation == SMOKE.final_training.optimisation


def _with_random_statistics(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return module


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "Xbottleneck_12_12-11-21-112", "MBblock_16_2-1-2-12"])
def test_without_an_fpn_the_stage_on_regions_is_pretrained_too(laboratory, backbone):
    torch.manual_seed(5)
    whole = _with_random_statistics(build_backbone(backbone, SMOKE.detector)).eval()
    network = laboratory.detector(Structure(backbone, (64, 64), None, None, "rpn", 2)).eval()
    laboratory._load_backbone(network, whole.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.backbone(images)
        expected = whole(images)
        assert len(features) == 3
        for feature, other in zip((*features, network.roi.shared(features[-1])), expected, strict=True):
            torch.testing.assert_close(feature, other)


def test_pretraining_is_done_once_and_kept(laboratory, monkeypatch):
    weights = laboratory.pretrained("resnet18")
    monkeypatch.setattr(shared, "fit", lambda *_, **__: pytest.fail("the backbone was trained again"))
    again = laboratory.pretrained("resnet18")
    assert weights.keys() == again.keys() == build_backbone("resnet18", SMOKE.detector).state_dict().keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    laboratory.pretrain("resnet18")
    run = Run.read(laboratory.folder / f"classification-resnet18-s{laboratory.seed}")
    assert run.result["seconds"] > 0


def test_weights_of_another_pretraining_are_not_taken_for_these(laboratory):
    laboratory.pretrained("resnet18")
    tiny = laboratory.preset
    for other, field in (
        (replace(tiny, classification=replace(tiny.classification, epochs=3)), "settings.epochs"),
        (replace(tiny, train_images=tiny.train_images - 1), "training_set"),
    ):
        with pytest.raises(InputError, match=rf"classification-resnet18-s0 holds a run with {field} = "):
            replace(laboratory, preset=other).pretrained("resnet18")


def test_detectors_are_timed_in_turn(laboratory, monkeypatch):
    asked, pace = [], iter(range(1, 100))

    def latency_at(_, network, size, where):
        asked.append((network, size, where))
        return {"latency": float(next(pace)), "latency_of": {"runs": 1}}

    monkeypatch.setattr(shared.Laboratory, "latency_at", latency_at)
    timed = laboratory.latencies_in_turn({"one": ("A", (64, 32)), "other": ("B", (32, 32))}, "validation")
    assert asked == [("A", (64, 32), "validation"), ("B", (32, 32), "validation")] * LATENCY_ROUNDS
    assert timed["one"]["rounds"] == [float(each) for each in range(1, 2 * LATENCY_ROUNDS, 2)]
    assert timed["other"]["latency"] == timed["one"]["latency"] + 1
    assert timed["one"]["latency_of"] == {"runs": 1}


# ---- data


def test_held_out_images_are_no_training_images_and_the_same_for_every_seed(tiny, data, tmp_path):
    one, two = (Laboratory(tiny, data, seed, tmp_path) for seed in (0, 1))
    assert one.sets["search"].fingerprint() == two.sets["search"].fingerprint()
    assert len(one.sets["search"]) == tiny.search_images
    assert not set(one.training_set.image_ids.tolist()) & set(one.sets["search"].image_ids.tolist())
    assert len(one.sets["validation"]) == tiny.validation_images


@pytest.mark.parametrize("name", ["smoke", "nano", "mini"])
def test_the_scenes_are_many_enough_for_all_held_out_images_of_a_scale(name, tmp_path):
    settings = preset(name)
    scenes = Laboratory(settings, "scenes", 0, tmp_path)
    assert len(scenes.sets["search"]) == settings.search_images
    assert len(scenes.training_set) == (settings.train_images or SCENES_DEFAULTS["train"] - settings.search_images)


def test_a_small_set_is_repeated_to_the_length_of_an_epoch(tiny, tmp_path):
    longer = Laboratory(replace(tiny, train_images=40), "scenes:train=20,val=8,size=32", 0, tmp_path)
    ids = longer._source.epoch.image_ids.tolist()
    assert (len(longer.training_set), len(longer.sets["search"])) == (16, 4), "a fifth is held out"
    assert len(ids) == 40
    assert ids[:16] == ids[16:32]


def test_too_few_images_are_said(tiny, tmp_path):
    with pytest.raises(InputError, match=r"has 4 training images, and 20% of them.* give at least 5"):
        _ = Laboratory(tiny, "scenes:train=4,val=8,size=32", 0, tmp_path).training_set


# ---- trained and measured


def test_what_is_said_of_a_trial(laboratory, tmp_path):
    said = laboratory.train_and_measure(Trial(CASCADE, SCRATCH), tmp_path / "one")
    again = laboratory.train_and_measure(Trial(CASCADE, SCRATCH), tmp_path / "one")
    assert not list(tmp_path.iterdir()), "what was measured is all that stays"
    assert (said["AP"], said["losses"]) == (again["AP"], again["losses"])
    assert said.items() >= laboratory.describe(CASCADE).items()
    assert all(0 <= said[name] <= 1 for name in ("AP", "AP50", "AR100"))
    on_validation = laboratory.train_and_measure(Trial(CASCADE, SCRATCH, "validation"), tmp_path / "other")
    assert on_validation["losses"] == said["losses"]
    assert on_validation["AR100"] != said["AR100"]


def test_half_a_folder_that_was_being_taken_away_is_no_obstacle(laboratory, tmp_path, monkeypatch):
    """A kill while the folder of a measured training goes: the training is done once more."""
    rmtree = shared.shutil.rmtree

    def killed(folder, **_):
        for file in Path(folder).glob("*.safetensors"):
            file.unlink()
        if Path(folder).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shared.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        laboratory.train_and_measure(Trial(CASCADE, SCRATCH), tmp_path / "one")
    monkeypatch.setattr(shared.shutil, "rmtree", rmtree)
    measured = laboratory.train_and_measure(Trial(CASCADE, SCRATCH), tmp_path / "one")
    assert measured["AP"] >= 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_trial_goes_on_to_the_same_numbers(laboratory, tiny, data, tmp_path, monkeypatch):
    """SIGKILL at the third of four steps, in a process of its own; then on in this one."""
    longer = _longer(tiny)
    assert longer.optimisation.epochs * tiny.train_images // longer.batch_size == 4
    script = [sys.executable, __file__, str(tmp_path), data]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "trial" / "detector.state").is_file()

    steps = []
    monkeypatch.setattr(trial, "in_parts", lambda batch, size: steps.append(0) or in_parts(batch, size))
    resumed = laboratory.train_and_measure(Trial(CASCADE, longer), tmp_path / "trial")
    assert len(steps) == 2
    whole = laboratory.train_and_measure(Trial(CASCADE, longer), tmp_path / "whole")
    assert len(steps) == 6
    times = {"train_seconds", "train_cpu_seconds"}
    assert {k: v for k, v in resumed.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}


def _longer(preset: Preset) -> Strategy:
    return replace(SCRATCH, optimisation=replace(SCRATCH.optimisation, epochs=2))


def _killed_at_the_third_step(out: Path, data: str) -> None:
    from conftest import TINY, checkpoint_at_every_step

    checkpoint_at_every_step(pytest.MonkeyPatch())
    steps = []

    def parts(batch, size):
        steps.append(0)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return in_parts(batch, size)

    trial.in_parts = parts
    Laboratory(TINY, data, 0, out / "runs").train_and_measure(Trial(CASCADE, _longer(TINY)), out / "trial")


if __name__ == "__main__":
    _killed_at_the_third_step(Path(sys.argv[1]), sys.argv[2])
