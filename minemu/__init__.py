"""minemu: Emu (arXiv 2307.05222) from picture to embedding to word to picture, small enough to read and to train on a laptop."""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {
    "Emu": "minemu.model",
    "EmuConfig": "minemu.config",
    "EmuProcessor": "minemu.processor",
    "EmuPipeline": "minemu.pipeline",
    "MinemuError": "minemu.errors",
    "Video": "minemu.sequence",
    "VisualDecoder": "minemu.visual_decoder",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    """Import on first use: `import minemu` alone costs nothing."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'minemu' has no attribute '{name}'")
