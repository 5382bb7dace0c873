"""The Lua scripts that change job records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).with_name("lua")
PRELUDES = ("prelude", "prelude_room", "prelude_parts", "prelude_takes", "prelude_endings")


def load_scripts(client: redis.Redis) -> dict[str, Any]:
    """Every script of `lua/` by name, bound to `client`. The preludes are put before each."""
    prelude = "".join((FOLDER / f"{name}.lua").read_text() for name in PRELUDES)
    names = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem not in PRELUDES)
    return {name: client.register_script(prelude + (FOLDER / f"{name}.lua").read_text()) for name in names}
