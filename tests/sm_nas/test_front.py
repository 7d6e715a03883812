"""What a comparison asks of SM-NAS by a budget; its plan is tested beside the other methods'."""

from types import SimpleNamespace

from common.train.run_folder import Run
from sm_nas.encoding import Structure
from sm_nas.front import length


def test_final_trainings_take_what_is_left_and_each_network_counts_once(tmp_path):
    """Though two groups may come to the same networks, where they differ in nothing but a backbone of one block."""
    study = SimpleNamespace(images_an_epoch=100, run_path=lambda name: tmp_path / name)
    study.once = lambda *_, **__: {"one": [0.02], "two": [0.01]}
    codes = ("11-21-21-21", "11-21-21-211")
    networks = [Structure(f"basicblock_12_{code}", (64, 64), (1, 5), 16, "rpn", 1) for code in codes]
    searches = ["stage-two-c0", "stage-two-c1"]
    for name in searches:
        with Run.open(tmp_path / name, {}) as run:
            for each in networks:
                run.candidate(key=str(each), status="done", train_cpu_seconds=4.0, samples=200)
    found = dict(zip(("F0", "F1"), networks, strict=True))
    # an epoch of 100 images takes 2 s as stage two trains, and twice as long as stage one does
    assert length(study, study, 80.0, searches, found, None) == {"epochs": 10, "left": 80.0}
