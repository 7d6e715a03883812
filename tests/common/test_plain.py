"""Plain data: values to JSON and back, and files that are whole or not there."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import plain
from common.plain import (
    InputError,
    first_difference,
    from_json,
    read_json,
    read_json_if_there,
    to_json,
    write_json,
)


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner
    pairs: tuple[tuple[int, int], ...]
    limit: int | None = None
    rows: tuple[Inner, ...] = ()
    names: dict[str, int] = field(default_factory=dict)
    where: Path = Path("runs")
    on: bool = False


@settings(deadline=None, max_examples=30)
@given(
    st.builds(
        Outer,
        inner=st.builds(Inner, kind=st.sampled_from("ab"), share=st.floats(allow_nan=False, allow_infinity=False)),
        pairs=st.lists(st.tuples(st.integers(), st.integers())).map(tuple),
        limit=st.none() | st.integers(),
        rows=st.lists(st.builds(Inner, kind=st.sampled_from("ab"))).map(tuple),
        names=st.dictionaries(st.text(), st.integers()),
        on=st.booleans(),
    )
)
def test_a_record_comes_back_from_json(record):
    assert from_json(Outer, to_json(record)) == record


def test_values_of_every_kind_have_a_json_form():
    value = {1: (np.float32(0.5), math.nan), "t": torch.tensor([[1, 2]]), "p": Path("a/b"), "d": torch.device("cpu")}
    assert to_json(value) == {"1": [0.5, None], "t": [[1, 2]], "p": "a/b", "d": "cpu"}
    assert to_json({3, 1}) == [1, 3]
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json(object())


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], r"config must be an object, got \[\]"),
        ({"pairs": []}, "config lacks the field inner"),
        ({"inner": {"kind": "a"}, "pairs": [], "foo": 1}, "config has a field foo that this version does not know"),
        ({"inner": {"kind": "c"}, "pairs": []}, "config.inner.kind must be one of a, b, got 'c'"),
        ({"inner": {"kind": "a", "share": "x"}, "pairs": []}, "config.inner.share must be float, got 'x'"),
        ({"inner": {"kind": "a"}, "pairs": [[1]]}, "config.pairs.0 must have 2 items, got 1"),
        ({"inner": {"kind": "a"}, "pairs": 3}, "config.pairs must be a list, got 3"),
        ({"inner": {"kind": "a"}, "pairs": [], "limit": 1.5}, "config.limit must be int .* None, got 1.5"),
        ({"inner": {"kind": "a"}, "pairs": [[True, 1]]}, "config.pairs.0.0 must be int, got True"),
        ({"inner": {"kind": "a"}, "pairs": [], "limit": False}, "config.limit must be int .* None, got False"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(value, sentence):
    with pytest.raises(InputError, match=sentence):
        from_json(Outer, value, "config")


def test_the_first_difference_is_named_with_both_values():
    there, here = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "d": 3}
    assert first_difference(there, there) is None
    assert first_difference(there, here) == ("a.c", "2", "4")
    assert first_difference({"a": 1}, {}) == ("a", "1", "nothing")
    assert first_difference({"a": 1}, {"a": True}) == ("a", "1", "true")


def test_json_is_written_whole_and_read_back(tmp_path):
    path = write_json(tmp_path / "deep" / "x.json", {"a": math.inf, "b": "ä"})
    assert read_json(path) == {"a": None, "b": "ä"}
    assert read_json_if_there(tmp_path / "none.json") is None
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_damaged_json_gives_one_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.json is not valid JSON .*; delete it"):
        read_json(path)
    with pytest.raises(InputError, match=r"none.json cannot be read \(No such file"):
        read_json(tmp_path / "none.json")


def test_a_file_in_a_folders_place_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(InputError, match="there is a file where a folder is needed; choose another place"):
            plain.make_folder(path)


def test_names_are_on_disk_with_what_they_name(tmp_path, monkeypatch):
    """A file that was synced is lost all the same where its name, or that of a new folder above it, is not."""
    synced = []
    monkeypatch.setattr(plain, "sync_entries", synced.append)
    write_json(tmp_path / "new" / "run" / "result.json", {})
    assert set(synced) == {tmp_path, tmp_path / "new", tmp_path / "new" / "run"}
