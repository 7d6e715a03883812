"""A detector of torchvision's as the base of a search: taken over, evolved by every action, trained with a teacher."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common.models.torchvision_weights import COCO_CATEGORIES
from common.plain import InputError
from joint_detnas.method import (
    AddLayer,
    ChannelPruning,
    LayerPruning,
    Pupil,
    Rearrange,
    TeacherPool,
    backbone_cost,
    both_stages,
    described,
    evolve,
)
from joint_detnas.study import JointDetNASStudy, read_base
from tests.joint_detnas.conftest import tiny_options

ACTIONS = (AddLayer(2, 2), ChannelPruning(10.0), LayerPruning(), Rearrange(3, 1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of torchvision's with random weights, the heads' larger than a fresh network's."""
    torch.manual_seed(0)
    network = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=0.05)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.1)
    with torch.no_grad():
        network.backbone.train()(torch.randn(2, 3, 64, 64))
    file = tmp_path_factory.mktemp("torchvision") / "fasterrcnn.pth"
    torch.save(network.state_dict(), file)
    return file


def coco_folder(folder: Path, names) -> str:
    """A few noisy images with an object each as a data set on disk, their classes called `names`; as --data."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    categories, noise = [{"id": each, "name": name} for each, name in enumerate(names, 1)], np.random.default_rng(0)
    for split, number in (("train", 10), ("val", 2)):
        content = {"images": [], "annotations": [], "categories": categories}
        for image in range(number):
            file = f"{split}{image}.png"
            Image.fromarray(noise.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / "images" / file)
            content["images"].append({"id": image, "file_name": file, "height": 32, "width": 32})
            place = {"bbox": [8, 4, 16, 20], "area": 320, "iscrowd": 0}
            content["annotations"].append(
                {"id": image, "image_id": image, "category_id": 1 + image % len(names)} | place
            )
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return f"coco:{folder}"


@pytest.fixture
def small(tiny):
    """TINY with fewer images still, for the network is whole."""
    return replace(tiny, train_images=4, search_images=2, validation_images=2, batch_size=2, evaluation_batch_size=2)


@pytest.mark.slow
def test_torchvisions_weights_are_upgraded(weights, small, tmp_path):
    names = (*COCO_CATEGORIES[5:8], "person")
    options = tiny_options(tmp_path / "runs", coco_folder(tmp_path / "data", names), small)
    study = JointDetNASStudy(options, base=weights)
    assert study.base()["AP"] >= 0
    assert study.name.startswith("file-")
    student = read_base(study.base()["file"])
    assert student.categories == len(names)
    assert student.fpn.strides == (4, 8, 16, 32, 64), "the teachers' levels"
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        before = student.fpn(student.eval().backbone(images))
    cost = backbone_cost(student.backbone.architecture, (64, 32)).macs_mmdet
    assert study.base()["backbone_macs_mmdet"] == cost

    evolved = {action.kind: evolve(student, action) for action in ACTIONS}
    blocks = {kind: each.backbone.architecture.blocks for kind, each in evolved.items()}
    assert blocks == {"add-layer": 17, "channel pruning": 16, "layer pruning": 15, "rearrange": 16}
    costs = {kind: backbone_cost(each.backbone.architecture, (64, 32)).macs_mmdet for kind, each in evolved.items()}
    assert costs["add-layer"] > cost > max(costs["channel pruning"], costs["layer pruning"])
    with torch.no_grad():
        after = {kind: each.fpn(each.backbone(images)) for kind, each in evolved.items()}
    for kind, maps in after.items():
        same = all(torch.allclose(one, other, atol=1e-5) for one, other in zip(maps, before, strict=True))
        assert same == (kind == "add-layer"), kind
        assert all(each.isfinite().all() for each in maps)

    pool = TeacherPool(small.teachers, len(names), *both_stages(small.detector))
    teacher = pool.extract(*described(small.teachers, small.teachers.largest())).eval()
    pupil = Pupil(evolved["channel pruning"].train(), teacher.fpn.width).requires_grad_(True)
    batch = next(study.training_batches((64, 32), 2).epoch(0))
    losses = pupil.losses(batch, teacher, small.distillation, 1e-5)
    losses["loss"].backward()
    assert losses["gamma"] > 0
    assert all(value.isfinite() for value in losses.values())
    gammas = [layer.weight for layer in pupil.student.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all(gamma.grad.abs().sum() > 0 for gamma in gammas)


def test_classes_that_coco_has_not_are_refused(weights, small, tmp_path):
    with pytest.raises(
        InputError, match=r"fasterrcnn.pth is not taken over: it was trained on COCO, which has no class"
    ):
        _ = JointDetNASStudy(tiny_options(tmp_path, preset=small), base=weights).name
