import pytest

from wukong.cli.chat.line_editor import HISTORY_LIMIT_COUNT, LINE_LIMIT_CHARS, LineEditor, Quit

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"


def typed(*keys: str) -> tuple[LineEditor, list[str | Quit]]:
    editor = LineEditor()
    return editor, editor.feed("".join(keys).encode())


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        (["hello"], "hello", 5),
        (["helo", LEFT, "l"], "hello", 4),
        (["hello", "\x7f", "\x08"], "hel", 3),
        (["abc", LEFT, LEFT, LEFT, LEFT, "\x7f", "x"], "xabc", 1),
        (["abc", "\x01", "\x1b[3~"], "bc", 0),
        (["abc", "\x1b[H", "x", "\x1b[F", "y"], "xabcy", 5),
        (["abc", "\x1bOH", "x", "\x1b[4~", "y"], "xabcy", 5),
        (["one two  ", "\x17"], "one ", 4),
        (["one", "\x17"], "", 0),
        (["one two", LEFT, LEFT, LEFT, "\x15"], "two", 0),
        (["one two", LEFT, LEFT, LEFT, "\x0b"], "one ", 4),
        (["a\tb"], "a b", 3),
        (["grüße 你好"], "grüße 你好", 8),
        (["a\x00\x1b[99;5~\x1bx\x1b[1;5Cb"], "ab", 2),
        (["x", RIGHT, RIGHT], "x", 1),
    ],
)
def test_keys_edit_the_line(keys: list[str], text: str, cursor: int) -> None:
    editor, finished = typed(*keys)
    assert (editor.text, editor.cursor, finished) == (text, cursor, [])


def test_enter_finishes_a_line_wherever_the_cursor_is() -> None:
    editor, finished = typed("one", LEFT, LEFT, "\r", "two\n", "thr")
    assert finished == ["one", "two"]
    assert editor.text == "thr"


def test_a_letter_may_come_in_pieces() -> None:
    editor = LineEditor()
    for byte in "ü好".encode():
        editor.feed(bytes((byte,)))
    assert editor.text == "ü好"


def test_a_key_may_come_in_pieces() -> None:
    editor = LineEditor()
    for piece in (b"ab", b"\x1b", b"[", b"D", b"x"):
        editor.feed(piece)
    assert editor.text == "axb"


def test_the_end_is_ctrl_c_or_ctrl_d_on_an_empty_line() -> None:
    assert typed("ab\x03")[1] == [Quit.QUIT]
    assert typed("\x04")[1] == [Quit.QUIT]
    assert typed("ab\x04")[1] == []


def test_earlier_lines_come_back_with_the_arrows() -> None:
    editor, _ = typed("one\r", "two\r", "two\r", "  \r", UP)
    assert editor.text == "two"
    editor.feed(UP.encode())
    editor.feed(UP.encode())
    assert editor.text == "one"
    editor.feed((DOWN + DOWN).encode())
    assert editor.text == ""


def test_only_so_many_earlier_lines_are_kept() -> None:
    editor, _ = typed(*(f"{number}\r" for number in range(HISTORY_LIMIT_COUNT + 5)))
    editor.feed((UP * 500).encode())
    assert editor.text == "5"


def test_a_line_does_not_grow_beyond_its_limit() -> None:
    editor, _ = typed("x" * (LINE_LIMIT_CHARS + 10))
    assert len(editor.text) == LINE_LIMIT_CHARS


@pytest.mark.parametrize(
    ("text", "width", "visible", "cell"),
    [
        ("hello", 20, "hello", 5),
        ("hello world", 6, "world", 5),
        ("你好你好", 5, "你好", 4),
        ("", 5, "", 0),
    ],
)
def test_the_end_of_a_long_line_is_seen_while_typing(text: str, width: int, visible: str, cell: int) -> None:
    editor, _ = typed(text)
    assert editor.visible(width) == (visible, cell)


def test_the_place_of_the_cursor_is_seen_too() -> None:
    editor, _ = typed("hello world", "\x01")
    assert editor.visible(6) == ("hello ", 0)
