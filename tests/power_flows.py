"""AC power flows by other programs, as oracles: complex voltages of a grid, pu (B, H)."""

import numpy as np
from power_grid_model import (
    ComponentType,
    DatasetType,
    LoadGenType,
    PowerGridModel,
    initialize_array,
)

import jaxgne as jg

KV = 1.0  # line to line, of the other program's nodes; any will do
OHM = 1000 * KV**2  # per pu/kW


def meshed(name: str, rng: np.random.Generator) -> jg.Grid:
    """Grids of ten buses and three hours, whose lines are neither in order nor in one direction."""
    ends = {
        "ring": [(k, (k + 1) % 10) for k in range(10)],
        "twins": [(0, 1), (1, 0), *((k, k + 1) for k in range(1, 9)), (4, 3)],
        "lattice": [(k, k + 1) for k in range(9)] + [(k, k + 3) for k in range(7)],
        "two feeders": [(k, k + 1) for k in range(9)] + [(0, 5)],
    }[name]
    ends = np.array(ends)[rng.permutation(len(ends))]
    turned = rng.uniform(size=len(ends)) < 0.5
    ends[turned] = ends[turned, ::-1]
    size = 10 ** rng.uniform(-5.0, -4.3, (2, len(ends)))
    fed = (0, 9) if name == "two feeders" else (0,)
    held = 1 + 0.01 * rng.uniform(-1, 3, (len(fed), 3))
    rating = rng.uniform(50, 200, len(ends))
    return jg.Grid(
        np.zeros((10, 3)), *ends.T, *size, rating=rating, feeder=fed, feeder_voltage=held,
        model="paper",
    )  # fmt: skip


def by_power_grid_model(grid: jg.Grid, active: np.ndarray, reactive: np.ndarray) -> np.ndarray:
    """By its Newton's method; all lines need some impedance."""
    return np.stack(
        [
            _hour(grid, *hour)
            for hour in zip(_fed(grid, active).T, active.T, reactive.T, strict=True)
        ],
        axis=1,
    )


def _fed(grid: jg.Grid, active: np.ndarray) -> np.ndarray:
    """Voltages of the feeders in as many hours; one hour of the grid stands for all."""
    held = np.asarray(grid.feeder_voltage)
    return np.broadcast_to(held, (len(held), active.shape[1]))


def _hour(grid: jg.Grid, fed: np.ndarray, active: np.ndarray, reactive: np.ndarray) -> np.ndarray:
    buses, lines = len(active), len(grid.source)

    def table(kind, count, **columns):
        made = initialize_array(DatasetType.input, kind, count)
        for name, value in columns.items():
            made[name] = value
        return made

    feeders = len(grid.feeder)
    data = {
        ComponentType.node: table(
            ComponentType.node, buses, id=np.arange(buses), u_rated=1000 * KV
        ),
        ComponentType.line: table(
            ComponentType.line,
            lines,
            id=buses + np.arange(lines),
            from_node=grid.source,
            to_node=grid.target,
            from_status=1,
            to_status=1,
            r1=OHM * np.asarray(grid.resistance),
            x1=OHM * np.asarray(grid.reactance),
            c1=0.0,
            tan1=0.0,
        ),
        ComponentType.source: table(
            ComponentType.source,
            feeders,
            id=buses + lines + np.arange(feeders),
            node=grid.feeder,
            status=1,
            u_ref=fed,
            sk=1e20,
        ),
        ComponentType.sym_load: table(
            ComponentType.sym_load,
            buses,
            id=buses + lines + feeders + np.arange(buses),
            node=np.arange(buses),
            status=1,
            type=LoadGenType.const_power,
            p_specified=1e3 * active,
            q_specified=1e3 * reactive,
        ),
    }
    found = PowerGridModel(data).calculate_power_flow(error_tolerance=1e-10, max_iterations=50)
    nodes = found[ComponentType.node]
    return nodes["u_pu"] * np.exp(1j * nodes["u_angle"])


def by_pandapower(grid: jg.Grid, active: np.ndarray, reactive: np.ndarray) -> np.ndarray:
    """By its Newton's method; lines without impedance are closed switches."""
    return _by_pandapower(grid, active, reactive)[0]


def loading_by_pandapower(grid: jg.Grid, active: np.ndarray, reactive: np.ndarray) -> np.ndarray:
    """Its `loading_percent` (L, H) of cables rated in ampere: `rating` kVA at nominal voltage."""
    return _by_pandapower(grid, active, reactive)[1]


def _by_pandapower(
    grid: jg.Grid, active: np.ndarray, reactive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    import pandapower as pp  # takes seconds

    net = pp.create_empty_network()
    pp.create_buses(net, len(active), vn_kv=KV)
    for bus in np.asarray(grid.feeder):
        pp.create_ext_grid(net, bus, vm_pu=1.0)
    ends = np.stack([grid.source, grid.target])
    ohm = OHM * np.stack([grid.resistance, grid.reactance])
    line = ohm.any(axis=0)
    (source, target), (r, x) = ends[:, line].tolist(), ohm[:, line]
    ampere = np.asarray(grid.rating)[line] / (np.sqrt(3) * KV)
    pp.create_lines_from_parameters(
        net, source, target, 1.0, r_ohm_per_km=r, x_ohm_per_km=x, c_nf_per_km=0.0,
        max_i_ka=np.where(np.isfinite(ampere), 1e-3 * ampere, 1.0),
    )  # fmt: skip
    pp.create_switches(net, *ends[:, ~line].tolist(), et="b")
    pp.create_loads(net, range(len(active)), p_mw=0.0, q_mvar=0.0)
    volts, loading = [], []
    for fed, kw, kvar in zip(_fed(grid, active).T, active.T, reactive.T, strict=True):
        net.ext_grid["vm_pu"] = fed
        net.load["p_mw"], net.load["q_mvar"] = 1e-3 * kw, 1e-3 * kvar
        pp.runpp(net, algorithm="nr", init="flat", tolerance_mva=1e-10, numba=False)
        found = net.res_bus
        volts.append(found.vm_pu * np.exp(1j * np.deg2rad(found.va_degree)))
        loading.append(net.res_line.loading_percent)
    return np.stack(volts, axis=1), np.stack(loading, axis=1)
