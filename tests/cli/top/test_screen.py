import msgspec
from rich.console import Console

from tests.cli.cluster.worlds import three
from wukong.cli.top.figures import Row
from wukong.cli.top.screen import Picture, draw, plain


def row(number: int, **facts: object) -> Row:
    given = {
        "leads": 1_024, "sessions": 123_456_789, "send_per_s": 99_999.0, "recv_per_s": 12_345_678.0,
        "lag": 99_999, "loop_ms": 1_234.5, "fsync_p99_ms": 10_000.0, "queue": 99_999, "apply_backlog_bytes": 10**12,
        "webhooks": 10**9, "version": "0.1.0", **facts,
    }  # fmt: skip
    return msgspec.convert({"node": number, "url": f"http://host{number}:5001", "state": "ok", **given}, Row)


def picture(*rows: Row, events: int = 0) -> Picture:
    return Picture(
        rows, three(), [(f"12:00:{number:02}", f"event {number}") for number in range(events)], "12:34:56", 2
    )


def lines(shown: Picture, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(shown, width, height))
    return [line.rstrip() for line in captured.get().rstrip("\n").split("\n")]


def test_it_fits_80_columns_and_24_lines_with_the_largest_numbers() -> None:
    found = lines(picture(row(1001), row(1002), row(1003, state="joining"), events=50), 80, 24)
    assert len(found) == 24
    assert max(map(len, found)) <= 80
    table = "\n".join(found[2:6])
    assert "…" not in table
    assert "fsync" in table
    assert "12.3M" in table
    assert found[-1].startswith("q quits")
    assert "event 49" in found[-2], "the newest events are kept"


def test_a_node_that_is_down_is_shown_as_down_and_why() -> None:
    gone = Row(node=1002, url="http://b", state="down", why="connection refused")
    found = lines(picture(row(1001), gone), 80, 24)
    assert "1 of 2 nodes well" in found[0]
    assert any(line.startswith("1002") and "down" in line for line in found)
    assert "! node 1002: connection refused" in found


def test_a_wide_terminal_shows_more() -> None:
    assert "http://host1001:5001" in "\n".join(lines(picture(row(1001)), 140, 30))
    assert "http://host1001:5001" not in "\n".join(lines(picture(row(1001)), 80, 30))


def test_a_low_terminal_keeps_the_nodes_and_leaves_out_events() -> None:
    found = lines(picture(row(1001), row(1002), events=9), 80, 7)
    assert len(found) == 7
    assert not any("event" in line for line in found[:-1])


def test_what_other_nodes_say_cannot_move_the_cursor() -> None:
    gone = Row(node=1002, url="http://b", state="down", why="\x1b[2Jx")
    assert "\x1b" not in "\n".join(lines(picture(gone), 80, 24))


def test_slots_without_a_leader_are_in_the_first_line() -> None:
    status = three(4)
    slots = [msgspec.structs.replace(status.slots[0], leader=0), *status.slots[1:]]
    shown = picture(row(1001))._replace(status=msgspec.structs.replace(status, slots=slots))
    assert "1 of 4 slots without leader" in lines(shown, 80, 24)[0]


def test_without_a_screen_everything_is_printed() -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(plain(picture(row(1001), events=40), 100))
    assert "event 0" in captured.get()
    assert "1001" in captured.get()
