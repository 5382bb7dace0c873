"""The Lua scripts that change job records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).with_name("lua")
PRELUDE = "prelude"


def load_scripts(client: redis.Redis) -> dict[str, Any]:
    """Every script of `lua/` by name, bound to `client`. The prelude is put before each."""
    prelude = (FOLDER / f"{PRELUDE}.lua").read_text()
    names = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != PRELUDE)
    return {name: client.register_script(prelude + (FOLDER / f"{name}.lua").read_text()) for name in names}
