from .preparation import CacheShard as CacheShard
from .preparation import caching_stage as caching_stage
from .preparation import held as held
from .preparation import make_ready_beside as make_ready_beside
from .preparation import prepare as prepare
from .preparation import read_preparation as read_preparation
from .process import StudentsFailedError as StudentsFailedError
from .run import run_group as run_group
