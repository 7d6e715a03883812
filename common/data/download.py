"""Fetch a published data set from its official address and unpack it.

    python -m common.data.download coco2017 --to data/coco        (19 GB, then --data coco:data/coco)
    python -m common.data.download voc2007 --to data/voc          (0.9 GB; with voc2012 there too, --data voc:data/voc)
    python -m common.data.download voc2012 --to data/voc          (1.9 GB)

Archives are kept in DIR/archives. A broken download goes on where it stopped when the same command is given again.
"""

import errno
import hashlib
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from common.cli import run
from common.data.values import reason, refuse_escape
from common.plain import InputError

CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
BDD_ADDRESS = "https://bdd-data.berkeley.edu"


@dataclass(frozen=True)
class Archive:
    """A file to fetch, and the md5 that it must have."""

    address: str
    md5: str

    @property
    def file_name(self) -> str:
        return self.address.rsplit("/", 1)[-1]


COCO = "https://s3.amazonaws.com/images.cocodataset.org"  # images.cocodataset.org has no certificate of its own
VOC = "https://thor.robots.ox.ac.uk/pascal/VOC"
# COCO publishes no checksums; everyone who checks has these. Those of VOC are torchvision's.
ARCHIVES = {
    "coco2017": (
        Archive(f"{COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
        Archive(f"{COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
        Archive(f"{COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
    "voc2007": (
        Archive(f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        Archive(f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "voc2012": (Archive(f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
}


@dataclass(frozen=True)
class Config:
    """Download and unpack a published data set; the same command again goes on where it stopped."""

    name: Annotated[Literal["coco2017", "voc2007", "voc2012", "bdd100k"], tyro.conf.Positional]
    """Which data set."""
    to: Path
    """Folder to unpack into; archives are kept in its archives/."""


def main(config: Config) -> None:
    if config.name == "bdd100k":
        raise InputError(
            f"BDD100K needs a registration: log in at {BDD_ADDRESS}, download '100K Images' and 'Detection 2020 "
            "Labels', unpack both, and give --data bdd:DIR with the folder that holds images/ and labels/"
        )
    archives = config.to / "archives"
    for archive in ARCHIVES[config.name]:
        mark = _beside(archives / archive.file_name, "extracted")
        if not mark.exists():  # an archive may be deleted once it is unpacked
            extract(download(archive, archives), config.to)
    print(f"{config.name} is in {config.to}; use it as --data {_data(config.name, config.to)}")


def _data(name: str, to: Path) -> str:
    """The `--data` text of a set in the folder `to`: both years of VOC together, or the one that is there."""
    if name == "coco2017":
        return f"coco:{to}"
    kit = to / "VOCdevkit"
    both = all((kit / year).is_dir() for year in ("VOC2007", "VOC2012"))
    return f"voc:{to if both else kit / name.upper()}"


def download(archive: Archive, folder: Path, tries: int = 5, pause: float = 2.0) -> Path:
    """Fetch an archive into `folder` and check it; returns its path at once where it is there and sound.

    A broken connection is taken up again, at most `tries` times in all with `pause` seconds between; what came stays in
    a .part file for the next call. Raises `InputError` when the archive cannot be had whole.
    """
    path = folder / archive.file_name
    part = _beside(path, "part")
    with _disk_sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _fetch_in_tries(archive.address, part, tries, pause)
        checked = path if path.exists() else part
        with open(checked, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != archive.md5:
            if checked == part:
                part.unlink()  # what differs cannot be mended by going on
            raise InputError(
                f"{checked} has the md5 {found} where {archive.address} should have {archive.md5}; delete it if it is "
                "still there, and give the command again"
            )
        checked.replace(path)  # atomic: a file of this name is whole
        _beside(part, "tag").unlink(missing_ok=True)
    return path


def extract(path: Path, to: Path) -> None:
    """Unpack a .zip or .tar into `to`; a mark beside the archive then says that it is done.

    Members that would land outside `to` are refused. Raises `InputError` for a damaged archive.
    """
    with _disk_sentences(to):
        to.mkdir(parents=True, exist_ok=True)
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    members = {member.filename: member.file_size for member in archive.infolist()}
                    _unpack(path, to, members, archive.extract)  # checks the CRC of each file
            else:
                with tarfile.open(path) as archive:
                    members = {member.name: member.size for member in archive.getmembers()}
                    # refuses links out of `to`, devices, odd permissions
                    _unpack(path, to, members, partial(archive.extract, filter="data"))
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise InputError(
                f"{path} cannot be unpacked ({reason(error)}); delete it and give the command again"
            ) from None
        _beside(path, "extracted").touch()


def _unpack(path: Path, to: Path, members: Mapping[str, int], one: Callable[[str, Path], object]) -> None:
    """Call `one` with each member (name -> bytes), unless one climbs out of the folder or there is no room for all."""
    for name in members:
        refuse_escape(name, f"member {name!r} of {path}")
    _need_room(to, sum(members.values()))
    for name in tqdm(members, desc=f"unpacking {path.name}", unit="file", disable=None):
        one(name, to)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _need_room(folder: Path, length: int) -> None:
    if shutil.disk_usage(folder).free < length:
        raise OSError(errno.ENOSPC, f"{length:,} bytes are needed")


def _fetch_in_tries(address: str, part: Path, tries: int, pause: float) -> None:
    for left in reversed(range(tries)):
        try:
            _fetch(address, part)
            return
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            code = getattr(error, "code", None)
            if code is not None and code < 500 and code != 429:  # the server is well, and has no such file for us
                raise InputError(f"{address} answers {code} {error.reason}; check the address or try later") from None
            if not left:
                here = part.stat().st_size if part.exists() else 0
                why = f"the server answers {code}" if code else getattr(error, "reason", error)
                raise InputError(
                    f"the download of {address} broke off ({why}) with {here:,} bytes in {part}; check the "
                    "connection and give the same command again to go on from there"
                ) from None
            time.sleep(pause)


def _fetch(address: str, part: Path) -> None:
    """Bring `part` to the full length, from its end where the server can do that, else from the start."""
    here = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={here}-"} if here else {}
    version = _beside(part, "tag")  # the server's tag of the version that `part` is of
    if here and version.exists():
        headers["If-Range"] = version.read_text()  # a file that changed meanwhile comes whole
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not here:
            raise
        # Nothing lies past our end: the part is whole, or it is not a part of this file.
        if error.headers.get("Content-Range", "").endswith(f"/{here}"):
            return
        part.unlink()
        _fetch(address, part)
        return
    with response:
        start, total = _range(response, here)
        if total is not None:
            _need_room(part.parent, total - start)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):  # a weak tag does not promise the same bytes
            version.write_text(tag)
        else:
            version.unlink(missing_ok=True)
        with (
            open(part, "r+b" if start else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None) as progress,
        ):
            file.seek(start)
            for chunk in _chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
            file.truncate()
            length = file.tell()
    if total is not None and length < total:
        raise ConnectionError(f"the server closed the connection {total - length:,} bytes before the end")


def _range(response: HTTPResponse, wanted: int) -> tuple[int, int | None]:
    """Where the bytes of an answer start, and the length of the whole file if it is known."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == 206 and found and int(found[1]) == wanted:
        return wanted, int(found[2])
    if response.status == 200:  # a server that ignores ranges sends the whole file
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    raise HTTPException(f"the server answers {response.status} to a request for the bytes from {wanted:,}")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What the server sends. Whatever breaks a connection is a ConnectionError, so that no fault of the disk is seen
    in it."""
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except OSError as error:
        raise ConnectionError(reason(error)) from error


@contextmanager
def _disk_sentences(folder: Path) -> Iterator[None]:
    """Turn what the file system may refuse into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of {folder} is full ({error.strerror}); make room and give the same command again"
            ) from None
        raise InputError(f"{error.filename or folder} cannot be written ({error.strerror}); check the folder") from None


if __name__ == "__main__":
    run(main, Config)
