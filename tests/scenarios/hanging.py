"""A server that hangs while a file exists: `python -m tests.scenarios.hanging WHAT FILE serve --config ...`.

WHAT: log, a write to the log does not return, as on a disk or network volume that is gone; loop, applying a change does
not return, as when the store waits for such a disk; store, the last flush of the store does not.
"""

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wukong.node.node import Node
from wukong.raft.wal import Wal
from wukong.store.rocks import RocksStore

PLACES: dict[str, tuple[type, str]] = {"log": (Wal, "write"), "loop": (Node, "apply"), "store": (RocksStore, "flush")}


def hanging(call: Callable[..., Any], file: Path) -> Callable[..., Any]:
    def wait_and_call(*args: Any) -> Any:
        while file.exists():
            time.sleep(0.02)
        return call(*args)

    return wait_and_call


if __name__ == "__main__":
    what, file, *sys.argv[1:] = sys.argv[1:]
    owner, name = PLACES[what]
    setattr(owner, name, hanging(getattr(owner, name), Path(file)))
    runpy.run_module("wukong", run_name="__main__", alter_sys=True)
