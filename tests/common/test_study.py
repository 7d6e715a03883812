"""Runs of a study: made once, read afterwards, remembered with all that they were made from."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import study as study_module
from common.batch import Detections
from common.cli import StudyOptions
from common.data.batches import DetectionBatches
from common.data.crops import object_crops
from common.data.source import load
from common.evaluate.latency import Latency
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNet
from common.models.resnet import ResNet
from common.plain import InputError
from common.report.exhibit import Exhibit
from common.report.reproduce import measure_exhibit
from common.search.executors import evaluate_all
from common.settings import Augmentation, Optimisation, StudyPreset
from common.study import BackboneStudy
from common.train.loop import TrainingError, fit
from common.train.run_folder import Run
from detofa.space import OFAResNetSpace

PRESET = StudyPreset(
    name="smoke",
    train_images=12,
    search_images=3,
    validation_images=5,
    evaluation_batch_size=4,
    augmentation=Augmentation(),
    latency_images=2,
    crop_size=16,
    crop_batch_size=8,
    crops=16,
    classification=Optimisation(epochs=1),
)


SPACE = OFAResNetSpace((1, 1, 1, 1), stage_widths=(8, 8, 16, 16), stem_width=8, channel_multiple=2)


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    PRESETS: ClassVar[Mapping[str, StudyPreset]] = {"smoke": PRESET}
    scale: Literal["smoke"] = "smoke"
    data: str = "scenes:train=20,val=10,size=32"
    preset: StudyPreset = PRESET


class Sums(BackboneStudy):
    """Runs that add numbers: "all" is made from "one" and "two", "two" from "one"."""

    paper = "sums"
    backbone_width = 8

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.made: list[str] = []

    def backbone(self, name: str) -> nn.Module:
        return ResNet(name, width=8)

    def number(self, what: str, of: tuple[str, ...] = (), **settings) -> int:
        def make(run):
            self.made.append(what)
            return {"sum": 1 + sum(getattr(self, each)() for each in of)}

        return self.once(what, make, **settings)["sum"]

    def one(self) -> int:
        return self.number("one")

    def two(self) -> int:
        return self.number("two", ("one",))

    def all(self) -> int:
        return self.number("all", ("one", "two"))


@pytest.fixture
def options(tmp_path) -> Options:
    return Options(out=tmp_path, device="cpu")


def names(used) -> list[str]:
    return [name.partition("/")[2] for name in used]


def test_a_run_is_made_once_and_remembered_with_what_it_was_made_from(options):
    first = Sums(options, 3)
    with first.recording() as used:
        assert first.all() == first.all() == 4
    assert first.made == ["all", "one", "two"]
    assert sorted(names(used)) == ["all-s3", "one-s3", "two-s3"]
    assert all(name.startswith("scenes-smoke/") for name in used)

    again = Sums(options, 3)  # as in another process: nothing is made, all is remembered
    with again.recording() as used:
        assert again.all() == 4
    assert again.made == []
    assert sorted(names(used)) == ["all-s3", "one-s3", "two-s3"]
    with again.recording() as used:
        again.two()
    assert sorted(names(used)) == ["one-s3", "two-s3"]


@pytest.mark.parametrize("name", ["config.json", "result.json", "uses.json"])
@pytest.mark.parametrize("content", [None, b"", b"\0\0\0", b"5", b"null"])
def test_a_damaged_file_of_a_finished_run_is_made_anew_as_the_error_says(options, name, content):
    Sums(options, 3).two()
    file = options.out / "sums" / "scenes-smoke" / "two-s3" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
        with pytest.raises(InputError, match="delete") as refused:
            Sums(options, 3).two()
        for path in re.findall(rf"{options.out}/\S+\.json", str(refused.value).split(": delete ")[1]):
            Path(path).unlink()
    again = Sums(options, 3)
    with again.recording() as used:
        if content is None and name == "uses.json":
            with pytest.raises(InputError, match=r"uses\.json is missing: delete .*/two-s3/result\.json and run"):
                again.two()
            file.with_name("result.json").unlink()
        assert again.two() == 2
    assert sorted(names(used)) == ["one-s3", "two-s3"]


def test_what_is_used_inside_counts_outside_but_not_the_other_way(options):
    sums = Sums(options, 0)
    with sums.recording() as outer:
        sums.one()
        with sums.recording() as inner:
            sums.two()
            sums.one()
        sums.all()
    assert names(inner) == ["one-s0", "two-s0"]
    assert names(outer) == ["one-s0", "two-s0", "all-s0"]
    with sums.recording() as used:
        pass
    assert not used


def test_an_interrupted_run_goes_on_and_its_uses_are_whole(options):
    sums = Sums(options, 0)
    two = sums.two
    sums.two = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        sums.all()
    sums.two = two
    with sums.recording() as used:
        assert sums.all() == 4
    assert sums.made == ["all", "one", "all", "two"]
    assert sorted(names(used)) == ["all-s0", "one-s0", "two-s0"]


def test_another_data_set_is_another_study_whose_runs_count_here(options):
    sums = Sums(options, 0)
    with sums.recording() as used:
        sums.on("scenes:train=21,val=10,size=32").one()
    assert names(used) == ["one-s0"]
    with pytest.raises(InputError, match="holds a run with training_set"):  # both are called scenes
        sums.one()
    with pytest.raises(InputError, match="--seed must be at least 0, got -1"):
        Sums(options, -1)


def test_the_same_images_by_another_spelling_are_the_same_data(options):
    Sums(options, 0).all()
    again = Sums(replace(options, data="scenes:size=32,val=10,train=20"), 0)
    assert again.all() == 4
    assert again.made == []
    with pytest.raises(InputError, match="holds a run with validation_set"):
        Sums(replace(options, data="scenes:train=20,val=11,size=32"), 0).all()


def test_runs_of_all_seeds_are_shared_and_others_are_not(options):
    for seed in (0, 1):
        sums = Sums(options, seed)
        sums.number("table", shared=True)
        sums.number("own")
    assert sums.made == ["own"]
    assert sorted(path.name for path in sums.folder.iterdir()) == ["own-s0", "own-s1", "table"]


def test_times_are_of_one_machine_and_number_of_threads(options, monkeypatch):
    Sums(options, 0).number("latency", timed=True)
    Sums(options, 0).number("one")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    Sums(options, 0).number("one")
    with pytest.raises(InputError, match=r"holds a run with timed_on\.threads = \d+, and this command asks for 7"):
        Sums(options, 0).number("latency", timed=True)


def test_a_run_with_other_settings_is_refused(options):
    Sums(options, 0).number("one", depth=2)
    with pytest.raises(InputError, match="holds a run with depth = 2, and this command asks for 3"):
        Sums(options, 0).number("one", depth=3)
    other = replace(options, preset=replace(PRESET, crops=17))
    assert Sums(other, 0).folder != Sums(options, 0).folder
    object.__setattr__(other, "PRESETS", {"smoke": other.preset})  # a preset changed in the code keeps its folder
    with pytest.raises(InputError, match=r"holds a run with preset.crops = 16, and this command asks for 17"):
        Sums(other, 0).number("one", depth=2)


def test_a_finished_run_is_read_without_writing_in_another_process_too(options, monkeypatch):
    sums = Sums(options, 1)
    sums.all()
    monkeypatch.setattr(Run, "open", lambda *_, **__: pytest.fail("opened for writing"))
    there = pickle.loads(pickle.dumps(sums))
    assert (there.folder, there.made) == (sums.folder, sums.made)
    assert there.all() == Sums(options, 1).all() == 4


def test_failed_candidates_of_a_finished_run_are_tried_again_when_asked(options):
    tried = []

    def search(study, fits) -> list:
        def measure(item):
            tried.append(item)
            if item not in fits:
                raise MemoryError
            return {"AP": item / 10}

        def make(run):
            return {"AP": [record.get("AP") for record in evaluate_all(measure, [1, 2, 3], run, lambda item: item)]}

        return study.once("search", make)["AP"]

    assert search(Sums(options), {1, 3}) == [0.1, None, 0.3]
    again = replace(options, retry_failed=True)
    assert search(Sums(options), {1, 2, 3}) == [0.1, None, 0.3]
    assert search(Sums(again), {1, 3}) == [0.1, None, 0.3]
    assert search(Sums(again), {1, 2, 3}) == search(Sums(again), {}) == [0.1, 0.2, 0.3]
    assert tried == [1, 2, 3, 2, 2]
    assert len(Run.read(Sums(options).run_path("search")).candidates()) == 3


def test_an_exhibit_rests_on_just_the_folders_that_measuring_it_touched(options, monkeypatch):
    evidence = {"two": lambda: study.two(), "plain": 7.0}
    exhibit = Exhibit("table1", "", "", lambda study: {"all": study.all(), "evidence": evidence}, None)
    study = Sums(options, 0)
    study.number("unrelated")
    study.all()
    touched = set()
    for name in ("open", "read"):
        before = getattr(Run, name)
        monkeypatch.setattr(Run, name, lambda path, *rest, before=before: (touched.add(path), before(path, *rest))[1])
    study = Sums(options, 0)
    measured = measure_exhibit(exhibit, study)
    assert measured["evidence"] == {"two": 2, "plain": 7.0}
    assert sorted(names(measured["runs"])) == ["all-s0", "one-s0", "two-s0"]
    assert sorted(names(measured["rests_on"]["two"])) == ["one-s0", "two-s0"]
    assert measured["rests_on"]["plain"] == measured["runs"]
    assert touched <= {study.folder / name for name in names(measured["runs"])}


def test_data_are_those_of_the_preset_and_said_before_the_first_run(options, capsys):
    sums = Sums(replace(options, data="scenes:train=22,val=10,size=32"), 0)
    said = sums.once("one", lambda run: {"said": capsys.readouterr().err.splitlines()})["said"]
    assert [line.partition(": ")[0] for line in said] == ["trained on", "held out to choose by", "reported on"]
    assert sums.once("two", lambda run: {"said": capsys.readouterr().err})["said"] == "one-s0: done in 00:00\n"
    assert sums.images_an_epoch == 12
    assert {name: len(each) for name, each in sums.sets.items()} == {"search": 3, "validation": 5}
    assert len(sums.crops.labels) == 16
    batch = next(sums.training_batches((32, 48), 4).epoch(0))
    assert batch.images.shape == (4, 3, 48, 32)
    whole = [batch.images for batch in sums.training_images((32, 32), 7).in_order()]
    assert [len(images) for images in whole] == [4, 3]


def test_a_backbone_is_pretrained_once_and_counts_as_used(options):
    sums = Sums(options, 0)
    with sums.recording() as used:
        weights = sums.pretrained("resnet18")
    assert names(used) == ["classification-resnet18-s0"]
    ResNet("resnet18", width=8).load_state_dict(weights)
    again = Sums(options, 0).pretrained("resnet18")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_pretraining_stays_when_detectors_are_set_otherwise(options, monkeypatch):
    expected = Sums(options, 0).pretrained("resnet18")

    def with_preset(**changes) -> Sums:
        preset = replace(PRESET, **changes)
        monkeypatch.setitem(Options.PRESETS, "smoke", preset)  # of one folder: the scale itself has become another
        return Sums(replace(options, preset=preset), 0)

    monkeypatch.setattr(study_module, "fit", lambda *_: pytest.fail("a backbone was trained again"))
    found = with_preset(evaluation_batch_size=2, augmentation=Augmentation(flip=0.0)).pretrained("resnet18")
    assert all(torch.equal(each, expected[name]) for name, each in found.items())
    with pytest.raises(InputError, match=r"crop_size"):
        with_preset(crop_size=8).pretrained("resnet18")
    wider = with_preset()
    monkeypatch.setattr(wider, "backbone", lambda name: ResNet(name, width=16))
    with pytest.raises(InputError, match=r"network"):
        wider.pretrained("resnet18")


def test_pretraining_on_other_images_is_done_once_for_all_seeds_and_data_sets(options, bccd):
    learnt = "scenes:train=9,size=32,seed=7"
    options = replace(options, preset=replace(PRESET, pretraining_data=learnt))
    first, other, on_cells = Sums(options, 0), Sums(options, 1), Sums(options, 0).on(f"coco:{bccd}")
    assert np.array_equal(first.crops.objects(3), object_crops(load(learnt, "train"), 16, 16, seed=0).objects(3))
    found = []
    for study in (on_cells, other, first):
        with study.recording() as used:
            found.append(study.pretrained("resnet18"))
        assert list(used) == [f"{first.folder.name}/classification-resnet18"]
    assert all(torch.equal(ours, theirs[name]) for theirs in found for name, ours in found[0].items())
    run = Run.read(first.run_path("classification-resnet18"))
    assert run.config["pretraining_set"] == load(learnt, "train").fingerprint()
    assert run.config["data"] == learnt
    assert not on_cells.folder.exists(), "its own runs lie elsewhere"

    def set_otherwise(**fields) -> Sums:
        return Sums(replace(options, preset=replace(options.preset, **fields)), 0)

    detects, learns = set_otherwise(evaluation_batch_size=2), set_otherwise(crop_batch_size=3)
    assert detects.folder != first.folder
    assert detects.run_path("classification-resnet18") == run.path, "nothing that it learns by is set otherwise"
    assert learns.run_path("classification-resnet18") != run.path

    class BySeed(Sums):
        pretrained_by_seed = True

    apart = [BySeed(options, seed) for seed in (0, 1)]
    assert [study.run_path("classification-resnet18").name for study in apart] == [
        f"classification-resnet18-s{seed}" for seed in (0, 1)
    ]
    ones, others = (study.pretrained("resnet18") for study in apart)
    assert any(not torch.equal(ones[name], others[name]) for name in ones)
    assert all(torch.equal(ones[name], found[0][name]) for name in ones)
    assert apart[1].on(f"coco:{bccd}").run_path("classification-resnet18") == apart[1].run_path(
        "classification-resnet18"
    )
    on_cells.number("one")
    assert list(on_cells.folder.iterdir()) == [on_cells.run_path("one")]


def yolo_set(folder: Path, count: int = 12) -> Path:
    """Grey pictures with one object each, half of them to validate on."""
    (folder / "classes.txt").parent.mkdir(parents=True)
    (folder / "classes.txt").write_text("cell\n")
    for index in range(count):
        for kind in ("images", "labels"):
            (folder / kind / ("train", "val")[index % 2]).mkdir(parents=True, exist_ok=True)
        name = f"{('train', 'val')[index % 2]}/{index}"
        Image.new("RGB", (64, 64), (index, index, index)).save(folder / f"images/{name}.jpg")
        (folder / f"labels/{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return folder


def test_a_damaged_picture_ends_it_before_anything_is_made_and_a_mended_one_lets_it_go_on(options, tmp_path):
    cells = yolo_set(tmp_path / "cells")
    damaged = cells / "images" / "val" / "1.jpg"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) - 200])
    options = replace(options, data=f"yolo:{cells}", preset=replace(PRESET, train_images=None, search_images=1))
    sums = Sums(options, 0)
    with pytest.raises(InputError, match=r"val/1\.jpg"):
        sums.one()
    assert sums.made == []
    study_module._source.cache_clear()
    Image.new("RGB", (64, 64), "white").save(damaged, quality=30)
    again = Sums(options, 0)
    assert (again.one(), again.made) == (1, ["one"])


def test_a_network_that_has_diverged_is_one_sentence(options):
    def measured(run):
        raise FloatingPointError("the network gives boxes that are not finite")

    sums = Sums(options, 0)
    with pytest.raises(TrainingError, match=r"a network of .*nan-s0 has diverged \(the network .* finite\): lower the"):
        sums.once("nan", measured)
    assert Run.read(sums.run_path("nan")).result is None


class Named(nn.Identity):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def test_latencies_are_taken_in_turn(options, monkeypatch):
    order = []

    def measure(module, shape, device, **_):
        order.append(module.network.name)
        return Latency(float(len(order)), 0.0, device, "float32", "none", 1)

    monkeypatch.setattr(study_module, "measure_latency", measure)
    found = Sums(options, 0).latencies_in_turn({name: (Named(name), (32, 32)) for name in "ab"}, "search")
    assert order == ["a", "b"] * PRESET.latency_rounds
    taken = np.arange(1, 2 * PRESET.latency_rounds, 2)
    assert (found["a"]["rounds"], found["a"]["latency"]) == (taken.tolist(), np.median(taken))
    assert found["a"]["latency_iqr"] == np.percentile(taken, 75) - np.percentile(taken, 25) > 0
    assert found["b"]["rounds"][0] == 2.0


def test_a_run_that_is_interrupted_keeps_the_rounds_of_its_latencies(options, monkeypatch):
    measured = []

    def latency_at(self, network, size, where):
        measured.append(network.name)
        if len(measured) == 5:  # in the third round
            raise KeyboardInterrupt
        return {"latency": float(len(measured)), "latency_of": {}}

    monkeypatch.setattr(Sums, "latency_at", latency_at)

    def timed(*names: str) -> dict:
        sums = Sums(options, 0)
        some = {name: (Named(name), (32, 32)) for name in names}
        return sums.once("-".join(names), lambda run: sums.latencies_in_turn(some, "search"), timed=True)

    with pytest.raises(KeyboardInterrupt):
        timed("a", "b")
    assert timed("b")["b"]["rounds"] == list(range(6, 6 + PRESET.latency_rounds))  # of another run
    measured[5:] = []
    assert timed("a", "b")["a"]["rounds"][:3] == [1.0, 3.0, 6.0]
    assert len(measured) == 5 + 2 * (PRESET.latency_rounds - 2)


def test_a_small_set_is_decoded_once_however_often_an_epoch_shows_it(options, monkeypatch):
    small = replace(options, preset=replace(PRESET, train_images=40, search_images=2))
    sums, decoded = Sums(replace(small, data="scenes:train=10,val=10,size=32"), 0), []
    before = study_module.resident
    monkeypatch.setattr(study_module, "resident", lambda *of: (decoded.append((len(of[0]), of[1])), before(*of))[1])
    plain = DetectionBatches(sums._source.epoch, (32, 32), 8, augment=PRESET.augmentation, seed=0)
    ours = sums.training_batches((32, 32), 8)
    assert (ours.steps_per_epoch, sums.images_an_epoch, len(sums.training_set)) == (5, 40, 8)
    for one, other in zip(ours.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.boxes, other.boxes)
    first = [batch.images for batch in sums.training_images((32, 32), 19).in_order()]
    assert torch.equal(torch.cat(first)[:8], torch.cat(first)[8:16])
    assert decoded == [(8, (32, 32))]


def test_a_detector_is_validated_while_it_is_trained_and_nothing_else_is(options, logged):
    def losses_of(network):
        def losses(batch, _):
            yield centernet_losses(network(batch.images), batch)

        return losses

    def train(folder: str, validations: int) -> list[dict]:
        sums = Sums(replace(options, out=options.out / folder, validations=validations), 0)

        def make(run):
            sums.pretrained("resnet18")
            for stage, elastic in (("plain", False), ("elastic", True)):
                torch.manual_seed(0)
                backbone = OFAResNet(SPACE) if elastic else sums.backbone("resnet18")
                network = CenterNet(backbone, len(sums.categories), (8,), 8, elastic)
                batches = sums.training_batches((64, 32), 4)
                fit(run, stage, network, batches, losses_of(network), sums.training(Optimisation(epochs=2)))
            return {"done": True}

        sums.once("detector", make)
        return [logged(sums.run_path(what)) for what in ("detector", "classification-resnet18")]

    measured, classified = train("measured", 1)
    assert [(each["stage"], each["epoch"]) for each in measured if "AP" in each] == [("plain", 1), ("elastic", 1)]
    assert all(each["AP"] is None or 0 <= each["AP"] <= 1 for each in measured if "AP" in each)
    never, _ = train("never", 0)
    assert not any("AP" in each for each in never + classified)
    assert [each["loss"] for each in measured] == [each["loss"] for each in never]


def test_precision_is_measured_on_the_set_asked_for(options):
    class Oracle(nn.Module):
        """Finds every object of the set, in its order."""

        def __init__(self, batches):
            super().__init__()
            self.batches = iter(list(batches.in_order()))

        def detect(self, images):
            batch = next(self.batches)
            scores = batch.valid.float()
            return Detections(batch.boxes, scores, batch.labels, batch.valid)

    sums = Sums(options, 0)
    for where in sums.sets:
        found = sums.precision_at(Oracle(sums.measuring_batches(where, (32, 32))), (32, 32), where)
        assert found["AP"] == pytest.approx(1.0)


def test_a_finished_run_shows_itself_with_what_its_detector_finds(options):
    sums = Sums(options, 0)

    def make(run):
        network = CenterNet(sums.backbone("resnet18"), len(sums.categories), (8,), 8).eval()
        drawn = torch.get_rng_state()
        sums.save_with_card(run.path / "detector" / "detector", network, (32, 32), run, "resnet18", {"AP": 0.25})
        assert torch.equal(torch.get_rng_state(), drawn)  # no training depends on whether a sheet is drawn
        run.log(stage="detector", epoch=0, loss=1.0)
        return {"done": True}

    sums.once("detector", make)
    folder = sums.run_path("detector")
    page = (folder / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "<td>25.0</td>" in page
    with Image.open(folder / "detector" / "detector.jpg") as sheet:
        assert sheet.format == "JPEG"
    assert "data:image/jpeg;base64," in page


def test_a_page_that_cannot_be_drawn_costs_nothing_else(options, monkeypatch, capsys):
    class Reproducing(Options):
        SHOWS_RUNS = False

    Sums(Reproducing(**vars(options)), 3).one()
    assert not (options.out / "sums/scenes-smoke/one-s3/index.html").exists()

    def fails(folder):
        raise OSError("no space")

    monkeypatch.setattr("common.report.page.write_page_of_run", fails)
    assert Sums(options, 4).one() == 1
    assert Run.read(options.out / "sums/scenes-smoke/one-s4").result == {"sum": 1}
    assert "one-s4 could not be drawn (no space); the run itself is whole\n" in capsys.readouterr().err


def test_what_runs_took_is_the_sum_of_their_stages_and_candidates(tmp_path):
    for name, device in {"trained": "cpu", "searched": "cuda"}.items():
        with Run.open(tmp_path / "scenes-smoke" / name, {"device": device}) as run:
            run.finish_stage("detector", {"samples": 10, "seconds": 4.0, "cpu_seconds": 3.0})
            if name == "searched":
                run.candidate(key="a", status="done", samples=5, seconds=2.0, train_cpu_seconds=1.5)
                run.candidate(key="b", status="failed", reason="memory", seconds=1.0)
    names = ["scenes-smoke/trained", "scenes-smoke/searched", "scenes-smoke/elsewhere"]
    expected = {"samples": 25, "seconds": 11.0, "cpu_seconds": 7.5, "gpu_seconds": 7.0, "candidates": 2}
    assert study_module.spent_by(tmp_path, names) == expected
