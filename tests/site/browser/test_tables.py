"""The tables of the whole book: sorted and filtered by mouse and keyboard, whole without scripting."""

import pytest

TABLES = ["book/results", "book/papers"]


def shown(page, column):
    """The values of a column in the rows that are shown, in their order."""
    return page.evaluate(
        """column => [...document.querySelectorAll("table.bk-sortable tbody tr")]
        .filter(row => row.checkVisibility())
        .map(row => row.cells[column])
        .map(cell => cell.dataset.sort ?? (cell.querySelector(".bk-key") ?? cell).textContent.trim())""",
        column,
    )


def status(page):
    return page.locator(".bk-shown").inner_text()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("over", ["http", "file"])
def test_every_column_sorts_both_ways_by_keyboard(visit, table, over):
    page = visit(table, over=over)
    buttons = page.locator("table.bk-sortable thead button").all()
    before = {column: shown(page, column) for column in range(len(buttons))}
    assert len(buttons) == page.locator("table.bk-sortable thead th").count() >= 4
    for column, button in enumerate(buttons):
        button.press("Enter")
        rising = [value for value in shown(page, column) if value != "–"]
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith(button.inner_text())
        button.press("Enter")
        falling = [value for value in shown(page, column) if value != "–"]
        assert page.locator("th[aria-sort=descending]").count() == page.locator("th[aria-sort]").count() == 1
        assert sorted(rising) == sorted(falling) == sorted(v for v in before[column] if v != "–")
        try:
            assert [*map(float, rising)] == sorted(map(float, rising))
            assert [*map(float, falling)] == sorted(map(float, falling), reverse=True)
        except ValueError:
            assert rising[0] == falling[-1]
            assert rising[-1] == falling[0]
        assert f"sorted by {button.inner_text()}" in status(page)
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("!document.querySelector('th[aria-sort]')")
    assert {column: shown(page, column) for column in before} == before


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_filtered_by_part_by_state_and_by_text(visit, table):
    page = visit(table)
    count = page.locator("table.bk-sortable tbody tr").count()
    assert status(page) == f"{count} of {count} rows shown."
    assert page.locator(".bk-shown").get_attribute("role") == "status"
    titles = page.locator("table.bk-sortable thead th").all_inner_texts()
    column = titles.index("Part")
    values = shown(page, column)
    said = "before => document.querySelector('.bk-shown').textContent !== before"
    page.get_by_role("combobox", name="Part").select_option("Merging")
    page.wait_for_function(said, arg=f"{count} of {count} rows shown.")
    assert shown(page, column) == ["Merging"] * values.count("Merging") != values
    assert status(page) == f"{values.count('Merging')} of {count} rows shown."
    page.locator("form.bk-filter").get_by_role("searchbox", name="Search").fill(
        "MATCHING" if table == "book/results" else "merging MODEL"
    )
    page.wait_for_function(said, arg=f"{values.count('Merging')} of {count} rows shown.")
    assert 0 < len(shown(page, column)) < values.count("Merging")
    page.locator("form.bk-filter").get_by_role("searchbox", name="Search").fill("no row says this")
    page.wait_for_function(f"document.querySelector('.bk-shown').textContent == '0 of {count} rows shown.'")
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function(f"document.querySelector('.bk-shown').textContent.startsWith('{count} of')")
    choice = page.locator(".bk-filter select").nth(1 if table == "book/papers" else 0)
    value = choice.locator("option").nth(1).get_attribute("value")
    choice.select_option(value)
    page.wait_for_function(said, arg=f"{count} of {count} rows shown.")
    state = titles.index("State in this book" if table == "book/papers" else "Verdict")
    assert set(shown(page, state)) == {value}


@pytest.mark.parametrize("table", TABLES)
def test_without_scripting_the_table_is_whole_and_plain(visit, table):
    page = visit(table, java_script_enabled=False)
    rows = page.locator("table.bk-sortable tbody tr")
    assert rows.count() >= 24
    assert all(row.is_visible() for row in rows.all()[:30])
    assert page.locator("table.bk-sortable button, .bk-filter").count() == 0
