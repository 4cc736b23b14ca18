"""Where the chat demo is there without having been asked for."""

from pathlib import Path

import pytest

from wukong.config import load_config

CLUSTER = "cluster: {nodeId: 1, secret: sixteen-bytes-of-secret, initNodes: [1@127.0.0.1, 2@127.0.0.2, 3@127.0.0.3]}\n"


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("httpAddr: 127.0.0.1:5001\n", True),
        ("", False),
        ("demo: {on: true}\n", True),
        ("httpAddr: 127.0.0.1:5001\ndemo: {on: false}\n", False),
        ("httpAddr: 127.0.0.1:5001\n" + CLUSTER, False),
        (CLUSTER + "demo: {on: true}\n", True),
    ],
)
def test_it_is_on_by_itself_only_on_a_node_that_is_alone_with_its_api_on_loopback(
    tmp_path: Path, text: str, on: bool
) -> None:
    path = tmp_path / "wk.yaml"
    path.write_text(text)
    config, _ = load_config(path, {"HOME": str(tmp_path)}, embedded=False, detect_ip=lambda: "127.0.0.1")
    assert config.demo.on is on
    assert str(config.demo.addr) == "127.0.0.1:5172"
