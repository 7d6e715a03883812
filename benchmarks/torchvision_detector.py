"""torchvision's Faster R-CNN on a backbone of this project, used as this project's detectors are."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from common.batch import Batch, Detections
from joint_detnas.presets import DetectorSettings

_STRIDES = (4, 8, 16, 32, 64)
_BINS = 7 * 7


class _Pyramid(nn.Module):
    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, width
        self.fpn = FeaturePyramidNetwork(list(backbone.out_channels), width, LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(level), each) for level, each in enumerate(self.backbone(images))))


class TorchvisionDetector(nn.Module):
    """Pyramid, RPN, head, losses and suppression are torchvision's; widths, anchors and the numbers of samples and
    proposals are those of `settings`.

    size: width and height of the images.
    """

    def __init__(self, backbone: nn.Module, categories: int, size: tuple[int, int], settings: DetectorSettings) -> None:
        super().__init__()
        width, hidden = settings.neck_width, settings.hidden
        (most_before, before), (most_after, after) = settings.candidates, settings.proposals
        sides = tuple((settings.anchor_scale * stride,) for stride in _STRIDES)
        self.network = FasterRCNN(
            _Pyramid(backbone, width),
            min_size=min(size),
            max_size=max(size),
            image_mean=[0.0] * 3,  # images come normalised
            image_std=[1.0] * 3,
            rpn_batch_size_per_image=settings.rpn_samples,
            rpn_pre_nms_top_n_train=most_before,
            rpn_pre_nms_top_n_test=before,
            rpn_post_nms_top_n_train=most_after,
            rpn_post_nms_top_n_test=after,
            box_batch_size_per_image=settings.region_samples,  # torchvision's 512 triple the time of a thin net's step
            rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
            box_head=TwoMLPHead(width * _BINS, hidden),
            box_predictor=FastRCNNPredictor(hidden, categories + 1),
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses by torchvision's names, and "loss", their sum."""
        rows = zip(batch.boxes, batch.labels, batch.valid, strict=True)
        targets = [{"boxes": boxes[valid], "labels": labels[valid] + 1} for boxes, labels, valid in rows]
        losses = self.network(list(batch.images), targets)
        return {"loss": sum(losses.values()), **losses}

    def detect(self, images: Tensor) -> Detections:
        """(B, 3, H, W) -> at most 100 detections an image."""
        found, most = self.network(list(images)), self.network.roi_heads.detections_per_img
        parts = {"boxes": torch.zeros(len(found), most, 4), "scores": torch.zeros(len(found), most)}
        parts["labels"] = torch.zeros(len(found), most, dtype=torch.int64)
        for place, one in enumerate(found):
            for name, part in parts.items():
                part[place, : len(one["boxes"])] = one[name] - int(name == "labels")  # 0 is the background
        return Detections(**parts, valid=parts["scores"] > 0).to(images.device)
