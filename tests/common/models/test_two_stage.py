"""Two-stage detectors: torchvision's own results with its weights, and what they promise beyond."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from common.batch import Batch, Detections
from common.models.boxes import clip, encode
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.guided_anchoring import GuidedSettings
from common.models.matching import pick, sample
from common.models.mobilenet import MobileNetV2
from common.models.norm import Norm
from common.models.resnet import ResNet
from common.models.roi_head import CASCADE, RoISettings
from common.models.rpn import RPNSettings
from common.models.torchvision_weights import ROI_SETTINGS, RPN_SETTINGS, faster_rcnn_of_torchvision
from common.models.two_stage import TwoStage, two_stage_losses
from common.plain import InputError

CLASSES = 5
SIZE = (96, 128)
LOSSES = ["loss", "rpn_objectness", "rpn_box", "roi_class", "roi_box"]
RPN = RPNSettings(samples=64, candidates=(200, 100), proposals=(100, 50))


def random_batch(seed: int = 0, count: int = 2, boxes: int = 6, classes: int = CLASSES) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    size = torch.rand(count, boxes, 2, generator=generator) * 50 + 8
    corner = torch.rand(count, boxes, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return Batch(
        images=torch.randn(count, 3, height, width, generator=generator),
        boxes=torch.cat([corner, corner + size], dim=-1),
        labels=torch.randint(classes, (count, boxes), generator=generator),
        valid=torch.ones(count, boxes, dtype=torch.bool),
        index=torch.arange(count),
        scale=torch.ones(count),
    )


GUIDED = GuidedSettings(samples=64, candidates=(200, 100), proposals=(100, 50), least_location=0.0)


def cascade(count: int) -> RoISettings:
    return replace(RoISettings.cascade(count), samples=32, hidden=(32,))


def small_network(
    fpn: bool = True, inside: Norm | None = None, mobile: bool = False, classes: int = CLASSES, **settings
) -> TwoStage:
    """inside: the backbone's norm, and the pyramid's if given."""
    torch.manual_seed(0)
    norm = inside or Norm("group", 4)
    backbone = MobileNetV2(norm, width=0.25) if mobile else ResNet("resnet18", norm, width=8)
    settings.setdefault("rpn", RPN)
    settings.setdefault("roi", RoISettings(samples=32, hidden=(32, 32)))
    return TwoStage(backbone, classes, FPN(backbone.out_channels, width=16, norm=inside) if fpn else None, **settings)


KINDS = {
    "regular": {},
    "cascade": {"roi": cascade(4)},
    "no pyramid": {"fpn": False},
    "cascade, a box a class": {"roi": replace(cascade(3), class_specific=True)},
    "cascade, no pyramid": {"fpn": False, "roi": cascade(2)},
    "mobilenet, no pyramid": {"fpn": False, "mobile": True},
    "guided": {"rpn": GUIDED},
    "group norm": {"norm": Norm("group-ws", 8)},
}


# --- parity with torchvision ------------------------------------------------------------------------------------------


@cache
def torchvision_detector() -> nn.Module:
    """Random weights that find something: heads whose scores and boxes differ from place to place."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=SIZE[0], max_size=SIZE[1]
    )
    for layer, deviation in (
        (theirs.rpn.head.cls_logits, 0.05),  # small: they rank by probability, where large logits tie
        (theirs.rpn.head.bbox_pred, 0.05),
        (theirs.roi_heads.box_predictor.cls_score, 0.3),
        (theirs.roi_heads.box_predictor.bbox_pred, 0.1),
    ):
        nn.init.normal_(layer.weight, std=deviation)
    # images are normalised already; statistics as after training, lest features grow from block to block
    theirs.backbone.train()(random_batch(9).images)
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3
    return theirs


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


