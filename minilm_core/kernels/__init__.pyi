from . import cpu as cpu
from . import cpu_dropout as cpu_dropout
from . import gpu as gpu
from .blockwise import Side as Side
from .blockwise import blockwise_kl as blockwise_kl
from .compiled_loops import HAS_NUMBA as HAS_NUMBA
from .compiled_loops import keep_compiled_loops_in as keep_compiled_loops_in
