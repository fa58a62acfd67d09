"""Contracts as a household knows them: in the market's prices, and on its bill line by line."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.contracts import TEMPLATE, Contract, distance, read_contracts, with_contracts
from jaxgne.household import household_bill, income
from tests.markets import tight_inverter

HOURS = 4
CONTRACT = Contract(
    energy=[{"from": 1, "to": 3, "price": 0.1}, {"price": 0.2}],
    network=0.09, taxes=0.04, trade_near=0.03, trade_feeder=0.06, trade_taxes=0.02,
    feed_in=0.08, fixed=2.4, capacity=0.12, connection=10.0, demand=0.5, vat=0.2,
)  # fmt: skip


def street() -> jg.Market:
    """Three households behind two transformers of one feeder; the second has sun."""
    sun = [[0.0, 6.0, 6.0, 0.0]]
    load = np.array([[1.0, 1.0, 2.0, 1.0], [0.5] * HOURS, [1.0] * HOURS])
    load[1] -= sun[0]
    return jg.Market(
        jg.Prosumers([1, 1, 2], load, export_max=9.0),
        jg.Grid(np.zeros((3, HOURS)), [0, 0], [1, 2], 1e-4, 1e-4, line_names=("t1", "t2")),
        jg.Tariff(0.0, hours=HOURS, base=0.2, export=0.05),
        trading=jg.Trading([0, 2], [1, 1], 10.0),
    )


def test_prices_of_the_market_are_gross_sums_of_the_contract():
    market = with_contracts(street(), CONTRACT, transformers=["t1", "t2"])
    np.testing.assert_allclose(market.tariff.base, [0.24, 0.12, 0.12, 0.24])
    np.testing.assert_allclose(market.tariff.export, 0.08)
    np.testing.assert_allclose(market.prosumers.import_adder, np.full((3, 1), 1.2 * 0.13))
    assert not np.any(market.prosumers.export_adder)
    # of each side half: 1.2 (fee + taxes) / 2, near and beyond the own transformer
    np.testing.assert_allclose(market.trading.toll, [[1.2 * 0.05 / 2], [1.2 * 0.08 / 2]])
    np.testing.assert_allclose(market.caps.price, 0.6)
    assert distance(street()).tolist() == [0, 0] and distance(market, [0, 1]).tolist() == [0, 1]


def test_contracts_of_their_own_differ_by_what_is_added():
    """What the first asks is the tariff; the others' adders make it theirs, in each hour."""
    other = Contract(energy=0.3, network=0.05, feed_in=0.1, prosumers=(2,))
    market = with_contracts(street(), [CONTRACT, other])
    asked = np.asarray(jg.model.import_prices(market, market.tariff.base[None]))
    np.testing.assert_allclose(asked[0], [0.396, 0.276, 0.276, 0.396])
    np.testing.assert_allclose(asked[2], 0.35)
    np.testing.assert_allclose(jg.model.export_prices(market)[2], 0.1)
    np.testing.assert_allclose(market.trading.toll[1], (1.2 * 0.05 + 0.05) / 4)
    assert np.asarray(market.caps.owner).tolist() == [0, 1]


@pytest.mark.parametrize("fields", [{}, {"demand": 0.0, "energy": None, "vat": 0.0}])
def test_lines_add_up_to_the_bill_and_the_fixed_fees(fields: dict[str, Any]):
    """To 1e-9, each a quantity times its price; of all together as well."""
    contract = replace(CONTRACT, **fields)
    market = with_contracts(street(), contract, transformers=["t1", "t2"])
    clearing = jg.clear(market)
    paid = np.asarray(jg.settle(market, clearing).prosumers).sum(axis=1)
    days = HOURS / 24
    fixed = (1 + contract.vat) * days * (2.4 + 0.12 * 10.0)
    for row in range(3):
        bill = household_bill(market, clearing, row, contract)
        assert bill.total == pytest.approx(paid[row] + fixed, abs=1e-9)
        for line in bill.lines:
            if line.price is not None and line.quantity is not None:
                assert line.quantity * line.price == pytest.approx(line.eur, abs=1e-12)
        assert household_bill(market, clearing, row).total == pytest.approx(paid[row], abs=1e-9)
    whole = income(market, clearing, contract)
    assert whole.total == pytest.approx(paid.sum() + 3 * fixed, abs=1e-9)
    assert "network fee on trades" in {line.what for line in whole.lines}


