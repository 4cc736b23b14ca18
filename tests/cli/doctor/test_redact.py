from pathlib import Path

import pytest

from wukong.cli.doctor.redact import Redactor, secrets_in_environment, secrets_of
from wukong.config import load_config


def test_every_secret_of_a_configuration_is_known(tmp_path: Path) -> None:
    config, _ = load_config(
        None,
        {
            "WK_DATADIR": str(tmp_path),
            "WK_MANAGERTOKEN": "tok-1",
            "WK_CLUSTER_SECRET": "cluster-secret-123",
            "WK_JWT_SECRET": "jwt-secret-0123456789",
            "WK_AUTH_USERS": "ann:pass-2:* bob:pass-3:*",
            "WK_WEBHOOK_HTTPADDR": "http://u:pass-4@h/?key=key-5",
        },
        embedded=True,
    )
    wanted = {"tok-1", "cluster-secret-123", "jwt-secret-0123456789", "pass-2", "pass-3", "pass-4", "key-5"}
    assert wanted <= secrets_of(config)


def test_secrets_in_the_environment_are_known_without_a_configuration() -> None:
    found = secrets_in_environment(
        {
            "WUKONG_TOKEN": "a1",
            "WK_CLUSTER_SECRET": "b2",
            "WK_DATASOURCE_ADDR": "http://u:c3@h/",
            "WK_AUTH_USERS": "ann:d4:*",
            "HOME": "/h",
        }
    )
    assert {"a1", "b2", "c3", "d4"} <= found
    assert "/h" not in found


def test_known_secrets_are_replaced_in_every_spelling_and_place() -> None:
    redactor = Redactor({"p@ss/word", "p@ss", 'quo"ted\\one', ""})
    assert redactor.text("x p@ss/word p%40ss%2Fword y") == "x *** *** y"
    assert redactor.value({"a": ['quo"ted\\one', 1, None], "p@ss/word": True}) == {"a": ["***", 1, None], "***": True}


def test_a_short_secret_is_replaced_as_a_word_only() -> None:
    assert Redactor({"abc"}).text("abc abcd (abc)") == "*** abcd (***)"


def test_nothing_to_hide_changes_nothing() -> None:
    assert Redactor(set()).text("text") == "text"


@pytest.mark.parametrize(
    "line",
    [
        "token=HIDDEN rest",
        '{"token":"HIDDEN","uid":"u"}',
        "{'password': 'HIDDEN'}",
        "managerToken: HIDDEN",
        "Authorization: Bearer HIDDEN",
        "GET http://user:HIDDEN@host/path",
        "got eyJhbGciOi.eyJHIDDEN.HIDDEN from u",
        'api_key="HI\\"DDEN HIDDEN"',
    ],
)
def test_what_looks_like_a_secret_does_not_stay_in_a_log(line: str) -> None:
    assert "DDEN" not in Redactor(set()).log(line)


def test_an_ordinary_log_line_stays_as_it_is() -> None:
    line = "2026-11-25 01:39:29,303 INFO wukong: ready: api http://127.0.0.1:47001, tcp 127.0.0.1:47002"
    assert Redactor({"secret-value"}).log(line) == line
