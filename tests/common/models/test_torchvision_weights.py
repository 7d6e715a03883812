"""torchvision's Faster R-CNN files, random weights in them, and ImageNet weights; nothing is downloaded here."""

import copy
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from common.models.detector import build_backbone, load_detector
from common.models.outline import outline
from common.models.torchvision_weights import (
    COCO_CATEGORIES,
    COCO_NAMES,
    IMAGENET_BACKBONES,
    faster_rcnn_of_torchvision,
    imagenet_backbone,
    is_of_torchvision,
    write_faster_rcnn,
)
from common.plain import InputError
from tests.common.models.families import assert_alike, torchvision_faster_rcnn

CATEGORIES = ("dog", "person", "toothbrush")  # neither in order nor without a gap
SCORES = "roi_heads.box_predictor.cls_score"
PROPOSALS = 300  # of the usual 1000, to save time
DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


@cache
def images() -> Tensor:
    """(2, 3, 64, 96)"""
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@cache
def theirs() -> nn.Module:
    """With heads that find something, of CATEGORIES alone: so it is theirs that the probabilities are shared among."""
    network = torchvision_faster_rcnn(images(), len(COCO_NAMES))
    others = [row for row, name in enumerate(COCO_NAMES) if row and name not in CATEGORIES]
    network.roi_heads.box_predictor.cls_score.bias.data[others] = -1e4
    network.rpn._post_nms_top_n["testing"] = PROPOSALS
    return network.eval()


def frozen() -> nn.Module:
    """As the COCO weights are used there: norms with an epsilon of 0, some of which have seen hardly any variance."""
    network = copy.deepcopy(theirs())
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    norm = network.backbone.body.layer2[1].bn1
    norm.running_var[:8], norm.weight.data[:8] = 4e-6, 2e-3
    return network


@pytest.mark.parametrize("norms", ["learnt", pytest.param("frozen", marks=pytest.mark.slow)])
def test_the_file_finds_what_torchvision_finds(norms, tmp_path):
    network = theirs() if norms == "learnt" else frozen()
    if norms == "learnt":
        torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "weights.pth")  # as their script does
    else:
        weights = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
        save_file(weights, tmp_path / "weights.safetensors")
    file = next(tmp_path.glob("weights.*"))
    assert is_of_torchvision(file)
    written = write_faster_rcnn(file, CATEGORIES, tmp_path / "ours")
    assert not is_of_torchvision(written.with_suffix(".safetensors"))
    detector = load_detector(written)
    assert detector.categories == CATEGORIES
    assert detector.description["provenance"]["torchvision"] == file.name
    detector.model.rpn.settings = replace(detector.model.rpn.settings, proposals=(PROPOSALS, PROPOSALS))
    found = detector.model.detect(images())
    with torch.no_grad():
        expected = network(list(images()))
    for each in expected:
        each["labels"] = torch.tensor([CATEGORIES.index(COCO_NAMES[label]) for label in each["labels"]])
    assert_alike(found, expected)


def test_the_classes_are_cocos():
    assert len(COCO_CATEGORIES) == len(set(COCO_CATEGORIES)) == 80
    assert (COCO_NAMES.index("person"), COCO_NAMES.index("toothbrush")) == (1, 90), "COCO's ids"


class _Code:
    def __reduce__(self):
        return (Path.touch, (Path("must-not-appear"),))


def scores(rows: int) -> dict[str, Tensor]:
    """The weights of the scores alone, for so many classes."""
    return {f"{SCORES}.weight": torch.zeros(rows, 2)}


NARROW = {"roi_heads.box_head.fc7.weight": torch.zeros(8, 1024)}


