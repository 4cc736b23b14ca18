"""`wukong cluster`: a cluster on this machine to try things, and the operator's commands for any cluster."""
