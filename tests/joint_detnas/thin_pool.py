"""A thin space of teachers, and batches for it, small enough for many forward passes on one core."""

import torch

from common.batch import Batch
from common.models.anchors import Anchors
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from joint_detnas.teachers import TeacherPool, TeacherSpace

CATEGORIES = 3
SIDE = 64
SPACE = TeacherSpace(depths=((1, 2), (1, 2), (1, 3), (1, 2)), width=8, neck_width=16, channel_multiple=2)
RPN = RPNSettings(anchors=Anchors.octaves((4, 8, 16, 32, 64), 4), samples=32, candidates=(60, 40), proposals=(60, 24))
ROI = RoISettings(samples=24, hidden=(32, 32), canonical_side=56)


def make_pool(seed: int = 0) -> TeacherPool:
    """An untrained pool whose heads say something: theirs begin near nothing."""
    torch.manual_seed(seed)
    pool = TeacherPool(SPACE, CATEGORIES, RPN, ROI)
    with torch.no_grad():
        for layer in (pool.rpn.conv, pool.rpn.objectness, pool.roi.heads[0].classes, pool.roi.heads[0].codes):
            layer.weight.normal_(std=0.3)
    return pool


def make_batch(seed: int = 0, images: int = 2, objects: int = 3) -> Batch:
    """Random images with random objects, one of them padding."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, objects, 2, generator=generator) * 34
    sides = 10 + 20 * torch.rand(images, objects, 2, generator=generator)
    valid = torch.ones(images, objects, dtype=torch.bool)
    if objects:
        valid[0, -1] = False
    return Batch(
        torch.randn(images, 3, SIDE, SIDE, generator=generator),
        torch.cat([corner, corner + sides], dim=-1),
        torch.randint(CATEGORIES, (images, objects), generator=generator),
        valid,
        torch.arange(images),
        torch.ones(images),
    )
