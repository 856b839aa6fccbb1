from patchlens.analysis.finding import Table

TABLE = Table.of(
    ["lens", "layer", "share", "best"],
    [["a|b", 3, 0.123456, True], ["<i>", 12345, None, False], ["c", 4, 1.9e-19, None]],
)


def test_csv_keeps_all_and_people_get_it_short() -> None:
    assert TABLE.to_csv().splitlines()[1] == "a|b,3,0.123456,True"
    lines = TABLE.to_markdown().splitlines()
    assert lines[2] == "| a\\|b | 3 | 0.1235 | yes |"
    assert lines[3] == "| <i> | 12,345 |  | no |"
    assert lines[4] == "| c | 4 | 0 |  |"
    assert TABLE.column("layer") == (3, 12345, 4)


def test_html_is_escaped_and_numbers_are_marked_with_their_heads() -> None:
    page = TABLE.to_html()
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert page.count('<th class="number">') == 2
    assert page.count('<td class="number">') == 6
    assert (
        Table.of(["a"], []).to_html()
        == '<table><thead><tr><th class="number">a</th></tr></thead><tbody></tbody></table>'
    )