def test_a_bill_says_what_a_person_can_check():
    """The third household buys 1 kWh an hour: two at 0.2 of the main grid, two next door."""
    market = with_contracts(street(), CONTRACT)
    bill = household_bill(market, jg.clear(market, tol=1e-8), 2, CONTRACT)
    lines = {(line.what, round(line.price or 0.0, 4)): line for line in bill.lines}
    assert lines["energy from the main grid", 0.2].quantity == pytest.approx(2.0, abs=1e-4)
    assert lines["network fee", 0.09].eur == pytest.approx(0.18, abs=1e-5)
    assert lines["demand charge", 0.5].quantity == pytest.approx(1.0, abs=1e-4)
    assert lines["fixed fee", 2.4].eur == pytest.approx(0.4)
    assert "VAT of 20 %" in str(bill) and str(bill).splitlines()[-1].startswith("total")
    assert list(bill.frame().columns) == ["what", "quantity", "unit", "price", "eur"]


def test_reactive_power_has_a_quantity_and_a_price():
    """kvarh drawn, less what the own inverter makes, at the mean price of the bus that settles."""
    market = tight_inverter()
    clearing = jg.clear(market)
    made, bus = np.asarray(clearing.plan.compensation), np.asarray(market.prosumers.bus)
    priced = np.asarray(clearing.prices.bus_reactive)
    drawn, hours = np.asarray(market.prosumers.reactive), np.asarray(market.hour_length)
    for row in range(len(bus)):
        home = bus[row]
        if np.any(made[home]):  # its inverter's bus, which hangs on that of the house
            home = int(np.asarray(market.grid.source)[np.asarray(market.grid.target) == home][0])
        kvar = drawn[row] - made[bus[row]]
        eur = float(np.sum(hours * priced[home] * kvar))
        bill = household_bill(market, clearing, row)
        (line,) = (line for line in bill.lines if line.what == "reactive power")
        assert line.unit == "kvarh" and line.quantity == pytest.approx(np.sum(hours * kvar))
        assert line.eur == pytest.approx(eur, abs=1e-9) and abs(eur) > 1e-3
        assert line.price == pytest.approx(eur / np.sum(hours * kvar))
        paid = float(np.sum(np.asarray(jg.settle(market, clearing).prosumers)[row]))
        assert bill.total == pytest.approx(paid, abs=1e-9)


