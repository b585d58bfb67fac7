from .packaging import package as package
from .quantisation import quantise_int8 as quantise_int8
from .source import PackageSource as PackageSource
from .verification import verify as verify
