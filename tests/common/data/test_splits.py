"""Held-out images, and epochs of small sets."""

import numpy as np
import pytest

from common.data.source import load
from common.data.splits import SEARCH_SHARE, epoch_of, training_and_held_out
from common.plain import InputError

DATA = "scenes:train=30,val=2"


@pytest.mark.parametrize(
    ("images", "held_out", "share", "expected"),
    [(12, 5, None, (12, 5)), (None, 10, None, (20, 10)), (None, 10, SEARCH_SHARE, (24, 6)),
     (12, 5, SEARCH_SHARE, (12, 5)), (29, 9, SEARCH_SHARE, (24, 6))],
)  # fmt: skip
def test_so_many_are_trained_on_and_no_more_than_a_share_is_held_out(images, held_out, share, expected):
    training, search = training_and_held_out(DATA, images, held_out, "nano", share)
    assert (len(training), len(search)) == expected
    assert len({*training.image_ids.tolist(), *search.image_ids.tolist()}) == sum(expected)  # they share nothing
    again = training_and_held_out(DATA, images, held_out, "nano", share)[1]
    assert list(again.image_ids) == list(search.image_ids)


def test_too_few_images_are_said():
    with pytest.raises(InputError, match=r"30 training images.*scale nano holds 16 out.*smaller scale"):
        training_and_held_out(DATA, None, 16, "nano")
    with pytest.raises(InputError, match=r"4 training images, and 20% of them.* give at least 5"):
        training_and_held_out("scenes:train=4", None, 16, "nano", SEARCH_SHARE)


@pytest.mark.parametrize(("images", "expected"), [(None, 30), (10, 30), (30, 30), (75, 75)])
def test_a_small_set_is_gone_through_more_than_once(images, expected):
    dataset = load(DATA, "train")
    epoch = epoch_of(dataset, images)
    assert len(epoch) == expected
    counts = np.unique(epoch.image_ids, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
