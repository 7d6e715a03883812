"""Detectors on disk and back, and detection in images of any size."""

import errno
import json
import os
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.batch import Detections, normalise
from common.letterbox import Size, letterbox
from common.models.centernet import CenterNet
from common.models.described import Architecture, DescribedBackbone
from common.models.detector import Detector, build_backbone, build_detector, load_detector, save_detector
from common.models.fpn import FPN
from common.models.mobilenet import MobileNetV2
from common.models.ofa_resnet import OFAResNet
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet
from common.models.two_stage import TwoStage
from common.plain import InputError, to_json
from detofa.space import OFAResNetSpace
from sm_nas.encoding import BackboneCode
from sm_nas.networks import EncodedBackbone
from tests.common.models.families import assert_equal
from tests.processes import ran

SPACE = OFAResNetSpace(base_depths=(1, 1, 1, 1), depths=(0, 1), stage_widths=(16, 16, 24, 32), stem_width=8)
DESCRIPTION = {"categories": ["bolt", "nut", "washer"], "input_size": 64, "cost": {"macs": 1}}
OFA_WITHOUT_STRIDES = {"kind": "ofa_resnet", **to_json(SPACE.architecture(SPACE.smallest())), "stage_strides": []}


def small_detector(path=None, seed: int = 0) -> CenterNet:
    torch.manual_seed(seed)
    elastic = OFAResNet(SPACE)
    model = CenterNet(elastic.extract(SPACE.smallest() if path is None else path), 3, (8, 8, 8), head_width=8)
    model(torch.randn(4, 3, 64, 64))  # batch-norm statistics that differ from the initial ones
    # Heads that answer, so that scores and boxes differ from place to place.
    for head in (model.heatmap, model.size, model.offset):
        nn.init.normal_(head[0].weight, std=0.5)
        nn.init.normal_(head[-1].weight, std=0.5)
    return model.eval()


# --- to disk and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "canvas", "written"),
    [(SPACE.smallest(), (64, 64), 64), (SPACE.largest(), (96, 64), [96, 64]), (SPACE.largest(), [64, 96], [64, 96])],
)
def test_saved_detector_comes_back_equal(tmp_path, path, canvas, written, device):
    model = small_detector(path)
    json_path = save_detector(tmp_path / "best", model, {**DESCRIPTION, "input_size": canvas})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.json", "best.safetensors"]
    random_state = torch.random.get_rng_state()
    loaded = load_detector(json_path, device)
    assert torch.equal(random_state, torch.random.get_rng_state()), "loading must not disturb a seeded run"
    assert loaded.device.type == device.type
    assert loaded.categories == ("bolt", "nut", "washer")
    assert loaded.input_size == (written if written == 64 else tuple(written))
    assert {**loaded.description, **DESCRIPTION, "input_size": written} == loaded.description
    middle_widths = SPACE.architecture(path).middle_widths
    assert loaded.description["architecture"]["backbone"]["middle_widths"] == [list(each) for each in middle_widths]
    assert not loaded.model.training
    for name, tensor in model.to(device).state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    images = torch.randn(2, 3, 64, 64, device=device)
    assert_equal(model.detect(images), loaded.model.detect(images))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("", "detector"), *((f"new/v1.5{suffix}", "new/v1.5") for suffix in ("", ".json", ".safetensors"))],
)
def test_every_way_to_name_a_detector(tmp_path, name, stem):
    save_detector(tmp_path / name, small_detector(), DESCRIPTION)
    assert (tmp_path / f"{stem}.json").is_file()
    assert load_detector(str(tmp_path / name)).input_size == 64


def test_a_folder_of_several_detectors_says_how_to_name_one(tmp_path):
    for name in ("macs-1.5M", "macs-2M"):
        save_detector(tmp_path / "run" / "detectors" / name, small_detector(), DESCRIPTION)
    with pytest.raises(InputError, match="holds 2: give one of them, such as") as raised:
        load_detector(tmp_path)
    named = str(raised.value).rpartition(" ")[2]
    assert named == str(tmp_path / "run" / "detectors" / "macs-1.5M.safetensors")
    assert load_detector(named).input_size == 64
    (tmp_path / "run" / "detectors" / "macs-1.5M.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds 1: give .*/macs-2M\.safetensors"):
        load_detector(tmp_path)


def test_the_folder_of_a_run_names_its_detector(tmp_path):
    save_detector(tmp_path / "detector" / "detector", small_detector(), DESCRIPTION)
    (tmp_path / "detector.safetensors").write_bytes(b"the run's own weights")
    assert load_detector(tmp_path).input_size == 64


