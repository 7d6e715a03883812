"""Guided anchoring's targets and loss against plain loops written from their definitions."""

import math

import pytest
import torch
import torchvision

from common.models.anchors import Anchors
from common.models.guided_anchoring import (
    GuidedRPN,
    GuidedSettings,
    bounded_iou_loss,
    guided_rpn_losses,
    location_targets,
    shaped,
)
from common.models.matching import NEGATIVE, POSITIVE, MatchSettings, match

STRIDES = (8, 16)
MAPS = [torch.zeros(2, 1, 12, 16), torch.zeros(2, 1, 6, 8)]  # images of 96x128


def objects() -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.tensor([[10.0, 12, 70, 60], [40, 5, 60, 90], [3, 3, 120, 92], [122, 90, 128, 96]])
    return torch.stack([boxes, boxes.flip(0)]), torch.tensor([[True, True, True, True], [True, False, False, True]])


def test_locations_equal_loops():
    settings = GuidedSettings(base=4, centre=0.2, ignore=0.5)
    boxes, valid = objects()
    located, weight = location_targets(MAPS, STRIDES, boxes, valid, settings)
    for image in range(2):
        start = 0
        for index, (each, stride) in enumerate(zip(MAPS, STRIDES, strict=True)):
            for y in range(each.shape[2]):
                for x in range(each.shape[3]):
                    middle = around = False
                    for box in boxes[image][valid[image]].tolist():
                        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
                        level = min(max(round(math.log2(side / 32)), 0), 1)
                        inside = [inside_share(box, share, stride, x, y, each.shape) for share in (0.2, 0.5)]
                        middle |= level == index and inside[0]
                        around |= abs(level - index) <= 1 and inside[1]
                    cell = start + y * each.shape[3] + x
                    assert located[image, cell] == middle
                    assert weight[image, cell] == pytest.approx(1 if middle else 0 if around else 0.1)
            start += each.shape[2] * each.shape[3]
    assert located.any(dim=1).all()
    assert located[:, 12 * 16 - 1].all()  # the small object in the corner, where cells are rounded past the map
    assert {round(each, 3) for each in weight.flatten().tolist()} == {0, 0.1, 1}


def test_the_location_loss_is_focal_over_a_two_hundredth_of_the_cells():
    rpn, (boxes, valid) = GuidedRPN(4, STRIDES, GuidedSettings(base=4)), objects()
    maps = [torch.randn(2, 4, *each.shape[2:]) for each in MAPS]
    outputs = rpn(maps)
    located, weight = location_targets(maps, STRIDES, boxes, valid, rpn.settings)
    p = outputs["location"].double().sigmoid()
    focal = torch.where(located, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    expected = (focal * weight).sum() / (2 * (12 * 16 + 6 * 8) / 200)
    found = guided_rpn_losses(rpn, maps, outputs, boxes, valid)["rpn_location"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def inside_share(box: list[float], share: float, stride: int, x: int, y: int, shape: torch.Size) -> bool:
    left, top, right, bottom = (side / stride for side in box)
    cut = (1 - share) / 2
    columns = round(left + cut * (right - left)), round(right - cut * (right - left))
    rows = round(top + cut * (bottom - top)), round(bottom - cut * (bottom - top))
    last_row, last_column = shape[2] - 1, shape[3] - 1
    columns, rows = [min(each, last_column) for each in columns], [min(each, last_row) for each in rows]
    return columns[0] <= x <= columns[1] and rows[0] <= y <= rows[1]


def test_cells_overlap_as_the_best_of_their_anchors():
    fixed = Anchors.octaves(STRIDES, 4, 3)
    boxes, valid = objects()
    found = match(fixed.of_maps(MAPS, STRIDES), boxes, valid, MatchSettings(0.5, 0.4), group=9)
    anchors = fixed.of_maps(MAPS, STRIDES).view(-1, 9, 4)
    for image in range(2):
        there = boxes[image][valid[image]]
        overlaps = torch.stack([torchvision.ops.box_iou(cell, there).amax() for cell in anchors])
        assert torch.equal(found.state[image] == POSITIVE, overlaps >= 0.5)
        assert torch.equal(found.state[image] == NEGATIVE, overlaps < 0.4)


def test_bounded_iou_loss_equals_its_formula():
    box, target, beta = (10.0, 20.0, 50.0, 44.0), (14.0, 10.0, 44.0, 50.0), 0.2
    expected = 0.0
    for low, high in ((0, 2), (1, 3)):
        size, goal = box[high] - box[low], target[high] - target[low]
        shift = abs((target[high] + target[low]) - (box[high] + box[low])) / 2
        costs = (
            1 - max(0.0, (goal - 2 * shift) / (goal + 2 * shift + 1e-3)),
            1 - min(goal / (size + 1e-3), size / (goal + 1e-3)),
        )
        expected += sum(0.5 * c * c / beta if c < beta else c - 0.5 * beta for c in costs)
    found = bounded_iou_loss(torch.tensor(box), torch.tensor(target), beta)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert bounded_iou_loss(torch.tensor(target), torch.tensor(target), beta) < 1e-6


def test_shapes_start_as_squares_and_grow_by_deviation():
    rpn = GuidedRPN(4, STRIDES, GuidedSettings(base=4))
    squares = rpn.anchors.of_maps(MAPS, STRIDES)
    assert torch.equal(shaped(torch.zeros(1, len(squares), 2), squares)[0], squares)
    grown = shaped(torch.tensor([[[1.0, -1.0]]]) / 0.14 * math.log(2), squares[:1])[0, 0]
    torch.testing.assert_close(grown, torch.tensor([-32.0, -8, 32, 8]))


def test_unlikely_locations_do_not_propose():
    rpn = GuidedRPN(4, STRIDES, GuidedSettings(proposals=(20, 20), least_location=0.5)).eval()
    maps = [torch.randn(2, 4, *each.shape[-2:]) for each in MAPS]
    assert not rpn.propose(maps, rpn(maps), (96, 128)).valid.any()
    assert rpn.train().propose(maps, rpn(maps), (96, 128)).valid.any()
