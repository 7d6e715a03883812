"""Downloads against a small server on 127.0.0.1: whole, cut in the middle, resumed, wrong."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from common.cli import run
from common.data import download as module
from common.data.download import ARCHIVES, Archive, Config, extract, main
from common.data.source import find
from tests.common.data.forms import refused

CONTENTS = np.random.default_rng(0).bytes(3_000_000)


class Server:
    """Serves `contents` at any path. cuts: bytes after which each of the next answers breaks off."""

    def __init__(self, folder):
        self.contents, self.ranges, self.cuts, self.requests = CONTENTS, True, [], []
        self.missing, self.folder, server = False, folder, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def archive(self, name="set.bin", md5=None):
        md5 = md5 or hashlib.md5(self.contents).hexdigest()
        return Archive(f"http://127.0.0.1:{self.http.server_port}/{name}", md5)

    def download(self, folder=None, **which):
        return module.download(self.archive(**which), folder or self.folder)

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        start, total = 0, len(self.contents)
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if self.missing or start >= total:
            handler.send_error(404 if self.missing else 416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        body = self.contents[start:]
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_whole_download_is_not_repeated(server, tmp_path):
    path = server.download(folder=tmp_path / "new" / "archives")
    assert path.name == "set.bin"
    assert path.read_bytes() == CONTENTS
    assert [entry.name for entry in path.parent.iterdir()] == ["set.bin"]
    assert server.download(folder=path.parent) == path
    assert server.requests == [None]


@pytest.mark.parametrize(
    ("there", "ranges", "requests"),
    [
        (CONTENTS[:2_000_000], True, ["bytes=2000000-"]),
        (CONTENTS[:2_000_000], False, ["bytes=2000000-", None]),
        (CONTENTS, True, []),
    ],
    ids=["cut", "no ranges", "whole"],
)
def test_a_part_is_gone_on_with_or_fetched_anew(server, tmp_path, there, ranges, requests):
    server.ranges = ranges
    (tmp_path / "set.bin.part").write_bytes(there)
    assert server.download().read_bytes() == CONTENTS
    assert server.requests == requests


def test_a_part_of_another_file_is_fetched_anew_by_the_next_call(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(b"x" * 3_000_004)
    with refused("has the md5"):
        server.download()
    assert server.download().read_bytes() == CONTENTS


def test_a_cut_download_goes_on_while_something_comes_and_in_the_next_call(server, tmp_path):
    server.cuts = [1_000_000, 234_567, 0]
    with refused(r"could not fetch .* 1,234,567 bytes are in .*same command again"):
        server.download()
    assert (tmp_path / "set.bin.part").read_bytes() == CONTENTS[:1_234_567]
    assert not (tmp_path / "set.bin").exists()
    assert server.download().read_bytes() == CONTENTS
    assert server.requests == [None, "bytes=1000000-", "bytes=1234567-", "bytes=1234567-"]


def test_a_file_is_checked_when_it_comes_and_when_it_is_there(server, tmp_path):
    with refused(f"has the md5 {server.archive().md5} where .* should have {'0' * 32}"):
        server.download(md5="0" * 32)
    assert list(tmp_path.iterdir()) == []  # nothing that passes for the file
    (tmp_path / "set.bin").write_bytes(CONTENTS[:-1] + b"?")
    with refused(r"set\.bin has the md5 .* delete it"):
        server.download()
    assert server.requests == [None]


def test_what_cannot_be_fetched_or_written_is_one_sentence(server, tmp_path, monkeypatch):
    server.missing = True
    with refused(r"could not fetch .*set\.bin \(exit status 22\); 0 bytes"):
        server.download()
    (tmp_path / "file").touch()
    with refused("cannot be written"):
        server.download(folder=tmp_path / "file" / "archives")
    server.http.shutdown()
    server.http.server_close()
    with refused(r"exit status 7"):
        server.download()
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with refused(r"curl .* is not installed: install it, or put http.*set\.bin into .* yourself"):
        server.download()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def tar_of(members):
    """members: name -> its text, or a path that it links to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            if text.startswith(".."):
                info.type, info.linkname, text = tarfile.SYMTYPE, text, ""
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "make"), [("a.zip", zip_of), ("a.tar", tar_of)])
def test_archives_are_unpacked(tmp_path, name, make):
    (tmp_path / name).write_bytes(make({"VOCdevkit/VOC2007/a.txt": "one", "b.txt": "two"}))
    extract(tmp_path / name, tmp_path / "to")
    assert (tmp_path / "to" / "VOCdevkit" / "VOC2007" / "a.txt").read_text() == "one"
    assert (tmp_path / "to" / "b.txt").read_text() == "two"


