"""Small JSON bodies, in which a key that is given twice is an error, as it is in specs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tasks.field_errors import escaped


class JsonRoute(APIRoute):
    """A path whose JSON bodies have every key once: which of two would count is not obvious."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for a request that checks this while it reads its body."""
        answered = super().get_route_handler()

        async def answered_if_clear(request: Request) -> Response:
            return await answered(_JsonRequest(request.scope, request.receive))

        return answered_if_clear


class _JsonRequest(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=_mapping)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise HTTPException(400, f"{escaped(name)[:60]} is given more than once")
    return dict(pairs)
