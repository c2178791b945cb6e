"""One loop, the stages, exact checkpoints, and the recipe that runs the stages in order."""
