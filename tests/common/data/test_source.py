"""`--data`: every form reaches its reader, and what is not understood is said."""

import numpy as np
import pytest

from common.cli import short_name
from common.data import source
from common.data.source import load
from common.plain import InputError


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("val", 3)])
def test_scenes_take_their_settings_from_the_spec(split, count):
    found = load("scenes:train=5,size=40,val=3", split)
    assert (len(found), found.split) == (count, split)
    assert found.sizes.tolist() == [[40, 40]] * count
    assert found.load_image(0).shape == (40, 40, 3)
    found.validate()


def test_the_defaults_of_scenes(monkeypatch):
    calls = []

    def record(split, count, size, seed):
        calls.append((split, count, size, seed))
        return real("train", 2, 40, 0)

    real = source.scenes
    monkeypatch.setattr(source, "scenes", record)
    load("scenes", "train")
    load("scenes", "val", seed=7)
    load("scenes:", "val")
    load("scenes:seed=4", "train")
    assert calls == [("train", 2500, 96, 0), ("val", 1000, 96, 0), ("val", 1000, 96, 0), ("train", 2500, 96, 4)]


def test_the_seed_chooses_the_subset_and_not_the_scenes():
    spec = "scenes:train=12,size=40"
    whole = load(spec, "train")
    assert load(spec, "train", seed=1).fingerprint() == whole.fingerprint()
    assert load("scenes:train=12,size=40,seed=1", "train").fingerprint() != whole.fingerprint()
    draws = [load(spec, "train", limit=4, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert all(len(draw) == 4 for draw in draws)
    assert np.array_equal(draws[0].image_ids, draws[1].image_ids)
    assert any(not np.array_equal(draws[0].image_ids, draw.image_ids) for draw in draws[2:])


def test_coco_by_spec(aquarium):
    found = load(f"coco:{aquarium}", "val", limit=10)
    assert (len(found), found.name, found.split) == (10, "aquarium", "val")
    assert len(load(f"coco:{aquarium}/", "train")) + len(load(f"coco:{aquarium}", "val")) == 638


@pytest.mark.parametrize("kind", ["coco", "voc", "bdd"])
def test_each_kind_reaches_its_reader(tmp_path, monkeypatch, kind):
    def record(directory, split):
        calls.append((directory, split))
        return source.scenes("train", 2, 40, 0)

    calls = []
    monkeypatch.setitem(source.READERS, kind, record)
    load(f"{kind}:{tmp_path}", "val")
    assert calls == [(tmp_path, "val")]


@pytest.mark.parametrize("spec", ["", "coco", "coco:", "yolo:/tmp", "/tmp", "scene", "Scenes"])
def test_an_unknown_spec_is_answered_with_the_forms(spec):
    for call in (lambda: load(spec, "train"), lambda: short_name(spec)):
        with pytest.raises(InputError, match=r"unknown data .* give scenes\[.* coco:DIR, voc:DIR or bdd:DIR") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", ["train", "train=", "train=-1", "train=0", "size=9.5", "test=5", "train=٣", "=3"])
def test_wrong_settings_of_scenes(settings):
    with pytest.raises(InputError, match="is not understood"):
        load(f"scenes:{settings}", "train")


def test_an_unknown_split_and_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="unknown split 'test'"):
        load("scenes", "test")
    with pytest.raises(InputError, match=r"no folder .*gone"):
        load(f"coco:{tmp_path}/gone", "train")


def test_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_name("scenes") == short_name("scenes:train=5") == "scenes"
    assert short_name("coco:/data/aquarium") == short_name("coco:/data/aquarium/") == "aquarium"
    assert short_name("voc:/data/My Set_2") == "my-set-2"
    assert short_name("coco:.") == tmp_path.name.lower().replace("_", "-")
    assert short_name("bdd:/") == "bdd"
