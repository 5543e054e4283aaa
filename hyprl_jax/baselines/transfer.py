"""The transfer baselines made of Gaussian processes, ready to be played.

`TST_R`, `TST_M`: two-stage transfer surrogates, known tasks weighted by ranks or by metafeatures. `TAF_R`,
`TAF_M`: transfer acquisition functions with the same weights. `RGPE`: the ranking-weighted Gaussian process
ensemble, the only one that draws random numbers.
"""

from __future__ import annotations

from hyprl_jax.baselines import ensembles, two_stage
from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.source_models import learn_sources
from hyprl_jax.rollout import Act


def _two_stage(act: Act) -> Baseline:
    return Baseline(act, two_stage.two_stage_memory, False, PLAIN, learn_sources)


TST_R = _two_stage(two_stage.tst_r_player)
TST_M = _two_stage(two_stage.tst_m_player)
TAF_R = _two_stage(two_stage.taf_r_player)
TAF_M = _two_stage(two_stage.taf_m_player)
RGPE = Baseline(ensembles.rgpe_player, ensembles.ensemble_memory, True, PLAIN, ensembles.learn_ensemble)
