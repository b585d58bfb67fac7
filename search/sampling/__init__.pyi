from .known_cost import KnownCostSampler as KnownCostSampler
from .known_cost import Problem as Problem
