"""How the files of the sample data are written, and how they are compared with a fresh build and with SHA256SUMS."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath

PARTS = {
    "emoji": ("emoji/*.parquet", "emoji/*.json", "emoji/core.txt", "triples.json"),
    "clips": ("clips/*",),
    "photos": ("photos/*",),
    "glosses": ("glosses.json",),
}

# --------------------------------------------------------------------------------------------- writing


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Save under a temporary name and rename: a broken build leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save(temporary)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    write(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_rows(path: Path, rows: list | dict) -> None:
    """A JSON list or object with one row a line: short, and differences are readable."""
    if isinstance(rows, dict):
        lines = [f" {json.dumps(key)}: {json.dumps(row, ensure_ascii=False)}" for key, row in rows.items()]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    else:
        write_text(path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


# --------------------------------------------------------------------------------------------- comparing


def data_files(folder: Path, parts: Iterable[str] = tuple(PARTS)) -> list[str]:
    return [p.relative_to(folder).as_posix() for part in parts for glob in PARTS[part] for p in folder.glob(glob)]


def checksums(folder: Path, parts: Iterable[str] = tuple(PARTS)) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in data_files(folder, parts)}


def read_checksums(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def update_checksums(folder: Path, parts: list[str]) -> None:
    """Record the files of `parts` anew, in the format of `sha256sum -c`; what is recorded of other parts stays."""

    def renewed(name: str) -> bool:
        return any(PurePath(name).match(glob) for part in parts for glob in PARTS[part])

    sums = {name: digest for name, digest in read_checksums(folder).items() if not renewed(name)}
    sums |= checksums(folder, parts)
    write_text(folder / "SHA256SUMS", "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def differences(here: Path, built: Path) -> list[str]:
    """What differs between the files in `built`, those in `here`, and SHA256SUMS."""
    found = []
    for name in sorted(data_files(built)):
        if not (here / name).exists():
            found.append(f"{name}: missing here")
        elif (here / name).read_bytes() != (built / name).read_bytes():
            found.append(f"{name}: the rebuilt file differs")
    recorded, present = read_checksums(here).items(), checksums(here).items()
    return found + [f"{name}: not as SHA256SUMS records it" for name in sorted({n for n, _ in recorded ^ present})]
