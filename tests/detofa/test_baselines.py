"""OFA's progressive shrinking: its phases, its distillation, and a supernet that stays sorted and sound."""

import itertools

import numpy as np
import pytest
import torch

from common.batch import Batch
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNet, OFAResNetSpace
from common.settings import Optimisation
from common.train.run_folder import Run
from detofa.baselines import Phase, ShrinkingSettings, centernet_distillation, phase_operations, progressive_shrinking
from detofa.method import Operations, Task

SPACE = OFAResNetSpace(
    (1, 1, 1, 1),
    (0, 1),
    (0.5, 1.0),
    (0.25, 0.5),
    stage_widths=(16, 16, 32, 32),
    stem_width=8,
    channel_multiple=4,
    stage_strides=(1, 2, 1, 1),
)
CLASSES = 3


@pytest.mark.parametrize(
    "elastic", [c for size in range(4) for c in itertools.combinations(("depth", "expand", "width"), size)]
)
def test_a_phase_varies_its_choices_only(elastic):
    operations = phase_operations(SPACE, elastic)
    paths = operations.sample(400, np.random.default_rng(0))
    active = SPACE.active_layers(paths)
    values = {
        "depth": set(paths[:, SPACE.depth_columns].ravel().tolist()),
        "width": set(paths[:, SPACE.width_columns].ravel().tolist()),
        "expand": set(paths[:, SPACE.expand_columns][active].tolist()),
    }
    for name, found in values.items():
        assert found == ({0, 1} if name in elastic else {1}), name
    everything = np.stack(list(SPACE.enumerate()))
    assert operations.size() == operations.contains(everything).sum()
    assert phase_operations(SPACE, ()).size() == 1
    assert phase_operations(SPACE, ("depth", "expand", "width")).size() == Operations.all(SPACE).size()


def _maps(seed: int, device, scale: float = 3.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": CLASSES, "size": 2, "offset": 2}
    return {
        name: (scale * torch.randn(2, count, 6, 5, generator=generator)).to(device) for name, count in channels.items()
    }


def test_distillation_is_nothing_where_student_and_teacher_agree(device):
    maps = _maps(0, device)
    losses = centernet_distillation(maps, maps)
    assert set(losses) == {"loss", "heatmap", "size", "offset"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(0.0, abs=1e-5), name
        assert value.dtype == torch.float32


def test_distillation_equals_a_loop_over_cells(device):
    student, teacher = _maps(1, device), _maps(2, device)
    losses = centernet_distillation(student, teacher)
    p = 1 / (1 + np.exp(-teacher["heatmap"].double().cpu().numpy()))
    q = 1 / (1 + np.exp(-student["heatmap"].double().cpu().numpy()))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # of two coins, cell by cell
    expected = {"heatmap": divergence.sum() / p.sum()}
    best = p.max(axis=1)
    for name in ("size", "offset"):
        apart = np.abs((student[name] - teacher[name]).double().cpu().numpy()).mean(axis=1)
        expected[name] = (apart * best).sum() / best.sum()
    expected["loss"] = expected["heatmap"] + 0.1 * expected["size"] + expected["offset"]
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0


@pytest.mark.parametrize("scale", [3.0, 60.0])
def test_the_gradient_of_distillation_is_finite_and_leads_to_the_teacher(scale, device):
    teacher = _maps(3, device, scale)
    student = {name: value.requires_grad_() for name, value in _maps(4, device, scale).items()}
    before = centernet_distillation(student, teacher)["loss"]
    before.backward()
    assert before.isfinite()
    assert all(value.grad.isfinite().all() for value in student.values())
    assert all(value.grad.abs().sum() > 0 for value in student.values())
    with torch.no_grad():
        stepped = {name: value - 0.1 * value.grad for name, value in student.items()}
        assert centernet_distillation(stepped, teacher)["loss"] < before


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(4, 3, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 6 + 5 * torch.rand(4, 3, 2, generator=generator)], dim=-1)
    labels = torch.randint(CLASSES, (4, 3), generator=generator)
    return Batch(
        torch.randn(4, 3, 32, 32, generator=generator), boxes, labels, labels >= 0, torch.arange(4), torch.ones(4)
    )


class Batches:
    steps_per_epoch = 3

    def epoch(self, epoch, start=0):
        for step in range(start, 3):
            yield _batch(10 * epoch + step)


def _detector() -> CenterNet:
    torch.manual_seed(0)
    return CenterNet(OFAResNet(SPACE), CLASSES, (8,), 8, elastic=True)


SETTINGS = ShrinkingSettings(
    phases=(Phase("depth", 1, ("depth",)), Phase("width", 2, ("depth", "expand", "width"))),
    optimisation=Optimisation(epochs=1, optimiser="adam", learning_rate=1e-3, policy="multistep", milestones=(0.5,)),
)


def _shrink(folder, supernet, settings=SETTINGS):
    full = _detector()
    teacher = full.extract(SPACE.largest()).eval()
    task = Task(Batches(), centernet_losses, None)
    with Run.open(folder, {}) as run:
        reports = progressive_shrinking(run, supernet, teacher, task, centernet_distillation, settings, seed=0)
        return reports, run


def test_two_phases_of_shrinking(tmp_path, monkeypatch):
    supernet, activated, sorted_at = _detector(), [], []
    activate, sort = supernet.activate, supernet.sort_channels

    def sort_and_look():
        images = _batch(99).images
        supernet.eval()
        with torch.no_grad():
            activate(SPACE.largest())
            before = supernet(images)["heatmap"]
            sort()
            after = supernet(images)["heatmap"]
        supernet.train()
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
        for blocks in supernet.backbone.stages:
            for block in blocks:
                importance = block.expand.conv.weight.detach().abs().sum((0, 2, 3))
                assert (importance.diff() <= 1e-5).all()
        sorted_at.append(len(activated))

    monkeypatch.setattr(supernet, "activate", lambda path: (activated.append(np.array(path)), activate(path)))
    monkeypatch.setattr(supernet, "sort_channels", sort_and_look)
    reports, run = _shrink(tmp_path / "run", supernet)
    assert sorted_at == [0, 3], "sorted once before each phase"
    assert [report.steps for report in reports] == [3, 6]
    assert len(activated) == 9
    assert phase_operations(SPACE, ("depth",)).contains(np.stack(activated[:3])).all()
    assert len(np.unique(np.stack(activated[3:]), axis=0)) > 3
    assert all(tensor.isfinite().all() for tensor in supernet.state_dict().values())
    assert {"distillation", "loss", "heatmap"} <= set(reports[0].losses)
    learning_rates = [record["learning_rate"] for record in run.logged(stage="width")]
    assert learning_rates == pytest.approx([1e-4, 1e-4]), "milestones are shares of the phase"


def test_finished_phases_are_loaded_and_not_sorted_again(tmp_path, monkeypatch):
    first = _detector()
    _shrink(tmp_path / "run", first)
    again = _detector()
    monkeypatch.setattr(again, "sort_channels", lambda: pytest.fail("a finished phase was sorted again"))
    _shrink(tmp_path / "run", again)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_several_networks_a_step_share_its_gradient(tmp_path):
    settings = ShrinkingSettings(SETTINGS.phases[:1], SETTINGS.optimisation, networks_a_step=2)
    supernet, activated = _detector(), []
    activate = supernet.activate
    supernet.activate = lambda path: (activated.append(path), activate(path))
    reports, _ = _shrink(tmp_path / "two", supernet, settings)
    assert len(activated) == 6
    assert reports[0].steps == 3
