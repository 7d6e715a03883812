"""Detectors in onnxruntime: the same detections as in torch."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from common import export
from common.cli import run
from common.data.image_files import read_picture
from common.data.scenes import scenes
from common.export import ExportCommand
from common.models.anchors import Anchors
from common.models.centernet import CenterNet
from common.models.described import Architecture, DescribedBackbone
from common.models.detector import load_detector, save_detector
from common.models.fpn import FPN
from common.models.retinanet import RetinaNet, RetinaNetSettings
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.suppression import suppress
from common.models.two_stage import TwoStage
from common.plain import InputError
from tests.common.onnx_parity import assert_same, drawn_images, wake

SIZE = (96, 64)
CLASSES = ("bolt", "nut", "washer")


@pytest.fixture(autouse=True)
def no_stack_traces(monkeypatch):
    """The exporter else notes of each step the lines that it comes from, which takes a fifth of its time."""
    monkeypatch.setattr("torch.fx.config.do_not_emit_stack_traces", True)


def thin_backbone(**options) -> DescribedBackbone:
    """A ResNet-18 with one block a stage, so that an export takes seconds."""
    torch.manual_seed(0)
    standard = Architecture.standard("resnet18", 8)
    stages = tuple(replace(stage, blocks=stage.blocks[:1]) for stage in standard.stages)
    return DescribedBackbone(replace(standard, stages=stages), **options)


def two_stage() -> TwoStage:
    network = thin_backbone()
    fpn = FPN(network.out_channels, 4, 5, 16)
    rpn = RPNSettings(anchors=Anchors.octaves(fpn.strides, 2), candidates=(60, 60), proposals=(40, 40))
    return TwoStage(network, 3, fpn, rpn, RoISettings(hidden=(32,), canonical_side=32, points=1, candidates=100))


def retinanet() -> RetinaNet:
    network = thin_backbone()
    fpn = FPN(network.out_channels, 3, 6, 16, extra="conv-on-output")
    return RetinaNet(network, 3, fpn, RetinaNetSettings(depth=1, candidates=100))


def centernet() -> CenterNet:
    return CenterNet(thin_backbone(deformable=(4,)), 3, (8, 8, 8), 8)


def heads(network) -> dict:
    if isinstance(network, TwoStage):
        head = network.roi.heads[0]
        return {network.rpn.objectness: 0.3, network.rpn.codes: 0.1, head.classes: 1.0, head.codes: 0.3}
    if isinstance(network, RetinaNet):
        return {network.classes.hidden[0]: 0.2, network.classes.last: 0.2, network.codes.last: 0.1}
    return {layer: 0.5 for part in (network.heatmap, network.size, network.offset) for layer in (part[0], part[-1])}


@pytest.mark.parametrize("build", [two_stage, pytest.param(retinanet, marks=pytest.mark.slow), centernet])
def test_the_graph_finds_what_the_network_finds(build, tmp_path, monkeypatch, capsys):
    images = drawn_images(SIZE)
    network = build()
    wake(network, heads(network), images)
    before = network.detect(images)
    save_detector(tmp_path / "detector", network, {"categories": CLASSES, "input_size": 64})
    detector, exported = load_detector(tmp_path), tmp_path / "detector.onnx"
    photo = scenes("val", 1, size=200).load_image(0)[:161, :181]  # 71.95x64 of the canvas, 64 but for rounding
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    flags = ["--size", "96x64", "--out", str(exported), "--check", "--images", str(tmp_path)]
    run(export.main, ExportCommand, [str(tmp_path), *flags])
    printed = capsys.readouterr().out
    assert "images Bx3x64x96 to boxes, scores, labels, valid" in printed
    assert re.search(r"\n(\d+) of \1 detections in 1 pictures are in torch and in onnxruntime", printed)
    content = exported.read_bytes()
    assert_same(detector, content, images)
    read = load_detector(exported)
    assert (read.categories, read.input_size, read.device.type) == (CLASSES, (96, 64), "cpu")
    monkeypatch.chdir(tmp_path)
    wide = np.tile(photo[:2], (1, 3, 1))  # less than a row of the canvas
    for picture, least in ((photo, 5), (wide, 0)):
        Image.fromarray(picture).save(tmp_path / "photo.jpg")
        exec(printed[printed.index("import json") :], {})  # the example of its use
        shown = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
        found = read.detect([read_picture(tmp_path / "photo.jpg")]).image(0)  # cut at the picture's edges
        assert len(shown) == len(found) >= least
        for each in found:
            boxes = [
                np.array(box.strip("[]").split(), float)
                for name, score, box in shown
                if name == each.name and abs(float(score) - each.score) < 1e-3
            ]
            assert any(np.allclose(box, each.box, atol=0.01) for box in boxes)
    other = replace(detector, input_size=64)
    with pytest.raises(InputError, match="the export does not find what its detector finds: "):
        export.check(other, read, [photo])
    assert torch.equal(network.detect(images).boxes, before.boxes), "what the exporter saw stays in no memory"
    graph = onnx.load_from_string(content)
    onnx.checker.check_model(graph, full_check=True)
    assert {each.domain for each in graph.opset_import} == {""}, "standard operators alone"
    said = {each.key: json.loads(each.value) for each in graph.metadata_props}
    assert said["description"] == load_detector(tmp_path).description | {"input_size": [96, 64]}


def test_an_image_without_any_detection_is_padding_alone():
    """Each suppression then has nothing to choose from."""
    boxes, valid = torch.rand(1, 5, 4), torch.zeros(1, 5, dtype=torch.bool)

    class Alone(torch.nn.Module):
        def forward(self, boxes, valid, groups):
            return suppress(boxes, valid, 0.5, groups), suppress(boxes, valid, 0.5)

    given = {"boxes": boxes, "valid": valid, "groups": torch.tensor([[0, 2, 2, 1, 0]])}
    program = torch.onnx.export(
        Alone().eval(),
        tuple(given.values()),
        verbose=False,
        optimize=False,
        opset_version=export.OPSET,
        input_names=list(given),
        custom_translation_table=export.translations(),
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for kept in session.run(None, {name: tensor.numpy() for name, tensor in given.items()}):
        assert kept.shape == (1, 5)
        assert not kept.any()


@pytest.fixture
def saved(tmp_path) -> Path:
    card = {"categories": CLASSES, "input_size": SIZE, "provenance": {"data": "auto:photos"}}
    return save_detector(tmp_path / "detector", centernet(), card)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--size", "96x60"], "the sides of a canvas must be multiples of 32 pixels, got 96x60"),
        (["--size", "96"], "must be WIDTHxHEIGHT"),
        (["--out", "detector.pt"], "--out must be a file that ends in .onnx, got detector.pt"),
        (
            ["--check"],
            "no folder photos for the data 'auto:photos'; check the path; it is what the detector was trained",
        ),
    ],
)
def test_bad_flags_are_one_sentence(flags, says, saved, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(export.main, ExportCommand, [str(saved), "--out", str(tmp_path / "new" / "new.onnx"), *flags])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err
    assert not list(tmp_path.rglob("new*"))


def test_the_folder_is_made_or_told_to_be_none_before_any_work(saved, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "detector.onnx"
    monkeypatch.setattr(export, "onnx_of", lambda *_: b"graph")
    run(export.main, ExportCommand, [str(saved), "--out", str(out)])
    assert out.read_bytes() == b"graph"
    monkeypatch.setattr(export, "onnx_of", lambda *_: pytest.fail("the work was done"))
    with pytest.raises(SystemExit) as ended:
        run(export.main, ExportCommand, [str(saved), "--out", str(out / "below-a-file.onnx")])
    assert ended.value.code == 2
    assert "cannot write" in capsys.readouterr().err


def test_what_is_not_installed_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"best\.onnx needs onnxruntime, which is not installed: pip install"):
        load_detector(tmp_path / "best.onnx")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(SystemExit) as ended:
        run(export.main, ExportCommand, ["best", "--out", str(tmp_path / "best.onnx")])
    assert ended.value.code == 2
    assert "not installed: pip install onnxscript\n" in capsys.readouterr().err


def test_what_is_no_export_is_one_sentence(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"graph")
    with pytest.raises(InputError, match=r"bad\.onnx is damaged, or no export of a detector .*: export it again"):
        load_detector(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match=r"none\.onnx is not there"):
        load_detector(tmp_path / "none.onnx")