@pytest.mark.parametrize(
    ("content", "categories", "says"),
    [
        (lambda: None, CATEGORIES, "weights.pth is not there"),
        (lambda: b"no weights", CATEGORIES, "weights.pth is damaged or holds more than weights"),
        (lambda: b"rubbish", CATEGORIES, "weights.pth is damaged or holds more than weights"),
        (lambda: {"model": _Code()}, CATEGORIES, "weights.pth is damaged or holds more than weights"),
        (lambda: [1, 2], CATEGORIES, "weights.pth holds no state dict"),
        (lambda: scores(4), CATEGORIES, "head of 91 classes, .* has one of 4: which classes it tells apart"),
        (torchvision.models.resnet18().state_dict, CATEGORIES, "this has no such head"),
        (lambda: scores(91), ("person", "yak", "N/A"), "COCO, which has no class 'yak', 'N/A': name the classes"),
        (lambda: scores(91), CATEGORIES, r"not the weights of a fasterrcnn_resnet50_fpn .*codes\.weight"),
        (lambda: theirs().state_dict() | NARROW, CATEGORIES, "of a fasterrcnn_resnet50_fpn .*size mismatch"),
    ],
    ids=["missing", "damaged", "rubbish", "code", "list", "classes", "classifier", "names", "few", "narrow"],
)
def test_what_cannot_be_taken_over_is_one_sentence(content, categories, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, file = content(), tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(InputError, match=says) as raised:
        write_faster_rcnn(file, categories, tmp_path / "ours")
    assert "\n" not in str(raised.value)
    assert {each.name for each in tmp_path.iterdir()} <= {"weights.pth"}


def test_a_detector_that_lost_its_json_is_told_what_it_needs(tmp_path):
    save_file({"backbone.stem.0.weight": torch.zeros(1)}, file := tmp_path / "detector.safetensors")
    with pytest.raises(InputError, match=r"a detector of this project needs its \.json beside it"):
        write_faster_rcnn(file, CATEGORIES, tmp_path / "ours")


def test_the_oldest_names_are_known_and_foreign_ones_and_no_class_are_not():
    state = theirs().state_dict()
    blocks, conv = r"(_blocks\.\d)\.0\.", r"^(rpn\.head\.conv)\.0\.0\."
    old = {re.sub(conv, r"\1.", re.sub(blocks, r"\1.", name)): tensor for name, tensor in state.items()}
    assert len(old.keys() - state.keys()) == 18
    ours = faster_rcnn_of_torchvision(old).state_dict()
    pairs = {"rpn.conv": "rpn.head.conv.0.0"}
    for level in range(4):
        pairs[f"fpn.laterals.{level}"] = f"backbone.fpn.inner_blocks.{level}.0"
        pairs[f"fpn.outputs.{level}"] = f"backbone.fpn.layer_blocks.{level}.0"
    for mine, other in pairs.items():
        for part in ("weight", "bias"):
            assert torch.equal(ours[f"{mine}.{part}"], state[f"{other}.{part}"])
    with pytest.raises(InputError, match=r"mask_head\.weight is unknown"):
        faster_rcnn_of_torchvision(state | {"mask_head.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="at least 1 class apart, got 0"):
        faster_rcnn_of_torchvision(state, classes=[])


# --- ImageNet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGENET_BACKBONES)
def test_imagenet_weights_are_downloaded_with_care_and_fit_the_backbone(name, monkeypatch):
    with outline():
        theirs, ours = torchvision.models.get_model(name, weights=None).state_dict(), build_backbone({"kind": name})
    asked = {}

    def download(address, **options):
        asked.update(options, address=address)
        return {key: tensor for key, tensor in theirs.items() if "num_batches" not in key}

    monkeypatch.setattr(DOWNLOAD, download)
    state = imagenet_backbone(name)
    ours.load_state_dict(state, assign=True)
    assert all(tensor is theirs[key] for key, tensor in state.items() if "num_batches" not in key)
    assert asked["weights_only"]
    assert asked["check_hash"]
    assert asked["address"] == torchvision.models.get_model_weights(name).IMAGENET1K_V1.url


@pytest.mark.parametrize("error", [URLError("no way"), UnpicklingError("no way.\nRead on"), EOFError("no way")])
def test_without_a_network_or_a_whole_file_it_says_what_to_fetch(error, monkeypatch):
    def download(address, **options):
        raise error

    monkeypatch.setattr(DOWNLOAD, download)
    with pytest.raises(InputError, match=r"resnet50 cannot be downloaded or read \(.*no way.*https://.*checkpoints"):
        imagenet_backbone("resnet50")
