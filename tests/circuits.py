"""OpenDSS circuits for tests, as text of its scripts: what feeds a street, and how it is solved."""

from typing import Any

START = """
clear
new circuit.street basekv=20 pu=1.02 bus1=src mvasc3=200 mvasc1=210
new transformer.t phases=3 windings=2 buses=(src lv) conns=(delta wye) kvs=(20 0.4) kvas=(400 400)
~ xhl=4 %rs=(0.5 0.5) taps=(1 1.025) %imag=0.3 %noloadloss=0.2
new linecode.c nphases=3 r1=0.2 x1=0.08 r0=0.8 x0=0.3 c1=300 c0=150 units=km normamps=270
"""
END = (
    "set voltagebases=[20 0.4]\ncalcvoltagebases\nset tolerance=1e-10\nset maxiterations=200\nsolve"
)


def said(engine: Any, text: str) -> Any:
    for line in text.splitlines():
        if line.strip():
            engine.Text.Command = line
    return engine
