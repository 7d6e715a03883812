"""Boxes, anchors, matching, sampling, suppression and RoIAlign against torchvision's, image by image."""

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from common.models import roi_align as roi_align_module
from common.models import suppression
from common.models.anchors import Anchors, unreached
from common.models.boxes import decode, encode, pairwise_iou
from common.models.matching import IGNORED, NEGATIVE, POSITIVE, MatchSettings, match, sample
from common.models.roi_align import roi_align
from common.models.suppression import best, suppress

DEVIATIONS = (0.1, 0.1, 0.2, 0.2)


def random_boxes(*shape: int, seed: int = 0, side: float = 128, least: float = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * side * 0.8
    return torch.cat([corner, corner + least + torch.rand(*shape, 2, generator=generator) ** 2 * side * 0.6], dim=-1)


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_overlap_equals_torchvision(device):
    first, second = random_boxes(2, 7, seed=1).to(device), random_boxes(2, 5, seed=2).to(device)
    expected = torch.stack([torchvision.ops.box_iou(*pair) for pair in zip(first, second, strict=True)])
    torch.testing.assert_close(pairwise_iou(first, second), expected)
    assert pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_codes_equal_torchvision(device):
    references, boxes = random_boxes(6, seed=3).to(device), random_boxes(6, seed=4).to(device)
    coder = BoxCoder(weights=tuple(1 / deviation for deviation in DEVIATIONS))
    codes = encode(boxes, references, DEVIATIONS)
    torch.testing.assert_close(codes, coder.encode_single(boxes, references))
    torch.testing.assert_close(decode(codes, references, DEVIATIONS), boxes)
    wild = torch.randn(6, 3, 4, device=device) * 30  # beyond the greatest enlargement
    expected = coder.decode_single(wild.flatten(1), references).view(6, 3, 4)
    torch.testing.assert_close(decode(wild, references.unsqueeze(1), DEVIATIONS), expected, atol=1e-3, rtol=1e-5)
    empty = torch.tensor([[5.0, 5, 5, 9]], device=device)
    for first, second in ((empty, boxes[:1]), (boxes[:1], empty), (empty, empty)):
        assert encode(first, second, DEVIATIONS).isfinite().all()


# --- anchors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "image", "shapes", "strides"),
    [
        (((32,), (64,)), (64, 96), ((8, 12), (4, 6)), (8, 16)),
        (((32, 40, 50), (64, 80, 101)), (64, 96), ((8, 12), (4, 6)), (8, 16)),
        # the last reaches past it
        (((32,), (64,), (128,)), (800, 1344), ((100, 168), (50, 84), (13, 21)), (8, 16, 64)),
    ],
)
def test_anchors_equal_torchvision(sizes, image, shapes, strides, device):
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    maps = [torch.zeros(2, 1, *shape, device=device) for shape in shapes]
    expected = generator(ImageList(torch.zeros(2, 3, *image), [image] * 2), maps)[0]
    anchors = Anchors(sizes, rounded=True)
    assert torch.equal(anchors.of_maps(maps, strides), expected)
    assert anchors.per_cell == generator.num_anchors_per_location()[0]


def test_octaves_keep_their_area_and_can_be_trained_on_though_first_asked_for_without_gradients():
    anchors = Anchors.octaves((8, 16), base=5, count=3)  # no other test asks for these
    maps = [torch.zeros(1, 1, 1, 1)] * 2
    with torch.inference_mode():
        anchors.of_maps(maps, (8, 16))
    left, top, right, bottom = anchors.of_maps(maps, (8, 16)).view(2, 9, 4).unbind(dim=2)
    expected = torch.tensor([[base * 2 ** (step / 3) for step in range(3)] * 3 for base in (40, 80)])
    torch.testing.assert_close(((right - left) * (bottom - top)).sqrt(), expected)
    (left * torch.ones(1, requires_grad=True)).sum().backward()


