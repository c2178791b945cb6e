"""Every plot that a notebook draws, a module a topic. Each function returns a matplotlib `Figure` and touches no global state."""

from minemu.figures.overview import show_batch, show_model, show_pictures, show_sequence

__all__ = ["show_batch", "show_model", "show_pictures", "show_sequence"]
