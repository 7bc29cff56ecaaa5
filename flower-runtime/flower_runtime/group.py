"""Process groups of children: a leader and all that it started."""

import os
import signal


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a group, also when its leader has left; nothing when nobody is there.

    Only for a child's group: until the child has been waited for, and while anybody is in the group, it is nobody else's.
    """
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def kill_group(leader: int) -> None:
    """Kill a group."""
    signal_group(leader, signal.SIGKILL)
