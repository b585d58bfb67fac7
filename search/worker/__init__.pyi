from .preparation import CacheShard as CacheShard
from .preparation import cache_shard as cache_shard
from .preparation import prepare as prepare
from .preparation import read_preparation as read_preparation
from .preparation import targets_held as targets_held
from .preparation import write_evaluation as write_evaluation
from .run import run_group as run_group
from .worker import JobsFailedError as JobsFailedError