def test_same_detections_as_torchvision():
    theirs = torchvision_detector().eval()
    ours = faster_rcnn_of_torchvision(theirs.state_dict()).eval()
    images = random_batch().images
    found = ours.detect(images)
    with torch.no_grad():
        expected = theirs(list(images))
    for image, each in enumerate(expected):
        count = len(each["boxes"])
        assert count > 20
        assert found.valid[image].tolist() == [True] * count + [False] * (100 - count)
        torch.testing.assert_close(found.scores[image, :count], each["scores"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes[image, :count], each["boxes"], atol=1e-4 * SIZE[1], rtol=1e-4)
        assert torch.equal(found.labels[image, :count] + 1, each["labels"])


def test_same_losses_and_gradients_as_torchvision_on_the_same_samples():
    theirs = torchvision_detector().train()
    rpn = replace(RPN_SETTINGS, samples=64, proposals=(60, 60))
    roi = replace(ROI_SETTINGS, samples=40)
    ours = faster_rcnn_of_torchvision(theirs.state_dict(), Norm("batch"), rpn=rpn, roi=roi).train()
    theirs.rpn._post_nms_top_n = {"training": 60, "testing": 60}
    generator = torch.Generator().manual_seed(1)
    theirs.rpn.fg_bg_sampler = SameSample(generator, 64, 0.5)
    theirs.roi_heads.fg_bg_sampler = SameSample(generator, 40, 0.25)
    # they draw for the RPN's loss after they propose, but before the second stage, as we do
    batch = random_batch()
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    expected = theirs(list(batch.images), targets)
    found = two_stage_losses(ours(batch.images), batch, torch.Generator().manual_seed(1))
    names = {"rpn_objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg"}
    names |= {"roi_class": "loss_classifier", "roi_box": "loss_box_reg"}
    assert list(found) == LOSSES
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


def test_foreign_weights_give_a_sentence():
    with pytest.raises(InputError, match="lack roi_heads"):
        faster_rcnn_of_torchvision(torchvision.models.resnet18().state_dict())
    state = torchvision_detector().state_dict() | {"mask_head.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"mask_head\.weight is unknown"):
        faster_rcnn_of_torchvision(state)


def test_the_oldest_names_are_known():
    state = torchvision_detector().state_dict()
    old = {}
    for name, tensor in state.items():
        if "_blocks." in name or name.startswith("rpn.head.conv."):
            name = name.replace("conv.0.0.", "conv.").replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name] = tensor
    assert old.keys() != state.keys()
    ours = [faster_rcnn_of_torchvision(each).state_dict() for each in (state, old)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])


# --- what every kind promises -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_losses_reach_every_weight(kind, device, awake):
    network, batch = awake(small_network(**KINDS[kind])).to(device), random_batch().to(device)
    network.rpn.settings = replace(network.rpn.settings, samples=10**6)  # anchors of all levels
    losses = two_stage_losses(network(batch.images), batch)
    names = ["loss", "rpn_location", "rpn_shape", *LOSSES[1:]] if kind == "guided" else LOSSES
    assert list(losses) == names
    assert all(value.dtype == torch.float32 and value > 0 for value in losses.values())
    torch.testing.assert_close(losses["loss"], sum(losses[name] for name in names[1:]))
    losses["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["regular", "no pyramid", "group norm"])
def test_sampled_anchors_are_the_dense_ones(kind):
    """The gradient at the sampled anchors, which avoids the dense backward pass, is that of the dense maps."""
    network = small_network(**KINDS[kind]).double()
    maps = tuple(m.detach().requires_grad_() for m in network.fpn(network.backbone(random_batch().images.double())))
    sparse = network.rpn(maps)
    index = torch.stack([torch.randperm(sparse["codes"].shape[1])[:200] for _ in range(2)])
    index[:, -15:] = sparse["codes"].shape[1] - 1 - torch.arange(15)  # the coarsest level, corners
    index[:, 0] = 0
    found = network.rpn.at(maps, sparse, index)
    network.rpn.norm = Norm()  # any norm: the maps are dense then
    dense = network.rpn(maps)
    expected = dense["objectness"].gather(1, index), pick(dense["codes"], index)
    torch.testing.assert_close(found, expected)
    leaves = [*maps, *network.rpn.parameters()]
    weights = [torch.randn_like(each) for each in found]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(said, weights, strict=True)), leaves, allow_unused=True)
        for said in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boxes", [0, 6])
