"""How a node's log looks."""

import json
import logging

import pytest

from wukong.cli import logs


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    found = logging.LogRecord("wukong.app", logging.WARNING, __file__, 1, message, args, info)
    found.created = 1_700_000_000.25
    return found


def test_a_line_is_one_object_with_time_level_logger_message_and_node() -> None:
    line = logs.JsonFormatter(1001).format(record("%s is %d s late", "ann", 3))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "wukong.app",
        "message": "ann is 3 s late",
        "node": 1001,
    }


def test_line_breaks_stay_inside_the_object() -> None:
    line = logs.JsonFormatter(1).format(record("one\ntwo"))
    assert "\n" not in line
    assert json.loads(line)["message"] == "one\ntwo"


def test_an_exception_is_there_with_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError as caught:
        line = logs.JsonFormatter(1).format(record("it failed", error=caught))
    found = json.loads(line)["error"]
    assert found.startswith("Traceback")
    assert found.endswith("ValueError: no")


@pytest.mark.parametrize(("form", "expected"), [(logs.JSON, logs.JsonFormatter), (logs.CONSOLE, logging.Formatter)])
def test_the_format_is_chosen(form: str, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **options: given.update(options))
    logs.set_up(level="INFO", form=form, node_id=1)
    (handler,) = given["handlers"]  # type: ignore[misc]
    assert type(handler.formatter) is expected
    assert given["level"] == "INFO"
