"""``python -m afictl``."""

from afictl.cli.main import main

main()
