"""`python -m admin_server` serves; `python -m admin_server replay RUN` builds a run's rows anew from its journal."""

import argparse
import asyncio
import sys

from control_plane import logs
from control_plane.errors import EspalierError
from control_plane.serve import serve
from control_plane.settings import settings_or_exit

from admin_server import front
from admin_server.app import create_app
from admin_server.feed import Feed
from admin_server.home import HomeInUse, locked
from admin_server.replay import replay
from admin_server.settings import Settings
from admin_server.startup import Telling, sentence
from db.errors import DatabaseError


def main() -> int:
    """Do what the command line says; 2 for settings that cannot be used, 1 for what one sentence on stderr says."""
    parser = argparse.ArgumentParser(prog="python -m admin_server", description=__doc__)
    verbs = parser.add_subparsers(dest="verb")
    replays = verbs.add_parser("replay", help="build a run's rows anew from its journal")
    replays.add_argument("run", help="the run's id, a Flower run id, or its series id")
    arguments = parser.parse_args()
    settings = settings_or_exit(Settings)
    logs.configure(settings.log_level)
    try:
        if arguments.verb == "replay":
            print(asyncio.run(replay(settings, arguments.run)))
            return 0
        with locked(settings.espalier_home):
            feed = Feed()
            tls = front.certificate(settings)
            app = Telling(create_app(settings, feed=feed))
            try:
                serve(app, settings.host, settings.port, **tls, before_shutdown=[feed.close])
            except SystemExit:
                if not app.has_told:
                    raise
                return 1
        return 0
    except (EspalierError, DatabaseError, HomeInUse, OSError) as refused:
        if (said := sentence(refused)) is None:
            raise
        print(said, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
