import pytest

from wukong.cli.chat.terminal import harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grüße 你好 👋", "grüße 你好 👋"),
        ("two\nlines\r\nthree", "two ⏎ lines ⏎ three"),
        ("\x1b[2J\x1b]0;title\x07", "·[2J·]0;title·"),
        ("a\rb\x9b31m", "a·b·31m"),
        ("\u202eevil\u2066", "·evil·"),
    ],
)
def test_text_of_others_cannot_move_the_cursor(text: str, shown: str) -> None:
    assert harmless(text) == shown
