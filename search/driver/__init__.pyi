from .calibration import TimedEncoders as TimedEncoders
from .calibration import encoders_to_time as encoders_to_time
from .calibration import known_tables as known_tables
from .cluster import cluster as cluster
from .cluster import cluster_summary as cluster_summary
from .log import write_driver_log as write_driver_log
from .reruns import run_again as run_again
from .run import run_study as run_study