def test_batch_without_objects_trains(kind, boxes):
    network, batch = small_network(**KINDS[kind]), random_batch(boxes=boxes)
    batch = replace(batch, valid=batch.valid & False)
    losses = two_stage_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert losses["rpn_box"] == 0
    assert losses["roi_box"] == 0
    assert losses["rpn_objectness"] > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("kind", ["regular", "cascade"])
def test_losses_do_not_depend_on_padding(kind):
    network, batch = small_network(**KINDS[kind]), random_batch()
    wider = replace(
        batch,
        boxes=torch.cat([batch.boxes, torch.full((2, 2, 4), 7.0), torch.tensor([[[5.0, 5, 5, 9]]] * 2)], dim=1),
        labels=torch.cat([batch.labels, torch.full((2, 3), -1)], dim=1),
        valid=torch.cat([batch.valid, torch.tensor([[False, False, True]] * 2)], dim=1),  # the last has no area
    )
    # all candidates are taken, so that nothing depends on the draw
    network.rpn.settings = replace(RPN, samples=10**6, positive_share=1.0)
    network.roi.settings = replace(network.roi.settings, samples=10**6, positive_share=1.0)
    outputs = network(batch.images)
    torch.testing.assert_close(two_stage_losses(outputs, wider), two_stage_losses(outputs, batch))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_looks_at_no_value(kind):
    """Meta tensors have shapes only: whatever waits for a value of the device would fail on them."""
    network, batch = small_network(**KINDS[kind]).to("meta"), random_batch().to("meta")
    losses = two_stage_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert losses["loss"].shape == ()
    assert network.eval().detect(batch.images).boxes.shape == (2, 100, 4)


def lively(network: TwoStage) -> TwoStage:
    """Heads that answer, so that scores and boxes differ from place to place."""
    torch.manual_seed(1)
    for layer, deviation in ((network.rpn.objectness, 0.3), (network.rpn.codes, 0.05)):
        nn.init.normal_(layer.weight, std=deviation)
    for head in network.roi.heads:
        nn.init.normal_(head.classes.weight, std=1.0)
        nn.init.normal_(head.codes.weight, std=0.3)
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_single(kind, device):
    network, images = lively(small_network(**KINDS[kind])).to(device), random_batch(count=3).images.to(device)
    together = network.detect(images)
    alone = Detections.cat([network.detect(image.unsqueeze(0)) for image in images])
    assert together.boxes.shape == (3, 100, 4)
    assert together.valid.any()
    for field in ("boxes", "scores"):
        torch.testing.assert_close(getattr(together, field), getattr(alone, field), atol=2e-3, rtol=1e-3)
    assert torch.equal(together.labels, alone.labels)
    assert torch.equal(together.valid, alone.valid)


