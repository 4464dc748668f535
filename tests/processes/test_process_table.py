"""Which process is which."""

import os
import signal
import subprocess
import sys

from orchestrator.processes.process_table import ProcessIdentity, is_stopped, read_identity

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


def test_a_stopped_process_is_told_from_one_that_sleeps() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert not is_stopped(child.pid)
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            assert is_stopped(child.pid)
            child.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, child.pid, os.WCONTINUED)
            assert not is_stopped(child.pid)
        finally:
            child.kill()
    assert not is_stopped(child.pid)