def detectors_of_every_kind() -> dict[str, nn.Module]:
    """One thin detector on each kind of backbone that a paper has, and on each kind of network."""

    def on_pyramid(kind: type, backbone: nn.Module) -> nn.Module:
        return kind(backbone, 3, FPN(backbone.out_channels, width=8))

    encoded = EncodedBackbone(BackboneCode.parse("basicblock_8_11-21-21-21"))
    return {
        "ofa_resnet": small_detector(),
        "described": on_pyramid(TwoStage, DescribedBackbone(Architecture.standard("resnet18", 8))),
        "sm_nas:EncodedBackbone": on_pyramid(RetinaNet, encoded),
        "resnet50": on_pyramid(TwoStage, ResNet("resnet50", width=8)),
        "mobilenet_v2": CenterNet(MobileNetV2(width=0.25), 3, (8, 8, 8), 8),
    }


def test_detectors_of_all_papers_load_with_nothing_else_imported(tmp_path):
    models = detectors_of_every_kind()
    files = [str(save_detector(tmp_path / kind, model.eval(), DESCRIPTION)) for kind, model in models.items()]
    program = (
        "import sys\n"
        "from common.models.detector import load_detector\n"
        "for file in sys.argv[1:]:\n"
        "    model = load_detector(file).model\n"
        "    total = sum(each.sum().item() for each in model.state_dict().values())\n"
        "    print(model.backbone.description['kind'], total)\n"
    )
    done = ran("-c", program, *files)
    assert done.returncode == 0, done.stderr
    found = {kind: float(total) for kind, total in map(str.split, done.stdout.splitlines())}
    weights = {kind: load_file(tmp_path / f"{kind}.safetensors").values() for kind in models}
    expected = {kind: sum(each.sum().item() for each in tensors) for kind, tensors in weights.items()}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


# --- faults -----------------------------------------------------------------------------------------------------------


def rewrite(**changes):
    """Change keys of the JSON; None removes."""

    def change(folder):
        content = json.loads((folder / "detector.json").read_text())
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        (folder / "detector.json").write_text(json.dumps(content))

    return change


def on_backbone(neck_widths=(8, 8, 8), **backbone):
    """Change the architecture in the JSON."""
    parts = {"categories": 3, "neck_widths": neck_widths, "head_width": 8, "backbone": backbone}
    return rewrite(architecture={"kind": "centernet", **parts})


def reweigh(**changes):
    """Change tensors of the weights, as if they belonged to the JSON; None removes."""

    def change(folder):
        weights = load_file(folder / "detector.safetensors") | changes
        save_file({name: each for name, each in weights.items() if each is not None}, folder / "detector.safetensors")
        rewrite(weights_sha256=None)(folder)

    return change


def truncate(folder):
    weights = (folder / "detector.safetensors").read_bytes()
    (folder / "detector.safetensors").write_bytes(weights[: len(weights) // 2])


def exchange(folder):
    other = small_detector(seed=1).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in other.items()}, folder / "detector.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "detector.json").unlink(), r"detector\.json is not there"),
        (lambda folder: (folder / "detector.safetensors").unlink(), r"detector\.safetensors is not there"),
        (lambda folder: (folder / "detector.json").write_text("{"), r"detector\.json is not valid JSON"),
        (lambda folder: (folder / "detector.json").write_text("[]"), r"does not describe a detector"),
        (truncate, r"detector\.safetensors is damaged"),
        (lambda folder: (folder / "detector.safetensors").write_bytes(b""), r"detector\.safetensors is damaged"),
        (exchange, r"not the file that its JSON was written with"),
        (reweigh(**{"neck.3.weight": torch.zeros(8, 9, 4, 4)}), r"weight has shape 8x9x4x4, expected 8x8x4x4"),
        (reweigh(**{"size.2.bias": None}), r"another architecture: size\.2\.bias has shape none, expected 2$"),
        (reweigh(extra=torch.zeros(2, 3)), r"another architecture: extra has shape 2x3, expected none"),
        (rewrite(categories=None), r"lacks 'categories'"),
        (rewrite(architecture=None), r"lacks 'architecture'"),
        (rewrite(architecture={"kind": "yolo"}), r"no detector is of kind 'yolo': known are centernet"),
        (rewrite(architecture={"kind": "centernet"}), r"cannot be built: 'backbone' is missing"),
        (rewrite(architecture={"kind": "centernet", "backbone": {"kind": "vgg"}}), r"no backbone is of kind 'vgg'"),
        (rewrite(architecture=[]), r"no detector is of kind None"),
        (on_backbone(kind="detofa:Net"), r"kind 'detofa:Net' cannot be built: No module named"),
        (on_backbone(kind="resnet18", neck_widths=[-8]), "of kind 'centernet' cannot be built: .*negative dimension"),
        (on_backbone(**OFA_WITHOUT_STRIDES), "of kind 'ofa_resnet' cannot be built: .*out of range"),
        (rewrite(categories=["bolt"]), r"names 1 categories.*tells 3"),
        (rewrite(normalisation={"mean": [0, 0]}), r"normalisation\.mean must have 3 items, got 2"),
        *((rewrite(input_size=size), rf"input_size {re.escape(repr(size))}") for size in ("large", [64, 40], [64])),
    ],
)
def test_damaged_detectors_are_refused_in_one_sentence(tmp_path, damage, message):
    save_detector(tmp_path, small_detector(), DESCRIPTION)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_detector(tmp_path)
    assert "\n" not in str(caught.value)


