"""Observed market activity -> covariates."""

from mfamm_jax.features.book_shape import BOOK_FEATURES as BOOK_FEATURES
from mfamm_jax.features.book_shape import RobustScale as RobustScale
from mfamm_jax.features.book_shape import book_shape as book_shape
from mfamm_jax.features.book_shape import fat_finger as fat_finger
from mfamm_jax.features.clock import carry as carry
from mfamm_jax.features.clock import durations as durations
from mfamm_jax.features.clock import last_index as last_index
from mfamm_jax.features.clock import regular_grid as regular_grid
from mfamm_jax.features.volatility import rolling_volatility as rolling_volatility
from mfamm_jax.features.vpin import VolumeBuckets as VolumeBuckets
from mfamm_jax.features.vpin import bucket_volumes as bucket_volumes
from mfamm_jax.features.vpin import bulk_buy_fraction as bulk_buy_fraction
from mfamm_jax.features.vpin import vpin_at_trades as vpin_at_trades
from mfamm_jax.features.vpin import vpin_ewma as vpin_ewma
from mfamm_jax.features.vpin import vpin_literal as vpin_literal
from mfamm_jax.features.vpin import vpin_window as vpin_window
