"""Fetch a published data set from its official address and unpack it.

    python -m common.data.download coco2017 --to data/coco        (19 GB, then --data coco:data/coco)
    python -m common.data.download voc2007 --to data/voc          (0.9 GB; with voc2012 there too, --data voc:data/voc)
    python -m common.data.download voc2012 --to data/voc          (1.9 GB)

curl fetches the archives, which are kept in DIR/archives. A broken download goes on where it stopped when the same
command is given again.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from common.cli import run
from common.data.values import reason
from common.plain import InputError, make_folder

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


def download(archive: Archive, folder: Path) -> Path:
    """Fetch an archive into `folder` and check it; returns its path at once where it is there and sound.

    What came of a broken download stays in a .part file for the next call. Raises `InputError` when the archive cannot
    be had whole.
    """
    path = folder / archive.file_name
    part = _beside(path, "part")
    with _disk_sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not (part.exists() and _md5(part) == archive.md5):
            _fetch(archive.address, part)
        checked = path if path.exists() else part
        found = _md5(checked)
        if found != archive.md5:
            if checked == part:
                part.unlink()  # what differs cannot be mended by going on
            raise InputError(
                f"{checked} has the md5 {found} where {archive.address} should have {archive.md5}; delete it if it is "
                "still there, and give the command again"
            )
        checked.replace(path)  # atomic: a file of this name is whole
    return path


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _fetch(address: str, part: Path) -> None:
    """Bring `part` to the full length by curl, from its end where the server can do that, else from the start."""
    if shutil.which("curl") is None:
        raise InputError(
            f"curl fetches data sets, and is not installed: install it, or put {address} into {part.parent} yourself, "
            "and give the command again"
        )
    look = "--progress-bar" if sys.stderr.isatty() else "--silent"
    typed = ["curl", "--fail", "--location", "--retry", "3", look, "--show-error", "--continue-at", "-", "--output"]
    while True:
        before = _size(part)
        code = subprocess.run([*typed, part, address]).returncode
        if code == 0:
            return
        if code in (_REFUSED, _NO_RANGES) and before:  # it is no part of the file that the server has now
            part.unlink()
        elif code == _REFUSED or _size(part) <= before:  # else something came: it goes on from there
            raise InputError(
                f"curl could not fetch {address} (exit status {code}); {_size(part):,} bytes are in {part}: give the "
                "same command again to go on from there"
            )


_REFUSED, _NO_RANGES = 22, 33
"""Exit statuses of curl."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def extract(path: Path, to: Path) -> None:
    """Unpack a .zip or .tar into `to`; a mark beside the archive then says that it is done.

    Nothing is written outside `to`. Raises `InputError` for a damaged archive.
    """
    bar = partial(tqdm, desc=f"unpacking {path.name}", unit="file", disable=None)
    with _disk_sentences(to):
        to.mkdir(parents=True, exist_ok=True)
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:  # leaves ".." out of names, and checks the CRC of each file
                    for name in bar(archive.namelist()):
                        archive.extract(name, to)
            else:
                with tarfile.open(path) as archive:
                    for member in bar(archive.getmembers()):
                        _extract_member(archive, member, to)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise InputError(
                f"{path} cannot be unpacked ({reason(error)}); delete it and give the command again"
            ) from None
        _beside(path, "extracted").touch()


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, to: Path) -> None:
    """Files and folders alone, and none outside `to`. (Python's own filters came with 3.11.4; Debian 12 has 3.11.2.)"""
    place = to / member.name
    if not (member.isreg() or member.isdir()) or not place.resolve().is_relative_to(to.resolve()):
        raise tarfile.ExtractError(f"{member.name} is a link or a device, or leads out of the folder")
    make_folder(place if member.isdir() else place.parent)
    if member.isreg():
        with archive.extractfile(member) as source, open(place, "wb") as target:
            shutil.copyfileobj(source, target)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


@contextmanager
def _disk_sentences(folder: Path) -> Iterator[None]:
    """Turn what the file system may refuse into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be written ({error.strerror}); give the same command again once it can"
        ) from None


if __name__ == "__main__":
    run(main, Config)
