import subprocess
import sys

import pytest

import headstart

PUBLIC = ["Classifier", "Config", "HeadstartError", "Prediction", "Run", "__version__", "compare", "fit", "load"]


def test_the_public_names_are_exactly_these():
    assert sorted(headstart.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(headstart))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(headstart, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'headstart' has no attribute 'train'"):
        headstart.train  # noqa: B018


def test_importing_headstart_loads_no_torch_and_no_numpy():
    code = "import sys, headstart; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_a_run_loads_no_torch():
    code = "import sys, headstart; headstart.Run; headstart.Config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
