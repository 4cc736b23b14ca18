import io
import time

from wukong.cli.bench.progress import Progress


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_every_step_is_a_line() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.say("logins")
        progress.prefix = "run 2 of 3: "
        progress.say("logins")
    assert stream.getvalue() == "logins\nrun 2 of 3: logins\n"


def test_on_a_terminal_one_line_is_written_over_and_gone_at_the_end() -> None:
    stream = Tty()
    with Progress(stream) as progress:
        progress.say("logins")
        while "logins (" not in stream.getvalue():
            time.sleep(0.01)
    assert stream.getvalue().endswith("\r\x1b[2K")
    assert "\n" not in stream.getvalue()
