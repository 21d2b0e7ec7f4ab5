import pytest

from tests.engine.conftest import clips  # noqa: F401
from tests.faults.victims import Zygote


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()