def test_template_is_read_and_wrong_files_are_told(tmp_path: Any):
    """By file, contract and key, with what to do."""
    path = tmp_path / "tariff.toml"
    path.write_text(TEMPLATE)
    (contract,) = read_contracts(path)
    assert contract.vat == 0.19 and contract.price("energy", with_hours(24))[3] == 0.12
    for text, words in (
        ("[contract]\nenrgy = 1", r"contract 0: key 'enrgy' is unknown; known: energy"),
        ("[contract]\nvat = 19", r"Contract\.vat: 19; give a share, 0\.19 for 19 %"),
        ("[contract]\nnetwork = 'a'", r"Contract\.network: 'a'; give EUR/kWh"),
        ("[contract]\nenergy = [{from = 1, price = 2}]", r"give price, and from and to or neither"),
        ("vat = 0.2", r"key 'vat' is unknown; give a table \[contract\]"),
        ("[contract", r"is no TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_contracts(path)


def with_hours(hours: int) -> jg.Market:
    return jg.Market(jg.Prosumers([0], np.ones((1, hours))), jg.Grid(np.zeros((1, hours))),
                     jg.Tariff(0.0, hours=hours))  # fmt: skip


@pytest.mark.parametrize(
    ("contracts", "words"),
    [
        (replace(CONTRACT, energy=[0.1, 0.2]), r"energy: 2 prices for 4 steps"),
        (replace(CONTRACT, energy=[{"from": 1, "to": 3, "price": 0.1}]), r"no window .* step 0"),
        (
            replace(CONTRACT, energy=[{"from": 2, "to": 2, "price": 0.1}, {"price": 0.2}]),
            r"no time",
        ),
        (replace(CONTRACT, trade_near=-0.1), r"trade_near: with taxes -0\.08 EUR/kWh in step 0"),
        ([replace(CONTRACT, prosumers=(0,))], r"prosumer 1 has none"),
        ([CONTRACT, replace(CONTRACT, prosumers=(9,))], r"no prosumer 9; give 0 to 2"),
        ([CONTRACT, CONTRACT], r"2 of 2 name no prosumers"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(contracts: Any, words: str):
    with pytest.raises(ValueError, match=words):
        with_contracts(street(), contracts)


def test_windows_go_by_the_time_on_each_branch_of_a_tree():
    """Both branches end in the night: their last two hours are 22 and 23 o'clock."""
    day = with_hours(24)
    tree = jg.scenarios.tree([day, day], [0.5, 0.5], 12)
    night = Contract(energy=[{"from": "22:00", "to": "06:00", "price": 0.1}, {"price": 0.2}])
    expected = np.where((np.arange(24) < 6) | (np.arange(24) >= 22), 0.1, 0.2)
    found = night.price("energy", tree)
    np.testing.assert_array_equal(found, np.concatenate([expected, expected[12:]]))
    # and a market that is over before the window comes has no step in it
    np.testing.assert_array_equal(night.price("energy", with_hours(12)), expected[:12])


def test_sides_of_a_trade_tell_fee_and_taxes_apart_though_their_contracts_differ():
    """By hand: 2 kWh; each pays half the mean of 1.19 x (0.03 + 0.04) and 0.02, by its own VAT."""
    load = np.array([[2.0], [-3.0]])
    market = jg.Market(jg.Prosumers([0, 0], load, export_max=5.0), jg.Grid(np.zeros((1, 1))),
                       jg.Tariff(0.0, hours=1), trading=jg.Trading([0], [1], 5.0))  # fmt: skip
    both = [
        Contract(energy=0.3, trade_near=0.03, trade_taxes=0.04, vat=0.19),
        Contract(energy=0.3, trade_near=0.02, trade_taxes=0.0, feed_in=0.05),
    ]
    market = with_contracts(market, both)
    clearing = jg.clear(market)
    lines = [{line.what: line for line in household_bill(market, clearing, row, both).lines}
             for row in range(2)]  # fmt: skip
    for held, vat in zip(lines, (0.19, 0.0), strict=True):
        fee, taxes = held["network fee on trades"], held["taxes on trades"]
        assert fee.price == pytest.approx((1.19 * 0.03 + 0.02) / 4 / (1 + vat), abs=1e-7)
        assert taxes.price == pytest.approx(1.19 * 0.04 / 4 / (1 + vat), abs=1e-7)
        assert taxes.quantity == pytest.approx(2.0, abs=1e-3)


def test_bills_of_other_contracts_than_those_of_the_market_are_refused():
    """Another's, and one that the market does not have; what float32 rounds is one price."""
    market = with_hours(4)
    contract = replace(CONTRACT, energy=0.1637, network=[0.07, 0.0911, 0.1211, 0.07], taxes=0.0411)
    own = with_contracts(market, contract)
    clearing = jg.clear(own)
    priced = [line for line in household_bill(own, clearing, 0, contract).lines
              if line.what == "energy from the main grid"]  # fmt: skip
    assert len(priced) == 1 and priced[0].price == pytest.approx(0.1637, abs=1e-6)
    for one, words in (
        (replace(CONTRACT, prosumers=()), r"contract 'contract' is not that of prosumer 0"),
        (replace(contract, energy=0.2), r"asks 0\.398\d* EUR/kWh in step \d, the market 0\.3"),
    ):
        with pytest.raises(ValueError, match=words):
            household_bill(own, clearing, 0, one)
    with pytest.raises(ValueError, match=r"there is no prosumer 0\.5"):
        household_bill(own, clearing, 0.5, contract)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"capacity": 0.1}, r"connection: 0\.0; capacity is a price per kW of it"),
        ({"prosumers": "Miller"}, r"prosumers: 'Miller'; give a list"),
        ({"energy": [{"price": float("nan")}]}, r"energy: window \{'price': nan\}"),
    ],
)
def test_contracts_that_say_nothing_are_refused_at_once(fields: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Contract(**fields)


def test_page_prints_what_it_says(capsys: Any):
    """The bill in docs/tariffs.md, the sums of all, and the template."""
    page = (Path(__file__).parents[1] / "docs" / "tariffs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    bill, whole = re.findall(r"```text\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert capsys.readouterr().out == bill
    made = income(names["market"], names["clearing"], names["contract"])
    assert f"{made}\n" == whole
    assert f"```toml\n{TEMPLATE}```" in page
