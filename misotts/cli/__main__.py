"""`python -m misotts.cli` is the command `misotts`."""

from misotts.cli.main import main

main()
