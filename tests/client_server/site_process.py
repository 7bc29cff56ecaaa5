"""A client server as a process of its own, for tests that kill it: `python site_process.py`, settings in the environment."""

import json
import os

from client_server.__main__ import serve_site
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.settings import Settings
from control_plane.settings import settings_or_exit

if __name__ == "__main__":
    told = json.loads(os.environ["STAND_INS"])
    serve_site(settings_or_exit(Settings), Commands(told["supernode"], told["deactivate"]), Patience(**told["patience"]))
