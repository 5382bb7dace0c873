"""Client of a running Flower."""

from __future__ import annotations

import json
from base64 import b64encode
from http.client import HTTPConnection
from typing import Any


def get(port: int, path: str, login: str = "") -> tuple[int, str]:
    """Status and body of `path` for a login `user:password`; status 0 while nothing listens on the port."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except ConnectionError:
        return 0, ""
    finally:
        connection.close()


def tasks(port: int, login: str) -> dict[str, dict[str, Any]]:
    """Every task that Flower lists, by the text in its arguments column. Of repeated messages, that which did it."""
    status, body = get(port, "/api/tasks", login)
    assert status == 200, body
    listed = sorted(json.loads(body).values(), key=lambda task: bool(task["state"] == "SUCCESS"))
    return {task["args"]: task for task in listed}


def states(port: int, login: str) -> dict[str, str]:
    """The state of every task, by the text in its arguments column."""
    return {args: task["state"] for args, task in tasks(port, login).items()}
