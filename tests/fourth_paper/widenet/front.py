"""What the made-up paper finds in a budget: each width for a share of it."""

from common.compare.methods import FOUND, RANDOM

UNCOUNTED, PRINTED = ("classification",), {}


def role(run):
    return RANDOM if "width-8" in run else FOUND


def front(study, seconds, random):
    return [study.written(width) for width in study.preset.widths[: 1 if random else None]]
