"""`python -m client_server`: one participant's client server."""

import sys

from control_plane.logs import configure
from control_plane.serve import serve
from control_plane.settings import settings_or_exit

from client_server.app import create_app
from client_server.folder import SiteInUse
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.settings import Settings


def main() -> None:
    """Serve as the environment says."""
    serve_site(settings_or_exit(Settings))


def serve_site(settings: Settings, commands: Commands | None = None, patience: Patience | None = None) -> None:
    """Serve until TERM or INT; a port or a site in use, or an invitation that cannot be read, is one sentence and exit code 2."""
    configure(settings.log_level)
    folder = settings.folder
    folder.prepare()
    try:
        settings.read_invitation()
        claim = folder.claim()
    except (SiteInUse, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    app = create_app(settings, commands=commands, patience=patience)
    with claim:
        serve(
            app,
            settings.host,
            settings.port,
            tls_certificate=settings.tls_certificate,
            tls_key=settings.tls_key,
            before_shutdown=[lambda: app.state.leave()],
        )


if __name__ == "__main__":
    main()
