"""`headrace serve`: starts the server and says where it is."""

from headrace.cli import show
from headrace.server import Server
from headrace.server import serve as run_server
from headrace.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until stopped."""

    def listening(server: Server, port: int) -> None:
        out = show.console()
        sealed = settings.tls_self_signed or settings.tls_cert
        url = f"{'https' if sealed else 'http'}://{settings.host}:{port}"
        out.print(f"[bold]headrace[/] listens on {url}  ·  docs {url}/docs")
        if server.new_key:
            out.print(
                f"admin key (shown once, kept in {settings.data_dir}/admin.key):"
                f" [bold]{server.new_key}[/]"
            )

    run_server(settings, listening)
