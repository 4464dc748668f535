"""Which process is the Triton behind a TCP port of this host."""

from __future__ import annotations

import psutil

# `docker-proxy` and the like listen in place of a Triton inside a container; taken for Triton they would show a
# server whose stubs have all died. So only what is called so is one.
SERVER_NAME = "tritonserver"


def find_server(port: int) -> psutil.Process | str:
    """Return the tritonserver that listens on a port, or the reason why there is none to be seen.

    Costs milliseconds and more: every open file of every process is looked at.
    """
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError) as exc:
        return f"the listening ports of this host can't be read: {exc}"
    listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
    pids = {each.pid for each in listening if each.laddr and each.laddr.port == port}
    if not pids:
        return f"nobody listens on port {port} of this host"
    others = []
    for pid in pids - {None}:
        try:
            process = psutil.Process(pid)
            name = process.name()
        except psutil.Error:
            continue
        if name == SERVER_NAME:
            return process
        others.append(f"{name} (pid {pid})")
    if others:
        return f"port {port} of this host belongs to {', '.join(sorted(others))}, not to {SERVER_NAME}"
    return (
        f"who listens on port {port} can't be seen: another user's process or another container's; "
        "run as Triton's user, or as root, and in its process namespace"
    )
