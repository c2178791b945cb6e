"""Commands that use a checkpoint: `minemu demo | generate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from minemu.cli.app import Device, Dtype, Json, Seed, app, load, write
from minemu.errors import MinemuError

PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@app.command(short_help="Show what a checkpoint can do; leaves a gallery.")
def demo(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Folder or hub repository (default: the shipped one).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the gallery.")] = Path("demo"),
    seed: Seed = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the gallery in a browser.")] = False,
    device: Device = None,
    json: Json = None,
) -> None:
    """Caption unseen pictures, draw from words, continue a document, rebuild a picture; leaves a gallery."""
    from minemu.demo import run_demo

    write(json, run_demo(checkpoint, out, seed, show, device))


@app.command(short_help="Caption, answer, draw, continue or rank.")
def generate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    prompt: Annotated[
        list[str],
        typer.Argument(
            help="Words, picture files and clips (animated GIF, WebP, PNG, or a folder of frames: frames/; MP4 with the "
            "extra 'video'), in order. "
            "For Emu-I, 'assistant: ...' is what it said before."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Draw the next picture into this file; without it, continue in words.")
    ] = None,
    document: Annotated[
        Path | None, typer.Option(help="Continue with words and pictures as they come, the pictures into this folder.")
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(metavar="ANSWER", help="An answer to score; repeatable. They are listed, the likeliest first."),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures, each with its text in a .txt of the same name, to put before the prompt."
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="How many --examples (default: 4): those most like the prompt's last picture, by RICES."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps (default: the checkpoint's).")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale (default: the checkpoint's).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Limit on tokens of text (default: 64).")] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
    json: Json = None,
) -> None:
    """Continue words and pictures with words (Emu-I answers them), a picture (--out) or both (--document), or rank answers (--rank).

    One picture alone is rebuilt with --out.
    """
    import torch

    _refuse_together(out, document, rank, examples, shots, steps, guidance, max_new_tokens)
    most = 64 if max_new_tokens is None else max_new_tokens
    sample = [_piece(piece) for piece in prompt]
    pipe = load(checkpoint, device, dtype)
    if examples is not None:
        sample = [*_nearest_examples(pipe, sample, examples, shots), *sample]
    generator = torch.Generator().manual_seed(seed)
    if document is not None:
        pieces = pipe.continue_document(sample, max_new_tokens=most, generator=generator)
        shown = _show_document(pieces, document)
        return write(json, {"prompt": prompt, "document": shown, "seed": seed})
    if rank:
        ranked = pipe.rank(_as_asked(pipe, sample), rank)
        typer.echo("\n".join(f"{score:7.2f}  {answer}" for answer, score in ranked))
        return write(json, {"prompt": prompt, "ranked": [list(pair) for pair in ranked]})
    if out is None:
        text = _answer(pipe, sample, most)
        typer.echo(text or "(it says nothing)", err=not text)
        return write(json, {"prompt": prompt, "text": text})
    picture = pipe(sample, num_inference_steps=steps, guidance_scale=guidance, generator=generator).images[0]
    _save_picture(picture, out)
    typer.echo(f"drew {out}")
    write(json, {"prompt": prompt, "picture": str(out), "seed": seed})


def _refuse_together(
    out: Path | None,
    document: Path | None,
    rank: list[str] | None,
    examples: Path | None,
    shots: int | None,
    steps: int | None,
    guidance: float | None,
    max_new_tokens: int | None,
) -> None:
    """Options that exclude each other, or that nothing would read."""
    given = [name for name, value in (("--out", out), ("--document", document), ("--rank", rank)) if value]
    if len(given) > 1:
        raise MinemuError(
            "--out draws one picture, --document continues with words and pictures, --rank chooses among words: "
            f"give one of {' and '.join(given)}"
        )
    if out is None and (steps, guidance) != (None, None):
        raise MinemuError("--steps and --guidance are for drawing one picture: add --out FILE, or leave them out")
    if (out is not None or rank) and max_new_tokens is not None:
        raise MinemuError(
            "--max-new-tokens is for words that it says, and with --out and --rank it says none: leave it out"
        )
    if examples is None and shots is not None:
        raise MinemuError("--shots is for --examples FOLDER: add it, or leave --shots out")
    if document is not None and document.exists() and not (document.is_dir() and not any(document.iterdir())):
        raise MinemuError(f"--document {document} is there already and not empty; name a new folder")
    if out is not None and out.suffix.lower() not in PICTURE_FORMATS:
        raise MinemuError(f"--out {out} should end in .png, .jpg or .webp")


def _piece(piece: str) -> Any:
    """What a word of the command line stands for: a picture, a clip, or words. What is named like a file has to be one."""
    from minemu.data.video import as_item
    from minemu.processor import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    if os.path.isdir(piece) and piece.endswith(("/", os.sep)):  # a folder of frames; without the slash it may be a word
        return as_item(Path(piece))
    if piece.endswith("/") and " " not in piece and not os.path.exists(piece):
        raise MinemuError(f"there is no folder {piece}; check the path")
    named = Path(piece).suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) and " " not in piece
    if not (Path(piece).suffix and os.path.isfile(piece)):
        if named:
            raise MinemuError(f"there is no file {piece}; check the path")
        return piece
    return as_item(Path(piece))


def _nearest_examples(pipe: Any, sample: list[Any], folder: Path, shots: int | None) -> list[Any]:
    """Pictures and texts of a folder, those most like the sample's last picture, the most similar last."""
    from minemu.processor import PICTURE_SUFFIXES
    from minemu.sequence import Video

    asked = [piece for piece in sample if not isinstance(piece, (str, Video))]
    if not asked:
        raise MinemuError("--examples are chosen by the last picture of the prompt, and it has none; add one")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    pool = [path for path in found if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pool:
        raise MinemuError(f"--examples {folder} has no pictures; name a folder with pictures and a .txt for each")
    if lacking := [path for path in pool if not path.with_suffix(".txt").is_file()]:
        raise MinemuError(f"{lacking[0]} has no text; write it into {lacking[0].with_suffix('.txt')}")
    if isinstance(asked[-1], os.PathLike):  # its own text would be the answer
        pool = [path for path in pool if not path.samefile(asked[-1])]
    if shots is not None and not 0 <= shots <= len(pool):
        raise MinemuError(
            f"--shots {shots}: {folder} has {len(pool)} pictures beside the prompt's own; give 0 to {len(pool)}"
        )
    chosen = [pool[k] for k in pipe.nearest(asked[-1], pool, min(4, len(pool)) if shots is None else shots)]
    return [piece for path in chosen for piece in (path, _text_of(path.with_suffix(".txt")))]


def _text_of(path: Path) -> str:
    try:
        if text := path.read_text(encoding="utf-8").strip():
            return text
        raise MinemuError(f"{path} is empty; write the text of its picture into it")
    except UnicodeDecodeError as error:
        raise MinemuError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _answer(pipe: Any, sample: list[Any], max_new_tokens: int) -> str:
    from minemu.sequence import Video

    if len(sample) == 1 and isinstance(sample[0], (Path, Video)):
        return pipe.caption(sample[0], max_new_tokens=max_new_tokens)
    return pipe.chat(_as_asked(pipe, sample), max_new_tokens=max_new_tokens).text


def _as_asked(pipe: Any, sample: list[Any]) -> list[Any]:
    """For Emu-I a question in its template."""
    from minemu.chat import as_messages
    from minemu.tokenizer import USER

    return as_messages(sample) if USER in pipe.processor.special else sample


def _show_document(pieces: list[Any], folder: Path) -> list[str]:
    """Print a document and save its pictures as 1.png, 2.png, ...; texts and names of files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[str] = []
    drawn = 0
    for piece in pieces:
        if not isinstance(piece, str):
            drawn += 1
            path = folder / f"{drawn}.png"
            _save_picture(piece, path)
            piece = str(path)
        typer.echo(piece)
        shown.append(piece)
    return shown


def _save_picture(picture: Any, path: Path) -> None:
    from minemu.files import atomic_write

    with atomic_write(path) as temporary:
        picture.save(temporary, format=PICTURE_FORMATS[path.suffix.lower()])
