"""The Lua scripts that change job records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from tasks.jobs.key_types import KEY_TYPES

FOLDER = Path(__file__).with_name("lua")
PRELUDES = ("prelude", "prelude_room", "prelude_parts", "prelude_takes", "prelude_endings")


def load_scripts(client: redis.Redis) -> dict[str, Any]:
    """Every script of `lua/` by name, bound to `client`. KEY_TYPES and the preludes are put before each."""
    prelude = _key_types() + "".join((FOLDER / f"{name}.lua").read_text() for name in PRELUDES)
    names = sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem not in PRELUDES)
    return {name: client.register_script(prelude + (FOLDER / f"{name}.lua").read_text()) for name in names}


def _key_types() -> str:
    """KEY_TYPES as a table of Lua."""
    pairs = ", ".join(f"[{_quoted(key)}] = '{kind}'" for key, kind in KEY_TYPES.items())
    return f"local KEY_TYPES = {{ {pairs} }}\n"


def _quoted(key: str) -> str:
    return "'" + "".join(letter if letter.isprintable() else f"\\{ord(letter):03}" for letter in key) + "'"
