"""The conformance suite again with torchvision: images are then prepared by other code, and more families load.

In a process of its own, because transformers decides once which code it takes. `scripts/environment` puts torchvision
into a folder of its own, so that all other tests run without.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_every_family_with_torchvision() -> None:
    places = (HERE / "torchvision_anywhere", ROOT / ".venv" / "torchvision", ROOT, os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider"]
    command += [str(HERE / name) for name in ("test_families.py", "test_videos.py")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    proved = set(re.findall(r"test_geometry_by_experiment\[(\w+)\] PASSED", ended.stdout))
    only_here = {path.stem for path in (HERE / "families").glob("*.py") if "NEEDS = " in path.read_text()}
    assert only_here
    assert proved >= only_here
    assert len(proved) >= 20
    assert len(re.findall(r"test_moment_and_place_by_experiment\[\w+\] PASSED", ended.stdout)) >= 4
