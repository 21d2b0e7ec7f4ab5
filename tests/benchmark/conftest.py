import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes of moving things, four clips of each."""
    from dust.synthetic.motion import generate_motion

    folder = tmp_path_factory.mktemp("motion")
    generate_motion(folder, classes=2, clips=4, size=48, frames=24)
    return folder
