"""Options without folders of this machine; the published files are tested in test_command.py."""

import re
from pathlib import Path

from common.reproduce.publish import generic_data, without_places

RESULTS = Path(__file__).resolve().parents[3] / "results"


def test_generic_data_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    assert generic_data("coco:/some/where/aquarium") == "coco:DIR/aquarium"
    assert generic_data("voc:/some/where/aquarium/") == "voc:DIR/aquarium"
    assert generic_data("scenes:train=9") == "scenes:train=9"
    assert generic_data("none") == "none"
    (tmp_path / "reef").mkdir()
    monkeypatch.chdir(tmp_path / "reef")
    assert generic_data("bdd:.") == "bdd:DIR/reef"


def test_no_result_here_names_a_folder_of_a_machine():
    absolute = re.compile(r'"(?:[a-z]+:)?(?:/|~/|[A-Z]:\\)[^"]*"')
    texts = {str(path.relative_to(RESULTS)): path.read_text() for path in RESULTS.rglob("*.json")}
    assert texts
    assert {name: absolute.findall(text)[:1] for name, text in texts.items() if absolute.search(text)} == {}


def test_every_data_option_becomes_generic_and_nothing_else_changes(toy):
    given = toy.Options(data="coco:/some/aquarium", second_data="voc:/some/reef", rounds=4)
    assert without_places(given) == toy.Options(data="coco:DIR/aquarium", second_data="voc:DIR/reef", rounds=4)
    assert without_places(toy.Options(data="coco:/some/aquarium")) == toy.Options(data="coco:DIR/aquarium")
