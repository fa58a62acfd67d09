"""Whether names tell rows apart: one for each, each its own."""

from ..fields import ROWS
from ..market import Market


def misnamed(market: Market, sizes: dict[str, int]) -> list[str]:
    """Names that are not one for each row, each its own; devices may be without one."""
    wrong = []
    for table, names, axis in (
        ("Prosumers.names", market.prosumers.names, "N"),
        ("Generators.names", market.generators.names, "G"),
        ("Buffers.names", market.buffers.names, "K"),
        ("Grid.names", market.grid.names, "B"),
        ("Grid.line_names", market.grid.line_names, "L"),
        ("Zones.names", market.zones.names, "Z"),
    ):
        one, count = ROWS[axis], sizes.get(axis, 0)
        many = {"bus": "buses"}.get(one, f"{one}s")
        own = [name for name in names if name or axis not in "GK"]
        nameless = axis == "N" and "" in names
        if names and (len(names) != count or len({*own}) != len(own) or nameless):
            found = f"{len({*own})} different names for {count} {many}"
            found = f"an empty name among those of {count} {many}" if nameless else found
            wrong.append(f"{table}: {found}; give each {one} its own, or give none.")
    return wrong