def test_kinds_that_are_not_on_the_list_are_not_imported():
    for kind in ("os", "os:system", "common.models.resnet:ResNet", None, ["resnet18"]):
        for build in (build_backbone, build_detector):
            with pytest.raises(InputError, match=re.escape(f"is of kind {kind!r}: known are ")):
                build({"kind": kind, "backbone": {}})


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"categories": ["a", "b", "c"]}, "lacks 'input_size'"),
        ({**DESCRIPTION, "provenance": {"folder": object()}}, "JSON"),
    ],
)
def test_incomplete_descriptions_are_not_saved(tmp_path, description, message):
    with pytest.raises(InputError, match=message):
        save_detector(tmp_path, small_detector(), description)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_full_disk_leaves_the_old_detector_whole(tmp_path, monkeypatch, suffix):
    save_detector(tmp_path, small_detector(seed=1), DESCRIPTION)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == ["safetensors", "json"].index(suffix) + 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=rf"cannot write .*detector\.{suffix}: the disk is full"):
        save_detector(tmp_path, small_detector(seed=2), DESCRIPTION)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- detection --------------------------------------------------------------------------------------------------------


class Stub(nn.Module):
    """Stands in for a network: keeps what it sees and says the same boxes of each image."""

    def __init__(self, boxes: torch.Tensor) -> None:
        super().__init__()
        self.boxes, self.seen = nn.Parameter(boxes), []

    def detect(self, images):
        self.seen.append(images)
        boxes = self.boxes.expand(len(images), -1, -1)
        return Detections(boxes, boxes[..., 0], boxes[..., 0].long(), boxes[..., 0] > -torch.inf)


def stub_detector(canvas: Size, device: torch.device | str = "cpu") -> Detector:
    boxes = torch.tensor([[8.0, 4, 20, 16], [-5, -5, 400, 400], [0, 1000, 5, 1100]])  # the last lies wholly outside
    return Detector(Stub(boxes).to(device), ("rectangle",), canvas, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), {})


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (64, 96)])
def test_images_reach_the_network_as_in_training_and_boxes_come_back_in_their_pixels(width, height, device):
    canvas = 64 if width == height else (width, height)
    generator = np.random.default_rng(0)
    sizes = [(192, 256), (20, 32), (64, 64), (500, 70), (7, 301), (33, 100)]
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    detector = stub_detector(canvas, device)
    found, stub = detector.detect(images, batch_size=4), detector.model
    assert [len(batch) for batch in stub.seen] == [4, 2]
    for index, (image, seen) in enumerate(zip(images, torch.cat(stub.seen), strict=True)):
        fitted = torch.from_numpy(letterbox(image, canvas)).permute(2, 0, 1).to(device)
        assert torch.equal(seen, normalise(fitted.unsqueeze(0))[0])
        H, W = image.shape[:2]
        boxes = stub.boxes.detach().cpu() / min(height / H, width / W)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([W, H, W, H]))
        torch.testing.assert_close(found.boxes[index].cpu(), boxes)
        left, top, right, bottom = boxes.unbind(dim=1)
        assert found.valid[index].tolist() == ((left < right) & (top < bottom)).tolist()
        assert found.valid[index].tolist()[1:] == [True, False]


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(image):
    with pytest.raises(InputError, match=r"must be uint8 RGB arrays of shape \(height, width, 3\), got"):
        stub_detector(64).detect([image])
    with pytest.raises(InputError, match="no image"):
        stub_detector(64).detect([])
