"""Unpack what a learning platform hands out, without trusting it: the extractor of ``nbgrader zip_collect``.

An archive is unpacked whole or not at all. One that is refused is named with the reason, and the others go on.
"""

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nbgrader.plugins import ExtractorPlugin
from traitlets import Integer

CHUNK = 1 << 16
SPECIAL = "a link or a special file"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeError)
CLASHES = (FileExistsError, NotADirectoryError, IsADirectoryError)


class Refused(Exception):
    """An archive that is not unpacked; the message says why."""


@dataclass(frozen=True)
class Member:
    """An entry of an archive; ``kind``: "file", "folder", or what else it claims to be."""

    name: str
    kind: str
    open: Callable[[], "IO[bytes] | _Counted"]


@dataclass
class Purse:
    """How many bytes may still come out of an archive, counted as they come."""

    left: int

    def spend(self, size: int, name: str) -> None:
        """Take ``size`` bytes; raise ``Refused`` when nothing is left."""
        self.left -= size
        if self.left < 0:
            raise Refused(f"it unpacks to more than is allowed (the limit was reached at {name!r})")


class SafeExtractor(ExtractorPlugin):
    """Unpacks plain files out of zip and tar.gz archives; archives inside archives stay files."""

    max_bytes = Integer(2_000_000_000, help="bytes that may come out of one archive").tag(config=True)
    max_files = Integer(20_000, help="files and folders that may come out of one archive").tag(config=True)
    max_ratio = Integer(100, help="bytes out per byte in, once 50 MB came out").tag(config=True)
    floor = 50_000_000  # a small archive of repetitive notebooks is no bomb

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack or copy everything below ``archive_path`` into the same place below ``extracted_path``."""
        source, left_out = Path(archive_path), 0
        for path in sorted(source.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            folder = Path(extracted_path) / path.parent.relative_to(source)
            try:
                self._take(path, folder)
            except Refused as reason:
                left_out += 1
                self.log.error("Left out %r: %s.", str(path.relative_to(source)), reason)
        if left_out:
            self.log.error("%d of the files in %s were left out; the lines above say why.", left_out, archive_path)

    def _take(self, path: Path, folder: Path) -> None:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Refused(f"it is {SPECIAL}")
        folder.mkdir(parents=True, exist_ok=True)
        if path.suffix not in self.zip_ext:
            shutil.copyfile(path, folder / path.name)
            return
        target = folder / path.name.removesuffix(path.suffix).removesuffix(".tar")
        if target.exists():
            raise Refused(f"another one was unpacked to {target.name!r} before; rename this one")
        purse = Purse(min(self.max_bytes, max(self.floor, path.stat().st_size * self.max_ratio)))
        part = target.with_name(f".{target.name}.part")
        try:
            with _refusing_what_is_broken():
                _unpack(path, part, purse, self.max_files)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _refusing_what_is_broken() -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise Refused(f"it is broken, or no archive ({error})") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: unknown compression, password
        raise Refused(f"it cannot be read ({error})") from None
    except CLASHES as error:
        raise Refused(f"two of its entries claim one name: {Path(error.filename).name!r}") from None


def _unpack(path: Path, folder: Path, purse: Purse, max_files: int) -> None:
    folder.mkdir()
    members = (_zip_members if path.suffix == ".zip" else _tar_members)(path, purse)
    for number, member in enumerate(members):
        if number >= max_files:
            raise Refused(f"it holds more than {max_files} files")
        target = folder / _checked(member.name)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
        elif member.kind == "file":
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(member, target)
        else:
            raise Refused(f"{member.name!r} is {member.kind}")


def _copy(member: Member, target: Path) -> None:
    with closing(member.open()) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _checked(name: str) -> Path:
    """Return an entry's name as a path that stays below where it is unpacked."""
    parts = name.rstrip("/").split("/")
    fine = all(part not in ("", "..") and len(os.fsencode(part)) <= 255 for part in parts)
    if not fine or len(name) > 1000 or "\\" in name or ":" in parts[0] or not name.isprintable():
        raise Refused(f"{name[:200]!r} is no plain name below the archive's own folder")
    return Path(*parts)


def _zip_members(path: Path, purse: Purse) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise Refused(f"{info.filename!r} is encrypted")
            mode = info.external_attr >> 16
            plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "folder" if info.is_dir() else "file"
            # orig_filename: zipfile cuts the name at a zero byte.
            name = info.filename if info.orig_filename.find("\0") < 0 else info.orig_filename
            opened = lambda i=info, name=name: _Counted(archive.open(i), purse, name)
            yield Member(name, kind if plain else SPECIAL, opened)


def _tar_members(path: Path, purse: Purse) -> Iterator[Member]:
    # As a stream, so that headers, which may be long too, are counted before anybody keeps them.
    with gzip.open(path) as plain, tarfile.open(fileobj=_Counted(plain, purse, path.name), mode="r|") as archive:
        for info in archive:
            # The holes of a sparse file come from nowhere, uncounted.
            kind = "folder" if info.isdir() else "file" if info.isreg() and not info.issparse() else SPECIAL
            yield Member(info.name, kind, lambda i=info: archive.extractfile(i))


class _Counted:
    """A readable file that spends what is read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, purse: Purse, name: str) -> None:
        self.file, self.purse, self.name = file, purse, name
        self.close = file.close

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        self.purse.spend(len(chunk), self.name)
        return chunk
