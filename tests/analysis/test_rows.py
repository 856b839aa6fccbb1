from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.tables import candidates

from patchlens.analysis.rows import codes, groups, mean, numbers, own, share, top
from patchlens.evaluation.intervals import clustered

SOME_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "lens": st.sampled_from(["latent", "logit", "embedding"]),
            "baseline": st.sampled_from([None, "random rows"]),
            "layer": st.integers(0, 3),
            "bank_row": st.integers(0, 99),
        }
    ),
    max_size=30,
)


class TestGroups:
    @settings(max_examples=60, deadline=None)
    @given(SOME_ROWS)
    def test_they_are_what_a_loop_over_rows_finds(self, rows: list[dict[str, Any]]) -> None:
        by = ("lens", "baseline", "layer")
        expected: dict[tuple[Any, ...], list[int]] = {}
        for row in rows:
            expected.setdefault(tuple(row[name] for name in by), []).append(row["bank_row"])
        found = {key: part["bank_row"].to_pylist() for key, part in groups(candidates(rows), by)}
        assert found == expected

    def test_texts_come_as_they_appear_and_numbers_ascending(self) -> None:
        rows = [{"lens": lens, "layer": layer} for lens, layer in [("logit", 9), ("latent", 1), ("logit", 2)]]
        assert [key for key, _ in groups(candidates(rows), ("lens", "layer"))] == [
            ("logit", 2),
            ("logit", 9),
            ("latent", 1),
        ]

    def test_parts_with_dictionaries_of_their_own_are_one_table(self) -> None:
        parts = [candidates([{"lens": "logit"}]), candidates([{"lens": "latent"}, {"lens": "logit"}])]
        table = pa.concat_tables(parts)
        assert {key: part.num_rows for key, part in groups(table, ("lens",))} == {("logit",): 2, ("latent",): 1}
        found, values = codes(table, "lens")
        assert [values[code] for code in found] == ["logit", "latent", "logit"]

    def test_without_columns_all_rows_are_one_group(self) -> None:
        assert [(key, part.num_rows) for key, part in groups(candidates([{}, {}]), ())] == [((), 2)]
        assert list(groups(candidates([]), ())) == []


def test_null_is_no_number() -> None:
    np.testing.assert_array_equal(numbers(candidates([{"similarity": 0.5}, {}]), "similarity"), [0.5, np.nan])


def test_own_leaves_baselines_out_and_top_keeps_the_best() -> None:
    table = candidates([{"baseline": "another image"}, {"rank": 2}, {"rank": 1}])
    assert own(table)["rank"].to_pylist() == [2, 1]
    assert top(own(table), 1).num_rows == 1


def test_a_mean_is_over_rows_and_its_interval_over_images() -> None:
    values, images = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0, 0, 0, 3])
    found = mean(values, images)
    assert found.value == 4.0
    # Two images: drawn are the first twice, the second twice, or both.
    assert (found.low, found.high) == (2.0, 10.0)
    alone = mean(values[:3], images[:3])
    assert (alone.value, alone.low, alone.high) == (2.0, None, None)


def test_a_share_has_the_interval_of_clusters() -> None:
    hits, images = np.array([True, False, True, True, False]), np.array([0, 0, 1, 1, 2])
    expected = clustered(np.array([1, 2, 0]), np.array([2, 2, 1]))
    assert share(hits, images) == pytest.approx((0.6, *expected))
