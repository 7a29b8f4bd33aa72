"""Wavelets (13) on one core: milliseconds per transform against PyWavelets, and how far each is from the definition.

    uv run --extra full python benchmarks/bench_wavelets.py

The continuous transform is of a random walk under the Mexican hat at scales from 2 to a sixteenth of the length; its error is the largest
deviation from the integral, as a sum over all samples, in the middle of the series, relative to the largest coefficient there.
PyWavelets draws its wavelet on a grid, which is where its error comes from. Compile time is printed apart and not counted.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


import jax
import jax.numpy as jnp
import numpy as np
import pywt
from machine import compiled, timed, write_results

from mfamm_jax.features.wavelet import wavelet_transform
from mfamm_jax.features.wavelet_bank import decimated_transform, undecimated_transform, wavelet_filters

SHAPES = ((1024, 16), (4096, 32), (16384, 32))
LEVELS = 6


def definition(series, scales):
    """The middle row's coefficients by the sum itself."""
    t = np.arange(len(series)) - len(series) // 2
    u = t / scales[:, None]
    psi = 2 / (np.sqrt(3) * np.pi**0.25) * (1 - u**2) * np.exp(-(u**2) / 2)
    return psi @ series / np.sqrt(scales)


def main():
    """Prints and writes the table."""
    rows = []

    def add(what, n, seconds, compile_s=0.0, error=None, **more):
        row = {"what": what, "n": n, **more, "cpu_ms": round(1e3 * float(seconds[0]), 4)}
        row |= {"wall_ms": round(1e3 * float(seconds[1]), 4), "compile_s": round(compile_s, 2)}
        rows.append(row if error is None else row | {"relative_error": float(f"{error:.1e}")})
        print(rows[-1])

    for n, n_scales in SHAPES:
        walk = np.cumsum(np.random.default_rng(0).standard_normal(n))
        walk -= walk.mean()
        scales = np.geomspace(2, n / 16, n_scales)
        exact = definition(walk, scales)
        padding = int(10 * scales[-1])

        def error(coefficients, exact=exact, n=n):
            return np.max(np.abs(np.asarray(coefficients, float)[:, n // 2] - exact)) / np.max(np.abs(exact))

        for dtype in ("float32", "float64"):
            with jax.enable_x64(dtype == "float64"):
                a = jnp.asarray(scales, dtype)

                def transform(x, a=a, padding=padding):
                    return wavelet_transform(x, a, n_padding=padding)

                x = jnp.asarray(walk, dtype)
                run, compile_s = compiled(transform, x)
                seconds = timed(lambda r=run, x=x: r(x))
                add("ours", n, seconds, compile_s, error(run(x)), scales=n_scales, dtype=dtype)
                slope, compile_s = compiled(jax.grad(lambda x: jnp.sum(transform(x) ** 2)), x)
                seconds = timed(lambda r=slope, x=x: r(x))
                add("ours, gradient of the energy", n, seconds, compile_s, scales=n_scales, dtype=dtype)
                for method in ("fft", "conv") if n <= 4096 else ("fft",):
                    run = lambda m=method: pywt.cwt(walk.astype(dtype), scales, "mexh", method=m)[0]  # noqa: E731
                    add(f"PyWavelets, {method}", n, timed(run), error=error(run()), scales=n_scales, dtype=dtype)

        with jax.enable_x64(True):
            x, filters = jnp.asarray(walk), wavelet_filters("db4")
            for what, function in (
                ("undecimated", lambda x, f=filters: undecimated_transform(x, f, LEVELS)),
                ("decimated", lambda x, f=filters: decimated_transform(x, f, LEVELS)),
            ):
                run, compile_s = compiled(function, x)
                add(f"ours, {what}", n, timed(lambda r=run, x=x: r(x)), compile_s, levels=LEVELS, dtype="float64")
            add(
                "PyWavelets, undecimated",
                n,
                timed(lambda w=walk: pywt.swt(w, "db4", LEVELS, trim_approx=True, norm=True)),
                levels=LEVELS,
                dtype="float64",
            )
            add(
                "PyWavelets, decimated",
                n,
                timed(lambda w=walk: pywt.wavedec(w, "db4", "periodization", LEVELS)),
                levels=LEVELS,
                dtype="float64",
            )
    write_results("wavelets", rows)


if __name__ == "__main__":
    main()
