"""The command that serves a deployment over HTTP."""

from __future__ import annotations

import click

from ltx2.extras import install_line
from tasks.cli.command import main
from tasks.maintenance.server_findings import check_servers
from tasks.settings import Settings


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need LONGTAKE_API_KEYS.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
def serve(host: str, port: int) -> None:
    """Serve jobs over HTTP: API, events, films and pages.

    The API is described at /docs.

    It needs longtake with `[server]`, see docs/server.md, and the servers of a deployment.
    """
    try:
        import uvicorn

        from tasks.server.app import make_app
        from tasks.server.http.access import Keys, check_address, check_host
        from tasks.server.http.connections import BoundedConnection
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing; {install_line('server')}") from None
    settings = Settings.from_env()
    check_host(host, Keys(settings))
    app = make_app(settings)
    check_address(host, port)
    check_servers(settings)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=BoundedConnection,
        ws="none",  # nothing here speaks WebSocket
        log_level="info",
        timeout_graceful_shutdown=5,
    )
