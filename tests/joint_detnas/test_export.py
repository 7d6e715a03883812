"""An upgraded detector in onnxruntime."""

import pytest
import torch

from common.cli import run
from common.export import ExportCommand, main
from common.models.detector import load_detector, save_detector
from joint_detnas.method import AddLayer, ChannelPruning, LayerPruning, Rearrange, evolve
from tests.common.onnx_parity import assert_same, drawn_images, wake


@pytest.mark.slow  # exports of every kind of detector are among the fast tests of common
def test_an_upgraded_detector_finds_the_same_in_onnxruntime(student_of, tmp_path):
    student, images = student_of("bottleneck"), drawn_images((64, 64))
    for action in (ChannelPruning(20.0), AddLayer(2, 2), Rearrange(3, 1), LayerPruning(), ChannelPruning(10.0)):
        student = evolve(student, action)
    head = student.roi.heads[0]
    torch.manual_seed(0)
    wake(student, {student.rpn.objectness: 0.3, student.rpn.codes: 0.1, head.classes: 1.0, head.codes: 0.3}, images)
    file = save_detector(tmp_path / "detector", student, {"categories": ["a", "b", "c"], "input_size": 64})
    flags = ["--out", str(tmp_path / "detector.onnx")]
    run(main, ExportCommand, [str(file), *flags])
    assert_same(load_detector(file), (tmp_path / "detector.onnx").read_bytes(), images)
