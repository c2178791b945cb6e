"""`python -m minemu.cli`, where the command `minemu` is not on the path."""

from minemu.cli import main

main()
