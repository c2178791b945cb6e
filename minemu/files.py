"""Atomic writes: a reader sees the old file or the new one, never half of one.

A folder that takes another's place is swapped in by two renames: between them there is none, and the old one lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minemu.errors import MinemuError

MARK = "[0-9a-f]" * 8  # of what is being written or replaced: .NAME.MARK.tmp, .NAME.MARK.old


@contextmanager
def _atomic(path: str | os.PathLike, is_dir: bool) -> Iterator[Path]:
    path = Path(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_dir:
            temporary.mkdir()
        yield temporary
        if is_dir and path.exists():
            _swap(temporary, path)
        else:
            os.replace(temporary, path)
    except OSError as error:
        if not _is_ours(error, path, temporary):
            raise  # of a file that the block reads
        raise MinemuError(
            f"could not write {path}: {error.strerror or error}; what was there before is untouched. "
            "Free disk space or choose another folder"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def _swap(new: Path, path: Path) -> None:
    """Put a folder in another's place, by two renames: it cannot be done in one step."""
    retired = new.with_suffix(".old")
    try:
        os.replace(path, retired)
        os.replace(new, path)
    except BaseException:  # also Ctrl-C
        if retired.exists() and not path.exists():
            os.replace(retired, path)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _is_ours(error: OSError, path: Path, temporary: Path) -> bool:
    """Is the error of what is written: the temporary file or folder, `path`, or a folder that has to be made for it?"""
    if error.filename is None:
        return True
    name = Path(error.filename)
    return temporary in (name, *name.parents) or name == path or name in path.parents


def atomic_write(path: str | os.PathLike):
    """Context manager: yields a temporary file path that takes `path`'s place when the block ends well."""
    return _atomic(path, is_dir=False)


def atomic_dir(path: str | os.PathLike):
    """Context manager: yields an empty temporary folder that takes `path`'s place when the block ends well."""
    return _atomic(path, is_dir=True)


def sweep(folder: str | os.PathLike, name: str = "") -> None:
    """Remove what a killed process was writing in `folder`, of all names or of one; a folder that it had put aside comes back."""
    for left in Path(folder).glob(f".{name}.*.tmp" if name else ".*.tmp"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    for retired in Path(folder).glob(f".{name or '*'}.{MARK}.old"):
        place = retired.with_name(retired.name[1 : -len(".01234567.old")])
        if place.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(retired, place)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def append_json(path: str | os.PathLike, value: Any) -> None:
    """Append `value` to a log as one line of JSON."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
    except OSError as error:
        raise MinemuError(
            f"could not write {path}: {error.strerror or error}. Free disk space and run again: "
            "it goes on from the last checkpoint"
        ) from error


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; a missing or half-written file is one clear line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise MinemuError(f"{path} is missing: check the path; a checkpoint may have been only half copied") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MinemuError(f"{path} is not valid JSON ({error}): the file is damaged, fetch or write it again") from None


def read_object(path: str | os.PathLike, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has these keys; what is none, or lacks one, is one clear line."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise MinemuError(f"{path} is no JSON object {{...}}: the file is damaged, fetch or write it again")
    if lacking := [key for key in keys if key not in values]:
        raise MinemuError(
            f"{path} lacks '{lacking[0]}': the file is damaged or of something else, fetch or write it again"
        )
    return values


def digest(folder: str | os.PathLike) -> str:
    """SHA-256 of all weights below a folder, their names and what they hold."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.safetensors")):
        total.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                total.update(block)
    return total.hexdigest()
