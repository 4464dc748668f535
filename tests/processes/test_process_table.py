"""Which process is which."""

import os
import subprocess
import sys

from orchestrator.processes.process_table import ProcessIdentity, read_identity

DEAD = ProcessIdentity(pid=2**22 + 1, start_ticks=1)


def test_a_reused_process_id_is_not_the_process() -> None:
    me = read_identity(os.getpid())
    assert me is not None
    assert me.is_alive()
    assert not ProcessIdentity(me.pid, me.start_ticks + 1).is_alive()
    assert not DEAD.is_alive()


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert read_identity(process.pid) is None
