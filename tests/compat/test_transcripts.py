"""What a real WuKongIM v2.2.5 answered, replayed against our server (http/*.json; deviations are named in the cases).

One server per mode, and in it all its cases at once: they share nothing. A test per case shows its outcome.
"""

import json
import random
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.compat.replay import Case, Run, Target
from tests.support.server import ServerProcess

CASES_AT_ONCE = 8
RUN_TIMEOUT_S = 300

MANAGER_TOKEN = "secret-manager-token"

# What a case needs from the configuration -> the keys for it. `ws` needs nothing: there always is a WebSocket listener.
SETTINGS: dict[str, dict[str, Any]] = {
    "token_auth": {"tokenAuthOn": True},
    "no_encryption": {"disableEncryption": True},
    "person_allowlist": {"whitelistOffOfPerson": False},
    "manager_token": {"managerToken": MANAGER_TOKEN},
    "no_cmd_sync": {"disableCMDMessageSync": True},
    "no_jsonrpc": {"disableJSONRPC": True},
    "short_times": {
        "connIdleTime": "4s",
        "messageRetry": {"interval": "2s", "scanInterval": "1s", "maxCount": 3},
        "conversation": {"syncInterval": "1s"},
    },
}

# Groups of what the server does not do yet.
GROUPS_NOT_COVERED = {"events", "webhook"}

# Cases that need what the server does not do yet. A case that passes has to leave this list.
CLUSTER_ROUTES = "the routes under /cluster are not served yet"
NOT_COVERED = {
    "denylist_allowlist/deny-unknown-channel": CLUSTER_ROUTES,
    "message_query/cluster-messages": CLUSTER_ROUTES,
    "route_varz_health/cluster-nodes": CLUSTER_ROUTES,
    "route_varz_health/permission-needed": CLUSTER_ROUTES,
    "subscriber/lists-by-cluster-route": CLUSTER_ROUTES,
    "route_varz_health/manager-login": "/manager/login is not served yet",
    "route_varz_health/tags": "there are no tags; the routes for them are not served yet",
    "jsonrpc/event": "/message/event is not served yet",
}

FILES = sorted((Path(__file__).parent / "http").glob("*.json"))


def cases() -> list[Case]:
    return [
        case
        for path in FILES
        if path.stem not in GROUPS_NOT_COVERED
        for case in json.loads(path.read_text())["cases"]
        if case.get("flavour", "wukong") == "wukong"
    ]


def mode_of(case: Case) -> frozenset[str]:
    return frozenset(case["needs"]) - {"ws"}


def parameters() -> list[Any]:
    return [
        pytest.param(
            case,
            id=case["name"],
            marks=[pytest.mark.xfail(reason=NOT_COVERED[case["name"]], strict=True)]
            if case["name"] in NOT_COVERED
            else [],
        )
        for case in cases()
    ]


class AnyServer(ServerProcess):
    """Asks for its health with the manager token, which a server without one passes over."""

    def _is_healthy(self) -> bool:
        request = urllib.request.Request(f"{self.http_url}/health", headers={"token": MANAGER_TOKEN})
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


Outcomes = dict[str, list[str]]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    """mode -> case name -> why it failed. A mode is run when its first case is asked for, with those selected only."""
    selected = {
        item.callspec.params["case"]["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    found: dict[frozenset[str], Outcomes] = {}

    def of(mode: frozenset[str]) -> Outcomes:
        if mode not in found:
            chosen = [case for case in cases() if mode_of(case) == mode and case["name"] in selected]
            found[mode] = run_mode(mode, chosen, tmp_path_factory.mktemp("-".join(sorted(mode)) or "default"))
        return found[mode]

    return of


def run_mode(mode: frozenset[str], chosen: list[Case], directory: Path) -> Outcomes:
    settings: dict[str, Any] = {}
    for need in mode:
        settings |= SETTINGS[need]
    server = AnyServer(directory, settings)
    server.start()
    target = Target("127.0.0.1", server.http_port, f"127.0.0.1:{server.tcp_port}", f"127.0.0.1:{server.ws_port}")
    seed = random.randrange(2**32)
    print(f"mode {sorted(mode)}, seed {seed}")
    runs = [Run(case, target, seed + n) for n, case in enumerate(chosen)]
    try:
        with ThreadPoolExecutor(CASES_AT_ONCE) as pool:
            return dict(zip((case["name"] for case in chosen), pool.map(Run.run, runs), strict=True))
    finally:
        assert server.stop() == 0, server.log_tail()


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("case", parameters())
def test_the_server_answers_as_recorded(case: Case, outcomes: Callable[..., Outcomes]) -> None:
    lines = outcomes(mode_of(case))[case["name"]]
    assert lines == [], "\n".join(lines)


def test_every_group_is_replayed_or_named_as_not_covered() -> None:
    groups = {path.stem for path in FILES}
    assert groups > GROUPS_NOT_COVERED
    assert {case["name"].partition("/")[0] for case in cases()} == groups - GROUPS_NOT_COVERED


def test_every_case_named_as_not_covered_exists() -> None:
    assert NOT_COVERED.keys() <= {case["name"] for case in cases()}
