"""`python -m mfamm_jax.experiments` is `mfamm`."""

try:
    from mfamm_jax.experiments.cli import main

    main()
except KeyboardInterrupt:  # while it is still being imported
    raise SystemExit(130) from None
