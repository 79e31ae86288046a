"Fixtures that several test files share."
import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir():
    "The folder of real data: EUGENE_DATA, or ../shared/data beside the repository. Skips where there is none."
    told = os.environ.get("EUGENE_DATA")
    folder = Path(told) if told else SHARED
    if folder.is_dir(): return folder
    pytest.skip(f"no real data: EUGENE_DATA is {told!r}, which is no folder" if told else
                "no real data: EUGENE_DATA is not set and there is no ../shared/data")


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was():
    "What a file of tests sets in the environment ends with it: a cluster of dask leaves OMP_NUM_THREADS and MKL_NUM_THREADS at 1"
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
