from wukong.cli.doctor.finding import ERROR, NOTE, Finding, count, not_checked, size_text, time_text


def test_what_was_not_checked_is_a_note() -> None:
    found = not_checked("disk", "no right")
    assert (found.level, found.text) == (NOTE, "not checked: no right")
    assert count([found, Finding("a", ERROR, "b")], ERROR) == 1


def test_sizes_and_times_are_told_for_people() -> None:
    assert [size_text(each) for each in (0, 1536, 3 << 30, 5 << 40)] == ["0 B", "1.5 KiB", "3.0 GiB", "5.0 TiB"]
    assert [time_text(each) for each in (3.2, 600.4, 7_320)] == ["3 s", "10 min 0 s", "2 h 2 min"]
