"""The command that serves a deployment over HTTP."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from ltx2.extras import install_line
from tasks.cli.command import main
from tasks.maintenance.server_findings import check_servers
from tasks.settings import Settings, variable


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need LONGTAKE_API_KEYS.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--root-path", help="Prefix of all paths at a proxy, such as /longtake. Default: LONGTAKE_ROOT_PATH.")
@click.option(
    "--forwarded-allow-ips",
    metavar="ADDRESSES",
    help="Proxies whose X-Forwarded-* headers are believed. Default: LONGTAKE_FORWARDED_ALLOW_IPS.",
)
def serve(host: str, port: int, root_path: str | None, forwarded_allow_ips: str | None) -> None:
    """Serve jobs over HTTP: API, events, films and pages.

    The API is described at /docs.

    It needs longtake with `[server]`, see docs/server.md, and the servers of a deployment.
    """
    try:
        import uvicorn

        from tasks.server.app import make_app
        from tasks.server.http.access import Keys, check_address, check_host
        from tasks.server.http.connections import BoundedConnection, PromptServer
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing; {install_line('server')}") from None
    options = {"root_path": root_path, "forwarded_allow_ips": forwarded_allow_ips}
    given = {variable(name): value for name, value in options.items() if value is not None}
    settings = Settings.from_env({**os.environ, **given})
    check_host(host, Keys(settings))
    app = make_app(settings)
    check_address(host, port)
    check_servers(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedConnection,
        ws="none",  # nothing here speaks WebSocket
        proxy_headers=False,  # the application believes proxies itself
        log_level="info",
        timeout_graceful_shutdown=5,
    )
    server = PromptServer(config, end_streams=lambda: app.state.context.hub.close())
    with suppress(KeyboardInterrupt):  # uvicorn raises what stopped it again
        server.run()
    if not server.started:
        sys.exit(1)
