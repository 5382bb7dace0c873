from __future__ import annotations

from tasks.cli import main

main(prog_name="longtake")
