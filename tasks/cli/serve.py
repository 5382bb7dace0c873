"""The command that serves a deployment over HTTP."""

from __future__ import annotations

import click

from tasks.cli.command import main
from tasks.settings import Settings


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need LONGTAKE_API_KEYS.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(host: str, port: int) -> None:
    """Serve jobs over HTTP: an API with its documentation at /docs, events, and films.

    It needs `pip install longtake[server]`.
    """
    try:
        import uvicorn

        from tasks.server.access import Keys, check_host
        from tasks.server.app import make_app
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing; `pip install longtake[server]`") from None
    settings = Settings.from_env()
    check_host(host, Keys(settings))
    uvicorn.run(make_app(settings), host=host, port=port, log_level="info", timeout_graceful_shutdown=5)
