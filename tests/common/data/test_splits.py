"""Held-out images, and epochs of small sets."""

import numpy as np
import pytest

from common.data import scenes
from common.data.source import load
from common.data.splits import SEARCH_SHARE, epoch_of, training_and_held_out
from tests.common.data import forms
from tests.common.data.forms import refused

DATA = "scenes:train=30,val=2"


@pytest.mark.parametrize(
    ("images", "held_out", "expected"),
    [(12, 5, (12, 5)), (5, 5, (5, 5)), (None, 5, (25, 5)), (None, 10, (24, 6)), (29, 9, (24, 6))],
)
def test_so_many_are_trained_on_and_no_more_than_a_share_is_held_out(images, held_out, expected):
    training, search = parted(DATA, images, held_out)
    assert (len(training), len(search)) == expected
    assert len({*training.image_ids.tolist(), *search.image_ids.tolist()}) == sum(expected)  # they share nothing
    again = parted(DATA, images, held_out)[1]
    assert list(again.image_ids) == list(search.image_ids)


def test_only_the_scenes_that_are_wanted_are_laid_out(monkeypatch):
    laid_out, layout = [], scenes.layout
    monkeypatch.setattr(scenes, "layout", lambda random: laid_out.append(random) or layout(random))
    training, search = parted(DATA, 12, 5)
    assert len(laid_out) == len(training) + len(search) == 17


def parted(data, images, held_out):
    return training_and_held_out(data, images, held_out, "nano", SEARCH_SHARE)


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
        parts = parted(copies, images, held_out)
        assert tuple(map(len, parts)) == expected
        kept, held = ({name.partition("_")[0] for name in names(part)} for part in parts)
        assert not kept & held
    with refused("copies of one picture; add others"):
        parted(data("one", [f"a.rf.{k}.jpg" for k in range(10)]), None, 2)

    # without copies, published results rest on the very images
    training, search = parted(data("each", [f"{k:02d}.jpg" for k in range(30)]), None, 4)
    assert names(search) == {f"{k:02d}.jpg" for k in np.random.default_rng(0).permutation(30)[:4]}
    assert names(training) == {f"{k:02d}.jpg" for k in range(30)} - names(search)
    search = parted(DATA, None, 4)[1]
    assert search.image_ids.tolist() == load(DATA, "train").image_ids[[2, 11, 21, 26]].tolist()


def test_too_few_images_are_said():
    with refused(r"nano trains on 4 images of scenes:.* and holds 5 out .* on at least 5"):
        parted(DATA, 4, 5)
    with refused(r"4 training images, and 20% of them.* give at least 5"):
        parted("scenes:train=4", None, 16)


@pytest.mark.parametrize(("images", "expected"), [(None, 30), (10, 30), (30, 30), (75, 75)])
def test_a_small_set_is_gone_through_more_than_once(images, expected):
    dataset = load(DATA, "train")
    epoch = epoch_of(dataset, images)
    assert len(epoch) == expected
    counts = np.unique(epoch.image_ids, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
