"""Is one node healthy? `python -m wukong.cli.cluster.probe` asks the node of this machine; a container's health check.

Standard library only: it runs every few seconds for as long as the container lives.
"""

import http.client
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TIMEOUT_S: Final = 3.0
ANSWER_LIMIT_BYTES: Final = 64 * 1024
DEFAULT_PORT: Final = 5001


def ask(host: str, port: int, token: str = "", *, timeout_s: float = TIMEOUT_S) -> str:
    """Why the node cannot serve, in its own words or in those of the connection; "" if it is healthy. Blocks."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health", headers={"token": token} if token else {})
        answer = connection.getresponse()
        return reason_of(answer.status, answer.read(ANSWER_LIMIT_BYTES))
    except ConnectionRefusedError:
        return "nobody listens there"
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def reason_of(status: int, body: bytes) -> str:
    """What an answer of /health means: "" for healthy."""
    try:
        said = json.loads(body)
    except ValueError:
        said = {}
    words = said if isinstance(said, dict) else {}
    if status == http.client.OK and words.get("status") == "ok":
        return ""
    if status == http.client.UNAUTHORIZED:
        return "it wants its managerToken"
    text = words.get("message") or words.get("msg") or ""
    return str(text) or f"it answered {status}"


def from_environment(environ: Mapping[str, str]) -> tuple[str, int, str]:
    """Host, port and token of the node that the WK_ variables configure. The token may lie in a file, as the image's
    entry point has it. Raises ValueError, OSError."""
    host, _, port = environ.get("WK_HTTPADDR", "").rpartition(":")
    token_file = environ.get("WK_MANAGERTOKEN_FILE", "")
    token = Path(token_file).read_text().strip() if token_file else environ.get("WK_MANAGERTOKEN", "")
    anywhere = ("", "0.0.0.0", "[::]")
    return "127.0.0.1" if host in anywhere else host.strip("[]"), int(port or DEFAULT_PORT), token


def main() -> int:
    try:
        host, port, token = from_environment(os.environ)
    except (ValueError, OSError) as error:
        sys.stdout.write(f"the probe cannot be set up: {error}\n")
        return 1
    reason = ask(host, port, token)
    sys.stdout.write(f"{reason or 'healthy'}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
