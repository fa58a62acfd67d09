"""The studies of the paper, one file each: functions that clear markets and tell what they find.

    found = jaxgne.studies.tariff(jaxgne.ieee37(), folder="out")
    print(found)
    found.save("out")

G. Belgioioso, W. Ananduta, S. Grammatico, C. Ocampo-Martinez, IEEE Trans. Smart Grid 13(4), 2022
(the paper); `phases`, `horizon`, `uncertainty`, `stackelberg` and `near_potential` are this
project's own. On the command line `jaxgne study NAME`.

All take a `folder`, in which runs are kept as they are done, so that the same call goes on after
them; `progress`, which is called after each; and a `client`, a `distributed.Client`: the workers of
a Dask cluster then do the runs (`docs/cluster.md`).
"""

from ._connectivity import connectivity
from ._horizon import horizon
from ._line_limits import line_limits
from ._near_potential import near_potential
from ._participation import participation
from ._phases import phases
from ._prosumers import prosumers
from ._selection import selection
from ._stackelberg import stackelberg
from ._storage import storage
from ._tariff import tariff
from ._uncertainty import uncertainty
from .figures import draw
from .runner import Study

ON_MARKETS = {  # functions of one market
    "line-limits": line_limits,
    "storage": storage,
    "tariff": tariff,
    "participation": participation,
    "selection": selection,
    "phases": phases,
    "horizon": horizon,
    "uncertainty": uncertainty,
    "stackelberg": stackelberg,
    "near-potential": near_potential,
}
ON_CASES = {  # functions of how to build markets
    "connectivity": connectivity,
    "prosumers": prosumers,
}

__all__ = [
    "ON_CASES",
    "ON_MARKETS",
    "Study",
    "connectivity",
    "draw",
    "horizon",
    "line_limits",
    "near_potential",
    "participation",
    "phases",
    "prosumers",
    "selection",
    "stackelberg",
    "storage",
    "tariff",
    "uncertainty",
]
