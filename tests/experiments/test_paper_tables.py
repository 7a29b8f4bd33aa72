"""Experiment avellaneda_stoikov_2008: simulation against the exact law, the law against the reference, the paper beside."""

import json

import pytest

from .test_runner import mfamm


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("edition", "missing"),
    [
        ("journal", []),
        pytest.param("preprint", ["62.94 cannot", "66.78 cannot", "33.92 cannot"], marks=pytest.mark.slow),
    ],
)
def test_tables_and_what_cannot_be_reproduced(tmp_path, edition, missing):
    arguments = ["--set", f"edition={edition}", "--set", "n_paths=50000", "--out", "run", "--json"]
    answer = json.loads(mfamm("run", "avellaneda_stoikov_2008", *arguments, cwd=tmp_path).stdout)
    metrics = answer["metrics"]
    # The gate of the simulator: 4 standard errors of the mean and 2% of the standard deviation at 50,000 paths.
    assert metrics["ok"]
    assert metrics["largest_relative_error_of_std"] < 0.02
    tables = metrics["tables"]
    assert [table["title"].split(":")[0] for table in tables] == [f"Table {n} of the {edition}" for n in (1, 2, 3)]
    law = {row[0]: row for table in tables[:1] for row in table["rows"] if row[0]}
    assert set(law) == {"inventory", "symmetric"}
    if edition == "journal":
        # AS-T1 of the reference, computed elsewhere.
        assert tables[0]["rows"][1][2:5] == [1.4908, 64.8925, 6.5432]
        # With the average spread, which the reference's symmetric case does not quote: the same average, close by.
        assert tables[0]["rows"][5][2] == 1.4908
        assert abs(tables[0]["rows"][5][3] - 68.0205) < 0.3
        # The paper's Table 3: 44.0, 11.0 and 5.1.
        assert tables[2]["rows"][5][3:5] == pytest.approx([43.87, 10.75], abs=0.01)
        assert tables[2]["rows"][5][6] == pytest.approx(5.19, abs=0.01)
    notes = " ".join(note for table in tables for note in table["notes"])
    assert all(text in notes for text in missing)
    assert ("cannot" in notes) == bool(missing)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Table 3 of the {edition}" in page
    assert all(text in page for text in missing)
