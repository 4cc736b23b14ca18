from pathlib import Path

from wukong.config.lines import key_lines, located


def test_keys_of_yaml_are_found_in_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("# first\nhttpAddr: x\nwebhook:\n  httpAddr: y\n  focusEvents:\n    - a\nexternal.ip: z\n")
    assert key_lines(file) == {
        "httpaddr": 2,
        "webhook": 3,
        "webhook.httpaddr": 4,
        "webhook.focusevents": 5,
        "external.ip": 7,
    }


def test_keys_of_toml_are_found_in_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "wk.toml"
    file.write_text('httpAddr = "x"\n\n[webhook]\n"httpAddr" = "y"\n[ a . b ]\nc.d = 1\n')
    assert key_lines(file) == {"httpaddr": 1, "webhook.httpaddr": 4, "a.b.c.d": 6}


def test_a_fault_gets_the_line_of_its_key_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "wk.yaml"
    file.write_text("mode: x\nHTTPADDR: y\n")
    assert located(["httpAddr: wrong: y", "WK_ADDR: wrong", "no key"], file) == [
        f"{file}:2: httpAddr: wrong: y",
        "WK_ADDR: wrong",
        "no key",
    ]
    assert located(["httpAddr: wrong"], None) == ["httpAddr: wrong"]


def test_a_file_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    assert key_lines(tmp_path / "missing.yaml") == {}
    (tmp_path / "bad.yaml").write_text("a: [")
    assert key_lines(tmp_path / "bad.yaml") == {}
