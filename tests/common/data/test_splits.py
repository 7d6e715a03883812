"""Held-out images, and epochs of small sets."""

import numpy as np
import pytest

from common.data.source import load
from common.data.splits import SEARCH_SHARE, epoch_of, training_and_held_out
from common.plain import InputError
from tests.common.data import forms

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


def names(dataset):
    return set(dataset.load_image.names)


def test_copies_of_a_picture_are_all_trained_on_or_all_held_out(tmp_path):
    def data(name, names):
        pictures = {name: ((40, 20), [("car", (4, 4, 20, 16))]) for name in names}
        forms.write(tmp_path / name, "roboflow", "train", pictures, ["car"])
        forms.write(tmp_path / name, "roboflow", "val", {"0.jpg": ((40, 20), [("car", (4, 4, 20, 16))])}, ["car"])
        return f"coco:{tmp_path / name}"

    copies = data("copies", [f"{k // 3}_jpg.rf.{k}.jpg" for k in range(30)])
    for images, held_out, expected in ((None, 6, (24, 6)), (None, 2, (27, 3)), (20, 6, (20, 6))):
        parts = training_and_held_out(copies, images, held_out, "nano")
        assert tuple(map(len, parts)) == expected
        kept, held = ({name.partition("_")[0] for name in names(part)} for part in parts)
        assert not kept & held
    with pytest.raises(InputError, match="copies of one picture; add others"):
        training_and_held_out(data("one", [f"a.rf.{k}.jpg" for k in range(9)]), None, 2, "nano")

    # without copies, published results rest on the very images
    training, search = training_and_held_out(data("each", [f"{k:02d}.jpg" for k in range(30)]), None, 4, "nano")
    assert names(search) == {f"{k:02d}.jpg" for k in np.random.default_rng(0).permutation(30)[:4]}
    assert names(training) == {f"{k:02d}.jpg" for k in range(30)} - names(search)
    search = training_and_held_out(DATA, None, 4, "nano")[1]
    assert search.image_ids.tolist() == load(DATA, "train").image_ids[[2, 11, 21, 26]].tolist()


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
