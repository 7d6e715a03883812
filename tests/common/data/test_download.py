"""Downloads against a small server on 127.0.0.1: whole, cut in the middle, resumed, wrong, full disk."""

import errno
import hashlib
import io
import shutil
import ssl
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

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
        self.failures, self.tag = [], None  # status codes of the next answers; ETag of the contents
        self.folder, server = folder, self

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

    def download(self, tries=1, folder=None, **which):
        return module.download(self.archive(**which), folder or self.folder, tries, pause=0)

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        if self.failures:
            handler.send_error(self.failures.pop(0))
            return
        start, total, headers = 0, len(self.contents), {"ETag": self.tag} if self.tag else {}
        if asked and self.ranges and handler.headers.get("If-Range") in (None, self.tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}" if start < total else f"bytes */{total}"
            handler.send_response(206 if start < total else 416)
        else:
            handler.send_response(200)
        headers["Content-Length"] = str(max(0, total - start))
        for name, value in headers.items():
            handler.send_header(name, value)
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
        (CONTENTS[:2_000_000], False, ["bytes=2000000-"]),  # a server that ignores ranges sends all
        (CONTENTS, True, ["bytes=3000000-"]),
        (CONTENTS + b"more", True, ["bytes=3000004-", None]),
    ],
    ids=["cut", "no ranges", "whole", "too long"],
)
def test_a_part_is_gone_on_with_or_fetched_anew(server, tmp_path, there, ranges, requests):
    server.ranges = ranges
    (tmp_path / "set.bin.part").write_bytes(there)
    assert server.download().read_bytes() == CONTENTS
    assert server.requests == requests


def test_a_cut_download_goes_on_in_the_same_call_and_in_the_next(server, tmp_path):
    server.cuts = [1_000_000, 234_567]
    with refused(r"broke off .* 1,234,567 bytes in .*same command again"):
        server.download(tries=2)
    assert (tmp_path / "set.bin.part").read_bytes() == CONTENTS[:1_234_567]
    assert not (tmp_path / "set.bin").exists()
    assert server.download().read_bytes() == CONTENTS
    assert server.requests == [None, "bytes=1000000-", "bytes=1234567-"]


@pytest.mark.parametrize(
    ("tag", "ranges", "changed"),
    [('"first"', True, False), ('"first"', True, True), ('W/"weak"', True, False), (None, False, False)],
)
def test_a_part_is_of_the_version_that_its_tag_names(server, tmp_path, tag, ranges, changed):
    server.tag, server.cuts, server.ranges = tag, [1_000_000], ranges
    with refused("broke off"):
        server.download()
    if changed:
        server.tag, server.contents = '"second"', CONTENTS[::-1]
    assert server.download().read_bytes() == server.contents
    assert server.requests == [None, "bytes=1000000-"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.bin"]


def test_a_file_is_checked_when_it_comes_and_when_it_is_there(server, tmp_path):
    with refused(f"has the md5 {server.archive().md5} where .* should have {'0' * 32}"):
        server.download(md5="0" * 32)
    assert list(tmp_path.iterdir()) == []  # nothing that passes for the file
    (tmp_path / "set.bin").write_bytes(CONTENTS[:-1] + b"?")
    with refused(r"set\.bin has the md5 .* delete it"):
        server.download()
    assert server.requests == [None]


def test_whatever_breaks_a_connection_is_tried_again(server, monkeypatch):
    """An error of TLS in the middle of the data is an OSError, as those of the disk are."""
    failures, read = [ssl.SSLError(1, "bad record mac")] * 3, module.HTTPResponse.read

    def failing(response, length):
        if failures:
            raise failures.pop()
        return read(response, length)

    monkeypatch.setattr(module.HTTPResponse, "read", failing)
    with refused(r"broke off \(.*bad record mac.*\) with 0 bytes"):
        server.download(tries=2)
    assert server.download(tries=2).read_bytes() == CONTENTS


def test_errors_of_the_server_and_of_the_connection(server):
    server.failures = [404]
    with refused("answers 404"):
        server.download(tries=3)
    assert len(server.requests) == 1
    server.failures = [503, 500, 429]  # its own trouble passes
    assert server.download(tries=4).read_bytes() == CONTENTS
    server.failures = [503, 503]
    with refused(r"broke off \(the server answers 503\)"):
        server.download(tries=2, name="other.bin")
    server.http.shutdown()
    server.http.server_close()
    with refused(r"broke off .*refused.* with 0 bytes"):
        server.download(tries=2, name="third.bin")


def test_a_disk_too_small_or_a_folder_that_cannot_be_made_is_said_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with refused(r"disk of .* is full \(3,000,000 bytes are needed\)"):
        server.download()
    (tmp_path / "a.zip").write_bytes(zip_of({"a.txt": "x" * 5000}))
    with refused(r"disk of .* is full \(5,000 bytes are needed\)"):
        extract(tmp_path / "a.zip", tmp_path / "to")
    with refused("cannot be written"):
        server.download(folder=tmp_path / "a.zip" / "archives")


def test_a_disk_that_fills_up_keeps_what_came(server, tmp_path, monkeypatch):
    def failing(response):
        yield response.read(700_000)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_chunks", failing)
        with refused(r"full \(No space left on device\); make room"):
            server.download()
    assert (tmp_path / "set.bin.part").stat().st_size == 700_000
    assert server.download().read_bytes() == CONTENTS
    assert server.requests[-1] == "bytes=700000-"


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
        ("a.zip", zip_of({"fine.txt": "x", "../out.txt": "x"}), "does not stay inside"),
        ("a.zip", zip_of({"/tmp/out.txt": "x"}), "does not stay inside"),
        ("a.tar", tar_of({"fine.txt": "x", "../out.txt": "x"}), "does not stay inside"),
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
