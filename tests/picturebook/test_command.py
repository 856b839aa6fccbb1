import subprocess
import sys
from pathlib import Path

import pytest

from patchlens.errors import ModelNotFound
from patchlens.picturebook.command import run


def test_our_errors_are_a_message_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ModelNotFound("There is no such model.")

    with pytest.raises(SystemExit) as ended:
        run(fail)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "There is no such model.\n"


def test_ctrl_c_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run(stop)
    assert ended.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_our_own_mistake_keeps_its_traceback() -> None:
    def mistake() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(mistake)


def test_a_command_with_a_folder_that_is_not_there(tmp_path: Path) -> None:
    words = ("-m", "patchlens.picturebook.evaluate", "--model", str(tmp_path / "none"))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "there is no such folder" in done.stderr
