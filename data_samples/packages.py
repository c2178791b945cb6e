"""The published packages that the sample data is built from: fetched once, checked, unpacked, kept in a folder."""

import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

DEBIAN = "http://deb.debian.org/debian"


class NoPackage(Exception):
    """A package that cannot be had here, and what to do about it."""


@dataclass(frozen=True)
class DebianPackage:
    """`path` is where a mirror keeps the file."""

    name: str
    version: str
    path: str
    sha256: str


class Packages:
    """A folder of unpacked packages.

    `packages("NAME@VERSION")` is the folder of an npm package, `packages.debian(package)` that of one of Debian's.
    npm compares what it fetches with the registry's digest; Debian's files are compared with the digest noted here.
    """

    def __init__(self, cache: Path):
        self.cache = cache

    def __call__(self, spec: str) -> Path:
        name = spec.lstrip("@").replace("/", "-").replace("@", "-")  # as `npm pack` names its archives
        folder = self.cache / name / "package"
        if not folder.is_dir():
            self._run(f"{spec} of npm is missing", "npm", "pack", spec, "--silent")
            unpack((self.cache / f"{name}.tgz").read_bytes(), folder.parent)
        return folder

    def debian(self, package: DebianPackage) -> Path:
        archive = self.cache / Path(package.path).name
        folder = archive.with_suffix("")
        if folder.is_dir():
            return folder
        if not archive.exists():
            spec = f"{package.name}={package.version}"
            missing = f"{spec} of Debian is missing: save {DEBIAN}/{package.path} as {archive}"
            self._run(missing, "apt-get", "download", "-qq", spec)
            escaped = package.version.replace(":", "%3a")  # apt-get writes the epoch into the name, the mirror does not
            (self.cache / f"{package.name}_{escaped}_all.deb").replace(archive)
        blob = archive.read_bytes()
        if hashlib.sha256(blob).hexdigest() != package.sha256:
            raise NoPackage(f"{archive} is damaged or another version: delete it (its SHA-256 is not {package.sha256})")
        unpack(deb_content(blob), folder)
        return folder

    def _run(self, missing: str, *command: str) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(command, cwd=self.cache, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoPackage(f"{missing} ({' '.join(command[:2])} failed)") from error


def unpack(tar: bytes, folder: Path) -> None:
    """Under a temporary name first: a folder that is there is whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    with tarfile.open(fileobj=io.BytesIO(tar)) as content:
        content.extractall(temporary, filter="data")
    temporary.replace(folder)


def deb_content(blob: bytes) -> bytes:
    """The member data.tar.* of a .deb, which is an `ar` archive: a head of 60 bytes before each member."""
    at = len(b"!<arch>\n")
    while at < len(blob):
        name, size = blob[at : at + 16].decode("ascii"), int(blob[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return blob[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise NoPackage("a .deb without the member data.tar")
