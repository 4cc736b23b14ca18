"""`wukong top`: the nodes of a cluster, live."""
