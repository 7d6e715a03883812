"""torchvision's weights, taken over: its detectors, with the same detections, and backbones trained on ImageNet.

    weights = torchvision.models.get_model_weights("fasterrcnn_resnet50_fpn").COCO_V1.get_state_dict()
    network = faster_rcnn_of_torchvision(weights, epsilon=0.0)

They were trained on images normalised as `common.batch.normalise` does, and on COCO's category ids, of which 90 classes
make room for 80: label l of Faster R-CNN is id l + 1, of RetinaNet id l. The COCO weights go with an epsilon of 0.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from common.models.anchors import Anchors
from common.models.fpn import FPN
from common.models.matching import MatchSettings
from common.models.norm import FrozenBatchNorm2d, Norm
from common.models.resnet import ResNet
from common.models.retinanet import RetinaNet, RetinaNetSettings
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage
from common.plain import InputError

RPN_SETTINGS = RPNSettings(
    anchors=Anchors(((32,), (64,), (128,), (256,), (512,)), rounded=True), match=MatchSettings(0.7, 0.3, 0.0)
)
ROI_SETTINGS = RoISettings(beta=1 / 9)
# Their names, and ours. The oldest weights lack the ".0" that came with the layers' wrappers.
FPN_NAMES = {
    r"backbone\.body\.": "backbone.",
    r"backbone\.fpn\.inner_blocks\.(\d)\.(0\.)?": r"fpn.laterals.\1.",
    r"backbone\.fpn\.layer_blocks\.(\d)\.(0\.)?": r"fpn.outputs.\1.",
}
FASTER_RCNN_NAMES = FPN_NAMES | {
    r"rpn\.head\.conv\.(0\.0\.)?": "rpn.conv.",
    r"rpn\.head\.cls_logits\.": "rpn.objectness.",
    r"rpn\.head\.bbox_pred\.": "rpn.codes.",
    r"roi_heads\.box_head\.fc6\.": "roi.heads.0.hidden.0.",
    r"roi_heads\.box_head\.fc7\.": "roi.heads.0.hidden.1.",
    r"roi_heads\.box_predictor\.cls_score\.": "roi.heads.0.classes.",
    r"roi_heads\.box_predictor\.bbox_pred\.": "roi.heads.0.codes.",
}

RETINANET_SETTINGS = RetinaNetSettings(
    anchors=Anchors(
        tuple(tuple(int(side * 2 ** (step / 3)) for step in range(3)) for side in (32, 64, 128, 256, 512)), rounded=True
    ),
    divide_by="image",
    detections=300,
)
RETINANET_NAMES = FPN_NAMES | {
    r"backbone\.fpn\.extra_blocks\.p6\.": "fpn.extras.0.",
    r"backbone\.fpn\.extra_blocks\.p7\.": "fpn.extras.1.",
    r"head\.classification_head\.cls_logits\.": "classes.last.",
    r"head\.regression_head\.bbox_reg\.": "codes.last.",
}
for _theirs, _ours in (("classification", "classes"), ("regression", "codes")):
    for _layer in range(4):  # the oldest weights count the ReLUs, too
        _new, _old = rf"{_layer}\.0\.", rf"{2 * _layer}\.(?=weight|bias)"
        RETINANET_NAMES[rf"head\.{_theirs}_head\.conv\.({_new}|{_old})"] = f"{_ours}.hidden.{_layer}."


def faster_rcnn_of_torchvision(
    state: Mapping[str, Tensor],
    norm: Norm | None = None,
    frozen_stages: int = 0,
    epsilon: float | None = None,
    rpn: RPNSettings = RPN_SETTINGS,
    roi: RoISettings = ROI_SETTINGS,
) -> TwoStage:
    """Our network with the weights of torchvision's `fasterrcnn_resnet50_fpn`, as many classes as those tell apart.

    norm: frozen unless said otherwise. epsilon: of batch norm, in place of 1e-5.
    """
    categories = _rows(state, "roi_heads.box_predictor.cls_score.bias") - 1
    backbone = ResNet("resnet50", norm or Norm("frozen"), frozen_stages=frozen_stages)
    network = TwoStage(backbone, categories, FPN(backbone.out_channels), rpn, roi)
    weights = _renamed(state, FASTER_RCNN_NAMES)
    for part in ("weight", "bias"):
        # torchvision's background comes first, and has a box; ours comes last, and has none
        weights[f"roi.heads.0.classes.{part}"] = weights[f"roi.heads.0.classes.{part}"].roll(-1, 0)
        weights[f"roi.heads.0.codes.{part}"] = weights[f"roi.heads.0.codes.{part}"][4:]
    # a region's features are read channel by channel there, bin by bin here
    first = weights["roi.heads.0.hidden.0.weight"]
    weights["roi.heads.0.hidden.0.weight"] = first.unflatten(1, (256, 49)).transpose(1, 2).flatten(1)
    return _loaded(network, weights, epsilon)


def retinanet_of_torchvision(
    state: Mapping[str, Tensor],
    norm: Norm | None = None,
    frozen_stages: int = 0,
    epsilon: float | None = None,
    settings: RetinaNetSettings = RETINANET_SETTINGS,
) -> RetinaNet:
    """Our network with the weights of torchvision's `retinanet_resnet50_fpn`.

    As many classes as there, with the same labels: torchvision's own count from 1 and leave class 0 unused.
    norm: of the backbone, frozen unless said otherwise. epsilon: of batch norm, in place of 1e-5.
    """
    per_cell = settings.anchors.per_cell
    categories = _rows(state, "head.classification_head.cls_logits.bias") // per_cell
    backbone = ResNet("resnet50", norm or Norm("frozen"), frozen_stages=frozen_stages)
    fpn = FPN(backbone.out_channels, 2, 6, extra="conv-on-output")
    network = RetinaNet(backbone, categories, fpn, settings)
    return _loaded(network, _renamed(state, RETINANET_NAMES), epsilon)


def _rows(state: Mapping[str, Tensor], name: str) -> int:
    if name not in state:
        raise InputError(f"these are not the weights of the torchvision detector asked for: they lack {name}")
    return len(state[name])


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by our names; `names`: patterns of the beginnings of theirs, the first that fits counts."""
    weights = {}
    for name, tensor in state.items():
        pattern = next((pattern for pattern in names if re.match(pattern, name)), None)
        if pattern is None:
            raise InputError(f"these are not the weights of the torchvision detector asked for: {name} is unknown")
        weights[re.sub(f"^{pattern}", names[pattern], name)] = tensor
    return weights


def _loaded(network: nn.Module, weights: dict[str, Tensor], epsilon: float | None) -> nn.Module:
    network.load_state_dict(weights)
    if epsilon is not None:
        for module in network.modules():
            if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
                module.eps = epsilon
    return network


IMAGENET_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v2")
"""Those of `common.models` that torchvision has weights for (its ResNeXt101 are wider)."""


def imagenet_backbone(name: str) -> dict[str, Tensor]:
    """ImageNet weights (IMAGENET1K_V1) of one of IMAGENET_BACKBONES by the names of its tensors; no classifier.

    Downloaded once by torchvision; InputError, with the address and where to put the file, where that is not possible.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"the ImageNet weights of {name} cannot be had ({error}): fetch {weights.url} into {kept}, or choose a "
            "scale that pre-trains on object crops"
        ) from error
    # the oldest files come without the counters of batch norm
    counters = {key.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for key in state if "mean" in key}
    return {key: tensor for key, tensor in (counters | state).items() if not key.startswith(("fc.", "classifier."))}
