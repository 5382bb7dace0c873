"""`longtake worker` with limits on logged refusals from its environment; by default it logs each on its own."""

from __future__ import annotations

import os

from tasks.cli import main
from tasks.messaging import message_filter

message_filter.SHOWN_PER_MINUTE = int(os.environ.get("REFUSALS_SHOWN", 10**9))
message_filter.COUNT_EVERY_S = 1.0
main()
