"""Two-stage detectors: torchvision's own losses with its weights, sampled anchors, cascades."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from common.models import roi_head
from common.models.boxes import encode
from common.models.matching import rows_at, sample
from common.models.norm import Norm
from common.models.roi_head import CASCADE, RoISettings, roi_losses
from common.models.rpn import Proposals
from common.models.torchvision_weights import faster_rcnn_of_torchvision
from common.models.two_stage import two_stage_losses
from tests.common.models.families import CLASSES, SIDE, make_batch, torchvision_faster_rcnn
from tests.common.models.test_anchor_detectors import KINDS, cascade, two_stage

CANVAS = (SIDE, SIDE)


class SameSample:
    """Stands in for torchvision's sampler: draws as ours does, from the same generator."""

    def __init__(self, generator: torch.Generator, count: int, positive_share: float) -> None:
        self.arguments = count, positive_share, generator

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        labels = torch.stack(labels)
        drawn = sample(labels.sign().to(torch.int8), *self.arguments)
        masks = []
        for wanted in (drawn.positive, drawn.valid & ~drawn.positive):
            mask = torch.zeros_like(labels, dtype=torch.uint8)
            masks.append([*mask.scatter_(1, drawn.index, wanted.to(torch.uint8))])
        return masks[0], masks[1]


def test_same_losses_and_gradients_as_torchvision_on_the_same_samples():
    theirs = torchvision_faster_rcnn(make_batch(9).images, CLASSES + 1).train()
    ours = faster_rcnn_of_torchvision(theirs.state_dict()).train()
    ours.rpn.settings = replace(ours.rpn.settings, samples=64, proposals=(60, 60))
    ours.roi.settings = replace(ours.roi.settings, samples=40)
    theirs.rpn._post_nms_top_n = {"training": 60, "testing": 60}
    generator = torch.Generator().manual_seed(1)
    theirs.rpn.fg_bg_sampler = SameSample(generator, 64, 0.5)
    theirs.roi_heads.fg_bg_sampler = SameSample(generator, 40, 0.25)
    # they draw for the RPN's loss after they propose, but before the second stage, as we do
    batch = make_batch()
    batch = replace(batch, valid=torch.ones_like(batch.valid))
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    expected = theirs(list(batch.images), targets)
    found = two_stage_losses(ours(batch.images), batch, torch.Generator().manual_seed(1))
    names = {"rpn_objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}
    names |= {"roi_class": "loss_classifier", "roi_box": "loss_box_reg"}
    for name, their_name in names.items():
        torch.testing.assert_close(found[name], expected[their_name], atol=1e-5, rtol=1e-4)
        assert found[name] > 0
    torch.testing.assert_close(found["loss"], sum(expected.values()))
    found["loss"].backward()
    sum(expected.values()).backward()
    pairs = [
        (ours.backbone.conv1.weight, theirs.backbone.body.conv1.weight),
        (ours.backbone.layer4[2].conv3.weight, theirs.backbone.body.layer4[2].conv3.weight),
        (ours.fpn.laterals[0].weight, theirs.backbone.fpn.inner_blocks[0][0].weight),
        (ours.fpn.outputs[3].weight, theirs.backbone.fpn.layer_blocks[3][0].weight),
        (ours.rpn.conv.weight, theirs.rpn.head.conv[0][0].weight),
        (ours.roi.heads[0].hidden[1].weight, theirs.roi_heads.box_head.fc7.weight),
        (ours.roi.heads[0].codes.weight, theirs.roi_heads.box_predictor.bbox_pred.weight[4:]),
    ]
    theirs_last = theirs.roi_heads.box_predictor.bbox_pred.weight.grad[4:]
    for index, (mine, other) in enumerate(pairs):
        gradient = theirs_last if index == len(pairs) - 1 else other.grad
        assert (mine.grad - gradient).abs().max() < 2e-3 * gradient.abs().max(), index


@pytest.mark.parametrize("kind", ["regular", "no pyramid", "group norm"])
def test_sampled_anchors_are_the_dense_ones(kind):
    """The gradient at the sampled anchors, which avoids the dense backward pass, is that of the dense maps."""
    network = KINDS[kind]().double()
    maps = tuple(m.detach().requires_grad_() for m in network.fpn(network.backbone(make_batch().images.double())))
    sparse = network.rpn(maps)
    index = torch.stack([torch.randperm(sparse["codes"].shape[1])[:200] for _ in range(2)])
    index[:, -15:] = sparse["codes"].shape[1] - 1 - torch.arange(15)  # the coarsest level, corners
    index[:, 0] = 0
    found = network.rpn.at(maps, sparse, index)
    network.rpn.norm = Norm()  # any norm: the maps are dense then
    dense = network.rpn(maps)
    expected = dense["objectness"].gather(1, index), rows_at(dense["codes"], index)
    torch.testing.assert_close(found, expected)
    leaves = [*maps, *network.rpn.parameters()]
    weights = [torch.randn_like(each) for each in found]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(said, weights, strict=True)), leaves, allow_unused=True)
        for said in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_cascade_follows_the_paper():
    assert [stage.overlap for stage in RoISettings.cascade(4).stages] == [0.5, 0.6, 0.7, 0.8]
    assert [stage.weight for stage in RoISettings.cascade(3).stages] == [1, 0.5, 0.25]
    assert CASCADE[1].deviations == (0.05, 0.05, 0.1, 0.1)
    network = two_stage(roi=cascade(3))
    assert [head.codes.out_features for head in network.roi.heads] == [4, 4, 4]


