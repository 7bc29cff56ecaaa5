"""What a ClientApp leaves outside its group goes with it."""

import subprocess
import sys

DAEMON = """
import os, subprocess, sys
from flower_runtime.orphans import adopt_orphans, kill_orphans
adopt_orphans()
leaves = (
    "import os, subprocess; os.setsid(); "
    "print(subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)"
)
ours = subprocess.Popen(["sleep", "600"])
child = subprocess.Popen([sys.executable, "-c", leaves], stdout=subprocess.PIPE, text=True)
orphan = int(child.communicate()[0])
killed = kill_orphans([ours.pid])
assert killed == [orphan], (killed, orphan)
assert ours.poll() is None
try:
    os.kill(orphan, 0)
except ProcessLookupError:
    print("gone")
ours.kill()
ours.wait()
"""


def test_an_orphan_of_a_child_is_adopted_and_killed_and_our_own_children_stay() -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "gone\n"), done.stderr
