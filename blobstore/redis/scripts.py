"""The Lua scripts of a blob store, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError

from blobstore.protocol import Data
from blobstore.redis.errors import results_of

FOLDER = Path(__file__).with_name("lua")
PRELUDE = "prelude"


class Scripts:
    """The scripts of `lua/` on the server of `client`. Raises the errors of redis-py."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        prelude = (FOLDER / f"{PRELUDE}.lua").read_text()
        self._scripts = {
            path.stem: client.register_script(prelude + path.read_text())
            for path in FOLDER.glob("*.lua")
            if path.stem != PRELUDE
        }

    def run(self, script: str, keys: list[str], args: Iterable[Data | str | int]) -> object:
        """The reply of a script."""
        return self._scripts[script](keys=keys, args=args)

    def run_each(self, script: str, keys: list[list[str]], args: list[int]) -> list[object]:
        """Run a script once for each list of keys; other clients are served in between."""

        def queue(pipe: Pipeline) -> None:
            for its_keys in keys:
                self.queue(pipe, script, its_keys, args)

        return self.pipelined(script, queue)

    def queue(self, pipe: Pipeline, script: str, keys: list[str], args: Sequence[str | int]) -> None:
        """Add a script to a pipeline of `pipelined`."""
        pipe.evalsha(self._scripts[script].sha, len(keys), *keys, *args)

    def pipelined(self, script: str, queue: Callable[[Pipeline], None]) -> list[Any]:
        """The results of a pipeline that runs `script`. If the server does not have the script, load it and run again.

        redis-py would check before each pipeline, which is one more round trip.
        """

        def once() -> list[Any]:
            with self._redis.pipeline(transaction=False) as pipe:
                queue(pipe)
                return results_of(pipe)

        try:
            return once()
        except NoScriptError:
            self._redis.script_load(self._scripts[script].script)
            return once()
