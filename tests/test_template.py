"""A market to fill in: it clears as it is, explains its columns, and grows uncounted."""

from pathlib import Path

import openpyxl
import pytest
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io
from jaxgne.cases import street
from jaxgne.checking import check
from jaxgne.contracts import read_contracts
from tests.folders import same


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_template_has_a_plan_and_nothing_doubtful():
    found = check(street())
    assert found.status == "cleared" and not found.doubtful and not found.wrong


@pytest.mark.parametrize("form", ["csv", "parquet", "xlsx"])
def test_new_writes_what_check_and_clear_take(form: str, tmp_path: Path):
    made = call("new", tmp_path / "day", "--format", form)
    assert made.exit_code == 0, made.output
    target = tmp_path / ("day.xlsx" if form == "xlsx" else "day")
    assert same(io.load_market(target), street())
    assert call("validate", target, "--no-clear").exit_code == 0
    again = call("new", target)
    assert again.exit_code == 1 and "is there already" in again.stderr


def test_notes_name_every_column_and_stay_when_a_result_is_written(tmp_path: Path):
    call("new", tmp_path / "day")
    notes = (tmp_path / "day" / "README.txt").read_text()
    for table in (tmp_path / "day").glob("*.csv"):
        part = notes.split(f"\n{table.stem}\n")[1].split("\n\n")[0]
        columns = table.read_text().splitlines()[0].split(",")
        assert [line.split("\t")[0] for line in part.splitlines()] == columns
        assert all(line.split("\t")[1] for line in part.splitlines())
    (tmp_path / "day" / "README.txt").write_text("mine: ö")
    io.save(tmp_path / "day", street(), jg.clear(street()))
    assert (tmp_path / "day" / "README.txt").read_text(encoding="utf-8") == "mine: ö"
    io.save(tmp_path / "day.xlsx", street(), notes="mine\tand yours\n=1+1")
    io.save(tmp_path / "day.xlsx", street())
    rows = openpyxl.load_workbook(tmp_path / "day.xlsx")["notes"].iter_rows()
    assert [[cell.value for cell in row] for row in rows] == [["mine", "and yours"], ["=1+1", None]]
    assert same(io.load_market(tmp_path / "day.xlsx"), street())


def test_a_customer_is_added_in_its_tables_only(tmp_path: Path):
    call("new", tmp_path / "day")
    with (tmp_path / "day" / "prosumers.csv").open("a") as file:
        head = (tmp_path / "day" / "prosumers.csv").read_text().splitlines()[0].split(",")
        file.write(",".join({"prosumer": "5", "bus": "2"}.get(name, "new") for name in head) + "\n")
    table = tmp_path / "day" / "prosumer_hours.csv"
    lines = [line for line in table.read_text().splitlines() if line.startswith("4,")]
    with table.open("a") as file:
        file.writelines(f"5,{line[2:]}\n" for line in lines)
    market = io.load_case(tmp_path / "day")
    assert market.prosumers.load.shape == (6, 24) and int(market.prosumers.bus[5]) == 2


def test_a_tariff_to_fill_in_is_one_that_is_read(tmp_path: Path):
    made = call("new", tmp_path / "tariff.toml")
    assert made.exit_code == 0, made.output
    (contract,) = read_contracts(tmp_path / "tariff.toml")
    assert contract.network == 0.09 and contract.vat == 0.19
    assert call("new", tmp_path / "tariff.toml").exit_code == 1
    assert call("new", tmp_path / "other.toml", "--format", "csv").exit_code == 2
