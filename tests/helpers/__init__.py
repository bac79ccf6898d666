"""What several test modules share and is no fixture. Test modules import from here, and never from each other."""

import pytest

pytest.register_assert_rewrite("tests.helpers.fits")  # so that what is asserted there is told of as in a test
