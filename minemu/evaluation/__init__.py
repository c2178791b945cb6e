"""What a trained Emu can do, measured: tasks, an independent judge of pictures, metrics, and the report of results."""