def test_unreached_objects_equal_a_search_over_all_anchors():
    boxes = torch.cat([random_boxes(300, seed=5, side=100, least=1), torch.tensor([[9.0, 9, 9, 20], [0, 0, 2, 2]])])
    strides, (width, height) = (4, 16, 128), (96, 64)
    anchors = Anchors.octaves(strides, base=2, count=2)
    maps = [torch.zeros(1, 1, -(-height // stride), -(-width // stride)) for stride in strides]
    best = pairwise_iou(boxes, anchors.of_maps(maps, strides)).amax(dim=1)
    for least in (0.3, 0.5, 0.7):
        found = unreached(boxes, anchors, strides, (width, height), least)
        assert found.equal(best < least)
        assert 0 < found.sum() < len(boxes)


# --- matching and sampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [MatchSettings(0.7, 0.3, 0.0), MatchSettings(0.5, 0.5), MatchSettings(0.5, 0.4, 0.0)]
)
def test_matches_equal_torchvision(settings, device):
    references = torch.cat([random_boxes(300, seed=5), random_boxes(9, seed=6)]).to(device)  # some fit exactly
    boxes = random_boxes(3, 9, seed=6).to(device)
    valid = torch.ones(3, 9, dtype=torch.bool, device=device)
    valid[1, 4:], valid[2] = False, False
    found = match(references, boxes, valid, settings)
    matcher = Matcher(settings.positive, settings.negative, settings.least_of_best is not None)
    for image in range(2):
        expected = matcher(torchvision.ops.box_iou(boxes[image][valid[image]], references))
        state = torch.where(expected >= 0, POSITIVE, torch.where(expected == -1, NEGATIVE, IGNORED))
        assert torch.equal(found.state[image].long(), state)
        assert torch.equal(found.target[image][expected >= 0], expected[expected >= 0])
    assert (found.state[2] == NEGATIVE).all()


def test_the_best_match_counts_from_its_least_overlap_on():
    references, valid = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]]), torch.ones(1, 1, dtype=torch.bool)

    def states(box: list[float], least: float) -> list[int]:
        return match(references, torch.tensor([[box]]), valid, MatchSettings(0.7, 0.3, least)).state[0].tolist()

    assert states([0, 0, 10, 40], 0.2) == [POSITIVE, NEGATIVE]
    assert states([0, 0, 10, 40], 0.3) == [NEGATIVE, NEGATIVE]
    assert states([50, 50, 60, 60], 0.0) == [NEGATIVE, NEGATIVE], "nothing touches it"


@pytest.mark.parametrize(
    ("references", "positives", "negatives"),
    [(500, 100, 300), (500, 3, 300), (500, 100, 5), (500, 0, 300), (500, 0, 0), (500, 2, 3), (20, 12, 8)],
)
def test_sample_has_the_right_numbers(references, positives, negatives, device):
    state = torch.full((2, references), IGNORED, dtype=torch.int8, device=device)
    state[:, :positives], state[:, positives : positives + negatives] = POSITIVE, NEGATIVE
    state = state[:, torch.randperm(references)]
    found = sample(state, 64, 0.25)
    taken, rows = min(positives, 16), min(references, 64)
    assert found.index.shape == (2, rows)
    assert (found.positive.sum(dim=1) == taken).all()
    assert (found.valid.sum(dim=1) == taken + min(negatives, 64 - taken)).all()
    there = state.gather(1, found.index)
    assert torch.equal(there[found.valid] == POSITIVE, found.positive[found.valid])
    assert (there[found.valid] != IGNORED).all()
    assert all(len(set(row.tolist())) == rows for row in found.index)


def test_sample_is_uniform_and_repeatable():
    state = torch.tensor([[POSITIVE] * 10 + [NEGATIVE] * 30], dtype=torch.int8)
    counts = torch.zeros(40)
    for seed in range(2000):
        found = sample(state, 16, 0.25, torch.Generator().manual_seed(seed))
        counts[found.index[found.valid]] += 1
    assert (counts[:10] / 2000 - 0.4).abs().max() < 0.05
    assert (counts[10:] / 2000 - 0.4).abs().max() < 0.05
    again = [sample(state, 16, 0.25, torch.Generator().manual_seed(7)).index for _ in range(2)]
    assert torch.equal(*again)


