"""`python -m client_server`: one participant's client server."""

import sys

from control_plane.logs import configure
from control_plane.serve import serve
from control_plane.settings import settings_or_exit

from client_server.app import create_app
from client_server.folder import SiteInUse
from client_server.settings import Settings


def main() -> None:
    """Serve until TERM or INT; a wrong setting, a port or a site in use is one sentence and exit code 2."""
    settings = settings_or_exit(Settings)
    configure(settings.log_level)
    folder = settings.folder
    folder.prepare()
    try:
        settings.read_invitation()
        claim = folder.claim()
    except (SiteInUse, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    app = create_app(settings)
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