@pytest.mark.parametrize("handed_on", [False, True])
def test_objects_own_boxes_are_given_to_every_stage_afresh(monkeypatch, handed_on):
    network, batch, given = two_stage(roi=cascade(3, objects_handed_on=handed_on)), make_batch(), []
    objects = batch.boxes, batch.labels, batch.valid
    maps = network.fpn(network.backbone(batch.images))
    draw = roi_head.sample_regions
    monkeypatch.setattr(roi_head, "sample_regions", lambda *args: given.append(args[0]) or draw(*args))
    roi_losses(network.roi, maps, Proposals(batch.boxes[:, :0], batch.valid[:, :0]), objects, CANVAS)
    own = batch.valid.sum(dim=1)
    assert [each.valid.sum(dim=1).tolist() for each in given[1:]] == [(n * own * handed_on).tolist() for n in (1, 2)]


@pytest.mark.parametrize("averaged", ["logits", "probabilities"])
def test_what_the_heads_of_a_cascade_say_is_averaged(averaged):
    network, batch = two_stage(roi=cascade(3, averaged=averaged)).eval(), make_batch()
    for head in network.roi.heads:
        torch.nn.init.normal_(head.classes.weight)
    maps, boxes, logits = network.fpn(network.backbone(batch.images)), batch.boxes, []
    for stage in range(3):
        said, codes = network.roi(maps, boxes, stage)
        logits.append(said)
        before, boxes = boxes, network.roi.refine(boxes, said, codes, stage, CANVAS)
    found, _, regions = network.roi.predict(maps, batch.boxes, CANVAS)
    expected = {"logits": sum(logits).div(3).softmax(-1), "probabilities": sum(x.softmax(-1) for x in logits) / 3}
    torch.testing.assert_close(found, expected[averaged])
    assert torch.equal(regions, before)


@pytest.mark.parametrize("class_specific", [False, True])
def test_a_stage_hands_the_box_of_the_likeliest_class_on(class_specific):
    network, batch = two_stage(roi=cascade(2, class_specific=class_specific)), make_batch()
    B, R = batch.labels.shape
    proposals = batch.boxes + torch.tensor([4.0, -3, 5, 2])
    right = encode(batch.boxes, proposals, network.roi.settings.stages[0].deviations)
    codes = right.unsqueeze(2)
    if class_specific:
        codes = torch.full((B, R, CLASSES, 4), 9.0)
        codes[torch.arange(B)[:, None], torch.arange(R), batch.labels] = right
    logits = F.one_hot(batch.labels, CLASSES + 1).float()
    logits[..., -1] = 5.0  # the background may well be likelier than any class
    moved = network.roi.refine(proposals, logits, codes, 0, CANVAS)
    torch.testing.assert_close(moved, clip_boxes_to_image(batch.boxes, CANVAS))


def test_without_a_pyramid_the_last_stage_is_the_head():
    network = two_stage(fpn=False)
    assert network.fpn.strides == (16,)
    assert network.rpn.anchors.per_cell == 15
    assert len(network.backbone.stages) == 3
    assert network.roi.bins == 14
    maps = network.fpn(network.backbone(torch.randn(1, 3, *CANVAS)))
    assert network.roi.features(maps, torch.tensor([[[3.0, 4, 60, 70]]])).shape == (1, 1, 64)
