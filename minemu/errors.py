"""The one error a user can cause: its message is a single line that names the problem and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MinemuError(ValueError):
    """Bad input. The command line prints the message and exits with 2."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'emu-tiny'?"` for a near miss, else the list of what is known."""
    known = list(known)
    close = get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
