"""Limits of the process and the kernel, and whether something keeps the clock."""

import ctypes
import os
import re
import resource
from pathlib import Path
from typing import Final

from wukong.cli.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, not_checked

FILES: Final = "files"
KERNEL: Final = "kernel"
CLOCK: Final = "clock"

# What the server itself needs: the database, its log, links, listeners.
FEWEST_FILES: Final = 1_024
USUAL_FILES: Final = 65_536
BUSY_SHARE: Final = 0.8

# What the listeners ask the kernel for; it silently takes less.
BACKLOG: Final = 4_096
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
_TIME_ERROR: Final = 5


def look_at_files(pid: int) -> Finding:
    """pid: of the running server, 0 for none: then what this process has, which a server started here would have."""
    if not pid:
        return judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], None)
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
        used = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError as error:
        return not_checked(FILES, f"the limits of process {pid} cannot be read ({error.strerror})")
    match = re.search(r"^Max open files +(\d+|unlimited)", limits, re.MULTILINE)
    if match is None:
        return not_checked(FILES, f"process {pid} does not tell its limits")
    return judge_files(resource.RLIM_INFINITY if match[1] == "unlimited" else int(match[1]), used)


def judge_files(limit: int, used: int | None) -> Finding:
    """limit: files a server may open, RLIM_INFINITY for any number. used: by the running one."""
    raise_it = "raise it: LimitNOFILE=1048576 in the systemd unit, --ulimit nofile=1048576 for docker, or ulimit -n"
    if limit == resource.RLIM_INFINITY:
        return Finding(FILES, OK, "open files are not limited")
    if used is not None and used >= BUSY_SHARE * limit:
        return Finding(FILES, ERROR, f"the server has {used:,} of {limit:,} file descriptors in use", raise_it)
    each = "every connected client takes one"
    if limit < FEWEST_FILES:
        return Finding(FILES, ERROR, f"too few file descriptors: {limit:,} may be open, and {each}", raise_it)
    if limit < USUAL_FILES:
        return Finding(FILES, WARNING, f"only {limit:,} file descriptors may be open, and {each}", raise_it)
    return Finding(FILES, OK, f"{limit:,} file descriptors may be open")


def look_at_kernel() -> Finding:
    try:
        return judge_somaxconn(int(SOMAXCONN.read_text()))
    except (OSError, ValueError):
        return not_checked(KERNEL, f"{SOMAXCONN} cannot be read")


def judge_somaxconn(limit: int) -> Finding:
    if limit >= BACKLOG:
        return Finding(KERNEL, OK, f"net.core.somaxconn is {limit:,}")
    return Finding(
        KERNEL,
        WARNING if limit < BACKLOG // 4 else NOTE,
        f"net.core.somaxconn is {limit:,}: of more clients that connect at once, as after a restart, some wait",
        f"sysctl -w net.core.somaxconn={BACKLOG}",
    )


def look_at_own_clock() -> Finding:
    """Asks the kernel, without changing anything, whether a time service steers the clock."""
    try:
        # struct timex, larger than it is on any platform; modes 0: only look.
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    return judge_own_clock(state)


def judge_own_clock(state: int) -> Finding:
    """state: what adjtimex gave, -1 for nothing."""
    if state < 0:
        return not_checked(CLOCK, "the kernel does not tell whether a time service steers the clock")
    if state == _TIME_ERROR:
        return Finding(
            CLOCK,
            NOTE,
            "no time service steers this machine's clock, as far as the kernel knows",
            "run chrony, ntpd or systemd-timesyncd; in a container the host does it",
        )
    return Finding(CLOCK, OK, "a time service steers this machine's clock")
