"""Where a mixture and the conversations come from, by configuration: the toy world, or data on disk in the papers' formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

from minemu.data.conversations import Conversation, conversation
from minemu.data.formats import FORMATS, READ_BY, DataConfig, listing, open_source
from minemu.data.formats.reading import log
from minemu.data.lessons import LESSONS
from minemu.data.mixture import SOURCES, Mixture, MixtureConfig, Source, ToySource
from minemu.data.video import FRAMES
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest

TOY = "toy"
OnSkip = Callable[[str, int, str], None]  # is told of each bad sample: its source, its number, and why


@dataclass(frozen=True)
class DataFiles:
    """For each source the data on disk that takes the toy world's place; format "toy": none."""

    labels: DataConfig = DataConfig(TOY, "")
    scenes: DataConfig = DataConfig(TOY, "")
    interleaved: DataConfig = DataConfig(TOY, "")
    clips: DataConfig = DataConfig(TOY, "")
    storyboards: DataConfig = DataConfig(TOY, "")
    conversations: DataConfig = DataConfig(TOY, "")  # of stage `instruct`, in format "chats"


class Talks(Protocol):
    """Endless conversations by number."""

    def document(self, number: int) -> Conversation: ...


@dataclass(frozen=True)
class ToyTalks:
    """The toy world's conversations."""

    world: ToyWorld

    def document(self, number: int) -> Conversation:
        return conversation(self.world, number)


def ignore(source: str, sample: int, why: str) -> None:
    """Bad samples are named in the log alone."""


def open_mixture(
    weights: MixtureConfig,
    files: DataFiles,
    world: ToyWorld,
    length: Callable[[str], int],
    n_image: int,
    seed: int,
    on_skip: OnSkip = ignore,
) -> Mixture:
    """The sources in the proportion of their weights; see `formats.open_source` for `length` and `n_image`."""
    check_files(files, weights)
    sources: dict[str, Source] = {name: ToySource(name, world) for name in LESSONS}
    for name in SOURCES:
        data: DataConfig = getattr(files, name)
        if data.format == TOY:
            sources[name] = ToySource(name, world)
        elif getattr(weights, name):
            sources[name] = open_source(data, length, n_image, seed, partial(on_skip, name), name)
    return Mixture(sources, asdict(weights), seed)


def open_talks(
    data: DataConfig,
    world: ToyWorld,
    length: Callable[[str], int],
    n_image: int,
    seed: int,
    on_skip: OnSkip = ignore,
) -> Talks:
    """Conversations to tune on; see `formats.open_source` for `length` and `n_image`."""
    check_talks(DataFiles(conversations=data))
    if data.format == TOY:
        return ToyTalks(world)
    return open_source(data, length, n_image, seed, partial(on_skip, "conversations"), "conversations")


def tell_of_cuts(files: DataFiles, context: int) -> None:
    """Parts of pages that may be longer than the context are cut to it, and lose the pictures beyond: the log says so."""
    room = context - 2  # <s> and </s>
    for name in SOURCES:
        data: DataConfig = getattr(files, name)
        if data.format == "mmc4" and data.mmc4.tokens > room:
            log.warning(
                "%s: parts of pages of up to %d tokens are cut to the model's context of %d; "
                "to take parts that fit: --set train.data.%s.mmc4.tokens=%d",
                *(name, data.mmc4.tokens, context, name, room),
            )


def check_files(files: DataFiles, weights: MixtureConfig) -> None:
    """Refuse settings of the mixture's sources that would be ignored, or make no sense together."""
    for name in SOURCES:
        _check(name, getattr(files, name), getattr(weights, name))


def check_talks(files: DataFiles) -> None:
    """The same for conversations."""
    _check("conversations", files.conversations)


def listings(files: DataFiles, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of those of the sources that are on disk, which files each is made of."""
    return {name: listing(data) for name in names if (data := getattr(files, name)).format in FORMATS}


def _check(name: str, data: DataConfig, weight: int = 1) -> None:
    """Settings that would be ignored, or make no sense together, are refused."""
    key = f"train.data.{name}"
    if data.format == TOY and data.path:
        raise MinemuError(
            f"{key}.path is set without a format: add --set {key}.format= with one of {', '.join(FORMATS)}"
        )
    if data.format != TOY and not weight:
        raise MinemuError(f"{key} would not be read, as train.mixture.{name} is 0: give it a weight")
    if data.format in FORMATS and (data.format == "chats") != (name == "conversations"):
        raise MinemuError(f"{key}.format={data.format}: 'chats' is the format of conversations, and of nothing else")
    if data.format not in (TOY, *FORMATS):
        raise MinemuError(f"{key}.format: no data format '{data.format}': {suggest(data.format, FORMATS)}")
    _check_read(key, data)
    if data.format == "chats" and data.frames > FRAMES:
        raise MinemuError(f"{key}.frames={data.frames}: in a conversation a clip has at most {FRAMES}; give fewer")


def _check_read(key: str, data: DataConfig) -> None:
    """Each setting that differs from its default is one that the format reads."""
    for setting, formats in READ_BY.items():
        value = attrgetter(setting)
        if data.format not in formats and value(data) != value(DataConfig(TOY, "")):
            raise MinemuError(
                f"{key}.{setting} is not read by format '{data.format}', only by {', '.join(formats)}: leave it out"
            )
