from .calibration import calibrate as calibrate
from .measurements import Statistic as Statistic
from .table import Device as Device
from .table import LatencyTable as LatencyTable
from .table import LatencyTarget as LatencyTarget
from .table import fingerprint as fingerprint
from .table import fingerprint_key as fingerprint_key