@pytest.mark.parametrize(
    ("name", "contents", "sentence"),
    [
        ("a.tar", tar_of({"fine.txt": "x", "../out.txt": "x"}), r"a\.tar cannot be unpacked"),
        ("a.tar", tar_of({"link": "../../out"}), r"a\.tar cannot be unpacked"),
        ("a.tar", b"no archive", r"a\.tar cannot be unpacked"),
        ("a.tar", tar_of({"a.txt": "x" * 5000})[:3000], r"a\.tar cannot be unpacked"),
        ("a.zip", zip_of({"a.txt": "sound text"}).replace(b"sound", b"wrong", 1), r"a\.zip cannot be unpacked"),
    ],
)
def test_bad_archives_are_one_clear_sentence(tmp_path, name, contents, sentence):
    path = tmp_path / name
    path.write_bytes(contents)
    with refused(sentence):
        extract(path, tmp_path / "deep" / "to")
    assert not list(tmp_path.rglob("out*"))
    assert not path.with_name(f"{name}.extracted").exists()


def test_no_member_of_a_zip_lands_outside(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of({"../out.txt": "x", "/tmp/out.txt": "y"}))
    extract(tmp_path / "a.zip", tmp_path / "deep" / "to")
    inside = tmp_path / "deep" / "to"
    assert all(inside in path.parents for path in tmp_path.rglob("out.txt"))


def test_the_command_from_end_to_end(server, tmp_path, monkeypatch, capsys):
    server.contents = zip_of({"annotations/a.json": "{}"})
    monkeypatch.setitem(ARCHIVES, "coco2017", (server.archive("annotations.zip"),))
    arguments = ["coco2017", "--to", str(tmp_path)]
    run(main, Config, arguments)
    unpacked = tmp_path / "annotations" / "a.json"
    assert unpacked.read_text() == "{}"
    assert f"--data coco:{tmp_path}" in capsys.readouterr().out
    unpacked.unlink()
    run(main, Config, arguments)
    (tmp_path / "archives" / "annotations.zip").unlink()  # an unpacked archive may be deleted
    run(main, Config, arguments)
    assert server.requests == [None]
    assert not unpacked.exists()
    shutil.rmtree(tmp_path / "archives")
    run(main, Config, arguments)
    assert server.requests == [None, None]
    with pytest.raises(SystemExit) as caught:
        run(main, Config, ["bdd100k", "--to", str(tmp_path)])
    assert caught.value.code == 2
    assert "needs a registration: log in at https://bdd-data.berkeley.edu" in capsys.readouterr().err


def test_a_year_of_voc_alone_is_named_by_its_own_folder(server, tmp_path, monkeypatch, capsys):
    places = []
    for name in ("voc2012", "voc2007"):
        root = f"VOCdevkit/{name.upper()}"
        lists = {f"{root}/ImageSets/Main/{part}.txt": "a" for part in ("trainval", "test", "train", "val")}
        server.contents = zip_of(lists | {f"{root}/Annotations/a.xml": ""})
        monkeypatch.setitem(ARCHIVES, name, (server.archive(f"{name}.zip"),))
        run(main, Config, [name, "--to", str(tmp_path)])
        places.append(capsys.readouterr().out.strip().rpartition(" ")[2])
        assert find(places[-1])[2].parts.keys() >= {"train", "val"}
    assert places == [f"voc:{tmp_path}/VOCdevkit/VOC2012", f"voc:{tmp_path}"]


def test_the_checksums_and_addresses_of_voc_are_those_of_torchvision():
    published = {entry["url"]: entry["md5"] for entry in DATASET_YEAR_DICT.values()}
    checked = [archive for name in ("voc2007", "voc2012") for archive in ARCHIVES[name]]
    assert {archive.address: archive.md5 for archive in checked}.items() <= published.items()
    assert all(archive.address.startswith("https://") for archives in ARCHIVES.values() for archive in archives)