@pytest.mark.parametrize("kind", ["regular", "cascade"])
def test_detections_keep_the_rules(kind):
    network = lively(small_network(**KINDS[kind]))
    found = network.detect(random_batch().images)
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.scores[found.valid] > 0.05).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= found.boxes.new_tensor([SIZE[1], SIZE[0]] * 2)).all()
    assert (found.boxes[~found.valid] == 0).all()
    for image in range(2):
        there = found.valid[image]
        overlaps = torchvision.ops.box_iou(found.boxes[image][there], found.boxes[image][there]).triu(1)
        alike = found.labels[image][there][:, None] == found.labels[image][there]
        assert (overlaps[alike] <= 0.5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_detector_comes_back_equal(kind, tmp_path):
    network = lively(small_network(**KINDS[kind]))
    path = save_detector(tmp_path / "best", network, {"categories": list("abcde"), "input_size": 128})
    loaded = load_detector(path)
    images = random_batch().images
    assert loaded.model.config() == network.config()
    for field in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(loaded.model.detect(images), field), getattr(network.detect(images), field)), field


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [None, "batch", "frozen", "group", "group-ws"])
def test_training_and_detection_under_autocast(kind, inside, device):
    norm = None if inside is None else Norm(inside, 8)
    settings = {"norm": norm, **KINDS[kind]}
    network, batch = small_network(inside=norm, **settings).to(device), random_batch().to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        losses = two_stage_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    for name, parameter in network.named_parameters():
        # a weight that autocast remembered from a pass without gradients would have none
        assert parameter.grad is not None or "backbone" in name or "fpn" in name, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    lively(network)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = network.detect(batch.images)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.valid.any()
    assert found.boxes.isfinite().all()
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(75, 110), (17, 40), (5, 3)])
def test_sizes_that_no_stride_divides(kind, size):
    network, batch = small_network(**KINDS[kind]), random_batch()
    batch = replace(batch, images=batch.images[..., : size[0], : size[1]].contiguous())  # objects lie beyond, too
    losses = two_stage_losses(network(batch.images), batch)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    found = lively(network).detect(batch.images)
    assert found.boxes.shape == (2, 100, 4)
    assert (found.boxes <= found.boxes.new_tensor([size[1], size[0]] * 2)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_network_says_so(kind, device):
    """Its losses and detections are not finite, so that a search can record it; nothing is read out of bounds."""
    network, batch = small_network(**KINDS[kind]).to(device), random_batch().to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert two_stage_losses(network(batch.images), batch)["loss"].isnan()
    found = network.eval().detect(batch.images)
    assert not (found.boxes.isfinite().all() and found.scores.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_one_class(kind):
    network, batch = small_network(classes=1, **KINDS[kind]), random_batch(classes=1)
    two_stage_losses(network(batch.images), batch)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.roi.parameters())
    found = lively(network).detect(batch.images)
    assert found.valid.any()
    assert (found.labels == 0).all()


def test_cascade_follows_the_paper():
    assert [stage.overlap for stage in RoISettings.cascade(4).stages] == [0.5, 0.6, 0.7, 0.8]
    assert [stage.weight for stage in RoISettings.cascade(3).stages] == [1, 0.5, 0.25]
    assert CASCADE[1].deviations == (0.05, 0.05, 0.1, 0.1)
    network = small_network(roi=cascade(3))
    assert [head.codes.out_features for head in network.roi.heads] == [4, 4, 4]


def test_later_stages_see_better_regions():
    """With heads that know where the objects are, each stage's regions overlap them more than its proposals did."""
    network, batch = small_network(roi=cascade(2)), random_batch()
    stage = network.roi.settings.stages[0]
    proposals = batch.boxes + torch.tensor([4.0, -3, 5, 2])
    codes = encode(batch.boxes, proposals, stage.deviations).unsqueeze(2)
    logits = torch.zeros(*proposals.shape[:2], CLASSES + 1)
    torch.testing.assert_close(network.roi.refine(proposals, logits, codes, 0, SIZE), clip(batch.boxes, SIZE))


def test_a_cascade_with_a_box_a_class_hands_the_likeliest_one_on():
    network, batch = small_network(roi=replace(cascade(2), class_specific=True)), random_batch()
    B, R = batch.labels.shape
    right = encode(batch.boxes, batch.boxes - 3, network.roi.settings.stages[0].deviations)
    codes = torch.full((B, R, CLASSES, 4), 9.0)
    codes[torch.arange(B)[:, None], torch.arange(R), batch.labels] = right
    logits = F.one_hot(batch.labels, CLASSES + 1).float()
    logits[..., -1] = 5.0  # the background may well be likelier than any class
    moved = network.roi.refine(batch.boxes - 3, logits, codes, 0, SIZE)
    torch.testing.assert_close(moved, clip(batch.boxes, SIZE))


def test_without_a_pyramid_the_last_stage_is_the_head():
    network = small_network(fpn=False)
    assert network.fpn.strides == (16,)
    assert network.rpn.anchors.per_cell == 15
    assert len(network.backbone.stages) == 3
    assert network.roi.bins == 14
    maps = network.fpn(network.backbone(torch.randn(1, 3, *SIZE)))
    assert network.roi.features(maps, torch.tensor([[[3.0, 4, 60, 70]]])).shape == (1, 1, 64)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: RoISettings.cascade(5), "2 to 4"),
        (lambda: RoISettings(stages=()), "at least one"),
        (lambda: TwoStage(ResNet("resnet18", width=8), 0, None), "0 classes"),
        (lambda: TwoStage(SimpleNamespace(out_channels=(8,)), 3, None), "can be taken out"),
    ],
)
def test_bad_settings_give_a_sentence(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
