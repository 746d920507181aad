"""What `make demo` installs: nothing where edgerev works already, for that may be a wheel of the user's."""

import shutil
import subprocess

import pytest
from pages import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
EDGEREV = "#!/bin/sh\necho edgerev \"$@\" >>calls\n"
PYTHON = """#!/bin/sh
case $1 in -c) test -e sklearn; exit ;; esac
shift 2
echo "$@" >>calls
cp edgerev .venv/bin/edgerev
touch sklearn
"""
PIP = "install --quiet --disable-pip-version-check"


@pytest.mark.parametrize(("there", "installs"), [
    (("edgerev", "sklearn"), []), (("edgerev",), ["edgerev[demo]"]), ((), ["-e .[jit]"]),
])  # fmt: skip
def test_demo_installs_only_what_is_missing(there, installs, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for path, text in ((bin / "python", PYTHON), (tmp_path / "edgerev", EDGEREV)):
        path.write_text(text)
        path.chmod(0o755)
    if "edgerev" in there:
        shutil.copy(tmp_path / "edgerev", bin)
    if "sklearn" in there:
        (tmp_path / "sklearn").touch()
    subprocess.run(["make", "demo"], cwd=tmp_path, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if call != "edgerev --version"] == [
        *(f"{PIP} {what}" for what in installs), "edgerev demo"
    ]  # fmt: skip
