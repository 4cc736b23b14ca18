"""What a real WuKongIM v2.2.5 answered, replayed against our server (http/*.json; deviations are named in the cases).

One server per mode, and in it all its cases at once: they share nothing. A test per case shows its outcome. The same
cases then run on three nodes, every request and every client on the next of them, with one test per mode.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.compat.replay import Case, Run, Target
from tests.support.cluster import running_cluster
from tests.support.server import ServerProcess
from tests.support.webhooks import WebhookReceiver, webhook_receiver

CASES_AT_ONCE = 8
RUN_TIMEOUT_S = 300

# What a case needs from the configuration -> the keys for it. `ws` needs nothing: there always is a WebSocket listener.
SETTINGS: dict[str, dict[str, Any]] = {
    "token_auth": {"tokenAuthOn": True},
    "no_encryption": {"disableEncryption": True},
    "person_allowlist": {"whitelistOffOfPerson": False},
    "manager_token": {"managerToken": "secret-manager-token"},
    "no_cmd_sync": {"disableCMDMessageSync": True},
    "no_jsonrpc": {"disableJSONRPC": True},
    "short_times": {
        "connIdleTime": "4s",
        "messageRetry": {"interval": "2s", "scanInterval": "1s", "maxCount": 3},
        "conversation": {"syncInterval": "1s"},
    },
}

# Groups of what the server does not do yet.
GROUPS_NOT_COVERED: set[str] = set()

# Cases that need what the server does not do yet. A case that passes has to leave this list.
NOT_COVERED: dict[str, str] = {}

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


MODES = sorted({mode_of(case) for case in cases()}, key=sorted)


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


Outcomes = dict[str, list[str]]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    """mode -> case name -> why it failed. A mode is run when its first case is asked for, with those selected only."""
    selected = {
        item.callspec.params["case"]["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "case" in item.callspec.params
    }
    found: dict[frozenset[str], Outcomes] = {}

    def of(mode: frozenset[str]) -> Outcomes:
        if mode not in found:
            chosen = [case for case in cases() if mode_of(case) == mode and case["name"] in selected]
            found[mode] = run_mode(mode, chosen, tmp_path_factory.mktemp("-".join(sorted(mode)) or "default"))
        return found[mode]

    return of


def run_mode(mode: frozenset[str], chosen: list[Case], directory: Path) -> Outcomes:
    with receiver_for(mode) as (webhooks, settings):
        server = ServerProcess(directory, settings)
        server.start()
        try:
            return run_cases(mode, chosen, [server], webhooks)
        finally:
            assert server.stop() == 0, server.log_tail()


@contextlib.contextmanager
def receiver_for(mode: frozenset[str]) -> Iterator[tuple[WebhookReceiver | None, dict[str, Any]]]:
    """The back end that a mode needs, and the settings for it."""
    settings = settings_of(mode - {"webhook"})
    if "webhook" not in mode:
        yield None, settings
        return
    with webhook_receiver() as webhooks:
        yield webhooks, settings | {"webhook": {"httpAddr": webhooks.address}}


def is_of_one_node(case: Case) -> bool:
    """Whether it asks a node for its own connections (http-api.md 7.1), so that all of it has to be there."""
    return '"/connz"' in json.dumps(case["steps"])


def settings_of(mode: frozenset[str]) -> dict[str, Any]:
    return {key: value for need in sorted(mode) for key, value in SETTINGS[need].items()}


def run_cases(
    mode: frozenset[str], chosen: list[Case], servers: Iterable[ServerProcess], webhooks: WebhookReceiver | None
) -> Outcomes:
    targets = [
        Target("127.0.0.1", server.http_port, f"127.0.0.1:{server.tcp_port}", f"127.0.0.1:{server.ws_port}")
        for server in servers
    ]
    seed = random.randrange(2**32)
    print(f"mode {sorted(mode)}, {len(targets)} nodes, seed {seed}")
    runs = [
        Run(case, targets[:1] if is_of_one_node(case) else targets, seed + n, webhooks) for n, case in enumerate(chosen)
    ]
    with ThreadPoolExecutor(CASES_AT_ONCE) as pool:
        return dict(zip((case["name"] for case in chosen), pool.map(Run.run, runs), strict=True))


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("case", parameters())
def test_the_server_answers_as_recorded(case: Case, outcomes: Callable[..., Outcomes]) -> None:
    lines = outcomes(mode_of(case))[case["name"]]
    assert lines == [], "\n".join(lines)


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(sorted(mode)) or "default")
def test_three_nodes_answer_like_one(mode: frozenset[str], tmp_path: Path) -> None:
    chosen = [case for case in cases() if mode_of(case) == mode and case["name"] not in NOT_COVERED]
    with (
        receiver_for(mode) as (webhooks, settings),
        running_cluster(tmp_path, settings=settings, proxied=False) as cluster,
    ):
        outcomes = run_cases(mode, chosen, cluster, webhooks)
        assert cluster.stop() == [0, 0, 0], cluster.log_tails()
    assert cluster.complaints() == []
    failed = [f"{name}\n" + "\n".join(lines) for name, lines in outcomes.items() if lines]
    assert not failed, f"{len(failed)} of {len(chosen)} cases:\n" + "\n".join(failed)


def test_every_group_is_replayed_or_named_as_not_covered() -> None:
    groups = {path.stem for path in FILES}
    assert groups > GROUPS_NOT_COVERED
    assert {case["name"].partition("/")[0] for case in cases()} == groups - GROUPS_NOT_COVERED


def test_every_case_named_as_not_covered_exists() -> None:
    assert NOT_COVERED.keys() <= {case["name"] for case in cases()}
