from .calibration import encoders_to_time as encoders_to_time
from .cluster import cluster as cluster
from .cluster import cluster_summary as cluster_summary
from .log import write_driver_log as write_driver_log
from .reruns import run_again as run_again
from .run import run_study as run_study
from .students_per_worker import most_students_per_worker as most_students_per_worker
