from .calibration import Timed as Timed
from .calibration import timed as timed
from .cluster import cluster as cluster
from .cluster import cluster_summary as cluster_summary
from .display import SECONDS_BETWEEN_LINES as SECONDS_BETWEEN_LINES
from .log import write_driver_log as write_driver_log
from .run import run_study as run_study
