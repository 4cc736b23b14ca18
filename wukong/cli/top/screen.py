"""How a look at the nodes is drawn: fits 80 columns and 24 lines, and uses more where there is more."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wukong.cli.chat.terminal import harmless
from wukong.cli.cluster.status import ClusterStatus
from wukong.cli.top.figures import Row

WIDE_COLUMNS: Final = 110
_COLUMNS: Final = ("node", "state", "leads", "sess", "SEND/s", "RECV/s", "lag", "loop", "fsync", "queue", "hooks")
_WIDE_COLUMNS: Final = ("apply", "version", "API")
_TEXT_COLUMNS: Final = frozenset({"node", "state", "version", "API"})
_LEGEND: Final = "q quits   lag: entries   loop, fsync p99: ms   queue: commands   hooks: events"
# Above it a figure is shown as something to look at.
LOOP_NOTICE_MS: Final = 50.0
FSYNC_NOTICE_MS: Final = 50.0
LAG_NOTICE: Final = 1_000


class Picture(NamedTuple):
    """What there is to draw. events: (time of day, text), newest last."""

    rows: Sequence[Row]
    status: ClusterStatus | None
    events: Sequence[tuple[str, str]]
    time_of_day: str
    interval_s: float


def draw(picture: Picture, width: int, height: int) -> RenderableType:
    """height: lines that may be used; what has no room is left out, events first."""
    wrong = [f"{name_of(row)}: {row.why}" for row in picture.rows if row.why]
    head = [_headline(picture, width)]
    room = height - len(head) - 3  # a blank line, the table's head, the last line
    shown = list(picture.rows)[: max(1, room)]
    room -= len(shown)
    faults = [Text(_cut(f"! {each}", width), style="bold red") for each in wrong[: max(0, room)]]
    room -= len(faults)
    parts: list[RenderableType] = [*head, Text(), _table(shown, width), *faults]
    if room > 2:
        latest = list(picture.events)[-(room - 2) :]
        parts += [Text(), Text("events" if latest else "no events yet", style="bold")]
        parts += [Text(_cut(f"{at}  {harmless(text)}", width), style="yellow") for at, text in latest]
        room -= 2 + len(latest)
    parts += [Text()] * max(0, room)
    parts.append(Text(_cut(_LEGEND, width), style="dim"))
    return Group(*parts)


def plain(picture: Picture, width: int) -> RenderableType:
    """Without a screen: all of it, from top to bottom."""
    parts: list[RenderableType] = [_headline(picture, width), Text(), _table(picture.rows, width)]
    parts += [Text(f"! {name_of(row)}: {harmless(row.why)}", style="bold red") for row in picture.rows if row.why]
    parts += [Text(f"{at}  {harmless(text)}") for at, text in picture.events]
    return Group(*parts)


def _headline(picture: Picture, width: int) -> Text:
    rows, status = picture.rows, picture.status
    well = sum(row.is_well for row in rows)
    words = [f"{well} of {len(rows)} node{'s' * (len(rows) != 1)} well"]
    if status is not None:
        leaderless = sum(not slot.leader for slot in status.slots)
        words.append(f"{leaderless} of {len(status.slots)} slots without leader" if leaderless else "every slot led")
    words.append(f"SEND/s {_rate(_sum(row.send_per_s for row in rows))}")
    words.append(f"RECV/s {_rate(_sum(row.recv_per_s for row in rows))}")
    words.append(f"sessions {_whole(int(_sum(row.sessions for row in rows) or 0))}")
    text = f"{picture.time_of_day}  " + "  ".join(words)
    is_well = well == len(rows) and not (status is not None and any(not slot.leader for slot in status.slots))
    return Text(_cut(text, width), style="bold" if is_well else "bold red")


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _table(rows: Sequence[Row], width: int) -> Table:
    columns = (*_COLUMNS, *(_WIDE_COLUMNS if width >= WIDE_COLUMNS else ()))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for name in columns:
        is_text = name in _TEXT_COLUMNS
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True, min_width=len(name) + 1)
    for row in rows:
        cells = _cells(row)
        table.add_row(*(cells[name] for name in columns), style=None if row.is_well else "red")
    return table


def _cells(row: Row) -> dict[str, Text]:
    def noted(text: str, is_bad: bool) -> Text:
        return Text(text, style="yellow" if is_bad else "")

    return {
        "node": Text(str(row.node or "?")),
        "state": Text(row.state[:8]),
        "leads": Text(_whole(row.leads)),
        "sess": Text(_whole(row.sessions)),
        "SEND/s": Text(_rate(row.send_per_s)),
        "RECV/s": Text(_rate(row.recv_per_s)),
        "lag": noted(_whole(row.lag), (row.lag or 0) >= LAG_NOTICE),
        "loop": noted(_ms(row.loop_ms), (row.loop_ms or 0) >= LOOP_NOTICE_MS),
        "fsync": noted(_ms(row.fsync_p99_ms), (row.fsync_p99_ms or 0) >= FSYNC_NOTICE_MS),
        "queue": Text(_whole(row.queue)),
        "hooks": Text(_whole(row.webhooks)),
        "apply": Text(_whole(row.apply_backlog_bytes)),
        "version": Text(harmless(row.version)[:12]),
        "API": Text(harmless(row.url)[:40]),
    }


def name_of(row: Row) -> str:
    return f"node {row.node}" if row.node else row.url


def _cut(text: str, width: int) -> str:
    text = harmless(text)
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 10 else _whole(round(value))


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _whole(value: int | None) -> str:
    """At most six letters: 1234567 -> 1.2M."""
    if value is None:
        return "-"
    if value < 100_000:
        return str(value)
    for unit, size in (("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)):
        if value < 1_000 * size:
            return f"{value / size:.0f}{unit}" if value >= 100 * size else f"{value / size:.1f}{unit}"
    return f"{value / 1e12:.0f}T"
