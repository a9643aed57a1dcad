"""What all tests share: one thread a worker, and how hard the property tests search.

HYPOTHESIS_PROFILE chooses: `dev` (a quick look), `ci` (the same examples each time; default where CI is set),
`fuzz` (a deep search with fresh seeds).
"""

import os

import torch
from hypothesis import HealthCheck, Phase, settings

# No deadline: the first example of a test pays for imports and caches of torch.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=30, deadline=None, derandomize=True, print_blob=True)
# Mutants: that an example fails is enough, the smallest one that fails is not looked for.
settings.register_profile(
    "mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], print_blob=False
)
settings.register_profile(
    "fuzz", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

torch.set_num_threads(1)