# --- suppression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [suppression._by_torchvision, suppression._by_fixed_point])
@pytest.mark.parametrize("groups", [1, 5])
def test_suppression_equals_torchvision_image_by_image(way, groups, device):
    if way is suppression._by_torchvision and device.type != "cpu":
        pytest.skip("for a CPU")
    boxes = random_boxes(3, 200, seed=8, least=10).to(device)
    group = torch.randint(groups, (3, 200), device=device)
    valid = torch.rand(3, 200, device=device) > 0.2
    valid[2] = False
    kept = way(boxes, valid, 0.5, group if groups > 1 else None)
    scores = torch.linspace(1, 0, 200, device=device)
    for image in range(3):
        rows = valid[image].nonzero().squeeze(1)
        expected = torchvision.ops.batched_nms(boxes[image][rows], scores[rows], group[image][rows], 0.5)
        assert sorted(rows[expected].tolist()) == kept[image].nonzero().squeeze(1).tolist()
    assert suppress(boxes[:, :0], valid[:, :0], 0.5).shape == (3, 0)
    assert suppress(boxes.to("meta"), valid.to("meta"), 0.5).shape == (3, 200), "no value is looked at"


def test_best_are_sorted_and_ties_keep_their_order():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.7, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]])
    valid = torch.tensor([[True] * 5, [True, False, True, False, False]])
    index, there = best(scores, valid, 5)
    assert index[0].tolist() == [1, 3, 0, 2, 4]
    assert index[1, :2].tolist() == [2, 0]
    assert there.sum(dim=1).tolist() == [5, 2]
    assert best(scores, valid, 9)[0].shape == (2, 5)


# --- RoIAlign ---------------------------------------------------------------------------------------------------------


def some_regions(seed: int = 0) -> Tensor:
    boxes = random_boxes(2, 30, seed=seed, side=160)
    boxes[0, 0] = torch.tensor([-30.0, -20, 40, 300])  # beyond the map on both sides
    boxes[0, 1] = torch.tensor([50.0, 60, 50, 60])  # without area
    boxes[1, 0] = torch.tensor([0.0, 0, 160, 128])
    boxes[1, 1] = torch.tensor([159.0, 127, 160, 128])
    sides = torch.tensor([111.0, 112, 223, 224, 447, 448, 2000])  # where levels end
    boxes[1, 2:9] = sides.outer(torch.tensor([0.0, 0, 1, 1]))
    return boxes


@pytest.mark.parametrize(
    ("bins", "samples", "strides"),
    [(7, 2, (4, 8, 16, 32)), (3, 1, (4, 8)), (7, 2, (16, 32)), (14, 2, (16,)), (7, 2, (128,))],
)
def test_roi_align_equals_torchvision_with_its_gradient(bins, samples, strides, device):
    torch.manual_seed(0)
    maps = [torch.randn(2, 6, 128 // s, 160 // s, device=device, requires_grad=True) for s in strides]
    boxes, names = some_regions().to(device), [str(index) for index in range(len(strides))]
    pool = MultiScaleRoIAlign(names, bins, samples)
    expected = pool(dict(zip(names, maps, strict=True)), list(boxes), [(128, 160)] * 2)  # (60, 6, bins, bins)
    found = roi_align(maps, strides, boxes, bins, samples)
    assert found.shape == (2, 30, bins * bins, 6)
    torch.testing.assert_close(found.flatten(0, 1).mT.reshape_as(expected), expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), maps)
    weight = weight.flatten(2).transpose(1, 2).view_as(found)
    for ours, theirs in zip(torch.autograd.grad((found * weight).sum(), maps), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("transposed", [roi_align_module._transposed, roi_align_module._transposed_on_cpu])
def test_transposed_sums_are_the_matrix_product(transposed):
    torch.manual_seed(0)
    cells, weights = torch.randint(0, 20, (50, 4), dtype=torch.int32), torch.rand(50, 4)
    matrix = torch.zeros(50, 24).scatter_add_(1, cells.long(), weights)  # a cell may stand in a row twice, or nowhere
    gradient = torch.randn(50, 3)
    torch.testing.assert_close(transposed(cells, weights, gradient, 24), matrix.T @ gradient)
