"""A thin space of teachers, small enough for many forward passes on one core."""

import torch

from joint_detnas.method import TeacherPool
from joint_detnas.presets import TeacherSpace
from tests.common.models.families import CLASSES, ROI, RPN, wake_heads

SPACE = TeacherSpace(depths=((1, 2), (1, 2), (1, 3), (1, 2)), width=8, neck_width=16, channel_multiple=2)


def make_pool(seed: int = 0) -> TeacherPool:
    """An untrained pool whose heads say something."""
    torch.manual_seed(seed)
    pool = TeacherPool(SPACE, CLASSES, RPN, ROI)
    wake_heads(pool)
    return pool
