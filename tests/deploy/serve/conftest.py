"""One server for the tests that change nothing of it."""

import pytest

from tests.deploy.serve.serving import serving


@pytest.fixture(scope="session")
def server(model, clips):
    with serving(model, files=str(clips)) as found:
        yield found
