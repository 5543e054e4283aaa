"""The transfer methods that are made of Gaussian processes of the known tasks, ready to be played."""

from __future__ import annotations

from hyprl_jax.baselines import ensembles, source_models, two_stage
from hyprl_jax.baselines.baseline import Baseline
from hyprl_jax.config import SurrogateConfig

# Their own processes are all they look at: the loop's surrogate may be the cheapest that knows the peers.
_BELIEFS = SurrogateConfig(prior="mean")

TST_R, TST_M, TAF_R, TAF_M = (
    Baseline(player, two_stage.two_stage_memory, False, _BELIEFS, source_models.learn_sources)
    for player in (
        two_stage.tst_r_player,
        two_stage.tst_m_player,
        two_stage.taf_r_player,
        two_stage.taf_m_player,
    )
)
RGPE = Baseline(ensembles.rgpe_player, ensembles.ensemble_memory, True, _BELIEFS, ensembles.learn_ensemble)
