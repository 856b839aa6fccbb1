import pyarrow as pa
import pytest

from lenses import synthetic
from patchlens.lenses.reading import Readings


@pytest.fixture(scope="session")
def unmeasured() -> Readings:
    """Readings of a lens without similarity and without logit, as `RandomLens` gives."""
    scene = synthetic.readings("chance", lenses=("random",))
    at = scene.table.schema.get_field_index("similarity")
    table = scene.table.set_column(at, scene.table.schema.field(at), pa.nulls(len(scene.table), pa.float32()))
    return Readings(table, images=scene.images, tiles=scene.tiles, provenance=[])
