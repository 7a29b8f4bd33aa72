"""Makes the pictures of the README again from a finished quickstart.

uv run mfamm run quickstart --out runs/pictures && uv run python docs/pictures.py runs/pictures
"""

import sys
from pathlib import Path

from mfamm_jax.experiments import figures
from mfamm_jax.experiments.report_parts import Run

run, here = Run(Path(sys.argv[1])), Path(__file__).parent
for name, figure in (("quotes", figures.quotes), ("profit", figures.profit)):
    (here / f"{name}.svg").write_text(figure(run.arrays), encoding="utf-8")
