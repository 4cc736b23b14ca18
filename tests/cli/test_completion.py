import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Wukong, answer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_for_this_program(wukong: Wukong, shell: str) -> None:
    found = answer(wukong("completion", shell, "--json"))
    assert found["shell"] == shell
    assert "_WUKONG_COMPLETE" in found["script"]
    assert wukong("completion", shell).stdout.strip() == found["script"].strip()


def test_another_shell_is_a_usage_error(wukong: Wukong) -> None:
    assert wukong("completion", "tcsh").exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "expected"), [(["do"], "doctor"), (["cluster", "rep"], "replace"), (["top", "--on"], "--once")]
)
def test_bash_completes_commands_and_options(tmp_path: Path, line: list[str], expected: str) -> None:
    program = tmp_path / "wukong"
    # Its name decides which variable it looks at.
    program.write_text(f"#!{sys.executable}\nfrom wukong.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    words = " ".join(f'"{word}"' for word in ["wukong", *line])
    script = f'eval "$(wukong completion bash)"; COMP_WORDS=({words}); COMP_CWORD={len(line)}\n'
    script += '_wukong_completion wukong; echo "${COMPREPLY[*]}"'
    finished = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert expected in finished.stdout.split(), finished.stderr
