"""How a node's log looks: lines for people, or one JSON object per line for what collects them."""

import json
import logging
import sys
from datetime import UTC, datetime

CONSOLE = "console"
JSON = "json"


class JsonFormatter(logging.Formatter):
    """{"time": RFC 3339 with ms in UTC, "level": info, "logger": wukong.app, "message": …, "node": 1001}, and `error`
    with the traceback if there is one."""

    def __init__(self, node_id: int) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, str | int] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "node": self._node_id,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(*, level: str, form: str, node_id: int) -> None:
    """Log to stderr from here on. form: CONSOLE or JSON."""
    handler = logging.StreamHandler(sys.stderr)
    if form == JSON:
        handler.setFormatter(JsonFormatter(node_id))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
