import pytest

from dust.datasets.manifest import long_list, row_columns


@pytest.fixture(params=["rows", "columns"])
def long(request, monkeypatch):
    """Every list as one that is read anew, and as one so long that it is kept as columns: both must do the same."""
    if request.param == "columns":
        monkeypatch.setattr(long_list, "LONG", 0)
        monkeypatch.setattr(row_columns, "BLOCK", 3)
    return request.param == "columns"
