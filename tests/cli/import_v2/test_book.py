"""What an import remembers between its calls."""

from pathlib import Path

import pytest

from wukong.channel.ids import ChannelId
from wukong.channel.imports import FIRST_DIGEST
from wukong.cli.import_v2.book import Book, Given
from wukong.cli.import_v2.old_server import Chat

ONE, TWO = ChannelId(2, "one"), ChannelId(2, "two")


def book_in(directory: Path, source: str = "http://old") -> Book:
    return Book(directory, source=source)


def test_what_was_done_is_known_by_the_next_call(tmp_path: Path) -> None:
    book = book_in(tmp_path / "deep" / "state")
    book.add_channels([ONE, TWO, ONE])
    book.add_users(["a", "b", " ", "a"])
    book.set_position(ONE, 7, b"digest")
    book.end_channel(ONE, members=3, members_digest=b"m")
    book.end_user("a", [Chat(ONE, 5, 0, 2), Chat(TWO, (1 << 64) - 1, 1, None)])
    book.close()
    book = book_in(tmp_path / "deep" / "state")
    assert book.position(ONE) == (7, b"digest")
    assert book.position(TWO) == (0, FIRST_DIGEST)
    assert (book.open_channels(9), book.open_users(9)) == ([TWO], ["b"])
    assert book.unread_of("a") == {ONE: 2}
    assert list(book.chats()) == [(ONE, [("a", 5, 0)]), (TWO, [("a", (1 << 63) - 1, 1)])]
    assert (book.count("channels"), book.count("users", done=True)) == (2, 1)
    book.close()


def test_after_a_whole_pass_everything_is_read_again_but_the_messages(tmp_path: Path) -> None:
    book = book_in(tmp_path)
    book.add_channels([ONE])
    book.add_users(["a"])
    book.set_position(ONE, 7, b"digest")
    book.end_channel(ONE, members=0, members_digest=b"", error="why")
    book.end_user("a", [Chat(ONE, 5, 0, 2)])
    book.end_pass()
    book.close()
    book = book_in(tmp_path)
    assert (book.number, book.open_channels(9), book.open_users(9)) == (2, [ONE], ["a"])
    assert book.position(ONE) == (7, b"digest")
    assert book.unread_of("a") == {}
    book.close()
    # Interrupted, the second pass is still the second.
    book = book_in(tmp_path)
    assert book.number == 2
    book.close()


def test_what_the_operator_says_is_kept(tmp_path: Path) -> None:
    book = book_in(tmp_path)
    book.add_channels([ONE])
    book.set_position(ONE, 7, b"digest")
    book.add_given([Given("one", 2, subscribers=["a"], ban=False), Given("two", 2)])
    assert book.given(ONE) == Given("one", 2, subscribers=["a"], ban=False)
    assert book.given(TWO) == Given("two", 2)
    assert book.given(ChannelId(3, "one")) is None
    assert book.position(ONE)[0] == 7
    book.close()


def test_a_directory_belongs_to_one_import_at_a_time(tmp_path: Path) -> None:
    book = book_in(tmp_path)
    with pytest.raises(ValueError, match="does another import use it"):
        book_in(tmp_path)
    book.close()
    with pytest.raises(ValueError, match="belongs to an import from http://old"):
        book_in(tmp_path, "http://other")
